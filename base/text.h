#ifndef NEARLINE_BASE_TEXT_H_
#define NEARLINE_BASE_TEXT_H_

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace nearline {

// Whether `text` is well-formed UTF-8 (no surrogates, no overlong forms, at
// most U+10FFFF).
bool IsUtf8(absl::string_view text);

// Latin-1 bytes as UTF-8, for old data files.
std::string Latin1ToUtf8(absl::string_view text);

// `text` for a message to a human: quoted, control and broken bytes escaped,
// cut at 64 bytes.
std::string Quoted(absl::string_view text);

using Json = nlohmann::json;

// The one place where the JSON parser's exceptions are caught. Errors:
// INVALID_ARGUMENT with the position.
absl::StatusOr<Json> ParseJson(absl::string_view text);

// Reads fields of an object, turning absence and a wrong type into one error
// that names the field. After the first error the getters give defaults.
class JsonReader {
 public:
  JsonReader(const Json& object, std::string where);

  std::string String(const char* key);
  int64_t Int(const char* key);
  double Double(const char* key);
  bool Bool(const char* key);
  // An empty object or array when absent or of another type.
  const Json& Object(const char* key);
  const Json& Array(const char* key);
  bool Has(const char* key) const;

  const absl::Status& status() const { return status_; }

 private:
  const Json* Find(const char* key, bool (Json::*is)() const noexcept,
                   const char* wanted);
  const Json& object_;
  const std::string where_;
  absl::Status status_;
};

}  // namespace nearline

#endif  // NEARLINE_BASE_TEXT_H_
