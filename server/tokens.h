// What we hand out and take back: consistency tokens and page tokens.
#ifndef NEARLINE_SERVER_TOKENS_H_
#define NEARLINE_SERVER_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "features/types.h"

namespace nearline::server {

// "<log>-<sequence>".
std::string ConsistencyToken(const std::string& log_id,
                             features::Sequence sequence);
// Errors: INVALID_ARGUMENT for what is no token; FAILED_PRECONDITION for one of
// another log or from the future (after `newest`).
absl::StatusOr<features::Sequence> ReadConsistencyToken(
    absl::string_view token, const std::string& log_id,
    features::Sequence newest);

// Where a list goes on: its inputs, and what was delivered already, so that the
// next page neither repeats nor skips whatever has changed in between.
struct PageToken {
  uint64_t request_hash = 0;
  std::string generation;  // empty: popular items
  features::Sequence sequence = 0;
  int64_t issued_micros = 0;
  std::vector<features::Ordinal> delivered;  // ascending
};

// Authenticated with `key`; base64url.
std::string WritePageToken(const PageToken& token, absl::string_view key);
// Errors: INVALID_ARGUMENT for a token that we did not write, or for another
// request; ABORTED when it is older than `ttl`.
absl::StatusOr<PageToken> ReadPageToken(absl::string_view text,
                                        absl::string_view key,
                                        uint64_t request_hash, absl::Time now,
                                        absl::Duration ttl);

// A position in a plain listing, authenticated likewise.
std::string WriteListToken(absl::string_view kind, absl::string_view position,
                           absl::string_view key);
// Empty text gives an empty position.
absl::StatusOr<std::string> ReadListToken(absl::string_view text,
                                          absl::string_view kind,
                                          absl::string_view key);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_TOKENS_H_
