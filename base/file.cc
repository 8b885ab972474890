#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"

namespace nearline {
namespace {

namespace fs = std::filesystem;

// In the name of what is being written, before it is renamed.
constexpr char kAside[] = ".tmp.";

absl::Status ErrnoStatus(int error, absl::string_view doing,
                         const std::string& path) {
  return absl::ErrnoToStatus(error, absl::StrCat(doing, " ", path));
}

// Owns a descriptor for the length of a function.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  int fd_;
};

absl::Status WriteFully(int fd, absl::string_view data,
                        const std::string& path) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot write", path);
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status SyncPath(const std::string& path, int flags) {
  const Fd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "cannot open", path);
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot sync", path);
  return absl::OkStatus();
}

std::string ParentOf(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

std::string JoinPath(absl::string_view a, absl::string_view b) {
  return (fs::path(std::string(a)) / std::string(b)).string();
}

bool FileExists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot read the size of", path);
  return static_cast<int64_t>(size);
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "cannot open", path);
  std::string out;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = read(fd.get(), buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read", path);
    if (n == 0) return out;
    out.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status WriteFileAtomic(const std::string& path, absl::string_view data) {
  const std::string aside = absl::StrCat(path, kAside, getpid());
  {
    const Fd fd(
        open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.ok()) return ErrnoStatus(errno, "cannot create", aside);
    absl::Status status = WriteFully(fd.get(), data, aside);
    if (status.ok() && fsync(fd.get()) != 0) {
      status = ErrnoStatus(errno, "cannot sync", aside);
    }
    if (!status.ok()) {
      unlink(aside.c_str());
      return status;
    }
  }
  return RenameDurably(aside, path);
}

absl::Status AppendLineDurably(const std::string& path,
                               absl::string_view line) {
  const bool fresh = !FileExists(path);
  const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.ok()) return ErrnoStatus(errno, "cannot open", path);
  off_t end = lseek(fd.get(), 0, SEEK_END);
  for (char last = '\0'; end > 0 && last != '\n';) {
    if (pread(fd.get(), &last, 1, end - 1) != 1) {
      return ErrnoStatus(errno, "cannot read", path);
    }
    if (last != '\n') --end;
  }
  if (ftruncate(fd.get(), end) != 0 || lseek(fd.get(), end, SEEK_SET) != end) {
    return ErrnoStatus(errno, "cannot write", path);
  }
  RETURN_IF_ERROR(WriteFully(fd.get(), line, path));
  if (fsync(fd.get()) != 0) return ErrnoStatus(errno, "cannot sync", path);
  return fresh ? SyncDir(ParentOf(path)) : absl::OkStatus();
}

absl::Status CopyFolder(const std::string& from, const std::string& to) {
  const std::string aside = absl::StrCat(to, kAside, getpid());
  RETURN_IF_ERROR(RemoveAll(aside));
  RETURN_IF_ERROR(MakeDirs(aside));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(from));
  absl::Status status;
  for (const std::string& name : names) {
    if (absl::StrContains(name, kAside)) continue;
    std::error_code error;
    fs::copy_file(JoinPath(from, name), JoinPath(aside, name), error);
    status =
        error ? ErrnoStatus(error.value(), "cannot copy", JoinPath(from, name))
              : SyncFile(JoinPath(aside, name));
    if (!status.ok()) break;
  }
  if (status.ok()) status = SyncDir(aside);
  if (status.ok()) status = RenameDurably(aside, to);
  if (!status.ok()) RemoveAll(aside).IgnoreError();
  return status;
}

absl::Status SyncFile(const std::string& path) {
  return SyncPath(path, O_RDONLY);
}

absl::Status SyncDir(const std::string& path) {
  return SyncPath(path, O_RDONLY | O_DIRECTORY);
}

absl::Status RenameDurably(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot rename ", from, " to"), to);
  }
  return SyncDir(ParentOf(to));
}

absl::Status MakeDirs(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot create folder", path);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> ListDir(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) return ErrnoStatus(error.value(), "cannot list folder", path);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot remove", path);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  struct statvfs stats;
  if (statvfs(path.c_str(), &stats) != 0) {
    return ErrnoStatus(errno, "cannot read the free space of", path);
  }
  return static_cast<int64_t>(stats.f_bavail) *
         static_cast<int64_t>(stats.f_frsize);
}

int64_t FolderBytes(const std::string& path) {
  int64_t bytes = 0;
  std::error_code error;
  for (auto at = fs::recursive_directory_iterator(
           path, fs::directory_options::skip_permission_denied, error);
       !error && at != fs::recursive_directory_iterator();
       at.increment(error)) {
    std::error_code gone;  // meanwhile
    const auto size = at->file_size(gone);
    if (!gone) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "cannot open", path);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(errno, "cannot read the size of", path);
  }
  MappedFile file;
  file.size_ = static_cast<size_t>(info.st_size);
  if (file.size_ == 0) return file;
  void* const data =
      mmap(nullptr, file.size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus(errno, "cannot map", path);
  file.data_ = data;
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, size_);
}

absl::StatusOr<FileLock> FileLock::Acquire(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  FileLock lock(fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return absl::FailedPreconditionError(absl::StrCat(
          path,
          " is locked by another process; stop it or use another folder"));
    }
    return ErrnoStatus(errno, "cannot lock", path);
  }
  return lock;
}

FileLock::FileLock(FileLock&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace nearline
