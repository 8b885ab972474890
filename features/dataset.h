#ifndef NEARLINE_FEATURES_DATASET_H_
#define NEARLINE_FEATURES_DATASET_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/status.h"
#include "features/store.h"

namespace nearline::features {

// Users' items with weights, compressed by rows: user u has
// items[offsets[u] .. offsets[u + 1]), each item once, oldest first.
struct Interactions {
  std::vector<int64_t> offsets = {0};  // [users + 1]
  std::vector<uint32_t> items;         // [nnz]
  std::vector<float> weights;          // [nnz], > 0

  int64_t users() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t size() const { return static_cast<int64_t>(items.size()); }
  absl::Span<const uint32_t> ItemsOf(int64_t user) const {
    return Slice<uint32_t>(items, user);
  }
  absl::Span<const float> WeightsOf(int64_t user) const {
    return Slice<float>(weights, user);
  }
  // Ends the user whose items were pushed since the last call.
  void EndUser() { offsets.push_back(size()); }

 private:
  template <typename T>
  absl::Span<const T> Slice(const std::vector<T>& v, int64_t user) const {
    const auto begin = static_cast<size_t>(offsets[static_cast<size_t>(user)]);
    const auto end =
        static_cast<size_t>(offsets[static_cast<size_t>(user) + 1]);
    return absl::MakeConstSpan(v).subspan(begin, end - begin);
  }
};

// One user of a holdout: what was known, and what followed.
struct HoldoutUser {
  Profile profile;             // of the events before
  std::vector<Ordinal> truth;  // items first wanted after, ascending
};

struct SplitOptions {
  double holdout_share = 0.1;     // of events (by time) or users
  int min_holdout_users = 100;    // else the window widens, up to a half
  int max_holdout_users = 3000;   // more are sampled
  int64_t not_before_micros = 0;  // the incumbent's cutoff
  uint64_t seed = 1;
};

// A log cut in two. By time: train on what lies strictly before the cutoff, and
// hold out the users with something new after it. Where most events share one
// time there is no order to cut by: a seeded share of the users is held out
// whole, 80 % of their events known and 20 % to be found.
struct Split {
  enum class Kind { kByTime, kByUser };
  Kind kind = Kind::kByTime;
  int64_t cutoff_micros = 0;  // 0 by user
  // The window reached back before not_before_micros: the incumbent has seen
  // part of the holdout.
  bool incumbent_saw_holdout = false;

  Interactions train;  // items as ordinals
  // By user of `train`, null for none.
  std::vector<std::shared_ptr<const Attributes>> attributes;
  std::vector<HoldoutUser> holdout;
  int64_t events = 0;  // read from the log
  int64_t users = 0;
};

// Reads the whole log, in one scan.
absl::StatusOr<Split> SplitLog(const Store& store, const SplitOptions& options);

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_DATASET_H_
