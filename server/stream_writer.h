#ifndef NEARLINE_SERVER_STREAM_WRITER_H_
#define NEARLINE_SERVER_STREAM_WRITER_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <utility>

#include "base/mutex.h"
#include "server/wire.h"

namespace nearline::server {

// The server's side of a stream of messages, filled from any thread. Owned by
// gRPC and by whoever fills it. Thread-safe.
class StreamWriter final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<StreamWriter> {
 public:
  // `on_room` is called when everything queued has been written; `on_done`
  // once, when the stream is over for whatever reason.
  struct Callbacks {
    std::function<void()> on_room;
    std::function<void()> on_done;
  };

  // The stream of a call on `method`, which lives on; closed already when the
  // call is not let in, or `in` cannot be parsed as `request`.
  static std::shared_ptr<StreamWriter> Make(
      const RpcEnvironment& environment, const Method& method,
      const grpc::CallbackServerContext* context, const grpc::ByteBuffer& in,
      google::protobuf::Message* request) {
    auto writer = std::make_shared<StreamWriter>(environment, method, context);
    writer->self_ = writer;
    absl::Status status = writer->visit_.admitted();
    if (status.ok()) status = ParseMessage(in, request);
    if (!status.ok()) writer->Close(status);
    return writer;
  }
  StreamWriter(const RpcEnvironment& environment, const Method& method,
               const grpc::CallbackServerContext* context)
      : visit_(environment, method, context) {}

  bool open() {
    MutexLock lock(&mu_);
    return !closing_ && !over_;
  }

  void set_callbacks(Callbacks callbacks) {
    MutexLock lock(&mu_);
    callbacks_ = std::move(callbacks);
  }

  // False when the stream is over.
  bool Write(const google::protobuf::Message& message) {
    grpc::ByteBuffer bytes;
    if (!SerializeMessage(message, &bytes).ok()) return false;
    MutexLock lock(&mu_);
    if (closing_ || over_) return false;
    queue_.push_back(std::move(bytes));
    WriteNext();
    return true;
  }

  // Ends the stream after what is queued.
  void Close(const absl::Status& status) {
    MutexLock lock(&mu_);
    if (closing_ || over_) return;
    closing_ = true;
    status_ = visit_.ToWire(status);
    WriteNext();
  }

  void OnWriteDone(bool ok) override {
    std::function<void()> on_room;
    {
      MutexLock lock(&mu_);
      writing_ = false;
      if (!ok) {
        queue_.clear();
        if (!closing_) {
          closing_ = true;
          status_ = grpc::Status(grpc::CANCELLED, "the caller has gone");
        }
      }
      WriteNext();
      if (queue_.empty() && !writing_ && !closing_) {
        on_room = callbacks_.on_room;
      }
    }
    if (on_room) on_room();
  }
  void OnCancel() override {
    Close(absl::CancelledError("the caller has gone"));
  }
  void OnDone() override {
    std::function<void()> on_done;
    std::shared_ptr<StreamWriter> self;
    {
      MutexLock lock(&mu_);
      over_ = true;
      visit_.Ended(status_.error_code());
      on_done = std::move(callbacks_.on_done);
      callbacks_ = {};
      self = std::move(self_);
    }
    if (on_done) on_done();
  }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      current_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
      StartWrite(&current_);
    } else if (closing_) {
      finished_ = true;
      Finish(status_);
    }
  }

  const Visit visit_;
  Mutex mu_;
  Callbacks callbacks_ ABSL_GUARDED_BY(mu_);
  std::deque<grpc::ByteBuffer> queue_ ABSL_GUARDED_BY(mu_);
  grpc::ByteBuffer current_ ABSL_GUARDED_BY(mu_);
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool over_ ABSL_GUARDED_BY(mu_) = false;
  std::shared_ptr<StreamWriter> self_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_STREAM_WRITER_H_
