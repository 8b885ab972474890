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

// Makes store and generations of a backup in the folder aside, without who was
// erased since; returns how many those were.
absl::StatusOr<int64_t> Rebuild(
    const Config& config, const features::BackupInfo& backup,
    features::StoreBackups* backups,
    const std::function<void(const std::string& phase)>& on_phase) {
  const std::string aside = RestoringIn(config.data_dir);
  on_phase("checking");
  RETURN_IF_ERROR(backups->Verify(backup.id));
  on_phase("copying");
  features::StoreOptions options = config.store;
  options.database.path = JoinPath(aside, "store");
  options.renew_log_id = true;
  RETURN_IF_ERROR(backups->Restore(backup.id, options.database.path));
  if (!backup.generation.empty()) {
    model::LocalGenerationStore generations(JoinPath(aside, "generations"));
    RETURN_IF_ERROR(MakeDirs(JoinPath(aside, "generations")));
    RETURN_IF_ERROR(
        CopyFolder(JoinPath(GenerationsIn(config), backup.generation),
                   generations.FolderOf(backup.generation)));
    const absl::Status whole = generations.Read(backup.generation).status();
    if (!whole.ok()) {
      return Annotate(whole,
                      "the model of this backup is damaged; --without-model "
                      "restores the rest, to train a new one");
    }
    RETURN_IF_ERROR(generations.SetCurrent(backup.generation));
  }
  on_phase("erasing again who was erased since");
  ASSIGN_OR_RETURN(std::vector<features::Erasure> erasures,
                   backups->Erasures());
  std::erase_if(erasures, [&](const features::Erasure& erasure) {
    return !erasure.ConcernsBackup(backup);
  });
  ASSIGN_OR_RETURN(const auto store, features::Store::Open(std::move(options)));
  return EraseAgain(store.get(), erasures);
}

}  // namespace

std::string RestoringIn(const std::string& data_dir) {
  return JoinPath(data_dir, "restoring");
}

absl::StatusOr<std::unique_ptr<Backups>> Backups::Open(
    const Config& config, features::Store* store,
    model::GenerationStore* generations) {
  if (config.backup.dir.empty()) return nullptr;
  auto opened = features::StoreBackups::Open(OptionsOf(config, false));
  if (!opened.ok()) return Annotate(opened.status(), "backup.dir");
  return std::unique_ptr<Backups>(
      new Backups(config, store, generations, *std::move(opened)));
}

void Backups::Cancel() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
  }
  store_backups_->Cancel();
}

Backups::~Backups() {
  Cancel();
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
  if (stopping_) return absl::UnavailableError("the server is shutting down");
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
  if (verify && !stopping()) {
    at("verify", 0);
    if (const absl::Status whole = store_backups_->Verify(backup.id);
        !whole.ok()) {
      // So that nobody takes it for a good one.
      RETURN_IF_ERROR(store_backups_->Remove(backup.id));
      return Annotate(whole,
                      "the new backup is damaged, and others may share its "
                      "files: set backup.dir to an empty folder on a sound "
                      "disk");
    }
    RETURN_IF_ERROR(CheckGeneration(generation));
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

absl::Status Backups::CheckGeneration(const std::string& id) {
  if (id.empty()) return absl::OkStatus();
  const model::LocalGenerationStore copies(GenerationsIn(config_));
  const absl::Status read = copies.Read(id).status();
  if (read.ok()) return read;
  spdlog::error("backup: {}; copied anew", read.ToString());
  RETURN_IF_ERROR(RemoveAll(copies.FolderOf(id)));
  RETURN_IF_ERROR(CopyFolder(generations_.FolderOf(id), copies.FolderOf(id)));
  return copies.Read(id).status();
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

absl::Status Backups::Note(const std::string& user, bool done,
                           features::Sequence sequence, absl::Time time) {
  const absl::Status noted =
      store_backups_->RecordErasure({.user_key = store_.UserKey(user),
                                     .log_id = store_.log_id(),
                                     .sequence = sequence,
                                     .time = time,
                                     .done = done});
  if (noted.ok()) return noted;
  return absl::UnavailableError(absl::StrCat(
      "the erasure cannot be noted in backup.dir (", noted.message(),
      "), and backups would bring the user back"));
}

absl::Status Backups::ErasureAsked(const std::string& user) {
  return Annotate(Note(user, false, 0, absl::Now()), "nothing was erased");
}

absl::Status Backups::ErasureEnded(const std::string& user, bool erased) {
  // One that was not made concerns no backup.
  return erased ? Note(user, true, store_.sequence(), absl::Now())
                : Note(user, true, 0, absl::UnixEpoch());
}

absl::StatusOr<RestoreReport> RestoreBackup(
    const Config& config, uint32_t id, bool without_model,
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
  const std::string aside = RestoringIn(config.data_dir);
  if (FileExists(aside) && !FileExists(store_path)) {
    // One that was cut short had put the generations there, and not the store.
    RETURN_IF_ERROR(RemoveAll(generations_path));
  }
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
  if (without_model) report.backup.generation.clear();

  RETURN_IF_ERROR(RemoveAll(aside));
  RETURN_IF_ERROR(MakeDirs(aside));
  const auto erased = Rebuild(config, report.backup, backups.get(), on_phase);
  if (!erased.ok()) {
    // It holds users who were erased.
    RemoveAll(aside).IgnoreError();
    return erased.status();
  }
  report.erased = *erased;
  // The store last, which makes it so.
  if (!report.backup.generation.empty()) {
    RETURN_IF_ERROR(
        RenameDurably(JoinPath(aside, "generations"), generations_path));
  }
  RETURN_IF_ERROR(RenameDurably(JoinPath(aside, "store"), store_path));
  RETURN_IF_ERROR(RemoveAll(aside));
  return report;
}

}  // namespace nearline::server
