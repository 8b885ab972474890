#ifndef NEARLINE_FEATURES_DATABASE_H_
#define NEARLINE_FEATURES_DATABASE_H_

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"

namespace nearline::features {

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing);
inline rocksdb::Slice ToSlice(absl::string_view s) {
  return {s.data(), s.size()};
}
inline absl::string_view ToView(const rocksdb::Slice& s) {
  return {s.data(), s.size()};
}

// The tables of the store.
enum Table : int {
  kMeta = 0,   // format, log id, counters, event type codes
  kEvents,     // (user, sequence) -> event
  kSequences,  // sequence -> user
  kEventIds,   // (user, hash of event id) -> EventIdRecord
  kUsers,      // user -> User
  kUserIds,    // salted hash of a user id -> user
  kItems,      // item -> ItemRecord
  kCounts,     // item -> decayed count
  kTables,
};

struct DatabaseOptions {
  std::string path;
  bool read_only = false;  // a checkpoint
  int64_t block_cache_bytes = 32 << 20;
  int64_t write_buffer_bytes = 64 << 20;   // over all tables
  int64_t free_space_reserve = 256 << 20;  // writes are refused below it
  absl::Duration event_id_window = absl::Hours(24 * 30);
  const Clock* clock = Clock::Real();
  rocksdb::Env* env = nullptr;      // null: the default
  std::string compression = "lz4";  // zstd is smaller and slower; none
  bool compact = true;              // by itself, in the background
  int compaction_threads = 2;
  int64_t compaction_mb_per_second = 0;  // 0: as fast as it goes
  // A file that was not rewritten for so long is: what was deleted or replaced
  // goes from the disk then, a level at a time.
  absl::Duration rewrite_interval = absl::Hours(24 * 30);
  // Receives RocksDB's own messages; level as in rocksdb::InfoLogLevel.
  std::function<void(int level, absl::string_view message)> log;
};

// RocksDB's own logger aborts when it cannot write to a full disk; this one
// hands on what matters, to `callback` if there is one.
std::shared_ptr<rocksdb::Logger> MakeLogger(
    std::function<void(int level, absl::string_view message)> callback);

// A RocksDB that can be closed and opened again under its readers' feet. After
// a failed write RocksDB serves no further write until it is reopened; Write
// does that on the next call. Thread-safe; Write and Reopen from one thread.
class Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(
      DatabaseOptions options);
  ~Database();

  // Keeps the database open while it lives. Must not outlive the call that
  // took it: a reopen waits for it.
  class Pin {
   public:
    explicit Pin(const Database* database) : lock_(&database->mu_) {
      db = database->db_.get();
      tables = &database->tables_;
    }
    // Errors: UNAVAILABLE while the store could not be reopened.
    absl::Status ok() const;
    absl::StatusOr<std::string> Get(Table table, absl::string_view key) const;
    std::unique_ptr<rocksdb::Iterator> Iterate(
        Table table, rocksdb::ReadOptions options = {}) const;

    rocksdb::DB* db;
    const std::vector<rocksdb::ColumnFamilyHandle*>* tables;

   private:
    ReaderLock lock_;
  };

  // Atomic, and synced when it returns OK. Errors: RESOURCE_EXHAUSTED when the
  // disk is nearly full; else what RocksDB says, and `needs_reload` is set:
  // what the batch left on disk is unknown until Reopen.
  // What frees space may use half of the reserve for it.
  absl::Status Write(rocksdb::WriteBatch* batch, bool frees_space = false);
  bool needs_reload() const { return needs_reload_; }
  absl::Status Reopen();

  // Whether the log of writes was found damaged, and what came behind was left
  // out: not only a last write that a crash had cut short.
  bool log_was_damaged() const { return log_was_damaged_; }

  // Hard links of everything committed, in a new folder.
  absl::Status Checkpoint(const std::string& path);
  absl::Status Flush();
  // Rewrites the files so that deleted keys of the tables are gone from them.
  absl::Status Purge(const std::vector<Table>& tables);

  rocksdb::ColumnFamilyHandle* table(Table t) const { return tables_[t]; }

 private:
  explicit Database(DatabaseOptions options);
  absl::Status CheckFolder() const;
  absl::Status OpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const DatabaseOptions options_;
  std::atomic<bool> log_was_damaged_{false};
  std::shared_ptr<rocksdb::Logger> logger_;
  std::shared_ptr<rocksdb::Cache> cache_;
  std::unique_ptr<rocksdb::CompactionFilter> expiry_;
  mutable SharedMutex mu_;
  std::unique_ptr<rocksdb::DB> db_;                   // under mu_
  std::vector<rocksdb::ColumnFamilyHandle*> tables_;  // under mu_
  bool needs_reload_ = false;
  bool refusing_ = false;  // the last write found the disk full; the writer's
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_DATABASE_H_
