#ifndef NEARLINE_FEATURES_STORE_H_
#define NEARLINE_FEATURES_STORE_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/catalogue.h"
#include "features/database.h"
#include "features/event_types.h"
#include "features/popularity.h"
#include "features/profile.h"
#include "features/profile_cache.h"
#include "features/types.h"

namespace nearline::features {

// How long events are kept; see Retention, which lets go of the others.
struct RetentionOptions {
  absl::Duration max_age = absl::ZeroDuration();  // by the event's time; 0: all
  // Of those the newest, by (time, sequence) as in profiles; 0: all.
  int64_t max_events_per_user = 0;
  absl::Duration sweep_interval = absl::Hours(24);

  bool enabled() const {
    return max_age > absl::ZeroDuration() || max_events_per_user > 0;
  }
};

struct StoreOptions {
  DatabaseOptions database;
  RetentionOptions retention;
  ProfileOptions profile;
  std::vector<EventType> event_types = EventTypes::Defaults();
  int64_t hot_profile_bytes = 64 << 20;
  int64_t max_queued_events = 200'000;  // beyond: RESOURCE_EXHAUSTED
  int64_t max_batch_events = 20'000;    // gathered into one sync
  // An item that nobody listed: refused, or shown once this many users (0 to
  // 100; 0: never) have an event on it.
  bool reject_unknown_items = false;
  int established_after = 10;
  absl::Duration popularity_half_life = absl::Hours(24 * 30);
  // Of a store that was restored: what the log said after the backup is gone,
  // so consistency tokens of then must not be taken for those of now.
  bool renew_log_id = false;  // done in any case where the log was damaged
};

// The fate of one event of a batch.
struct EventOutcome {
  absl::Status status;
  Sequence sequence = 0;   // of the event, also when it was there before
  bool duplicate = false;  // its id was there before, with the same content
  bool expired = false;    // historical, and older than what is kept: not taken
};

struct AppendResult {
  std::vector<EventOutcome> outcomes;  // one an event, in the order given
  Sequence sequence = 0;               // the log's newest
};

template <typename T>
using Done = std::function<void(absl::StatusOr<T>)>;

// Errors: INVALID_ARGUMENT (unknown type), FAILED_PRECONDITION (a live event's
// time outside the event id window or older than what is kept), ALREADY_EXISTS
// (event id with another content), NOT_FOUND (unknown item, where those are
// refused).
struct Append {
  std::vector<NewEvent> events;
  // Of an import: any time is taken, what is older than retention.max_age
  // counts for nothing, and the event ids are known as long as the event is
  // kept and the window longer.
  bool historical = false;
  // False: the first event that cannot be taken fails the batch and nothing is
  // written. True: the others are.
  bool each = false;
  Done<AppendResult> done;
};

struct RetractResult {
  int64_t retracted = 0;  // of them, how many were there and still counted
  Sequence sequence = 0;
};
// Takes events back: they leave the log, the profile and the counts. Their ids
// stay known, so that a late repeat does not bring them back.
struct Retract {
  struct Ref {
    std::string user, event_id;
  };
  std::vector<Ref> refs;
  Done<RetractResult> done;
};

struct UpsertItems {
  std::vector<Item> items;
  Done<Sequence> done;
};
struct DeleteItems {
  std::vector<std::string> ids;
  Done<int64_t> done;  // how many were listed
};
struct UpsertUsers {
  std::vector<User> users;
  Done<Sequence> done;
};
// Done when no trace is left, on disk either. Errors: NOT_FOUND.
struct DeleteUser {
  std::string id;
  Done<int64_t> done;  // how many events went
};
struct RetireResult {
  int64_t events = 0;
  int64_t users = 0;
};
// Lets go of events that were kept for long enough: they leave the log, the
// profiles and the counts, and nobody is told. Those that are gone already are
// passed over. An event id stays known for store.event_id_window longer.
struct Retire {
  struct Of {
    Ordinal user = kNoOrdinal;
    std::vector<Sequence> sequences;
  };
  std::vector<Of> users;
  // Go as well, if neither events, attributes nor event ids that a repeat could
  // meet are left of them.
  std::vector<Ordinal> forget;
  Done<RetireResult> done;
};
// The store's own: no file holds what was erased up to this erasure.
struct Purged {
  uint64_t last_erasure = 0;
  Done<Sequence> done;
};
using Mutation = std::variant<Append, Retract, UpsertItems, DeleteItems,
                              UpsertUsers, DeleteUser, Retire, Purged>;

// The embedded log with all that is derived from it: profiles, catalogue,
// counts. One process, one writer thread; reads from any thread. Thread-safe.
class Store {
 public:
  static absl::StatusOr<std::unique_ptr<Store>> Open(StoreOptions options);
  // Writes what is queued, then closes.
  ~Store();

  // Queues the mutation; its `done` is called on the writer's thread, after the
  // change is durable and visible to every reader, or with the error. Errors:
  // RESOURCE_EXHAUSTED when the queue is full; then `done` is not called.
  absl::Status Submit(Mutation mutation);

  // The hot path: the user's profile with every acknowledged event, null when
  // there is no such user.
  absl::StatusOr<ProfilePtr> GetProfile(absl::string_view user);
  // The profile as it was at `sequence`, from the log, but with the attributes
  // of now; null when there was no such user.
  absl::StatusOr<ProfilePtr> GetProfileAt(absl::string_view user,
                                          Sequence sequence);

  // Every sequence up to this one is visible to reads that start now.
  Sequence sequence() const { return sequence_.load(); }
  // Names the log; tokens of another log are refused by it.
  const std::string& log_id() const { return log_id_; }
  // Never leaves the process; keys what it signs.
  const std::string& secret() const { return secret_; }
  // Names a user without telling who it is, in records that outlive erasure.
  std::string UserKey(absl::string_view id) const;
  const EventTypes& event_types() const { return *event_types_; }
  const ProfileOptions& profile_options() const { return options_.profile; }
  const RetentionOptions& retention() const { return options_.retention; }

