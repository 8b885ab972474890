#include "model/attributes_file.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/delimited.h"
#include "base/text.h"

namespace nearline::model {
namespace {

bool All(const Json& array, bool (Json::*is)() const noexcept) {
  return std::all_of(array.begin(), array.end(),
                     [&](const Json& value) { return (value.*is)(); });
}

absl::StatusOr<features::Attribute> AttributeFrom(const std::string& name,
                                                  const Json& value) {
  if (value.is_string()) return features::Attribute(value.get<std::string>());
  if (value.is_boolean()) return features::Attribute(value.dump());
  if (value.is_number() && std::isfinite(value.get<double>())) {
    return features::Attribute(value.get<double>());
  }
  if (value.is_array() && All(value, &Json::is_string)) {
    return features::Attribute(value.get<std::vector<std::string>>());
  }
  if (value.is_array() && All(value, &Json::is_number)) {
    auto vector = value.get<std::vector<float>>();
    if (std::all_of(vector.begin(), vector.end(),
                    [](float x) { return std::isfinite(x); })) {
      return features::Attribute(std::move(vector));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("attribute ", Quoted(name),
                   ": expected a string, a finite number, an array of either, "
                   "true, false or null"));
}

absl::StatusOr<std::string> IdFrom(const Json& line) {
  const auto id = line.find("id");
  if (id != line.end() && id->is_string() && !id->get<std::string>().empty()) {
    return id->get<std::string>();
  }
  if (id != line.end() && id->is_number_integer()) return id->dump();
  return absl::InvalidArgumentError(
      "expected an object with \"id\", a string or a whole number");
}

// What a line says of a thing of the kind; null when it is about another.
absl::StatusOr<Json> Unwrap(const std::string& text, const std::string& kind) {
  ASSIGN_OR_RETURN(Json line, ParseJson(text));
  if (!line.is_object()) {
    return absl::InvalidArgumentError(
        R"(expected {"id": ..., "attributes": {...}})");
  }
  if (line.contains("id")) return line;
  for (const char* wrapper : {"item", "user", "event", "deleted_item"}) {
    const auto found = line.find(wrapper);
    if (found == line.end()) continue;
    return kind == wrapper && found->is_object() ? Json(*found) : Json();
  }
  return line;
}

absl::Status ReadLine(const std::string& text, const std::string& kind,
                      std::map<std::string, features::Attributes>* out) {
  ASSIGN_OR_RETURN(const Json line, Unwrap(text, kind));
  if (line.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string id, IdFrom(line));
  const auto [place, is_new] = out->try_emplace(id);
  if (!is_new) {
    return absl::InvalidArgumentError(
        absl::StrCat("id ", Quoted(id), " is there twice"));
  }
  for (const auto& [key, value] : line.items()) {
    if (key == "id" || key == "attributes") continue;
    return absl::InvalidArgumentError(
        absl::StrCat("key ", Quoted(key),
                     ": expected \"id\" and \"attributes\", an object "
                     "in which all else stands"));
  }
  features::Attributes& attributes = place->second;
  const auto given = line.find("attributes");
  if (given == line.end()) return absl::OkStatus();
  if (!given->is_object()) {
    return absl::InvalidArgumentError("\"attributes\": expected an object");
  }
  for (const auto& [name, value] : given->items()) {
    if (value.is_null()) continue;
    ASSIGN_OR_RETURN(attributes[name], AttributeFrom(name, value));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::map<std::string, features::Attributes>> ReadAttributes(
    const std::string& path, const std::string& kind) {
  // A separator that no file holds: the whole line is one field.
  ASSIGN_OR_RETURN(DelimitedReader reader,
                   DelimitedReader::Open(path, std::string(1, '\x01')));
  std::map<std::string, features::Attributes> out;
  std::vector<std::string> line;
  while (reader.Next(&line)) {
    const absl::Status status = ReadLine(line[0], kind, &out);
    if (!status.ok()) return reader.Error(status.message());
  }
  RETURN_IF_ERROR(reader.status());
  return out;
}

}  // namespace nearline::model
