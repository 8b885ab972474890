// The words of the product: events, items, users.
#ifndef NEARLINE_FEATURES_TYPES_H_
#define NEARLINE_FEATURES_TYPES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace nearline::features {

// The number a store gives a user or an item at first sight; never reused.
using Ordinal = uint32_t;
inline constexpr Ordinal kNoOrdinal = 0xffffffffu;

// The number of an accepted event, from 1, growing without end.
using Sequence = uint64_t;

// One attribute of an item or a user. A float vector is an embedding.
using Attribute = std::variant<std::string, std::vector<std::string>, double,
                               std::vector<float>>;
using Attributes = std::map<std::string, Attribute>;
// To share; null for none.
std::shared_ptr<const Attributes> Shared(Attributes attributes);
// Memory in use, about.
int64_t BytesOf(const Attributes& attributes);

// An event as a caller names it. Checked at the door: ids are 1 to 256 bytes of
// UTF-8, value is finite.
struct NewEvent {
  std::string user;
  std::string item;
  std::string type;             // a configured name
  double value = 0;             // a rating, a price, a duration; 0 when unused
  int64_t time_micros = 0;      // since the Unix epoch
  bool time_must_match = true;  // for an event with the same id to be a repeat
  std::string event_id;    // empty: the event cannot be told from its repeats
  std::string request_id;  // of the answer that led to it, if any
  int32_t position = -1;   // in that answer, from 0; -1 when unknown
  std::string context;     // free text of the caller's, kept as it is
};

// An event as the log holds it.
struct Event {
  Ordinal user = kNoOrdinal;
  Ordinal item = kNoOrdinal;
  Sequence sequence = 0;
  uint8_t type = 0;  // a code of EventTypes
  double value = 0;
  int64_t time_micros = 0;
  std::string event_id;
  std::string request_id;
  int32_t position = -1;
  std::string context;
};

struct Item {
  std::string id;
  Attributes attributes;
};

struct User {
  std::string id;
  Attributes attributes;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_TYPES_H_
