#ifndef NEARLINE_FEATURES_EVENT_TYPES_H_
#define NEARLINE_FEATURES_EVENT_TYPES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "features/types.h"

namespace nearline::features {

// What one type of event means. Configuration, not code.
struct EventType {
  // How the event's value enters its weight.
  enum class Value {
    kIgnored,     // weight
    kMultiplies,  // weight * value
    kThreshold,   // weight if value >= positive_from, else 0
  };

  std::string name;
  double weight = 1.0;    // in [0, 1000]; 0 says nothing about taste
  bool seen = true;       // the item is not recommended again
  bool negative = false;  // hides the item from this user, adds no weight
  Value value = Value::kIgnored;
  double positive_from = 0;
};

// The configured types, and the codes that a log has given their names. A type
// that the log knows and the configuration no longer does keeps its events,
// with weight 0. Immutable.
class EventTypes {
 public:
  static constexpr int kMaxTypes = 200;

  // view, click, like, cart, purchase, rating (positive from 4) and dislike.
  static std::vector<EventType> Defaults();

  // `codes` maps every configured name (and any others) to its code. Errors:
  // INVALID_ARGUMENT for no types, too many, a name twice, or a bad weight.
  static absl::StatusOr<EventTypes> Create(
      const std::vector<EventType>& configured,
      const std::map<std::string, uint8_t>& codes);
  // Codes in the order given: for data that is in no log.
  static absl::StatusOr<EventTypes> Create(
      const std::vector<EventType>& configured);

  // The code of a configured type, or -1.
  int Find(absl::string_view name) const;
  const EventType& operator[](uint8_t code) const { return by_code_[code]; }

  // What the event adds to its item's weight in the profile; >= 0.
  double Weight(uint8_t code, double value) const;

  // Whether every configured type counts as seen.
  bool all_seen() const { return all_seen_; }
  // "click, view": the configured names, for messages.
  const std::string& names() const { return names_; }

 private:
  EventTypes() = default;
  std::vector<EventType> by_code_;  // [256]
  std::map<std::string, uint8_t, std::less<>> configured_;
  std::string names_;
  bool all_seen_ = true;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_EVENT_TYPES_H_
