#ifndef NEARLINE_BASE_HASH_H_
#define NEARLINE_BASE_HASH_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace nearline {

using Digest = std::array<uint8_t, 32>;

Digest Sha256(absl::string_view data);
std::string HexDigest(const Digest& digest);
// Errors: those of reading the file.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

// HMAC-SHA-256 cut to 16 bytes: authenticates a token that comes back to us.
std::string ShortMac(absl::string_view key, absl::string_view data);
// In time that does not depend on where they differ.
bool EqualInConstantTime(absl::string_view a, absl::string_view b);

// The first 128 bits of SHA-256: names an event id with no hope of a collision,
// made by chance or on purpose.
struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};
Hash128 HashOf(absl::string_view data);

// FNV-1a with a final mix; stable across machines and versions, so it may
// decide splits that two runs must agree on. Not for data chosen by an
// adversary.
uint64_t StableHash(absl::string_view data, uint64_t seed = 0);

// `bytes` bytes from the operating system's generator.
std::string RandomBytes(int bytes);

}  // namespace nearline

#endif  // NEARLINE_BASE_HASH_H_
