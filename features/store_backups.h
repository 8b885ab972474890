#ifndef NEARLINE_FEATURES_STORE_BACKUPS_H_
#define NEARLINE_FEATURES_STORE_BACKUPS_H_

#include <rocksdb/utilities/backup_engine.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/store.h"

namespace nearline::features {

// One backup of a store.
struct BackupInfo {
  uint32_t id = 0;
  absl::Time time;
  int64_t bytes = 0;  // as a whole; files are shared with other backups
  int64_t files = 0;
  Sequence sequence = 0;  // of the newest event in it
  std::string log_id;
  std::string store_key;   // the same for all backups of one store
  std::string generation;  // in service then; empty: none
};

// That a user is erased, without saying who.
struct Erasure {
  std::string user_key;  // Store::UserKey
  std::string log_id;
  Sequence sequence = 0;  // of the log, and
  absl::Time time;        // the time, once the user was gone
  bool done = true;       // false: only asked for, as far as is known

  // Whether a backup may hold what was erased.
  bool ConcernsBackup(const BackupInfo& backup) const;
};

struct BackupOptions {
  std::string path;
  // Where a checkpoint lies while it is copied: on the store's own disk.
  std::string scratch;
  bool read_only = false;        // beside another process; for List and Restore
  int64_t bytes_per_second = 0;  // of copying; 0: as fast as it goes
  std::function<void(int level, absl::string_view message)> log;
};

// A folder of backups of one store, each whole by itself, with files shared
// among them: RocksDB's backup engine, and a list of erasures beside it.
// Thread-safe; one of Create, Verify, Prune and Restore runs at a time.
class StoreBackups {
 public:
  // Makes the folder if it is not there. Errors: FAILED_PRECONDITION when
  // another process writes to it.
  static absl::StatusOr<std::unique_ptr<StoreBackups>> Open(
      BackupOptions options);

  // Oldest first; does not wait for what is under way.
  std::vector<BackupInfo> List() const {
    MutexLock lock(&known_mu_);
    return known_;
  }

  // What the store holds now, copied while it serves: only files that no backup
  // has yet. `on_bytes` gets how much was looked through, and how much there
  // is. Errors: FAILED_PRECONDITION when the folder is of another store.
  absl::StatusOr<BackupInfo> Create(
      Store* store, const std::string& generation,
      const std::function<void(int64_t done, int64_t of)>& on_bytes);
  // Reads every file of a backup against its checksum. Errors: DATA_LOSS.
  absl::Status Verify(uint32_t id);
  absl::Status Remove(uint32_t id);
  // Removes all but the newest `keep`, and erasures that concern none of them.
  absl::Status Prune(int keep);
  // Into `path`, which must not be there. Errors: NOT_FOUND, DATA_LOSS.
  absl::Status Restore(uint32_t id, const std::string& path);
  // Ends a Create that is under way, with an error.
  void Cancel() { engine_->StopBackup(); }

  // Durable when it returns OK. To be called twice, before a user is erased and
  // when that is done: then a restore cannot bring back who was, whatever
  // happens in between.
  absl::Status RecordErasure(const Erasure& erasure);
  // Without those that were asked for and then done.
  absl::StatusOr<std::vector<Erasure>> Erasures() const;

 private:
  explicit StoreBackups(BackupOptions options) : options_(std::move(options)) {}
  rocksdb::BackupEngineReadOnlyBase& reads() const {
    if (engine_ != nullptr) return *engine_;
    return *reader_;
  }
  std::string ErasuresPath() const;
  absl::StatusOr<std::vector<Erasure>> ReadErasures() const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(erasures_mu_);

  const BackupOptions options_;
  std::optional<FileLock> lock_;  // none when read only
  std::shared_ptr<rocksdb::Logger> logger_;
  // One of them.
  std::unique_ptr<rocksdb::BackupEngine> engine_;
  std::unique_ptr<rocksdb::BackupEngineReadOnly> reader_;
  void Relist();

  Mutex mu_;  // one at a time
  mutable Mutex known_mu_;
  std::vector<BackupInfo> known_ ABSL_GUARDED_BY(known_mu_);
  mutable Mutex erasures_mu_;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_STORE_BACKUPS_H_
