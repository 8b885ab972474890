// What survives when the power goes: every acknowledged event, once.
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "base/mutex.h"
#include "base/random.h"
#include "tests/features/store_fixture.h"

namespace nearline::features {
namespace {

using rocksdb::FileOptions;
using rocksdb::FSWritableFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;

// Knows how much of what was written would outlast a power cut: the bytes up to
// a file's last sync, the names up to their folder's.
class Disk {
 public:
  explicit Disk(std::string attic) : attic_(std::move(attic)) {
    std::filesystem::create_directories(attic_);
  }
  bool cut() const { return cut_; }
  // From now on nothing reaches the disk.
  void Cut() { cut_ = true; }

  void Wrote(const std::string& path, uint64_t bytes) {
    MutexLock lock(&mu_);
    files_[path].size += bytes;
  }
  uint64_t size(const std::string& path) {
    MutexLock lock(&mu_);
    return files_[path].size;
  }
  void Synced(const std::string& path, uint64_t size) {
    MutexLock lock(&mu_);
    files_[path].safe = std::max(files_[path].safe, size);
  }
  void Truncated(const std::string& path, uint64_t size) {
    MutexLock lock(&mu_);
    files_[path].size = size;
  }
  // Called before the name changes on the real disk.
  void Creates(const std::string& path) {
    MutexLock lock(&mu_);
    names_.push_back({.path = path, .before = Keep(path)});
    files_[path] = {};
  }
  void Renames(const std::string& from, const std::string& to) {
    MutexLock lock(&mu_);
    names_.push_back({.path = to, .before = Keep(to)});
    names_.push_back({.path = from, .before = Keep(from)});
    files_[to] = files_[from];
    files_.erase(from);
  }
  void Deletes(const std::string& path) {
    MutexLock lock(&mu_);
    names_.push_back({.path = path, .before = Keep(path)});
    files_.erase(path);
  }
  void SyncedFolder() {
    MutexLock lock(&mu_);
    names_.clear();
  }

  // What the disk holds when the power is back: of what was not synced nothing,
  // or with `torn` any first part of a file.
  void LoseUnsynced(bool torn, Random* random) {
    namespace fs = std::filesystem;
    MutexLock lock(&mu_);
    for (const auto& [path, file] : files_) {
      if (!fs::exists(path)) continue;
      uint64_t left = file.safe;
      if (torn && file.size > file.safe) {
        left += random->Below(file.size - file.safe + 1);
      }
      if (fs::file_size(path) > left) fs::resize_file(path, left);
    }
    for (auto name = names_.rbegin(); name != names_.rend(); ++name) {
      fs::remove(name->path);
      if (!name->before.empty()) fs::rename(name->before, name->path);
    }
    fs::remove_all(attic_);
  }

 private:
  struct File {
    uint64_t size = 0;
    uint64_t safe = 0;
  };
  struct Name {
    std::string path;
    std::string before;  // a link to what it named; empty: nothing
  };

  std::string Keep(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!std::filesystem::exists(path)) return "";
    const std::string link = absl::StrCat(attic_, "/", ++kept_);
    std::filesystem::create_hard_link(path, link);
    return link;
  }

  const std::string attic_;
  std::atomic<bool> cut_ = false;
  Mutex mu_;
  int kept_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, File> files_ ABSL_GUARDED_BY(mu_);
  std::vector<Name> names_ ABSL_GUARDED_BY(mu_);  // changed, oldest first
};

IOStatus NoPower() { return IOStatus::IOError("the power is gone"); }

class MortalFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  MortalFile(std::unique_ptr<FSWritableFile> file, std::string path, Disk* disk)
      : FSWritableFileOwnerWrapper(std::move(file)),
        path_(std::move(path)),
        disk_(*disk) {}

  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    disk_.Wrote(path_, data.size());
    return target()->Append(data, options, debug);
  }
  IOStatus Append(const rocksdb::Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo&,
                  IODebugContext* debug) override {
    return Append(data, options, debug);
  }
  IOStatus Truncate(uint64_t size, const IOOptions& options,
                    IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    disk_.Truncated(path_, size);
    return target()->Truncate(size, options, debug);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* debug) override {
    // The page cache is the disk here: only the count matters. Bytes that come
    // while a real sync runs need not be safe.
    if (disk_.cut()) return NoPower();
    const uint64_t size = disk_.size(path_);
    const IOStatus status = target()->Flush(options, debug);
    if (disk_.cut()) return NoPower();
    disk_.Synced(path_, size);
    return status;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* debug) override {
    return Sync(options, debug);
  }
  // Starts writing back; promises nothing.
  IOStatus RangeSync(uint64_t, uint64_t, const IOOptions&,
                     IODebugContext*) override {
    return disk_.cut() ? NoPower() : IOStatus::OK();
  }
  IOStatus Allocate(uint64_t, uint64_t, const IOOptions&,
                    IODebugContext*) override {
    return IOStatus::OK();
  }

 private:
  const std::string path_;
  Disk& disk_;
};

