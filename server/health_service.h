#ifndef NEARLINE_SERVER_HEALTH_SERVICE_H_
#define NEARLINE_SERVER_HEALTH_SERVICE_H_

#include <list>
#include <memory>
#include <string>

#include "base/mutex.h"
#include "proto/grpc/health/v1/health.grpc.pb.h"
#include "server/stream_writer.h"

namespace nearline::server {

// gRPC's health protocol, for the server (""), each of its services, and
// "live", which says whether the process is well and does so while it drains.
// gRPC has one of its own, whose Watch streams hold a shutdown up to its
// deadline. Thread-safe.
class HealthService final
    : public grpc::health::v1::Health::WithRawCallbackMethod_Check<
          grpc::health::v1::Health::WithRawCallbackMethod_Watch<
              grpc::health::v1::Health::Service>> {
 public:
  explicit HealthService(const RpcEnvironment* rpc) : rpc_(*rpc) {}

  // Answers NOT_SERVING from now on, to those who watch as well, and ends their
  // streams.
  void Drain();

  // Errors: NOT_FOUND naming the services that there are.
  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* in,
                                  grpc::ByteBuffer* out) override;
  // Of a service that is not here: SERVICE_UNKNOWN, and the stream stays open.
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* in) override;

 private:
  bool draining() {
    MutexLock lock(&mu_);
    return draining_;
  }
  // Returns whether the server drains already.
  bool Register(const std::shared_ptr<StreamWriter>& writer);

  const RpcEnvironment& rpc_;
  Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  // Those that are over are dropped as others come.
  std::list<std::weak_ptr<StreamWriter>> watchers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_HEALTH_SERVICE_H_
