#include "features/store_backups.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "features/database.h"

namespace nearline::features {
namespace {

std::string StoreKey(const Store& store) {
  return HexDigest(Sha256(store.secret())).substr(0, 16);
}

std::string MetadataOf(const Store& store, Sequence sequence,
                       const std::string& generation) {
  return Json{{"sequence", sequence},
              {"log_id", store.log_id()},
              {"store", StoreKey(store)},
              {"generation", generation}}
      .dump();
}

BackupInfo FromEngine(const rocksdb::BackupInfo& from) {
  BackupInfo info = {.id = from.backup_id,
                     .time = absl::FromUnixSeconds(from.timestamp),
                     .bytes = static_cast<int64_t>(from.size),
                     .files = static_cast<int64_t>(from.number_files)};
  const auto json = ParseJson(from.app_metadata);
  if (!json.ok()) return info;
  JsonReader reader(*json, "backup");
  info.sequence = static_cast<Sequence>(reader.Int("sequence"));
  info.log_id = reader.String("log_id");
  info.store_key = reader.String("store");
  info.generation = reader.String("generation");
  return info;
}

// The sequence of the newest event in a store's files.
absl::StatusOr<Sequence> SequenceIn(const Database& database) {
  const Database::Pin pin(&database);
  ASSIGN_OR_RETURN(const std::string text, pin.Get(kMeta, "next_sequence"));
  Sequence next = 0;
  if (!absl::SimpleAtoi(text, &next) || next == 0) {
    return absl::DataLossError("the checkpoint holds no sequence");
  }
  return next - 1;
}

// "asked|done LOG SEQUENCE MICROSECONDS KEY\n", the key in base64.
std::string Line(const Erasure& erasure) {
  return absl::StrCat(erasure.done ? "done " : "asked ", erasure.log_id, " ",
                      erasure.sequence, " ", absl::ToUnixMicros(erasure.time),
                      " ", absl::WebSafeBase64Escape(erasure.user_key), "\n");
}

absl::StatusOr<Erasure> ParseLine(absl::string_view line) {
  const std::vector<std::string> parts = absl::StrSplit(line, ' ');
  Erasure erasure;
  int64_t micros = 0;
  const bool good = parts.size() == 5 &&
                    (parts[0] == "asked" || parts[0] == "done") &&
                    absl::SimpleAtoi(parts[2], &erasure.sequence) &&
                    absl::SimpleAtoi(parts[3], &micros) &&
                    absl::WebSafeBase64Unescape(parts[4], &erasure.user_key);
  if (!good) {
    return absl::DataLossError(
        "no record of an erasure; restore the file, or users who were erased "
        "may come back");
  }
  erasure.done = parts[0] == "done";
  erasure.log_id = parts[1];
  erasure.time = absl::FromUnixMicros(micros);
  return erasure;
}

}  // namespace

bool Erasure::ConcernsBackup(const BackupInfo& backup) const {
  // Of one that was asked for, and perhaps done, nobody knows when.
  if (!done) return true;
  // The time is known by the second. A restored store has another log, whose
  // sequences say nothing of those before.
  return log_id == backup.log_id ? sequence >= backup.sequence
                                 : time + absl::Seconds(1) >= backup.time;
}

absl::StatusOr<std::unique_ptr<StoreBackups>> StoreBackups::Open(
    BackupOptions options) {
  std::unique_ptr<StoreBackups> backups(new StoreBackups(std::move(options)));
  const BackupOptions& o = backups->options_;
  backups->logger_ = MakeLogger(o.log);
  rocksdb::BackupEngineOptions how(JoinPath(o.path, "store"));
  how.info_log = backups->logger_.get();
  how.backup_rate_limit =
      static_cast<uint64_t>(std::max<int64_t>(0, o.bytes_per_second));
  rocksdb::Env* const env = rocksdb::Env::Default();
  rocksdb::Status opened;
  if (o.read_only) {
    rocksdb::BackupEngineReadOnly* reader = nullptr;
    opened = rocksdb::BackupEngineReadOnly::Open(how, env, &reader);
    backups->reader_.reset(reader);
  } else {
    RETURN_IF_ERROR(MakeDirs(o.path));
    auto lock = FileLock::Acquire(JoinPath(o.path, "LOCK"));
    if (!lock.ok()) {
      return Annotate(lock.status(),
                      "another server makes its backups there? Set another "
                      "backup.dir");
    }
    backups->lock_ = *std::move(lock);
    RETURN_IF_ERROR(RemoveAll(o.scratch));  // of a process that was killed
    rocksdb::BackupEngine* engine = nullptr;
    opened = rocksdb::BackupEngine::Open(how, env, &engine);
    backups->engine_.reset(engine);
  }
  RETURN_IF_ERROR(
      FromRocks(opened, absl::StrCat("cannot open the backups in ", o.path)));
  backups->Relist();
  return backups;
}

void StoreBackups::Relist() {
  std::vector<rocksdb::BackupInfo> found;
  reads().GetBackupInfo(&found);
  MutexLock lock(&known_mu_);
  known_.clear();
  for (const rocksdb::BackupInfo& one : found) {
    known_.push_back(FromEngine(one));
  }
}

absl::StatusOr<BackupInfo> StoreBackups::Create(
    Store* store, const std::string& generation,
    const std::function<void(int64_t, int64_t)>& on_bytes) {
  const std::vector<BackupInfo> before = List();
  if (!before.empty() && before.back().store_key != StoreKey(*store)) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.path,
        " holds backups of another store. Set backup.dir to an empty folder"));
  }
  // A checkpoint, so that the store may reopen itself meanwhile.
  RETURN_IF_ERROR(RemoveAll(options_.scratch));
  RETURN_IF_ERROR(store->Checkpoint(options_.scratch));
  const absl::StatusOr<BackupInfo> made = [&]() -> absl::StatusOr<BackupInfo> {
    ASSIGN_OR_RETURN(
        const auto database,
        Database::Open(
            {.path = options_.scratch, .compact = false, .log = options_.log}));
    ASSIGN_OR_RETURN(const Sequence sequence, SequenceIn(*database));
    const int64_t of = FolderBytes(options_.scratch);
    int64_t done = 0;
    rocksdb::CreateBackupOptions how;
    how.progress_callback = [&] {
      constexpr int64_t kStep = 4 << 20;  // the engine's
      done = std::min(of, done + kStep);
      if (on_bytes) on_bytes(done, of);
    };
    const Database::Pin pin(database.get());
    rocksdb::BackupID id = 0;
    MutexLock lock(&mu_);
    RETURN_IF_ERROR(FromRocks(
        engine_->CreateNewBackupWithMetadata(
            how, pin.db, MetadataOf(*store, sequence, generation), &id),
        "making a backup"));
    Relist();
    return List().back();
  }();
  RETURN_IF_ERROR(RemoveAll(options_.scratch));
  return made;
}

