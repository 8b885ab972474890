#ifndef NEARLINE_SERVER_BACKUPS_H_
#define NEARLINE_SERVER_BACKUPS_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "features/store_backups.h"
#include "model/bundle.h"
#include "server/config.h"

namespace nearline::server {

// How far a backup is.
struct BackupProgress {
  std::string phase;      // copy, verify
  double share_done = 0;  // of the phase
};

// What makes backups of the store and the generation in service: a folder with
// the store's (see StoreBackups) and a copy of each generation that one of them
// names. Thread-safe.
class Backups {
 public:
  using OnProgress = std::function<void(const BackupProgress&)>;
  using OnDone =
      std::function<void(const absl::StatusOr<features::BackupInfo>&)>;

  // Null when config.backup.dir is empty. All outlive this. Errors: what is
  // wrong with the folder.
  static absl::StatusOr<std::unique_ptr<Backups>> Open(
      const Config& config, features::Store* store,
      model::GenerationStore* generations);
  // Ends what is under way.
  ~Backups();

  // Makes one on a thread of its own. Errors: FAILED_PRECONDITION while another
  // is made; then nothing is called.
  absl::Status Start(bool verify, OnProgress on_progress, OnDone on_done);
  std::vector<features::BackupInfo> List() const {
    return store_backups_->List();
  }
  // Before a user is erased. Errors: UNAVAILABLE; then he must not be.
  absl::Status ErasureAsked(const std::string& user);
  // After he was, or could not be.
  absl::Status ErasureEnded(const std::string& user, bool erased);

  // Ends what is under way, with an error, and begins nothing more.
  void Cancel();

  int64_t failures() const { return failures_.load(); }

 private:
  Backups(const Config& config, features::Store* store,
          model::GenerationStore* generations,
          std::unique_ptr<features::StoreBackups> store_backups)
      : config_(config),
        store_(*store),
        generations_(*generations),
        store_backups_(std::move(store_backups)) {}
  absl::StatusOr<features::BackupInfo> Make(bool verify,
                                            const OnProgress& on_progress);
  absl::StatusOr<std::string> CopyGeneration();
  // Reads the copy against its checksums; one that is damaged is made anew.
  absl::Status Note(const std::string& user, bool done,
                    features::Sequence sequence, absl::Time time);
  absl::Status CheckGeneration(const std::string& id);
  bool stopping() {
    MutexLock lock(&mu_);
    return stopping_;
  }
  absl::Status RemoveUnnamedGenerations();

  const Config& config_;
  features::Store& store_;
  model::GenerationStore& generations_;
  const std::unique_ptr<features::StoreBackups> store_backups_;
  std::atomic<int64_t> failures_{0};
  Mutex mu_;
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

// Where a restore is made; what lies there is of one that was cut short.
std::string RestoringIn(const std::string& data_dir);

// What a restore did.
struct RestoreReport {
  features::BackupInfo backup;
  int64_t erased = 0;  // users who had been erased since
};

// Puts a backup (0: the newest) from config.backup.dir into config.data_dir,
// where no store may be, and erases again who was erased since. Whole or not at
// all. `without_model`: popular items serve until one is trained. Errors:
// NOT_FOUND, FAILED_PRECONDITION, DATA_LOSS.
absl::StatusOr<RestoreReport> RestoreBackup(
    const Config& config, uint32_t id, bool without_model,
    const std::function<void(const std::string& phase)>& on_phase);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_BACKUPS_H_
