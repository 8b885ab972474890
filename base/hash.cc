#include "base/hash.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/escaping.h"
#include "base/file.h"

namespace nearline {

namespace {

// HMAC-SHA-256 with the key of the last call laid out: a thread has one key,
// and laying it out costs more than a short message.
class KeyedMac {
 public:
  KeyedMac() {
    EVP_MAC* const method = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
    context_ = method == nullptr ? nullptr : EVP_MAC_CTX_new(method);
    EVP_MAC_free(method);
    if (context_ == nullptr) std::abort();  // see Sha256
  }
  ~KeyedMac() { EVP_MAC_CTX_free(context_); }

  std::string Of(absl::string_view key, absl::string_view data) {
    bool good = true;
    if (key == key_ && !key.empty()) {
      good = EVP_MAC_init(context_, nullptr, 0, nullptr) == 1;
    } else {
      char digest[] = "SHA256";
      const OSSL_PARAM parameters[] = {
          OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
          OSSL_PARAM_construct_end()};
      good = EVP_MAC_init(context_, Bytes(key), key.size(), parameters) == 1;
      key_ = std::string(key);
    }
    std::string out(EVP_MAX_MD_SIZE, '\0');
    size_t size = 0;
    good = good && EVP_MAC_update(context_, Bytes(data), data.size()) == 1 &&
           EVP_MAC_final(context_, reinterpret_cast<unsigned char*>(out.data()),
                         &size, out.size()) == 1;
    if (!good) std::abort();
    out.resize(size);
    return out;
  }

 private:
  static const unsigned char* Bytes(absl::string_view text) {
    return reinterpret_cast<const unsigned char*>(text.data());
  }
  EVP_MAC_CTX* context_;
  std::string key_;
};

}  // namespace

Digest Sha256(absl::string_view data) {
  // Looked up once: SHA256() does it on every call, which costs as much again.
  static const EVP_MD* const method = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  Digest digest;
  if (method == nullptr || EVP_Digest(data.data(), data.size(), digest.data(),
                                      nullptr, method, nullptr) != 1) {
    std::abort();  // A build of OpenSSL without SHA-256 checks nothing.
  }
  return digest;
}

std::string HexDigest(const Digest& digest) {
  return absl::BytesToHexString(absl::string_view(
      reinterpret_cast<const char*>(digest.data()), digest.size()));
}

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return HexDigest(Sha256(file.data()));
}

std::string ShortMac(absl::string_view key, absl::string_view data) {
  thread_local KeyedMac mac;
  return mac.Of(key, data).substr(0, 16);
}

bool EqualInConstantTime(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() &&
         CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Hash128 HashOf(absl::string_view data) {
  const Digest digest = Sha256(data);
  Hash128 hash;
  std::memcpy(&hash.high, digest.data(), 8);
  std::memcpy(&hash.low, digest.data() + 8, 8);
  return hash;
}

uint64_t StableHash(absl::string_view data, uint64_t seed) {
  uint64_t h = 0xcbf29ce484222325u ^ (seed * 0x9e3779b97f4a7c15u);
  for (const char c : data) {
    h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  }
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdu;
  h ^= h >> 33;
  return h;
}

std::string RandomBytes(int bytes) {
  std::string out(static_cast<size_t>(bytes), '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(out.data()), bytes) != 1) {
    std::abort();  // No randomness: nothing secret can be made.
  }
  return out;
}

}  // namespace nearline
