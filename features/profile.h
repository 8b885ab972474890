#ifndef NEARLINE_FEATURES_PROFILE_H_
#define NEARLINE_FEATURES_PROFILE_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "features/bitmap.h"
#include "features/event_types.h"
#include "features/types.h"

namespace nearline::features {

struct ProfileOptions {
  int max_history = 500;     // H: the newest distinct items kept with weights
  double max_weight = 10.0;  // an item's summed weight counts up to this
};

// One distinct item of a user's history.
struct HistoryEntry {
  Ordinal item = kNoOrdinal;
  float weight_sum = 0;     // of the item's events, uncapped
  int64_t time_micros = 0;  // of the newest event
  Sequence sequence = 0;    // of the newest event

  bool OlderThan(const HistoryEntry& o) const {
    return time_micros != o.time_micros ? time_micros < o.time_micros
                                        : sequence < o.sequence;
  }
};

// What a user's events say. The weight of an item is the sum of its events'
// weights, at most max_weight; items without weight are only seen. Applying
// events one at a time gives what building from the whole log gives.
// A snapshot (shared_ptr<const Profile>) is immutable.
class Profile {
 public:
  Profile() = default;
  explicit Profile(Ordinal user) : user_(user) {}

  // Adds an event newer (by sequence) than all before. Returns false, with the
  // profile unchanged, when only a rebuild from the log can tell: the item fell
  // out of the history earlier, and its old weight with it.
  [[nodiscard]] bool Apply(const Event& event, const EventTypes& types,
                           const ProfileOptions& options);

  Ordinal user() const { return user_; }
  // Distinct items with weight > 0, oldest first by (time, sequence); at most
  // H.
  const std::vector<HistoryEntry>& history() const { return history_; }
  // Every item that an event which counts as seen has touched; never cut.
  const Bitmap& seen() const { return seen_; }
  // Items with a negative event; always masked.
  const Bitmap& disliked() const { return disliked_; }
  // Of the newest event applied; 0 when there is none.
  Sequence sequence() const { return sequence_; }
  int64_t events() const { return events_; }
  // The user's, as they were when the profile was read; null for none.
  const std::shared_ptr<const Attributes>& attributes() const {
    return attributes_;
  }

  // Builds from all events of the user in order of sequence.
  class Builder;

  // Memory in use, for the cache's budget.
  int64_t Bytes() const;

 private:
  Ordinal user_ = kNoOrdinal;
  std::vector<HistoryEntry> history_;
  Bitmap seen_;
  Bitmap disliked_;
  Sequence sequence_ = 0;
  int64_t events_ = 0;
  std::shared_ptr<const Attributes> attributes_;
  bool truncated_ = false;  // something fell out of the history
};

class Profile::Builder {
 public:
  Builder(Ordinal user, const EventTypes& types, const ProfileOptions& options)
      : types_(types), options_(options), profile_(user) {}
  void Add(const Event& event);
  void SetAttributes(std::shared_ptr<const Attributes> attributes) {
    profile_.attributes_ = std::move(attributes);
  }
  Profile Build() &&;

 private:
  const EventTypes& types_;
  const ProfileOptions options_;
  Profile profile_;
  std::vector<HistoryEntry> entries_;  // one an event with weight
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_PROFILE_H_
