#ifndef NEARLINE_FEATURES_POPULARITY_H_
#define NEARLINE_FEATURES_POPULARITY_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "features/catalogue.h"
#include "features/types.h"

namespace nearline::features {

// Exponentially decaying weighted counts of items. An event at time t counts
// weight * 2^((t - epoch) / half_life): all counts decay alike, so the order is
// right at any time without touching them.
class PopularityCounts {
 public:
  PopularityCounts(absl::Duration half_life, int64_t epoch_micros)
      : half_life_micros_(
            static_cast<double>(absl::ToInt64Microseconds(half_life))),
        epoch_micros_(epoch_micros) {}

  // What an event adds; subtract the same to take it back.
  double Share(double weight, int64_t time_micros) const {
    const double age = static_cast<double>(time_micros - epoch_micros_);
    return weight *
           std::exp2(std::clamp(age / half_life_micros_, -900.0, 900.0));
  }
  void Set(Ordinal item, double count) {
    if (item >= counts_.size()) counts_.resize(item + 1, 0.0);
    counts_[item] = count > 0 ? count : 0.0;
  }
  double operator[](Ordinal item) const {
    return item < counts_.size() ? counts_[item] : 0.0;
  }
  Ordinal size() const { return static_cast<Ordinal>(counts_.size()); }
  int64_t epoch_micros() const { return epoch_micros_; }
  // The count as of `time_micros`, in events of weight 1.
  double AsOf(Ordinal item, int64_t time_micros) const {
    return (*this)[item] / Share(1.0, time_micros);
  }

 private:
  const double half_life_micros_;
  const int64_t epoch_micros_;
  std::vector<double> counts_;
};

// The servable items, most popular first, ties by id. Immutable.
struct PopularRanking {
  std::vector<Ordinal> items;
  std::vector<float> scores;  // decayed counts as shares of the greatest
};

std::shared_ptr<const PopularRanking> RankByPopularity(
    const PopularityCounts& counts, const Catalogue& catalogue);

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_POPULARITY_H_
