#include "features/database.h"

#include <rocksdb/compaction_filter.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/rate_limiter.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_buffer_manager.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "base/file.h"
#include "features/store_format.h"

namespace nearline::features {
namespace {

constexpr const char* kTableNames[kTables] = {
    "default", "events",   "sequences", "event_ids",
    "users",   "user_ids", "items",     "counts"};

class CallbackLogger final : public rocksdb::Logger {
 public:
  explicit CallbackLogger(std::function<void(int, absl::string_view)> callback)
      : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL),
        callback_(std::move(callback)) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list args) override {
    Logv(rocksdb::InfoLogLevel::INFO_LEVEL, format, args);
  }
  void Logv(rocksdb::InfoLogLevel level, const char* format,
            va_list args) override {
    if (level < GetInfoLogLevel() || !callback_) return;
    char text[1024];
    const int n = std::vsnprintf(text, sizeof(text), format, args);
    if (n <= 0) return;
    callback_(level,
              {text, std::min(sizeof(text) - 1, static_cast<size_t>(n))});
  }

 private:
  const std::function<void(int, absl::string_view)> callback_;
};

// Drops event ids that no repeat can meet any more.
class ExpiredEventIds final : public rocksdb::CompactionFilter {
 public:
  ExpiredEventIds(absl::Duration window, const Clock* clock)
      : window_(window), clock_(clock) {}
  const char* Name() const override { return "nearline.ExpiredEventIds"; }
  bool Filter(int, const rocksdb::Slice&, const rocksdb::Slice& value,
              std::string*, bool*) const override {
    const auto record = DecodeEventId(ToView(value));
    return record.ok() && !record->permanent &&
           absl::FromUnixMicros(record->time_micros) + window_ < clock_->Now();
  }

 private:
  const absl::Duration window_;
  const Clock* const clock_;
};

}  // namespace

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat(doing, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  // A file-size limit or a quota is no "no space" to RocksDB.
  if (status.IsNoSpace() || absl::StrContains(text, std::strerror(EFBIG)) ||
      absl::StrContains(text, std::strerror(EDQUOT))) {
    return absl::ResourceExhaustedError(
        absl::StrCat(text, "; free some disk space, then retry"));
  }
  return absl::UnavailableError(text);
}

std::shared_ptr<rocksdb::Logger> MakeLogger(
    std::function<void(int, absl::string_view)> callback) {
  return std::make_shared<CallbackLogger>(std::move(callback));
}

namespace {

// RocksDB says it of its log alone, and of an incomplete last record in other
// words.
bool TellsOfDamage(absl::string_view message) {
  return absl::StrContains(message, ": dropping ") &&
         absl::StrContains(message, "Corruption") &&
         !absl::StrContains(message, "trailing data") &&
         !absl::StrContains(message, "truncated");
}

}  // namespace

Database::Database(DatabaseOptions options)
    : options_(std::move(options)),
      logger_(MakeLogger([this](int level, absl::string_view message) {
        if (TellsOfDamage(message)) log_was_damaged_ = true;
        if (options_.log) options_.log(level, message);
      })),
      cache_(rocksdb::NewLRUCache(
          static_cast<size_t>(options_.block_cache_bytes))),
      expiry_(std::make_unique<ExpiredEventIds>(options_.event_id_window,
                                                options_.clock)) {}

Database::~Database() {
  WriterLock lock(&mu_);
  CloseLocked();
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(
    DatabaseOptions options) {
  if (!options.read_only) RETURN_IF_ERROR(MakeDirs(options.path));
  std::unique_ptr<Database> database(new Database(std::move(options)));
  WriterLock lock(&database->mu_);
  RETURN_IF_ERROR(database->OpenLocked());
  return database;
}

// RocksDB would begin anew in a folder that has lost its CURRENT, and remove
// the files it does not know.
absl::Status Database::CheckFolder() const {
  if (options_.env != nullptr) return absl::OkStatus();  // a test's own files
  if (FileExists(JoinPath(options_.path, "CURRENT"))) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> names,
                   ListDir(options_.path));
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, ".sst") && !absl::StartsWith(name, "MANIFEST")) {
      continue;
    }
    return absl::DataLossError(absl::StrCat(
        options_.path, " holds ", name,
        " but no CURRENT: the store is damaged, and nothing was touched. "
        "Restore a backup, or move the folder away to begin anew"));
  }
  return absl::OkStatus();
}

