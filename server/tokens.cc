#include "server/tokens.h"

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "base/hash.h"
#include "base/text.h"
#include "base/varint.h"

namespace nearline::server {
namespace {

constexpr size_t kMacBytes = 16;
// A token for the deepest page is about 4 KB.
constexpr size_t kMaxTokenBytes = 16 * 1024;

std::string Seal(std::string body, absl::string_view key) {
  body += ShortMac(key, body);
  return absl::WebSafeBase64Escape(body);
}

absl::StatusOr<std::string> Unseal(absl::string_view text,
                                   absl::string_view key) {
  const auto forged = [&] {
    return InvalidField(
        "page_token", Quoted(text),
        "one that this server has made; start again without one");
  };
  std::string sealed;
  if (text.size() > kMaxTokenBytes ||
      !absl::WebSafeBase64Unescape(text, &sealed) ||
      sealed.size() < kMacBytes) {
    return forged();
  }
  const absl::string_view all = sealed;
  const absl::string_view body = all.substr(0, all.size() - kMacBytes);
  if (!EqualInConstantTime(ShortMac(key, body), all.substr(body.size()))) {
    return forged();
  }
  return std::string(body);
}

}  // namespace

std::string ConsistencyToken(const std::string& log_id,
                             features::Sequence sequence) {
  return absl::StrCat(log_id, "-", sequence);
}

absl::StatusOr<features::Sequence> ReadConsistencyToken(
    absl::string_view token, const std::string& log_id,
    features::Sequence newest) {
  const size_t dash = token.find('-');
  features::Sequence sequence = 0;
  if (dash == absl::string_view::npos ||
      !absl::SimpleAtoi(token.substr(dash + 1), &sequence)) {
    return InvalidField("after", Quoted(token),
                        "a consistency token from an earlier answer");
  }
  if (token.substr(0, dash) != log_id) {
    return absl::FailedPreconditionError(absl::StrCat(
        "after = ", Quoted(token), " is of another log; this one is ", log_id));
  }
  if (sequence > newest) {
    return absl::FailedPreconditionError(
        absl::StrCat("after = ", Quoted(token),
                     " is from the future; the log is at ", newest));
  }
  return sequence;
}

std::string WritePageToken(const PageToken& token, absl::string_view key) {
  std::string body = "p";
  PutRaw(&body, token.request_hash);
  PutString(&body, token.generation);
  PutVarint(&body, token.sequence);
  PutRaw(&body, token.issued_micros);
  PutVarint(&body, token.delivered.size());
  features::Ordinal last = 0;
  for (const features::Ordinal item : token.delivered) {
    PutVarint(&body, item - last);
    last = item;
  }
  return Seal(std::move(body), key);
}

absl::StatusOr<PageToken> ReadPageToken(absl::string_view text,
                                        absl::string_view key,
                                        uint64_t request_hash, absl::Time now,
                                        absl::Duration ttl) {
  ASSIGN_OR_RETURN(const std::string body, Unseal(text, key));
  ByteReader in(body);
  PageToken token;
  const bool page = in.Bytes(1) == "p";
  token.request_hash = in.Raw<uint64_t>();
  token.generation = std::string(in.String());
  token.sequence = in.Varint();
  token.issued_micros = in.Raw<int64_t>();
  features::Ordinal last = 0;
  for (uint64_t n = in.Varint(); n > 0 && in.ok(); --n) {
    last += static_cast<features::Ordinal>(in.Varint());
    token.delivered.push_back(last);
  }
  if (!page || !in.ok()) {
    return InvalidField("page_token", "one of another call",
                        "one of this call");
  }
  if (token.request_hash != request_hash) {
    return InvalidField(
        "page_token", "one of another request",
        "the request that it came from, in every field but count");
  }
  if (now - absl::FromUnixMicros(token.issued_micros) > ttl) {
    return absl::AbortedError(
        "page_token has expired; start again without one");
  }
  return token;
}

std::string WriteListToken(absl::string_view kind, absl::string_view position,
                           absl::string_view key) {
  std::string body = "l";
  PutString(&body, kind);
  PutString(&body, position);
  return Seal(std::move(body), key);
}

absl::StatusOr<std::string> ReadListToken(absl::string_view text,
                                          absl::string_view kind,
                                          absl::string_view key) {
  if (text.empty()) return std::string();
  ASSIGN_OR_RETURN(const std::string body, Unseal(text, key));
  ByteReader in(body);
  const bool list = in.Bytes(1) == "l";
  const bool same = in.String() == kind;
  std::string position(in.String());
  if (!list || !same || !in.ok()) {
    return InvalidField("page_token", "one of another call",
                        "one of this call");
  }
  return position;
}

}  // namespace nearline::server
