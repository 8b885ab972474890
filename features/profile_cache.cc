#include "features/profile_cache.h"

#include <utility>

#include "absl/hash/hash.h"

namespace nearline::features {
namespace {

// What an entry costs beyond its profile: map slot, key, list node, entry.
constexpr int64_t kEntryBytes = 160;

int64_t EntryBytes(const Profile& profile, absl::string_view user) {
  return kEntryBytes + static_cast<int64_t>(user.size()) + profile.Bytes();
}

}  // namespace

ProfileCache::ProfileCache(int64_t budget_bytes, Loader loader)
    : shard_budget_(budget_bytes / static_cast<int64_t>(kShards)),
      loader_(std::move(loader)) {}

ProfileCache::Shard& ProfileCache::ShardOf(absl::string_view user) {
  return shards_[absl::Hash<absl::string_view>{}(user) % kShards];
}

absl::StatusOr<ProfilePtr> ProfileCache::Get(absl::string_view user) {
  Shard& shard = ShardOf(user);
  uint64_t changes = 0;
  {
    MutexLock lock(&shard.mu);
    const auto it = shard.entries.find(user);
    if (it != shard.entries.end() && it->second.profile != nullptr) {
      Entry& entry = it->second;
      shard.recency.splice(shard.recency.begin(), shard.recency, entry.recency);
      ++shard.stats.hits;
      return entry.profile;
    }
    ++shard.stats.misses;
    Entry& entry = shard.entries[std::string(user)];
    ++entry.loaders;
    changes = entry.changes;
  }
  while (true) {
    absl::StatusOr<ProfilePtr> loaded = loader_(user);
    MutexLock lock(&shard.mu);
    // An entry with loaders stays in the map, so this finds ours.
    Entry& entry = shard.entries.find(user)->second;
    if (loaded.ok() && entry.changes != changes && entry.profile == nullptr) {
      changes = entry.changes;
      continue;
    }
    --entry.loaders;
    if (entry.profile != nullptr) return entry.profile;  // another came first
    if (loaded.ok() && *loaded != nullptr) {
      Insert(shard, entry, user, *loaded);
    } else if (entry.loaders == 0) {
      shard.entries.erase(user);
    }
    return loaded;
  }
}

void ProfileCache::Insert(Shard& shard, Entry& entry, absl::string_view user,
                          ProfilePtr profile) {
  entry.bytes = EntryBytes(*profile, user);
  entry.profile = std::move(profile);
  shard.recency.push_front(&shard.entries.find(user)->first);
  entry.recency = shard.recency.begin();
  shard.stats.bytes += entry.bytes;
  ++shard.stats.profiles;
  Evict(shard);
}

void ProfileCache::Forget(Shard& shard, absl::string_view user) {
  const auto it = shard.entries.find(user);
  if (it == shard.entries.end()) return;
  Entry& entry = it->second;
  ++entry.changes;
  if (entry.profile == nullptr) return;
  shard.recency.erase(entry.recency);
  shard.stats.bytes -= entry.bytes;
  --shard.stats.profiles;
  entry.profile = nullptr;
  if (entry.loaders == 0) shard.entries.erase(it);
}

void ProfileCache::Evict(Shard& shard) {
  while (shard.stats.bytes > shard_budget_ && !shard.recency.empty()) {
    const std::string user = *shard.recency.back();
    Forget(shard, user);
    ++shard.stats.evictions;
  }
}

void ProfileCache::Apply(absl::string_view user,
                         absl::Span<const Event* const> events,
                         const EventTypes& types,
                         const ProfileOptions& options) {
  Shard& shard = ShardOf(user);
  MutexLock lock(&shard.mu);
  const auto it = shard.entries.find(user);
  if (it == shard.entries.end()) return;
  Entry& entry = it->second;
  ++entry.changes;
  if (entry.profile == nullptr) return;
  auto next = std::make_shared<Profile>(*entry.profile);
  for (const Event* event : events) {
    if (!next->Apply(*event, types, options)) {
      Forget(shard, user);
      return;
    }
  }
  const int64_t bytes = EntryBytes(*next, user);
  shard.stats.bytes += bytes - entry.bytes;
  entry.bytes = bytes;
  entry.profile = std::move(next);
  Evict(shard);
}

void ProfileCache::Invalidate(absl::string_view user) {
  Shard& shard = ShardOf(user);
  MutexLock lock(&shard.mu);
  Forget(shard, user);
}

void ProfileCache::Clear() {
  for (Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    for (auto it = shard.entries.begin(); it != shard.entries.end();) {
      const auto next = std::next(it);
      const std::string user = it->first;
      it = next;
      Forget(shard, user);
    }
  }
}

ProfileCache::Stats ProfileCache::stats() const {
  Stats sum;
  for (const Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    sum.profiles += shard.stats.profiles;
    sum.bytes += shard.stats.bytes;
    sum.hits += shard.stats.hits;
    sum.misses += shard.stats.misses;
    sum.evictions += shard.stats.evictions;
  }
  return sum;
}

}  // namespace nearline::features