absl::Status Database::OpenLocked() {
  RETURN_IF_ERROR(CheckFolder());
  rocksdb::DBOptions db_options;
  db_options.create_if_missing = !options_.read_only;
  db_options.create_missing_column_families = !options_.read_only;
  db_options.info_log = logger_;
  if (options_.env != nullptr) db_options.env = options_.env;
  db_options.db_write_buffer_size =
      static_cast<size_t>(options_.write_buffer_bytes);
  db_options.max_background_jobs = options_.compaction_threads;
  if (options_.compaction_mb_per_second > 0) {
    db_options.rate_limiter.reset(rocksdb::NewGenericRateLimiter(
        options_.compaction_mb_per_second << 20));
  }
  db_options.max_open_files = 512;
  db_options.max_total_wal_size =
      static_cast<uint64_t>(options_.write_buffer_bytes) * 2;
  db_options.bytes_per_sync = 1 << 20;
  // What is synced is all there; an unsynced tail may be torn and is dropped.
  db_options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;

  rocksdb::BlockBasedTableOptions table_options;
  table_options.block_cache = cache_;
  table_options.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table_options.format_version = 5;
  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table_options));
  family.write_buffer_size = 16 << 20;
  family.disable_auto_compactions = !options_.compact;
  // Where a file lies, and down to where what it deletes lies.
  family.ttl =
      static_cast<uint64_t>(absl::ToInt64Seconds(options_.rewrite_interval));
  family.periodic_compaction_seconds = family.ttl;
  family.compression = options_.compression == "lz4" ? rocksdb::kLZ4Compression
                       : options_.compression == "zstd"
                           ? rocksdb::kZSTD
                           : rocksdb::kNoCompression;
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (int t = 0; t < kTables; ++t) {
    rocksdb::ColumnFamilyOptions own = family;
    if (t == kEventIds) {
      own.compaction_filter = expiry_.get();
      // Nearly every look-up is for an id that is not there.
      own.memtable_whole_key_filtering = true;
      own.memtable_prefix_bloom_size_ratio = 0.05;
    }
    families.emplace_back(kTableNames[t], own);
  }

  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      options_.read_only
          ? rocksdb::DB::OpenForReadOnly(db_options, options_.path, families,
                                         &tables_, &db)
          : rocksdb::DB::Open(db_options, options_.path, families, &tables_,
                              &db);
  if (!status.ok()) {
    tables_.clear();
    return FromRocks(status,
                     absl::StrCat("cannot open the store in ", options_.path));
  }
  db_.reset(db);
  return absl::OkStatus();
}

void Database::CloseLocked() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : tables_) {
    db_->DestroyColumnFamilyHandle(handle);
  }
  tables_.clear();
  db_.reset();
}

absl::Status Database::Pin::ok() const {
  if (db != nullptr) return absl::OkStatus();
  return absl::UnavailableError(
      "the store is closed after a failed write and could not be reopened yet; "
      "retry shortly");
}

absl::StatusOr<std::string> Database::Pin::Get(Table table,
                                               absl::string_view key) const {
  RETURN_IF_ERROR(ok());
  std::string value;
  const rocksdb::Status status =
      db->Get(rocksdb::ReadOptions(), (*tables)[table], ToSlice(key), &value);
  if (status.IsNotFound()) return absl::NotFoundError("no such row");
  if (!status.ok()) {
    return FromRocks(status, absl::StrCat("reading ", kTableNames[table]));
  }
  return value;
}

std::unique_ptr<rocksdb::Iterator> Database::Pin::Iterate(
    Table table, rocksdb::ReadOptions options) const {
  return std::unique_ptr<rocksdb::Iterator>(
      db->NewIterator(options, (*tables)[table]));
}

absl::Status Database::Write(rocksdb::WriteBatch* batch, bool frees_space) {
  ASSIGN_OR_RETURN(const int64_t free, FreeBytes(options_.path));
  const int64_t reserve = frees_space ? options_.free_space_reserve / 2
                                      : options_.free_space_reserve;
  const int64_t needed =
      reserve + static_cast<int64_t>(batch->GetDataSize()) * 2;
  const bool full = free < needed;
  // What frees space says nothing of whether there is space for more.
  const bool changed = !frees_space && std::exchange(refusing_, full) != full;
  if (full) {
    const std::string told = absl::StrCat(
        "the disk of ", options_.path, " has ", free >> 20, " MiB left, and ",
        needed >> 20, " MiB are kept in reserve");
    if (changed && options_.log) {
      options_.log(rocksdb::InfoLogLevel::ERROR_LEVEL,
                   told + ": writes are refused until some space is free");
    }
    return absl::ResourceExhaustedError(
        told + "; nothing was written. Free some space");
  }
  if (changed && options_.log) {
    options_.log(rocksdb::InfoLogLevel::WARN_LEVEL,
                 "there is space on the disk again: writes are taken");
  }
  rocksdb::WriteOptions write;
  write.sync = true;
  const rocksdb::Status status = db_->Write(write, batch);
  if (!status.ok()) needs_reload_ = true;
  return FromRocks(status, "writing to the store");
}

absl::Status Database::Reopen() {
  WriterLock lock(&mu_);
  CloseLocked();
  RETURN_IF_ERROR(OpenLocked());
  needs_reload_ = false;
  return absl::OkStatus();
}

absl::Status Database::Checkpoint(const std::string& path) {
  const Pin pin(this);
  RETURN_IF_ERROR(pin.ok());
  rocksdb::Checkpoint* raw = nullptr;
  RETURN_IF_ERROR(FromRocks(rocksdb::Checkpoint::Create(pin.db, &raw),
                            "preparing a checkpoint"));
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
  return FromRocks(checkpoint->CreateCheckpoint(path),
                   absl::StrCat("writing a checkpoint to ", path));
}

absl::Status Database::Flush() {
  const Pin pin(this);
  RETURN_IF_ERROR(pin.ok());
  return FromRocks(pin.db->Flush(rocksdb::FlushOptions(), *pin.tables),
                   "flushing the store");
}

absl::Status Database::Purge(const std::vector<Table>& tables) {
  // Flushing every table lets go of the write-ahead logs that hold the data.
  RETURN_IF_ERROR(Flush());
  const Pin pin(this);
  RETURN_IF_ERROR(pin.ok());
  rocksdb::CompactRangeOptions compact;
  compact.bottommost_level_compaction =
      rocksdb::BottommostLevelCompaction::kForceOptimized;
  compact.exclusive_manual_compaction = false;
  for (const Table table : tables) {
    RETURN_IF_ERROR(FromRocks(
        pin.db->CompactRange(compact, (*pin.tables)[table], nullptr, nullptr),
        "rewriting the store"));
  }
  return absl::OkStatus();
}

}  // namespace nearline::features
