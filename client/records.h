// Items, users and events as JSON, for import, export and --json.
#ifndef NEARLINE_CLIENT_RECORDS_H_
#define NEARLINE_CLIENT_RECORDS_H_

#include <string>

#include "absl/time/time.h"
#include "base/status.h"
#include "base/text.h"
#include "proto/nearline/v1/common.pb.h"

namespace nearline::client {

namespace api = ::nearline::v1;

// A string is text, an array of strings texts, a number a number, an array of
// numbers a vector, true and false are texts, null is no attribute.
using ApiAttributes = google::protobuf::Map<std::string, api::Attribute>;
Json AttributesToJson(const ApiAttributes& attributes);
absl::Status AttributesFromJson(const Json& json, ApiAttributes* out);

// {"id": ..., "attributes": {...}}
Json ToJson(const api::Item& item);
Json ToJson(const api::User& user);
// {"user", "item", "type", "value", "time", "event_id", ...}; time in RFC 3339.
Json ToJson(const api::Event& event);

absl::Status FromJson(const Json& json, api::Item* item);
absl::Status FromJson(const Json& json, api::User* user);
// `type` when the object has none. Ids may be whole numbers.
absl::Status FromJson(const Json& json, const std::string& type,
                      api::Event* event);

void SetTime(absl::Time time, api::Event* event);

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_RECORDS_H_
