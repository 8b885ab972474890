// Between gRPC and us: statuses, messages as bytes, calls in flight.
#ifndef NEARLINE_SERVER_WIRE_H_
#define NEARLINE_SERVER_WIRE_H_

#include <google/protobuf/arena.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"
#include "server/metrics.h"

namespace nearline::server {

// The only conversion at the wire. Client errors keep their text and get
// google.rpc details (BadRequest, RetryInfo); our own faults are logged and
// hidden.
grpc::Status ToGrpc(const absl::Status& status);

// Parses what gRPC received. Errors: INVALID_ARGUMENT saying what is wrong: a
// string that is not UTF-8, by its path, or a message that is cut or too deep.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message* message);
absl::Status SerializeMessage(const google::protobuf::Message& message,
                              grpc::ByteBuffer* bytes);

// Where calls report to.
struct RpcEnvironment {
  Metrics* metrics = nullptr;
};

// One unary call, from its bytes to its answer's. Messages live on an arena.
template <typename Request, typename Response>
class UnaryCall {
 public:
  using Ptr = std::shared_ptr<UnaryCall>;

  // Parses the request and hands the call to `handler`, which keeps the pointer
  // until it has called Finish, once, on any thread.
  static grpc::ServerUnaryReactor* Start(
      const RpcEnvironment& environment, const char* method,
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
      grpc::ByteBuffer* out, const std::function<void(Ptr)>& handler) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    auto call =
        std::make_shared<UnaryCall>(environment, method, context, out, reactor);
    const absl::Status parsed = ParseMessage(*in, call->request_);
    if (parsed.ok()) {
      handler(std::move(call));
    } else {
      call->Finish(parsed);
    }
    return reactor;
  }

  UnaryCall(const RpcEnvironment& environment, const char* method,
            grpc::CallbackServerContext* context, grpc::ByteBuffer* out,
            grpc::ServerUnaryReactor* reactor)
      : environment_(environment),
        method_(method),
        context_(context),
        out_(out),
        reactor_(reactor),
        request_(google::protobuf::Arena::CreateMessage<Request>(&arena_)),
        response_(google::protobuf::Arena::CreateMessage<Response>(&arena_)) {}

  Request& request() { return *request_; }
  Response& response() { return *response_; }
  absl::Time started() const { return started_; }
  absl::Time deadline() const { return absl::FromChrono(context_->deadline()); }
  bool cancelled() const { return context_->IsCancelled(); }

  void Finish(absl::Status status) {
    if (status.ok()) status = SerializeMessage(*response_, out_);
    const grpc::Status wire = ToGrpc(status);
    environment_.metrics->OnRpc(method_, wire.error_code(),
                                absl::Now() - started_);
    reactor_->Finish(wire);
  }

 private:
  const RpcEnvironment& environment_;
  const char* const method_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const out_;
  grpc::ServerUnaryReactor* const reactor_;
  const absl::Time started_ = absl::Now();
  google::protobuf::Arena arena_;
  Request* const request_;
  Response* const response_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_WIRE_H_
