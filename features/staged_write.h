#ifndef NEARLINE_FEATURES_STAGED_WRITE_H_
#define NEARLINE_FEATURES_STAGED_WRITE_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "features/store.h"
#include "features/store_format.h"

namespace nearline::features {

// One gathered write. Reads the store's committed state, and on top of it what
// this write has staged; changes nothing but itself until Commit.
class StagedWrite {
 public:
  explicit StagedWrite(Store* store)
      : store_(*store),
        now_(store->clock_->Now()),
        next_user_(store->next_user_),
        sequence_(store->sequence_) {}

  void Stage(Append& m);
  void Stage(Retract& m);
  void Stage(UpsertItems& m);
  void Stage(DeleteItems& m);
  void Stage(UpsertUsers& m);
  void Stage(DeleteUser& m);
  void Stage(Retire& m);
  void Stage(Purged& m);

  // Writes and syncs, then publishes. Callers learn through Finish.
  absl::Status Commit();
  void Finish(const absl::Status& status);

  int64_t events() const { return static_cast<int64_t>(events_.size()); }

 private:
  struct StagedEvent {
    std::string user_id;
    Event event;
  };

  rocksdb::ColumnFamilyHandle* table(Table t) {
    return store_.database_->table(t);
  }
  absl::StatusOr<Ordinal> FindUser(const std::string& id);
  absl::StatusOr<Ordinal> FindOrAddUser(const std::string& id);
  Ordinal FindItem(const std::string& id) const;
  ItemRecord& EditItem(Ordinal item);
  Ordinal FindOrAddItem(const std::string& id);
  void AddToCount(Ordinal item, double share);
  absl::StatusOr<std::optional<EventIdRecord>> FindEventId(
      const std::string& key);
  // What is known of an event before anything is staged. Its hashes are made
  // once, and only when it has an event id.
  struct Examined {
    EventOutcome outcome;
    Hash128 id;
    uint64_t payload = 0;
  };
  absl::StatusOr<Examined> Examine(const NewEvent& event, bool historical);
  absl::Status StageEvent(NewEvent& event, bool historical, Examined* examined);
  // The event, staged or written; nothing when it was retracted or erased.
  absl::StatusOr<std::optional<Event>> ReadEvent(Ordinal user,
                                                 Sequence sequence) const;
  void EraseEvent(const Event& event);
  absl::StatusOr<int64_t> EraseUser(const std::string& id);
  // The user's row and id.
  void EraseRecord(Ordinal user, const std::string& id);
  absl::Status RetireEvents(const Retire::Of& of, int64_t* retired);
  absl::Status Forget(Ordinal ordinal, int64_t* forgotten);
  absl::StatusOr<bool> EraseExpiredIds(Ordinal user);
  void StageTables();
  void Publish();

  // Calls `done` once the write is known to be durable, or with its error.
  template <typename T>
  void WhenDurable(Done<T> done, T result) {
    finish_.push_back(
        [this, done = std::move(done),
         result = std::move(result)](const absl::Status& status) mutable {
          if (!done) return;
          if (status.ok()) {
            done(std::move(result));
          } else {
            done(status);
          }
        });
  }
  template <typename T>
  static void Fail(const Done<T>& done, const absl::Status& status) {
    if (done) done(status);
  }
  // The same for trouble after something was staged: nothing of this write may
  // reach the disk.
  template <typename T>
  void Poison(const Done<T>& done, const absl::Status& status) {
    poison_ = Annotate(status, "reading the store");
    Fail(done, status);
  }

  Store& store_;
  const absl::Time now_;
  rocksdb::WriteBatch batch_;
  Ordinal next_user_;
  Sequence sequence_;
  std::vector<StagedEvent> events_;
  absl::flat_hash_map<std::string, Ordinal> users_;  // kNoOrdinal: none
  absl::flat_hash_map<std::string, Ordinal> new_items_;
  std::map<Ordinal, ItemRecord> items_;
  absl::flat_hash_map<Ordinal, double> counts_;
  absl::flat_hash_map<std::string, EventIdRecord> event_ids_;
  std::vector<std::string> stale_users_;  // whose profiles must be read again
  int64_t users_added_ = 0;
  bool frees_space_ = false;  // and nothing else: it is written alone
  absl::Status poison_;
  std::vector<std::function<void(const absl::Status&)>> finish_;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_STAGED_WRITE_H_