absl::Status StoreBackups::Verify(uint32_t id) {
  MutexLock lock(&mu_);
  constexpr bool kWithChecksums = true;
  return FromRocks(reads().VerifyBackup(id, kWithChecksums),
                   absl::StrCat("backup ", id));
}

absl::Status StoreBackups::Remove(uint32_t id) {
  MutexLock lock(&mu_);
  const rocksdb::Status removed = engine_->DeleteBackup(id);
  Relist();
  return FromRocks(removed, absl::StrCat("removing backup ", id));
}

absl::Status StoreBackups::Prune(int keep) {
  {
    MutexLock lock(&mu_);
    RETURN_IF_ERROR(
        FromRocks(engine_->PurgeOldBackups(static_cast<uint32_t>(keep)),
                  "removing old backups"));
    RETURN_IF_ERROR(FromRocks(engine_->GarbageCollect(), "removing files"));
    Relist();
  }
  const std::vector<BackupInfo> left = List();
  MutexLock lock(&erasures_mu_);
  ASSIGN_OR_RETURN(const std::vector<Erasure> erasures, ReadErasures());
  std::string text;
  for (const Erasure& erasure : erasures) {
    if (std::any_of(left.begin(), left.end(), [&](const BackupInfo& backup) {
          return erasure.ConcernsBackup(backup);
        })) {
      text += Line(erasure);
    }
  }
  return WriteFileAtomic(ErasuresPath(), text);
}

absl::Status StoreBackups::Restore(uint32_t id, const std::string& path) {
  if (FileExists(path)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is there already"));
  }
  MutexLock lock(&mu_);
  return FromRocks(
      reads().RestoreDBFromBackup(rocksdb::RestoreOptions(), id, path, path),
      absl::StrCat("restoring backup ", id));
}

std::string StoreBackups::ErasuresPath() const {
  return JoinPath(options_.path, "erasures");
}

absl::Status StoreBackups::RecordErasure(const Erasure& erasure) {
  MutexLock lock(&erasures_mu_);
  return AppendLineDurably(ErasuresPath(), Line(erasure));
}

absl::StatusOr<std::vector<Erasure>> StoreBackups::Erasures() const {
  MutexLock lock(&erasures_mu_);
  return ReadErasures();
}

absl::StatusOr<std::vector<Erasure>> StoreBackups::ReadErasures() const {
  std::vector<Erasure> out;
  if (!FileExists(ErasuresPath())) return out;
  ASSIGN_OR_RETURN(const std::string text, ReadFile(ErasuresPath()));
  // A record torn while it was written: nothing was erased after it.
  const std::string whole = text.substr(0, text.rfind('\n') + 1);
  std::vector<Erasure> all;
  int line_number = 0;
  for (const absl::string_view line :
       absl::StrSplit(whole, '\n', absl::SkipEmpty())) {
    ++line_number;
    const auto erasure = ParseLine(line);
    if (!erasure.ok()) {
      return Annotate(erasure.status(),
                      absl::StrCat(ErasuresPath(), ":", line_number));
    }
    all.push_back(*erasure);
  }
  // Without those that were done later.
  std::set<std::string> done;
  for (auto erasure = all.rbegin(); erasure != all.rend(); ++erasure) {
    if (erasure->done) {
      done.insert(erasure->user_key);
    } else if (done.contains(erasure->user_key)) {
      continue;
    }
    out.push_back(std::move(*erasure));
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace nearline::features
