// Numbers in keys and values: big endian where order matters, LEB128 varints
// where size does.
#ifndef NEARLINE_BASE_VARINT_H_
#define NEARLINE_BASE_VARINT_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/string_view.h"

namespace nearline {

template <typename T>
void PutBigEndian(std::string* out, T value) {
  for (int shift = static_cast<int>(sizeof(T)) * 8 - 8; shift >= 0;
       shift -= 8) {
    out->push_back(static_cast<char>(value >> shift));
  }
}

// The caller has checked that `in` has sizeof(T) bytes.
template <typename T>
T GetBigEndian(absl::string_view in) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8) | static_cast<uint8_t>(in[i]);
  }
  return value;
}

inline void PutVarint(std::string* out, uint64_t value) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

inline void PutString(std::string* out, absl::string_view text) {
  PutVarint(out, text.size());
  out->append(text.data(), text.size());
}

template <typename T>
void PutRaw(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}

// Reads what the Put functions wrote. After the first read past the end or of a
// malformed number, ok() is false and every read gives zero.
class ByteReader {
 public:
  explicit ByteReader(absl::string_view data) : data_(data) {}

  bool ok() const { return ok_; }
  bool done() const { return data_.empty(); }
  size_t left() const { return data_.size(); }

  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (data_.empty()) break;
      const uint8_t byte = static_cast<uint8_t>(data_[0]);
      data_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return Fail();
  }
  absl::string_view String() { return Bytes(Varint()); }
  absl::string_view Bytes(uint64_t size) {
    if (size > data_.size()) {
      Fail();
      return {};
    }
    const absl::string_view out = data_.substr(0, size);
    data_.remove_prefix(size);
    return out;
  }
  template <typename T>
  T Raw() {
    T value{};
    const absl::string_view bytes = Bytes(sizeof(T));
    if (ok_) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

 private:
  uint64_t Fail() {
    ok_ = false;
    data_ = {};
    return 0;
  }
  absl::string_view data_;
  bool ok_ = true;
};

}  // namespace nearline

#endif  // NEARLINE_BASE_VARINT_H_
