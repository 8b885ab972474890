#include "model/query_cache.h"

#include <algorithm>

#include "absl/hash/hash.h"

namespace nearline::model {

QueryCache::QueryCache(int64_t bytes, int dim)
    : dim_(static_cast<size_t>(dim)) {
  const size_t most = sizeof(Entry) + dim_ * sizeof(float) +
                      kLongest * (sizeof(Row) + sizeof(float));
  slots_.resize(std::max<size_t>(1, static_cast<size_t>(bytes) / most));
}

size_t QueryCache::SlotOf(const History& history) const {
  return absl::HashOf(history.rows, history.weights) % slots_.size();
}

bool QueryCache::Find(const History& history, float* query) const {
  const size_t slot = SlotOf(history);
  MutexLock lock(&stripes_[slot % kStripes]);
  const Entry& entry = slots_[slot];
  if (entry.query.empty() || entry.history != history) return false;
  std::copy(entry.query.begin(), entry.query.end(), query);
  return true;
}

void QueryCache::Put(const History& history, const float* query) {
  if (history.rows.size() > kLongest) return;
  Entry entry{history, {query, query + dim_}};  // exactly as large as needed
  const size_t slot = SlotOf(history);
  MutexLock lock(&stripes_[slot % kStripes]);
  std::swap(slots_[slot], entry);
}

void QueryCache::Clear() {
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    MutexLock lock(&stripes_[slot % kStripes]);
    slots_[slot] = {};
  }
}

}  // namespace nearline::model
