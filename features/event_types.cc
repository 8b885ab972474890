#include "features/event_types.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_join.h"
#include "base/text.h"

namespace nearline::features {

std::vector<EventType> EventTypes::Defaults() {
  using enum EventType::Value;
  return {
      {.name = "view", .weight = 0.25},
      {.name = "click", .weight = 0.5},
      {.name = "like", .weight = 1.0},
      {.name = "cart", .weight = 1.0},
      {.name = "purchase", .weight = 1.0},
      {.name = "rating",
       .weight = 1.0,
       .value = kThreshold,
       .positive_from = 4},
      {.name = "dislike", .weight = 0.0, .negative = true},
  };
}

absl::StatusOr<EventTypes> EventTypes::Create(
    const std::vector<EventType>& configured,
    const std::map<std::string, uint8_t>& codes) {
  if (configured.empty() || configured.size() > kMaxTypes) {
    return absl::InvalidArgumentError(
        absl::StrCat(configured.size(), " event types; expected 1 to ",
                     static_cast<int>(kMaxTypes)));
  }
  EventTypes types;
  types.by_code_.assign(256, EventType{.weight = 0.0});
  for (const auto& [name, code] : codes) types.by_code_[code].name = name;
  for (const EventType& type : configured) {
    if (type.name.empty() || type.name.size() > 64 || !IsUtf8(type.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("event type ", Quoted(type.name),
                       ": a name is 1 to 64 bytes of UTF-8"));
    }
    if (!(type.weight >= 0 && type.weight <= 1000)) {
      return absl::InvalidArgumentError(
          absl::StrCat("event type ", Quoted(type.name), ": weight ",
                       type.weight, " is outside [0, 1000]"));
    }
    const auto code = codes.find(type.name);
    if (code == codes.end()) {
      return absl::InternalError(
          absl::StrCat("event type ", Quoted(type.name), " has no code"));
    }
    if (!types.configured_.emplace(type.name, code->second).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("event type ", Quoted(type.name), " is there twice"));
    }
    types.by_code_[code->second] = type;
    types.all_seen_ = types.all_seen_ && type.seen;
  }
  types.names_ = absl::StrJoin(
      types.configured_, ", ",
      [](std::string* out, const auto& entry) { *out += entry.first; });
  return types;
}

absl::StatusOr<EventTypes> EventTypes::Create(
    const std::vector<EventType>& configured) {
  std::map<std::string, uint8_t> codes;
  for (const EventType& type : configured) {
    codes.emplace(type.name, static_cast<uint8_t>(codes.size()));
  }
  return Create(configured, codes);
}

int EventTypes::Find(absl::string_view name) const {
  const auto it = configured_.find(std::string(name));
  return it == configured_.end() ? -1 : it->second;
}

double EventTypes::Weight(uint8_t code, double value) const {
  const EventType& type = by_code_[code];
  if (type.negative) return 0;
  switch (type.value) {
    case EventType::Value::kIgnored:
      return type.weight;
    case EventType::Value::kMultiplies:
      return std::clamp(type.weight * value, 0.0, 1e6);
    case EventType::Value::kThreshold:
      return value >= type.positive_from ? type.weight : 0.0;
  }
  return 0;
}

}  // namespace nearline::features
