#include "server/certificates.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace nearline::server {
namespace {

constexpr char kFolderPrefix[] = "nearline-tls-";

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free>>;
using X509Ptr = std::unique_ptr<X509, Freer<X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

Bio Reader(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Never asks anybody for a passphrase.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::Status Bad(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::StatusOr<std::vector<X509Ptr>> ReadChain(const std::string& pem,
                                               const std::string& path) {
  const Bio in = Reader(pem);
  std::vector<X509Ptr> chain;
  while (X509* const next =
             PEM_read_bio_X509(in.get(), nullptr, NoPassphrase, nullptr)) {
    chain.emplace_back(next);
  }
  ERR_clear_error();  // of the end of the file
  if (chain.empty()) {
    return Bad(path,
               "no certificate in it; expected PEM "
               "(-----BEGIN CERTIFICATE-----)");
  }
  return chain;
}

absl::StatusOr<KeyPtr> ReadKey(const std::string& pem,
                               const std::string& path) {
  const Bio in = Reader(pem);
  KeyPtr key(PEM_read_bio_PrivateKey(in.get(), nullptr, NoPassphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return Bad(path,
               "no private key in it that can be read; expected PEM without a "
               "passphrase (-----BEGIN PRIVATE KEY-----)");
  }
  return key;
}

absl::Time TimeOf(const ASN1_TIME* time) {
  tm parts;
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

// Copies of processes that were killed: nobody holds their locks.
void RemoveLeftBehind(const std::string& parent) {
  const auto names = ListDir(parent);
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    const std::string folder = JoinPath(parent, name);
    struct stat owner {};
    if (!absl::StartsWith(name, kFolderPrefix) ||
        stat(folder.c_str(), &owner) != 0 || owner.st_uid != geteuid() ||
        !FileExists(JoinPath(folder, "LOCK"))) {
      continue;
    }
    const auto lock = FileLock::Acquire(JoinPath(folder, "LOCK"));
    if (lock.ok()) RemoveAll(folder).IgnoreError();
  }
}

}  // namespace

absl::StatusOr<TlsMaterial> ReadTls(const TlsFiles& files, absl::Time now) {
  TlsMaterial out;
  ASSIGN_OR_RETURN(out.certificate, ReadFile(files.certificate));
  ASSIGN_OR_RETURN(out.key, ReadFile(files.key));
  ASSIGN_OR_RETURN(const std::vector<X509Ptr> chain,
                   ReadChain(out.certificate, files.certificate));
  ASSIGN_OR_RETURN(const KeyPtr key, ReadKey(out.key, files.key));
  const bool fits = X509_check_private_key(chain[0].get(), key.get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return Bad(files.key,
               absl::StrCat("is not the key of the first certificate in ",
                            files.certificate));
  }
  out.expires = absl::InfiniteFuture();
  for (const X509Ptr& one : chain) {
    out.expires = std::min(out.expires, TimeOf(X509_get0_notAfter(one.get())));
  }
  if (out.expires <= now) {
    return Bad(files.certificate,
               absl::StrCat("expired at ", absl::FormatTime(out.expires),
                            "; put a new one there"));
  }
  if (!files.client_ca.empty()) {
    ASSIGN_OR_RETURN(out.client_ca, ReadFile(files.client_ca));
    RETURN_IF_ERROR(ReadChain(out.client_ca, files.client_ca).status());
  }
  return out;
}

absl::StatusOr<std::unique_ptr<Certificates>> Certificates::Open(
    TlsFiles files, const std::string& fallback, const Clock* clock) {
  for (const std::string& parent : {std::string("/dev/shm"), fallback}) {
    RemoveLeftBehind(parent);
  }
  const std::string name = absl::StrCat("/", kFolderPrefix, "XXXXXX");
  std::string folder = "/dev/shm" + name;
  if (mkdtemp(folder.data()) == nullptr) {  // open to this user alone
    folder = fallback + name;
    if (mkdtemp(folder.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat(
          "cannot make a folder in ", fallback, ": ", std::strerror(errno)));
    }
  }
  std::unique_ptr<Certificates> certificates(
      new Certificates(std::move(files), std::move(folder), clock));
  ASSIGN_OR_RETURN(certificates->lock_,
                   FileLock::Acquire(JoinPath(certificates->folder_, "LOCK")));
  RETURN_IF_ERROR(certificates->Reload().status());
  return certificates;
}

Certificates::~Certificates() { RemoveAll(folder_).IgnoreError(); }

TlsFiles Certificates::copies() const {
  const std::string current = JoinPath(folder_, "current");
  return {.certificate = JoinPath(current, "certificate.pem"),
          .key = JoinPath(current, "key.pem"),
          .client_ca = files_.client_ca.empty()
                           ? ""
                           : JoinPath(current, "client_ca.pem")};
}

absl::StatusOr<bool> Certificates::Reload() {
  ASSIGN_OR_RETURN(TlsMaterial next, ReadTls(files_, clock_.Now()));
  MutexLock lock(&mu_);
  if (current_.certificate == next.certificate && current_.key == next.key &&
      current_.client_ca == next.client_ca) {
    return false;
  }
  RETURN_IF_ERROR(Stage(next));
  current_ = std::move(next);
  return true;
}

absl::Status Certificates::Stage(const TlsMaterial& material) {
  const std::string name = absl::StrCat("v", version_ + 1);
  const std::string folder = JoinPath(folder_, name);
  RETURN_IF_ERROR(MakeDirs(folder));
  RETURN_IF_ERROR(WriteFileAtomic(JoinPath(folder, "certificate.pem"),
                                  material.certificate));
  RETURN_IF_ERROR(WriteFileAtomic(JoinPath(folder, "key.pem"), material.key));
  RETURN_IF_ERROR(
      WriteFileAtomic(JoinPath(folder, "client_ca.pem"), material.client_ca));
  const std::string link = JoinPath(folder_, "next");
  RETURN_IF_ERROR(RemoveAll(link));  // of a time that failed
  if (symlink(name.c_str(), link.c_str()) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot link ", link, ": ", std::strerror(errno)));
  }
  RETURN_IF_ERROR(RenameDurably(link, JoinPath(folder_, "current")));
  // Who reads the copies may be on his way into the folder before.
  RETURN_IF_ERROR(
      RemoveAll(JoinPath(folder_, absl::StrCat("v", version_ - 1))));
  ++version_;
  return absl::OkStatus();
}

}  // namespace nearline::server
