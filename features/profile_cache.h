#ifndef NEARLINE_FEATURES_PROFILE_CACHE_H_
#define NEARLINE_FEATURES_PROFILE_CACHE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/container/node_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/profile.h"

namespace nearline::features {

using ProfilePtr = std::shared_ptr<const Profile>;

// Hot profiles under a byte budget, least recently used out first. An event is
// in the next Get once Apply has returned, also when a load of the same user
// was under way: the load finds itself marked and starts again. Thread-safe.
class ProfileCache {
 public:
  // Reads a user's profile from the log; null when there is no such user.
  // Called without a lock.
  using Loader =
      std::function<absl::StatusOr<ProfilePtr>(absl::string_view user)>;

  ProfileCache(int64_t budget_bytes, Loader loader);

  // Null when there is no such user. Errors: the loader's.
  absl::StatusOr<ProfilePtr> Get(absl::string_view user);

  // The writer's side, after the commit: brings a resident profile up to date
  // and sends a load under way back to its start.
  void Apply(absl::string_view user, absl::Span<const Event* const> events,
             const EventTypes& types, const ProfileOptions& options);
  // Forgets the user: the next Get loads.
  void Invalidate(absl::string_view user);
  void Clear();

  struct Stats {
    int64_t profiles = 0;
    int64_t bytes = 0;
    int64_t hits = 0;
    int64_t misses = 0;
    int64_t evictions = 0;
  };
  Stats stats() const;

 private:
  static constexpr size_t kShards = 16;

  struct Entry {
    ProfilePtr profile;  // null while loading
    int64_t bytes = 0;
    uint64_t changes = 0;  // a load that saw another number starts again
    int loaders = 0;
    std::list<const std::string*>::iterator recency;
  };
  struct Shard {
    mutable Mutex mu;
    // Nodes: `recency` points at the keys.
    absl::node_hash_map<std::string, Entry> entries ABSL_GUARDED_BY(mu);
    std::list<const std::string*> recency ABSL_GUARDED_BY(mu);  // newest first
    Stats stats ABSL_GUARDED_BY(mu);
  };

  Shard& ShardOf(absl::string_view user);
  void Insert(Shard& shard, Entry& entry, absl::string_view user,
              ProfilePtr profile) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  void Forget(Shard& shard, absl::string_view user)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);
  void Evict(Shard& shard) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mu);

  const int64_t shard_budget_;
  const Loader loader_;
  std::array<Shard, kShards> shards_;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_PROFILE_CACHE_H_
