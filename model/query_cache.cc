#include "model/query_cache.h"

#include <algorithm>
#include <iterator>

#include "absl/hash/hash.h"

namespace nearline::model {

namespace {

size_t HashOf(const History& history) {
  return absl::HashOf(history.rows, history.weights, history.traits);
}

}  // namespace

QueryCache::QueryCache(int64_t bytes, size_t dim)
    : dim_(dim), shard_budget_(bytes / static_cast<int64_t>(kShards)) {}

int64_t QueryCache::BytesOf(const Entry& entry) {
  constexpr size_t kPlace = 64;  // list node, map slot, allocator
  return static_cast<int64_t>(
      kPlace + sizeof(Entry) +
      entry.history.rows.size() * (sizeof(Row) + sizeof(float)) +
      entry.history.traits.size() * sizeof(FeatureValues::value_type) +
      entry.query.size() * sizeof(float));
}

void QueryCache::Drop(Shard* shard, std::list<Entry>::iterator entry) {
  shard->bytes -= BytesOf(*entry);
  shard->places.erase(entry->hash);
  shard->entries.erase(entry);
}

bool QueryCache::Find(const History& history, size_t length, float* query) {
  const size_t hash = HashOf(history);
  Shard& shard = shards_[hash % kShards];
  MutexLock lock(&shard.mu);
  const auto place = shard.places.find(hash);
  if (place == shard.places.end() || place->second->history != history) {
    ++shard.stats.misses;
    return false;
  }
  ++shard.stats.hits;
  const auto entry = place->second;
  std::copy_n(entry->query.begin(), length, query);
  shard.entries.splice(shard.entries.begin(), shard.entries, entry);
  return true;
}

QueryCache::Stats QueryCache::stats() const {
  Stats sum;
  for (const Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    sum.hits += shard.stats.hits;
    sum.misses += shard.stats.misses;
  }
  return sum;
}

void QueryCache::Put(const History& history, const float* query,
                     uint64_t clears) {
  const size_t hash = HashOf(history);
  Entry entry{hash, history, {query, query + dim_}};
  if (BytesOf(entry) > shard_budget_) return;  // it would push out all others
  Shard& shard = shards_[hash % kShards];
  MutexLock lock(&shard.mu);
  if (clears != clears_) return;
  const auto place = shard.places.find(hash);
  if (place != shard.places.end()) Drop(&shard, place->second);
  shard.bytes += BytesOf(entry);
  shard.entries.push_front(std::move(entry));
  shard.places[hash] = shard.entries.begin();
  while (shard.bytes > shard_budget_) {
    Drop(&shard, std::prev(shard.entries.end()));
  }
}

void QueryCache::Clear() {
  ++clears_;
  for (Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    shard.places.clear();
    shard.entries.clear();
    shard.bytes = 0;
  }
}

}  // namespace nearline::model