class MortalFolder final : public rocksdb::FSDirectoryWrapper {
 public:
  MortalFolder(std::unique_ptr<rocksdb::FSDirectory> folder, Disk* disk)
      : FSDirectoryWrapper(std::move(folder)), disk_(*disk) {}
  IOStatus Fsync(const IOOptions&, IODebugContext*) override {
    if (disk_.cut()) return NoPower();
    disk_.SyncedFolder();
    return IOStatus::OK();
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* debug,
                               const rocksdb::DirFsyncOptions&) override {
    return Fsync(options, debug);
  }

 private:
  Disk& disk_;
};

class MortalFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit MortalFileSystem(Disk* disk)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), disk_(*disk) {}
  const char* Name() const override { return "MortalFileSystem"; }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<FSWritableFile>* file,
                           IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    std::unique_ptr<FSWritableFile> real;
    disk_.Creates(path);
    IOStatus status = target()->NewWritableFile(path, options, &real, debug);
    if (!status.ok()) return status;
    *file = std::make_unique<MortalFile>(std::move(real), path, &disk_);
    return status;
  }
  IOStatus ReuseWritableFile(const std::string& path, const std::string& old,
                             const FileOptions& options,
                             std::unique_ptr<FSWritableFile>* file,
                             IODebugContext* debug) override {
    const IOStatus renamed = RenameFile(old, path, options.io_options, debug);
    return renamed.ok() ? NewWritableFile(path, options, file, debug) : renamed;
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* folder,
                        IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    std::unique_ptr<rocksdb::FSDirectory> real;
    IOStatus status = target()->NewDirectory(path, options, &real, debug);
    if (!status.ok()) return status;
    *folder = std::make_unique<MortalFolder>(std::move(real), &disk_);
    return status;
  }
  IOStatus RenameFile(const std::string& from, const std::string& to,
                      const IOOptions& options,
                      IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    disk_.Renames(from, to);
    return target()->RenameFile(from, to, options, debug);
  }
  IOStatus DeleteFile(const std::string& path, const IOOptions& options,
                      IODebugContext* debug) override {
    if (disk_.cut()) return NoPower();
    disk_.Deletes(path);
    return target()->DeleteFile(path, options, debug);
  }

 private:
  Disk& disk_;
};

// Appends single events from three threads until the power is cut; returns the
// ids of the acknowledged.
std::set<std::string> AppendUntilCut(Store* store, Disk* disk, int round,
                                     int64_t events_before_the_cut) {
  std::set<std::string> acknowledged;
  Mutex mu;
  std::atomic<int64_t> done = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; !disk->cut(); ++i) {
        const std::string id = absl::StrCat(round, "-", t, "-", i);
        const auto result =
            AppendAll(store, {Like(absl::StrCat("user", t), "heat", id)});
        if (result.ok()) {
          MutexLock lock(&mu);
          acknowledged.insert(id);
        }
        if (++done >= events_before_the_cut) disk->Cut();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return acknowledged;
}

class PowerCutTest : public testing::TestWithParam<bool> {};

TEST_P(PowerCutTest, EveryAcknowledgedEventIsThereOnce) {
  const TempDir dir;
  Random random(7);
  std::set<std::string> acknowledged;
  for (int round = 0; round < 12; ++round) {
    Disk disk(absl::StrCat(dir.path(), "/attic"));
    const auto env =
        rocksdb::NewCompositeEnv(std::make_shared<MortalFileSystem>(&disk));
    StoreOptions options = TestOptions(dir.path());
    options.database.env = env.get();
    options.database.write_buffer_bytes = 64 << 10;  // so that files are made
    {
      auto store = Store::Open(options);
      ASSERT_THAT(store, IsOk()) << "round " << round;
      acknowledged.merge(
          AppendUntilCut(store->get(), &disk, round,
                         static_cast<int64_t>(1 + random.Below(400))));
    }
    disk.LoseUnsynced(GetParam(), &random);
  }
  const auto store = OpenStore(dir.path());
  std::multiset<std::string> there;
  for (int t = 0; t < 3; ++t) {
    const auto history =
        store->GetHistory(absl::StrCat("user", t), ~Sequence{0}, 1 << 20);
    ASSERT_THAT(history, IsOk());
    for (const Event& event : *history) there.insert(event.event_id);
  }
  for (const std::string& id : acknowledged) {
    EXPECT_EQ(there.count(id), 1u) << id;
  }
  for (const std::string& id : there) EXPECT_EQ(there.count(id), 1u) << id;
  EXPECT_GT(acknowledged.size(), 100u);
}

INSTANTIATE_TEST_SUITE_P(Tails, PowerCutTest, testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "TornTail" : "NoTail";
                         });

}  // namespace
}  // namespace nearline::features
