#ifndef NEARLINE_SERVER_CERTIFICATES_H_
#define NEARLINE_SERVER_CERTIFICATES_H_

#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status.h"

namespace nearline::server {

// Paths of PEM files.
struct TlsFiles {
  std::string certificate;  // with what leads to the authority; empty: no TLS
  std::string key;
  std::string client_ca;  // who signs callers' certificates; may be empty
};

// Their contents, which fit together.
struct TlsMaterial {
  std::string certificate, key, client_ca;
  absl::Time expires;  // the first of the certificates to do so
};

// Reads the files and checks that they can serve. Errors: INVALID_ARGUMENT
// naming the file and what is wrong with it: no PEM, a key of another
// certificate, a certificate that has expired.
absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files, absl::Time now);

// The material in use, replaced while connections come and go. gRPC follows
// files one by one and has no certificate at all once a key does not fit; so it
// is given copies of what fits, all replaced at once. They lie in memory
// (/dev/shm) where that can be, are open to this user alone, and go when this
// goes, or when the next one begins after a process that was killed.
// Thread-safe.
class Certificates {
 public:
  // `fallback` is a folder for the copies when memory has none. Errors: those
  // of ReadTls, or of writing. `clock` outlives this.
  static absl::StatusOr<std::unique_ptr<Certificates>> Open(
      TlsFiles files, const std::string& fallback, const Clock* clock);
  ~Certificates();

  // Takes the files as they are now. After an error all is as it was. Returns
  // whether anything changed.
  absl::StatusOr<bool> Reload();

  // The copies' paths, good for life.
  TlsFiles copies() const;
  absl::Time expires() const {
    MutexLock lock(&mu_);
    return current_.expires;
  }

 private:
  Certificates(TlsFiles files, std::string folder, const Clock* clock)
      : files_(std::move(files)), folder_(std::move(folder)), clock_(*clock) {}
  absl::Status Stage(const TlsMaterial& material)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const TlsFiles files_;
  const std::string folder_;
  std::optional<FileLock> lock_;  // says that the folder is in use
  const Clock& clock_;
  mutable Mutex mu_;
  TlsMaterial current_ ABSL_GUARDED_BY(mu_);
  int version_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CERTIFICATES_H_
