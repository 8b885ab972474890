#ifndef NEARLINE_MODEL_QUERY_CACHE_H_
#define NEARLINE_MODEL_QUERY_CACHE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "model/scoring.h"

namespace nearline::model {

// The query vectors of recent histories, for the requests that come before a
// user's next event: under a byte budget, least recently used out first. An
// entry is found by its history's whole content, so none ever needs to be
// invalidated. Thread-safe.
class QueryCache {
 public:
  QueryCache(int64_t bytes, size_t dim);

  // Copies the beginning of the history's vector, `length` of its `dim`
  // numbers, to `query`, or returns false.
  bool Find(const History& history, size_t length, float* query);
  // Unless Clear was called more than `clears` times.
  void Put(const History& history, const float* query, uint64_t clears = 0);
  void Clear();

  struct Stats {
    int64_t hits = 0, misses = 0;
  };
  Stats stats() const;

 private:
  static constexpr size_t kShards = 16;

  struct Entry {
    size_t hash = 0;
    History history;
    std::vector<float> query;
  };
  struct Shard {
    mutable Mutex mu;
    std::list<Entry> entries ABSL_GUARDED_BY(mu);  // latest use first
    absl::flat_hash_map<size_t, std::list<Entry>::iterator> places
        ABSL_GUARDED_BY(mu);  // by hash; of equals, the last to come
    int64_t bytes ABSL_GUARDED_BY(mu) = 0;
    Stats stats ABSL_GUARDED_BY(mu);
  };

  static int64_t BytesOf(const Entry& entry);
  static void Drop(Shard* shard, std::list<Entry>::iterator entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard->mu);

  const size_t dim_;
  const int64_t shard_budget_;
  std::atomic<uint64_t> clears_{0};
  std::array<Shard, kShards> shards_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_QUERY_CACHE_H_
