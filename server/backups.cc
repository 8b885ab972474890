#include "server/backups.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <set>
#include <utility>

#include "base/file.h"

namespace nearline::server {
namespace {

std::string GenerationsIn(const Config& config) {
  return JoinPath(config.backup.dir, "generations");
}

features::BackupOptions OptionsOf(const Config& config, bool read_only) {
  return {.path = config.backup.dir,
          .scratch = JoinPath(config.data_dir, "backup-checkpoint"),
          .read_only = read_only,
          .bytes_per_second = config.backup.mb_per_second << 20,
          .log = [](int level, absl::string_view message) {
            spdlog::log(level >= 3 ? spdlog::level::err : spdlog::level::debug,
                        "backup: {}", std::string(message));
          }};
}

// Erases the users whom `erasures` name; returns how many there were.
absl::StatusOr<int64_t> EraseAgain(
    features::Store* store, const std::vector<features::Erasure>& erasures) {
  std::set<std::string> keys;
  for (const features::Erasure& erasure : erasures) {
    keys.insert(erasure.user_key);
  }
  std::vector<std::string> found;
  for (features::Ordinal next = 0;
       !keys.empty() && next != features::kNoOrdinal;) {
    constexpr int kPage = 1000;
    ASSIGN_OR_RETURN(const auto users, store->ListUsers(next, kPage, &next));
    for (const features::User& user : users) {
      if (keys.contains(store->UserKey(user.id))) found.push_back(user.id);
    }
  }
  for (const std::string& id : found) {
    std::promise<absl::Status> done;
    RETURN_IF_ERROR(store->Submit(features::DeleteUser{
        .id = id, .done = [&](const absl::StatusOr<int64_t>& events) {
          done.set_value(events.status());
        }}));
    RETURN_IF_ERROR(done.get_future().get());
  }
  return static_cast<int64_t>(found.size());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backups>> Backups::Open(
    const Config& config, features::Store* store,
    model::GenerationStore* generations) {
  if (config.backup.dir.empty()) return nullptr;
  std::unique_ptr<Backups> backups(new Backups(config, store, generations));
  ASSIGN_OR_RETURN(backups->store_backups_,
                   features::StoreBackups::Open(OptionsOf(config, false)));
  return backups;
}

Backups::~Backups() {
  store_backups_->Cancel();
  std::thread last;
  {
    MutexLock lock(&mu_);
    last = std::move(thread_);
  }
  if (last.joinable()) last.join();
}

absl::Status Backups::Start(bool verify, OnProgress on_progress,
                            OnDone on_done) {
  MutexLock lock(&mu_);
  if (running_) {
    return absl::FailedPreconditionError(
        "another backup is being made; wait for it");
  }
  running_ = true;
  if (thread_.joinable()) thread_.join();  // over but for its last lines
  thread_ = std::thread([this, verify, on_progress = std::move(on_progress),
                         on_done = std::move(on_done)] {
    const absl::Time began = absl::Now();
    const auto made = Make(verify, on_progress);
    if (made.ok()) {
      spdlog::info("backup {} to sequence {}, {} MiB, in {}", made->id,
                   made->sequence, made->bytes >> 20,
                   absl::FormatDuration(absl::Now() - began));
    } else {
      ++failures_;
      spdlog::error("no backup was made: {}", made.status().ToString());
    }
    {
      MutexLock end(&mu_);
      running_ = false;
    }
    on_done(made);
  });
  return absl::OkStatus();
}

absl::StatusOr<features::BackupInfo> Backups::Make(
    bool verify, const OnProgress& on_progress) {
  // Not more often than anybody can see.
  double told = -1;
  const auto at = [&](const char* phase, double share) {
    if (share > 0 && share < told + 0.01) return;
    told = share;
    on_progress({.phase = phase, .share_done = share});
  };
  at("copy", 0);
  // First: no event is newer than what the backup's generation may know.
  ASSIGN_OR_RETURN(const std::string generation, CopyGeneration());
  ASSIGN_OR_RETURN(const features::BackupInfo backup,
                   store_backups_->Create(
                       &store_, generation, [&](int64_t done, int64_t of) {
                         at("copy",
                            static_cast<double>(done) /
                                static_cast<double>(std::max<int64_t>(1, of)));
                       }));
  if (verify) {
    at("verify", 0);
    RETURN_IF_ERROR(store_backups_->Verify(backup.id));
  }
  RETURN_IF_ERROR(store_backups_->Prune(config_.backup.keep));
  RETURN_IF_ERROR(RemoveUnnamedGenerations());
  return backup;
}

// Of the one in service, unless an earlier backup has it; returns its name.
absl::StatusOr<std::string> Backups::CopyGeneration() {
  ASSIGN_OR_RETURN(const std::string id, generations_.Current());
  if (id.empty()) return id;
  const std::string to = JoinPath(GenerationsIn(config_), id);
  if (FileExists(to)) return id;
  RETURN_IF_ERROR(MakeDirs(GenerationsIn(config_)));
  RETURN_IF_ERROR(CopyFolder(generations_.FolderOf(id), to));
  return id;
}

absl::Status Backups::RemoveUnnamedGenerations() {
  std::set<std::string> named;
  for (const features::BackupInfo& backup : store_backups_->List()) {
    named.insert(backup.generation);
  }
  const std::string folder = GenerationsIn(config_);
  if (!FileExists(folder)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> there, ListDir(folder));
  for (const std::string& id : there) {
    if (named.contains(id)) continue;
    RETURN_IF_ERROR(RemoveAll(JoinPath(folder, id)));
  }
  return absl::OkStatus();
}

absl::Status Backups::RecordErasure(const std::string& user) {
  const absl::Status recorded =
      store_backups_->RecordErasure({.user_key = store_.UserKey(user),
                                     .log_id = store_.log_id(),
                                     .sequence = store_.sequence(),
                                     .time = absl::Now()});
  if (recorded.ok()) return recorded;
  return absl::UnavailableError(
      absl::StrCat("the erasure cannot be noted in backup.dir, and backups "
                   "would bring the user back; nothing was erased: ",
                   recorded.message()));
}

absl::StatusOr<RestoreReport> RestoreBackup(
    const Config& config, uint32_t id,
    const std::function<void(const std::string& phase)>& on_phase) {
  const std::string store_path = JoinPath(config.data_dir, "store");
  const std::string generations_path = JoinPath(config.data_dir, "generations");
  if (config.backup.dir.empty()) {
    return absl::InvalidArgumentError(
        "backup.dir is not set: where are the backups?");
  }
  if (!FileExists(JoinPath(config.backup.dir, "store"))) {
    return absl::NotFoundError(
        absl::StrCat(config.backup.dir, " holds no backups"));
  }
  RETURN_IF_ERROR(MakeDirs(config.data_dir));
  ASSIGN_OR_RETURN(const FileLock lock,
                   FileLock::Acquire(JoinPath(config.data_dir, "LOCK")));
  for (const std::string& path : {store_path, generations_path}) {
    if (!FileExists(path)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is there already. Move it away, or set another data_dir"));
  }
  ASSIGN_OR_RETURN(const auto backups,
                   features::StoreBackups::Open(OptionsOf(config, true)));
  const std::vector<features::BackupInfo> all = backups->List();
  const auto found =
      id == 0 ? (all.empty() ? all.end() : all.end() - 1)
              : std::find_if(all.begin(), all.end(),
                             [&](const auto& b) { return b.id == id; });
  if (found == all.end()) {
    return absl::NotFoundError(
        absl::StrCat(config.backup.dir, " holds ",
                     id == 0 ? "no backups" : absl::StrCat("no backup ", id)));
  }
  RestoreReport report = {.backup = *found};

  // Aside, and renamed when all is well: the store last, which makes it so.
  const std::string aside = JoinPath(config.data_dir, "restoring");
  RETURN_IF_ERROR(RemoveAll(aside));
  RETURN_IF_ERROR(MakeDirs(aside));
  on_phase("checking");
  RETURN_IF_ERROR(backups->Verify(found->id));
  on_phase("copying");
  features::StoreOptions options = config.store;
  options.database.path = JoinPath(aside, "store");
  options.renew_log_id = true;
  RETURN_IF_ERROR(backups->Restore(found->id, options.database.path));
  if (!found->generation.empty()) {
    const std::string from = JoinPath(GenerationsIn(config), found->generation);
    model::LocalGenerationStore generations(JoinPath(aside, "generations"));
    RETURN_IF_ERROR(MakeDirs(JoinPath(aside, "generations")));
    RETURN_IF_ERROR(CopyFolder(from, generations.FolderOf(found->generation)));
    RETURN_IF_ERROR(generations.Read(found->generation).status());
    RETURN_IF_ERROR(generations.SetCurrent(found->generation));
  }
  on_phase("erasing again who was erased since");
  {
    ASSIGN_OR_RETURN(std::vector<features::Erasure> erasures,
                     backups->Erasures());
    std::erase_if(erasures, [&](const features::Erasure& erasure) {
      return !erasure.ConcernsBackup(*found);
    });
    ASSIGN_OR_RETURN(const auto store,
                     features::Store::Open(std::move(options)));
    ASSIGN_OR_RETURN(report.erased, EraseAgain(store.get(), erasures));
  }
  if (!found->generation.empty()) {
    RETURN_IF_ERROR(
        RenameDurably(JoinPath(aside, "generations"), generations_path));
  }
  RETURN_IF_ERROR(RenameDurably(JoinPath(aside, "store"), store_path));
  RETURN_IF_ERROR(RemoveAll(aside));
  return report;
}

}  // namespace nearline::server
