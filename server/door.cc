#include "server/door.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <spdlog/spdlog.h>

#include <string>
#include <utility>

namespace nearline::server {
namespace {

enum Part { kCertificates, kCallers };

// Takes a part again by `reload`, which says whether it has changed. What is
// wrong is said once, until it is right, or wrong in another way.
template <typename Reload>
void Retake(const char* what, const Reload& reload, std::string* complaint,
            std::atomic<int64_t>* failures) {
  const absl::StatusOr<bool> changed = reload();
  if (changed.ok()) {
    complaint->clear();
    if (*changed) spdlog::info("the {} have been taken anew", what);
    return;
  }
  ++*failures;
  const std::string now(changed.status().message());
  if (std::exchange(*complaint, now) == now) return;
  spdlog::error("{}; the {} before stay in use", now, what);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> Door::Open(const Config& config) {
  std::unique_ptr<Door> door(new Door(config));
  if (!config.log.audit.empty() || !config.access.file.empty()) {
    ASSIGN_OR_RETURN(door->audit_, AuditLog::Open(config.log.audit));
  }
  if (!config.access.file.empty()) {
    ASSIGN_OR_RETURN(door->access_,
                     Access::Open(config.access.file, Clock::Real()));
    spdlog::info("{} callers are known", door->access_->callers());
  }
  if (door->access_ == nullptr && !IsLoopback(config.listen) &&
      (config.tls.files.client_ca.empty() ||
       config.tls.client_certificates != "required")) {
    spdlog::warn(
        "whoever reaches {} may do everything: set access.file to tell callers "
        "apart",
        config.listen);
  }
  if (!config.tls.files.certificate.empty()) {
    ASSIGN_OR_RETURN(
        door->certificates_,
        Certificates::Open(config.tls.files, config.data_dir, Clock::Real()));
    spdlog::info("the certificate is good until {}",
                 absl::FormatTime(door->certificates_->expires()));
  }
  door->thread_ = std::thread([raw = door.get()] { raw->Loop(); });
  return door;
}

Door::~Door() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
  }
  cv_.SignalAll();
  if (thread_.joinable()) thread_.join();
}

void Door::Loop() {
  std::string complaints[2];
  while (true) {
    {
      MutexLock lock(&mu_);
      if (!stopping_) cv_.WaitFor(&mu_, config_.reload_interval);
      if (stopping_) return;
    }
    if (certificates_ != nullptr) {
      Retake(
          "certificates", [this] { return certificates_->Reload(); },
          &complaints[kCertificates], &failures_[kCertificates]);
    }
    if (access_ != nullptr) {
      Retake(
          "callers", [this] { return access_->Reload(); },
          &complaints[kCallers], &failures_[kCallers]);
    }
  }
}

// TLS 1.2 or later, by the certificates' copies as they are at each handshake.
std::shared_ptr<grpc::ServerCredentials> Door::Credentials() const {
  if (certificates_ == nullptr) return grpc::InsecureServerCredentials();
  namespace tls = grpc::experimental;
  constexpr unsigned kLookEvery = 1;  // second
  const TlsFiles files = certificates_->copies();
  tls::TlsServerCredentialsOptions options(
      std::make_shared<tls::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, kLookEvery));
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(
        config_.tls.client_certificates == "required"
            ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
            : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

std::vector<Metrics::Reading> Door::Read() const {
  using prometheus::MetricType;
  std::vector<Metrics::Reading> out;
  for (const Part part : {kCertificates, kCallers}) {
    out.push_back(
        {"nearline_reload_failures_total",
         "Looks at a file that could not be taken; what was before "
         "stays.",
         MetricType::Counter,
         static_cast<double>(failures_[part]),
         {{"what", part == kCertificates ? "certificates" : "access"}}});
  }
  if (audit_ != nullptr) {
    out.push_back({"nearline_audit_lines_lost_total",
                   "Calls of management that could not be recorded.",
                   MetricType::Counter,
                   static_cast<double>(audit_->lost()),
                   {}});
  }
  if (certificates_ != nullptr) {
    out.push_back(
        {"nearline_certificate_expiry_timestamp_seconds",
         "When the first of the certificates expires.",
         MetricType::Gauge,
         absl::ToDoubleSeconds(certificates_->expires() - absl::UnixEpoch()),
         {}});
  }
  return out;
}

}  // namespace nearline::server