  // The catalogue, kept still while the reader lives. Do not hold it across a
  // call that waits.
  class CatalogueReader {
   public:
    explicit CatalogueReader(const Store* store)
        : lock_(&store->memory_mu_), catalogue_(*store->catalogue_) {}
    const Catalogue& operator*() const { return catalogue_; }
    const Catalogue* operator->() const { return &catalogue_; }

   private:
    ReaderLock lock_;
    const Catalogue& catalogue_;
  };
  CatalogueReader ReadCatalogue() const { return CatalogueReader(this); }

  // At most a second old, but never older than the last catalogue change.
  std::shared_ptr<const PopularRanking> Popular();
  // The decayed count of each item as of now, by ordinal.
  std::vector<float> PopularityByItem() const;

  absl::StatusOr<User> GetUser(absl::string_view id) const;  // or NOT_FOUND
  // Users by ordinal from `from` on. `next` is where to go on, kNoOrdinal at
  // the end.
  absl::StatusOr<std::vector<User>> ListUsers(Ordinal from, int count,
                                              Ordinal* next) const;
  // Of the `count` users from `from` on those of whom neither an event nor an
  // attribute is stored. `next` as in ListUsers.
  absl::StatusOr<std::vector<Ordinal>> UsersWithoutEvents(Ordinal from,
                                                          int count,
                                                          Ordinal* next) const;
  int64_t users() const { return users_.load(); }

  // The user's events, newest first, with sequence < `before`, at most `count`.
  // Errors: NOT_FOUND for an unknown user.
  absl::StatusOr<std::vector<Event>> GetHistory(absl::string_view user,
                                                Sequence before,
                                                int count) const;

  // All events in order of (user, sequence). Start with (0, 0); an empty answer
  // is the end.
  absl::StatusOr<std::vector<Event>> ReadEvents(Ordinal user, Sequence after,
                                                int count) const;
  // Without an id when deleted.
  absl::StatusOr<User> GetUser(Ordinal user) const;
  // The id of a user; empty when deleted.
  std::string UserId(Ordinal user) const;

  absl::Status Checkpoint(const std::string& path) {
    return database_->Checkpoint(path);
  }
  // What is in memory and in the write-ahead log goes to files of its own.
  absl::Status Flush() { return database_->Flush(); }

  struct Stats {
    ProfileCache::Stats profiles;
    int64_t queued_events = 0;
    int64_t syncs = 0;
    int64_t synced_events = 0;
    absl::Duration sync_time;  // in all
    int64_t failed_writes = 0;
  };
  Stats stats() const;

  // Called on the writer's thread after items changed, with their ordinals.
  // After it returns, the callback before is not running any more.
  void set_on_items(std::function<void(const std::vector<Ordinal>&)> f) {
    MutexLock lock(&on_items_mu_);
    on_items_ = std::move(f);
  }

 private:
  friend class StagedWrite;

  explicit Store(StoreOptions options);
  absl::Status Load();
  absl::Status LoadMeta();
  absl::Status LoadTables();
  std::string CountingRules() const;
  absl::Status Recount();
  absl::StatusOr<Ordinal> FindUser(absl::string_view id) const;
  absl::StatusOr<ProfilePtr> LoadProfile(absl::string_view user,
                                         Sequence up_to) const;

  void WriterLoop();
  void WriteGathered(std::vector<Mutation>* mutations);
  absl::Status EnsureWritable();
  void JanitorLoop();

  const StoreOptions options_;
  const Clock* const clock_;
  std::unique_ptr<Database> database_;
  std::string log_id_, secret_;
  std::unique_ptr<const EventTypes> event_types_;
  std::unique_ptr<ProfileCache> profiles_;
  std::atomic<Sequence> sequence_{0};
  std::atomic<int64_t> users_{0};
  Ordinal next_user_ = 0;  // the writer's
  bool recount_ = false;   // counts in the store follow other rules

  mutable SharedMutex memory_mu_;
  std::unique_ptr<Catalogue> catalogue_;      // under memory_mu_
  std::unique_ptr<PopularityCounts> counts_;  // under memory_mu_

  Mutex popular_mu_;
  std::shared_ptr<const PopularRanking> popular_ ABSL_GUARDED_BY(popular_mu_);
  absl::Time popular_time_ ABSL_GUARDED_BY(popular_mu_);
  uint64_t popular_version_ ABSL_GUARDED_BY(popular_mu_) = 0;

  mutable Mutex queue_mu_;
  CondVar queue_cv_;
  std::deque<Mutation> queue_ ABSL_GUARDED_BY(queue_mu_);
  int64_t queued_events_ ABSL_GUARDED_BY(queue_mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(queue_mu_) = false;
  Stats stats_ ABSL_GUARDED_BY(queue_mu_);

  Mutex on_items_mu_;  // held while the callback runs
  std::function<void(const std::vector<Ordinal>&)> on_items_
      ABSL_GUARDED_BY(on_items_mu_);

  // Rewriting files takes long, so erasures are finished off the writer.
  struct Erasure {
    DeleteUser request;
    int64_t events = 0;
    uint64_t number = 0;
  };
  uint64_t last_erasure_ = 0;  // the newest's number; the writer's
  Mutex janitor_mu_;
  CondVar janitor_cv_;
  std::deque<Erasure> erasures_ ABSL_GUARDED_BY(janitor_mu_);
  bool janitor_stopping_ ABSL_GUARDED_BY(janitor_mu_) = false;

  std::thread writer_;
  std::thread janitor_;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_STORE_H_
