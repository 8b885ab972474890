// How events, items and users lie in the store. Every value starts with nothing
// but its fields; the store as a whole carries kStoreFormat.
#ifndef NEARLINE_FEATURES_STORE_FORMAT_H_
#define NEARLINE_FEATURES_STORE_FORMAT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/hash.h"
#include "base/status.h"
#include "features/types.h"

namespace nearline::features {

inline constexpr int kStoreFormat = 1;

// Keys. Numbers are big endian, so that order of bytes is order of numbers.
std::string OrdinalKey(Ordinal ordinal);
std::string EventKey(Ordinal user, Sequence sequence);
std::string SequenceKey(Sequence sequence);
std::string EventIdKey(Ordinal user, const Hash128& id);

std::string EncodeEvent(const Event& event);
// Fills all but `user` and `sequence`, which the key holds.
absl::Status DecodeEvent(absl::string_view value, Event* event);
// key and value of one row of the event table.
absl::StatusOr<Event> DecodeEventRow(absl::string_view key,
                                     absl::string_view value);

// What a client's event id stands for.
struct EventIdRecord {
  Sequence sequence = 0;
  uint64_t payload_hash = 0;
  // Of acceptance, or of the event where that is later: from which it expires.
  int64_t time_micros = 0;
  bool permanent = false;  // of an import: never expires
  bool retracted = false;  // a repeat gets the sequence and counts nothing
};
std::string EncodeEventId(const EventIdRecord& record);
absl::StatusOr<EventIdRecord> DecodeEventId(absl::string_view value);
// Of every field of the event but its id and time: a repeat may come without
// the time.
uint64_t PayloadHash(const NewEvent& event);

struct ItemRecord {
  std::string id;
  Attributes attributes;
  bool listed = false;  // put into the catalogue by a caller
  bool deleted = false;
  // The first users with an event on an item that is not listed; it is shown
  // when they are many enough.
  std::vector<Ordinal> seen_by;
};
std::string EncodeItem(const ItemRecord& item);
absl::StatusOr<ItemRecord> DecodeItem(absl::string_view value);

std::string EncodeUser(const User& user);
absl::StatusOr<User> DecodeUser(absl::string_view value);

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_STORE_FORMAT_H_
