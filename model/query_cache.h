#ifndef NEARLINE_MODEL_QUERY_CACHE_H_
#define NEARLINE_MODEL_QUERY_CACHE_H_

#include <array>
#include <vector>

#include "base/mutex.h"
#include "model/scoring.h"

namespace nearline::model {

// The query vectors of recent histories, for the requests that come before a
// user's next event. Each history has one place, where the last one to come
// stays; it is found by its whole content, so nothing ever needs to be
// invalidated. Thread-safe.
class QueryCache {
 public:
  // `bytes` bounds the memory; longer histories than kLongest are not kept.
  QueryCache(int64_t bytes, int dim);

  // Copies the history's vector to `query` [dim], or returns false.
  bool Find(const History& history, float* query) const;
  void Put(const History& history, const float* query);
  void Clear();

 private:
  static constexpr size_t kLongest = 1000;
  static constexpr size_t kStripes = 64;
  struct Entry {
    History history;
    std::vector<float> query;
  };
  size_t SlotOf(const History& history) const;

  const size_t dim_;
  std::vector<Entry> slots_;  // slot i under stripes_[i % kStripes]
  mutable std::array<Mutex, kStripes> stripes_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_QUERY_CACHE_H_
