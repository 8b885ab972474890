#include "base/text.h"

#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace nearline {
namespace {

// Bytes of the UTF-8 sequence at the head of `s`, 0 when malformed. Table 3-7
// of the Unicode standard.
size_t SequenceLength(absl::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const auto in = [&](size_t i, uint8_t low, uint8_t high) {
    return i < s.size() && byte(i) >= low && byte(i) <= high;
  };
  const uint8_t b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xc2 && b <= 0xdf) return in(1, 0x80, 0xbf) ? 2 : 0;
  if (b >= 0xe0 && b <= 0xef) {
    const uint8_t low = b == 0xe0 ? 0xa0 : 0x80;
    const uint8_t high = b == 0xed ? 0x9f : 0xbf;
    return in(1, low, high) && in(2, 0x80, 0xbf) ? 3 : 0;
  }
  if (b >= 0xf0 && b <= 0xf4) {
    const uint8_t low = b == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = b == 0xf4 ? 0x8f : 0xbf;
    return in(1, low, high) && in(2, 0x80, 0xbf) && in(3, 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

}  // namespace

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t n = SequenceLength(text);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

std::string Latin1ToUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    const uint8_t b = static_cast<uint8_t>(c);
    if (b < 0x80) {
      out.push_back(c);
    } else {
      out.push_back(static_cast<char>(0xc0 | (b >> 6)));
      out.push_back(static_cast<char>(0x80 | (b & 0x3f)));
    }
  }
  return out;
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kMost = 64;
  const bool cut = text.size() > kMost;
  if (cut) {
    size_t end = kMost;
    while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xc0) == 0x80) --end;
    text = text.substr(0, end);
  }
  const std::string safe =
      IsUtf8(text) ? absl::Utf8SafeCEscape(text) : absl::CEscape(text);
  return absl::StrCat("\"", safe, "\"", cut ? "..." : "");
}

absl::StatusOr<Json> ParseJson(absl::string_view text) {
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("not JSON: ", e.what()));
  }
}

JsonReader::JsonReader(const Json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) {
    status_ = absl::InvalidArgumentError(
        absl::StrCat(where_, ": expected a JSON object"));
  }
}

bool JsonReader::Has(const char* key) const {
  return object_.is_object() && object_.contains(key);
}

const Json* JsonReader::Find(const char* key, bool (Json::*is)() const noexcept,
                             const char* wanted) {
  if (!status_.ok()) return nullptr;
  const auto it = object_.find(key);
  if (it == object_.end() || !((*it).*is)()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(
        where_, ": ", key, " is ",
        it == object_.end() ? "missing" : absl::StrCat("a ", it->type_name()),
        ", expected ", wanted));
    return nullptr;
  }
  return &*it;
}

std::string JsonReader::String(const char* key) {
  const Json* v = Find(key, &Json::is_string, "a string");
  return v ? v->get<std::string>() : std::string();
}

int64_t JsonReader::Int(const char* key) {
  const Json* v = Find(key, &Json::is_number_integer, "a whole number");
  return v ? v->get<int64_t>() : 0;
}

double JsonReader::Double(const char* key) {
  const Json* v = Find(key, &Json::is_number, "a number");
  return v ? v->get<double>() : 0.0;
}

bool JsonReader::Bool(const char* key) {
  const Json* v = Find(key, &Json::is_boolean, "true or false");
  return v != nullptr && v->get<bool>();
}

const Json& JsonReader::Object(const char* key) {
  static const Json empty = Json::object();
  const Json* v = Find(key, &Json::is_object, "an object");
  return v ? *v : empty;
}

const Json& JsonReader::Array(const char* key) {
  static const Json empty = Json::array();
  const Json* v = Find(key, &Json::is_array, "an array");
  return v ? *v : empty;
}

}  // namespace nearline
