// Between gRPC and us: statuses, messages as bytes, calls in flight.
#ifndef NEARLINE_SERVER_WIRE_H_
#define NEARLINE_SERVER_WIRE_H_

#include <google/protobuf/arena.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/status.h"
#include "server/visit.h"

namespace nearline::server {

// The only conversion at the wire. Client errors keep their text and get
// google.rpc details (BadRequest, RetryInfo); our own faults are logged, with
// the trace that they were met on, and hidden.
grpc::Status ToGrpc(const absl::Status& status, absl::string_view trace = "");

// Parses what gRPC received. Errors: INVALID_ARGUMENT saying what is wrong: a
// string that is not UTF-8, by its path, or a message that is cut or too deep;
// CANCELLED when none came.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes,
                          google::protobuf::Message* message);
absl::Status SerializeMessage(const google::protobuf::Message& message,
                              grpc::ByteBuffer* bytes);

void SetDuration(absl::Duration d, google::protobuf::Duration* out);

// One unary call, from its bytes to its answer's. Messages live on an arena.
// gRPC owns it.
template <typename Request, typename Response>
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // Good until Finish is called.
  using Ptr = UnaryCall*;

  // Lets the call in, parses the request and hands the call to `handler`, which
  // has Finish called, once, on any thread. `method` lives on.
  static grpc::ServerUnaryReactor* Start(
      const RpcEnvironment& environment, const Method& method,
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
      grpc::ByteBuffer* out, const std::function<void(Ptr)>& handler) {
    auto* const call = new UnaryCall(environment, method, context, out);
    absl::Status status = call->visit_.admitted();
    if (status.ok()) status = ParseMessage(*in, call->request_);
    if (status.ok()) {
      handler(call);
    } else {
      call->Finish(status);
    }
    return call;
  }

  Request& request() { return *request_; }
  Response& response() { return *response_; }
  absl::Time started() const { return visit_.started(); }
  absl::Time deadline() const { return absl::FromChrono(context_->deadline()); }
  bool cancelled() const { return context_->IsCancelled(); }
  uint64_t share() const { return visit_.share(); }

  void Finish(absl::Status status) {
    if (status.ok()) status = SerializeMessage(*response_, out_);
    const grpc::Status wire = visit_.ToWire(status);
    visit_.Ended(wire.error_code());
    ServerUnaryReactor::Finish(wire);
  }

 private:
  UnaryCall(const RpcEnvironment& environment, const Method& method,
            grpc::CallbackServerContext* context, grpc::ByteBuffer* out)
      : environment_(environment),
        context_(context),
        visit_(environment, method, context),
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
  grpc::CallbackServerContext* const context_;
  const Visit visit_;
  grpc::ByteBuffer* const out_;
  google::protobuf::Arena arena_;
  Request* const request_;
  Response* const response_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_WIRE_H_
