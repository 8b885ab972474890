#ifndef NEARLINE_SERVER_DOOR_H_
#define NEARLINE_SERVER_DOOR_H_

#include <grpcpp/grpcpp.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "server/access.h"
#include "server/audit.h"
#include "server/certificates.h"
#include "server/config.h"
#include "server/metrics.h"

namespace nearline::server {

// What stands between the network and the services: certificates, callers, the
// audit log, and a thread that takes the first two anew when their files
// change. Thread-safe.
class Door {
 public:
  // `config` outlives this. Errors: what is wrong with the files.
  static absl::StatusOr<std::unique_ptr<Door>> Open(const Config& config);
  ~Door();

  Access* access() { return access_.get(); }  // null: everyone may come
  // Null where callers are not told apart and no file is asked for.
  AuditLog* audit() { return audit_.get(); }
  bool tls() const { return certificates_ != nullptr; }
  std::shared_ptr<grpc::ServerCredentials> Credentials() const;
  std::vector<Metrics::Reading> Read() const;

 private:
  explicit Door(const Config& config) : config_(config) {}
  void Loop();

  const Config& config_;
  std::unique_ptr<AuditLog> audit_;
  std::unique_ptr<Access> access_;
  std::unique_ptr<Certificates> certificates_;
  std::array<std::atomic<int64_t>, 2> failures_{};  // of taking anew

  Mutex mu_;
  CondVar cv_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_DOOR_H_
