#ifndef NEARLINE_SERVER_VISIT_H_
#define NEARLINE_SERVER_VISIT_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "server/access.h"
#include "server/audit.h"
#include "server/metrics.h"
#include "server/shutdown_notice.h"

namespace nearline::server {

inline constexpr char kLeaving[] = "the server is shutting down";

// Where calls are let in and report to.
struct RpcEnvironment {
  Metrics* metrics = nullptr;
  Access* access = nullptr;  // null: everyone may do everything
  AuditLog* audit = nullptr;
  ShutdownNotice* shutdown = nullptr;
  int64_t max_metadata_bytes = 0;  // of a call
  // A call that took longer is logged; zero: none.
  absl::Duration slow_call = absl::ZeroDuration();
  // Called on a gRPC thread that has just seen an answer off: it has time, and
  // no caller waits for it. May be empty.
  std::function<void()> idle;
};

// One call from the door to its end: who makes it, whether it may, what became
// of it.
class Visit {
 public:
  // `environment` and `method` outlive this, `context` until Ended.
  Visit(const RpcEnvironment& environment, const Method& method,
        const grpc::CallbackServerContext* context);

  // OK, or why the call is not let in.
  const absl::Status& admitted() const { return admitted_; }
  // Asks anew, for another message of a stream: who may come may have changed.
  absl::Status AdmitAgain() { return Admit(); }

  absl::Time started() const { return started_; }
  // Among whom the server divides itself: callers that it knows, within them
  // what the metadata names as nearline-caller, or else connections.
  uint64_t share() const;

  // The only conversion at the wire; see ToGrpc.
  grpc::Status ToWire(const absl::Status& status) const;
  // Reports; to be called once, at the end.
  void Ended(grpc::StatusCode code) const;

 private:
  absl::Status Admit();
  absl::Status CheckMetadata() const;
  std::string trace() const;

  const RpcEnvironment& environment_;
  const Method& method_;
  const grpc::CallbackServerContext* const context_;
  const absl::Time started_ = absl::Now();
  Access::EntryPtr caller_;  // null: not known
  absl::Status admitted_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_VISIT_H_
