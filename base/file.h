// Files with the durability that a caller asks for. Every error names the path.
#ifndef NEARLINE_BASE_FILE_H_
#define NEARLINE_BASE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/status.h"

namespace nearline {

// "a" + "b/c" -> "a/b/c"; an absolute second part stands alone.
std::string JoinPath(absl::string_view a, absl::string_view b);

bool FileExists(const std::string& path);
absl::StatusOr<int64_t> FileSize(const std::string& path);
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Writes aside, syncs, renames over `path`, syncs the folder: after a crash the
// file is the old one or the new one, whole.
absl::Status WriteFileAtomic(const std::string& path, absl::string_view data);

// Adds a line, which ends in a newline, to the file, which is made if it is not
// there, and syncs. What a write that was cut short left after the last newline
// is removed first.
absl::Status AppendLineDurably(const std::string& path, absl::string_view line);

// Copies a folder of files: aside, synced, then renamed to `to`, which must not
// be there.
absl::Status CopyFolder(const std::string& from, const std::string& to);

absl::Status SyncFile(const std::string& path);
absl::Status SyncDir(const std::string& path);

// Renames and syncs the folder of `to`.
absl::Status RenameDurably(const std::string& from, const std::string& to);

absl::Status MakeDirs(const std::string& path);
// Names in the folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path);
// Removes a file or a whole folder; OK when it is not there.
absl::Status RemoveAll(const std::string& path);

// Bytes that an unprivileged process may still write to the disk of `path`.
absl::StatusOr<int64_t> FreeBytes(const std::string& path);

// Of all files in the folder and below, as far as they can be read.
int64_t FolderBytes(const std::string& path);

// A file mapped for reading. Immutable, may be shared between threads.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::string_view data() const {
    return {static_cast<const char*>(data_), size_};
  }

 private:
  MappedFile() = default;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Holds an exclusive lock on a file for life, so that two processes cannot
// serve one folder. Errors: FAILED_PRECONDITION when another process holds it.
class FileLock {
 public:
  static absl::StatusOr<FileLock> Acquire(const std::string& path);
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&& other) noexcept;
  ~FileLock();

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace nearline

#endif  // NEARLINE_BASE_FILE_H_
