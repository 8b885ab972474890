#include "client/records.h"

#include <cmath>
#include <limits>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/parse_time.h"
#include "base/text.h"

namespace nearline::client {
namespace {

absl::Status AttributeFromJson(const std::string& name, const Json& json,
                               api::Attribute* out) {
  if (json.is_string()) {
    out->set_text(json.get<std::string>());
    return absl::OkStatus();
  }
  if (json.is_number()) {
    out->set_number(json.get<double>());
    return absl::OkStatus();
  }
  if (json.is_boolean()) {
    out->set_text(json.dump());
    return absl::OkStatus();
  }
  if (json.is_array()) {
    bool strings = true, numbers = !json.empty();
    for (const Json& v : json) {
      strings = strings && v.is_string();
      numbers = numbers && v.is_number();
    }
    if (numbers) {
      for (const Json& v : json) {
        out->mutable_vector()->add_values(v.get<float>());
      }
      return absl::OkStatus();
    }
    if (strings) {
      out->mutable_texts();
      for (const Json& v : json) {
        out->mutable_texts()->add_values(v.get<std::string>());
      }
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("attribute ", Quoted(name),
                   ": expected a string, a number, an array of either, true, "
                   "false or null"));
}

// An id is a string, or a whole number as text.
std::string Id(const Json& json, const char* key, JsonReader* in) {
  const auto it = json.find(key);
  if (it != json.end() && it->is_number_integer()) return it->dump();
  return in->String(key);
}

absl::Status CheckKeys(const Json& json,
                       const std::set<std::string>& expected) {
  for (const auto& [key, value] : json.items()) {
    if (expected.contains(key)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("key ", Quoted(key), ": expected one of ",
                     absl::StrJoin(expected, ", ")));
  }
  return absl::OkStatus();
}

template <typename T>
Json RecordToJson(const T& record) {
  return {{"id", record.id()},
          {"attributes", AttributesToJson(record.attributes())}};
}

template <typename T>
absl::Status RecordFromJson(const Json& json, T* record) {
  JsonReader in(json, "the line");
  record->set_id(Id(json, "id", &in));
  RETURN_IF_ERROR(in.status());
  RETURN_IF_ERROR(CheckKeys(json, {"id", "attributes"}));
  if (!in.Has("attributes")) return absl::OkStatus();
  const Json& attributes = in.Object("attributes");
  RETURN_IF_ERROR(in.status());
  return AttributesFromJson(attributes, record->mutable_attributes());
}

}  // namespace

Json AttributesToJson(const ApiAttributes& attributes) {
  Json out = Json::object();
  for (const auto& [name, value] : attributes) {
    switch (value.kind_case()) {
      case api::Attribute::kText:
        out[name] = value.text();
        break;
      case api::Attribute::kTexts:
        out[name] = Json::array();
        for (const std::string& text : value.texts().values()) {
          out[name].push_back(text);
        }
        break;
      case api::Attribute::kNumber:
        out[name] = value.number();
        break;
      case api::Attribute::kVector:
        out[name] = Json::array();
        for (const float x : value.vector().values()) out[name].push_back(x);
        break;
      case api::Attribute::KIND_NOT_SET:
        break;
    }
  }
  return out;
}

absl::Status AttributesFromJson(const Json& json, ApiAttributes* out) {
  for (const auto& [name, value] : json.items()) {
    if (value.is_null()) continue;
    RETURN_IF_ERROR(AttributeFromJson(name, value, &(*out)[name]));
  }
  return absl::OkStatus();
}

Json ToJson(const api::Item& item) { return RecordToJson(item); }
Json ToJson(const api::User& user) { return RecordToJson(user); }

Json ToJson(const api::Event& event) {
  const absl::Time time = absl::FromUnixSeconds(event.time().seconds()) +
                          absl::Nanoseconds(event.time().nanos());
  Json out = {{"user", event.user()},
              {"item", event.item()},
              {"type", event.type()},
              {"value", event.value()},
              {"time", absl::FormatTime(time, absl::UTCTimeZone())}};
  if (!event.event_id().empty()) out["event_id"] = event.event_id();
  if (!event.request_id().empty()) out["request_id"] = event.request_id();
  if (event.has_position()) out["position"] = event.position();
  if (!event.context().empty()) out["context"] = event.context();
  return out;
}

absl::Status FromJson(const Json& json, api::Item* item) {
  return RecordFromJson(json, item);
}
absl::Status FromJson(const Json& json, api::User* user) {
  return RecordFromJson(json, user);
}

absl::Status FromJson(const Json& json, const std::string& type,
                      api::Event* event) {
  RETURN_IF_ERROR(
      CheckKeys(json, {"user", "item", "type", "value", "time", "event_id",
                       "request_id", "position", "context"}));
  JsonReader in(json, "the line");
  event->set_user(Id(json, "user", &in));
  event->set_item(Id(json, "item", &in));
  event->set_type(in.Has("type") ? in.String("type") : type);
  if (in.Has("value")) event->set_value(in.Double("value"));
  if (in.Has("event_id")) event->set_event_id(in.String("event_id"));
  if (in.Has("request_id")) event->set_request_id(in.String("request_id"));
  if (in.Has("context")) event->set_context(in.String("context"));
  if (in.Has("position")) {
    const int64_t position = in.Int("position");
    if (position < 0 || position > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat("position ", position, ": expected 0 to ",
                       std::numeric_limits<int32_t>::max()));
    }
    event->set_position(static_cast<int32_t>(position));
  }
  RETURN_IF_ERROR(in.status());
  if (!in.Has("time")) return absl::OkStatus();
  const Json& time = json["time"];
  ASSIGN_OR_RETURN(
      const absl::Time parsed,
      ParseTime(time.is_string() ? time.get<std::string>() : time.dump()));
  SetTime(parsed, event);
  return absl::OkStatus();
}

void SetTime(absl::Time time, api::Event* event) {
  const int64_t micros = absl::ToUnixMicros(time);
  event->mutable_time()->set_seconds(micros / 1'000'000);
  event->mutable_time()->set_nanos(
      static_cast<int32_t>(micros % 1'000'000 * 1000));
}

}  // namespace nearline::client
