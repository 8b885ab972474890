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

// Among whom the server divides itself: what the call's metadata names as
// nearline-caller, or else its connection.
uint64_t CallerOf(const grpc::CallbackServerContext& context);

// Where calls report to.
struct RpcEnvironment {
  Metrics* metrics = nullptr;
  // Called on a gRPC thread that has just seen an answer off: it has time, and
  // no caller waits for it. May be empty.
  std::function<void()> idle;
};

// One unary call, from its bytes to its answer's. Messages live on an arena.
// gRPC owns it.
template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // Good until Finish is called.
  using Ptr = UnaryCall*;

  // Parses the request and hands the call to `handler`, which has Finish
  // called, once, on any thread.
  static grpc::ServerUnaryReactor* Start(
      const RpcEnvironment& environment, const char* method,
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
      grpc::ByteBuffer* out, const std::function<void(Ptr)>& handler) {
    auto* const call = new UnaryCall(environment, method, context, out);
    const absl::Status parsed = ParseMessage(*in, call->request_);
    if (parsed.ok()) {
      handler(call);
    } else {
      call->Finish(parsed);
    }
    return call;
  }

  Request& request() { return *request_; }
  Response& response() { return *response_; }
  absl::Time started() const { return started_; }
  absl::Time deadline() const { return absl::FromChrono(context_->deadline()); }
  bool cancelled() const { return context_->IsCancelled(); }
  uint64_t caller() const { return CallerOf(*context_); }

  void Finish(absl::Status status) {
    if (status.ok()) status = SerializeMessage(*response_, out_);
    const grpc::Status wire = ToGrpc(status);
    environment_.metrics->OnRpc(method_, wire.error_code(),
                                absl::Now() - started_);
    ServerUnaryReactor::Finish(wire);
  }

 private:
  UnaryCall(const RpcEnvironment& environment, const char* method,
            grpc::CallbackServerContext* context, grpc::ByteBuffer* out)
      : environment_(environment),
        method_(method),
        context_(context),
        out_(out),
        request_(google::protobuf::Arena::CreateMessage<Request>(&arena_)),
        response_(google::protobuf::Arena::CreateMessage<Response>(&arena_)) {}

  void OnDone() override {
    const RpcEnvironment& environment = environment_;
    delete this;
    if (environment.idle) environment.idle();
  }
  // What follows an answer is not worth another thread. (gRPC's default reactor
  // says the same.)
  bool InternalInlineable() override { return true; }

  const RpcEnvironment& environment_;
  const char* const method_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const out_;
  const absl::Time started_ = absl::Now();
  google::protobuf::Arena arena_;
  Request* const request_;
  Response* const response_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_WIRE_H_
