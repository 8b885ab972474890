#include <deque>
#include <utility>

#include "proto/nearline/v1/feedback.grpc.pb.h"
#include "server/convert.h"
#include "server/methods.h"
#include "server/services.h"

namespace nearline::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Base = api::FeedbackService::WithRawCallbackMethod_Feedback<
    api::FeedbackService::WithRawCallbackMethod_StreamFeedback<
        api::FeedbackService::WithRawCallbackMethod_RetractEvents<
            api::FeedbackService::Service>>>;

// `checked` has one status an event of the request; the store's outcomes are of
// those that are OK.
void Answer(const features::AppendResult& result,
            const std::vector<absl::Status>& checked, const std::string& log_id,
            bool partial, Metrics* metrics, api::FeedbackResponse* out) {
  Metrics::EventCounts counts;
  int index = -1;
  auto outcome = result.outcomes.begin();
  for (const absl::Status& at_the_door : checked) {
    ++index;
    features::EventOutcome known =
        at_the_door.ok() ? *outcome++
                         : features::EventOutcome{.status = at_the_door};
    if (at_the_door.ok() && !known.status.ok()) {
      known.status = InPart(known.status, absl::StrCat("events[", index, "]"));
    }
    ++(!known.status.ok() ? counts.refused
       : known.duplicate  ? counts.duplicates
       : known.expired    ? counts.expired
                          : counts.accepted);
    if (!partial) continue;
    auto* const to = out->add_results();
    to->set_code(static_cast<int>(known.status.code()));
    to->set_message(std::string(known.status.message()));
    to->set_sequence(known.sequence);
    to->set_duplicate(known.duplicate);
    to->set_expired(known.expired);
  }
  metrics->OnFeedback(counts);
  out->set_accepted(counts.accepted);
  out->set_duplicates(counts.duplicates);
  out->set_expired(counts.expired);
  out->set_consistency_token(ConsistencyToken(log_id, result.sequence));
}

// Checks a request and hands it to the store; `done` gets the answer.
void Submit(const Parts& parts, const api::FeedbackRequest& request,
            features::Done<api::FeedbackResponse> done) {
  std::vector<absl::Status> checked;
  auto events = FromApi(request, parts.clock->Now(),
                        parts.config->limits.max_future, &checked);
  const auto fail = [&parts, n = request.events_size(),
                     done](const absl::Status& status) {
    parts.metrics->OnFeedback({.refused = n});
    done(status);
  };
  if (!events.ok()) return fail(events.status());
  const bool partial = request.partial();
  const absl::Status submitted = parts.store->Submit(features::Append{
      .events = *std::move(events),
      .historical = request.historical(),
      .each = partial,
      .done = [&parts, done, fail, partial, checked = std::move(checked)](
                  absl::StatusOr<features::AppendResult> result) {
        if (!result.ok()) return fail(result.status());
        api::FeedbackResponse response;
        Answer(*result, checked, parts.store->log_id(), partial, parts.metrics,
               &response);
        done(std::move(response));
      }});
  if (!submitted.ok()) fail(submitted);
}

// One stream: reads a request, waits for its answer, writes it, reads the next.
class Stream final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  Stream(const Parts& parts, const CallbackServerContext* context)
      : parts_(parts), visit_(parts.rpc, methods::kStreamFeedback, context) {
    if (!visit_.admitted().ok()) {
      End(visit_.admitted());
      return;
    }
    ReadNext();
    parts_.rpc.shutdown->Tell(this, [this] { Leave(); });
  }

  void OnReadDone(bool ok) override {
    {
      MutexLock lock(&mu_);
      if (ended_) return;
      busy_ = true;
    }
    if (!ok) return End(absl::OkStatus());  // the client has said all
    if (!std::exchange(first_, false)) {
      const absl::Status counted = visit_.AdmitAgain();
      if (!counted.ok()) return End(counted);
    }
    google::protobuf::Arena arena;
    auto* const request =
        google::protobuf::Arena::CreateMessage<api::FeedbackRequest>(&arena);
    const absl::Status parsed = ParseMessage(in_, request);
    if (!parsed.ok()) return End(parsed);
    Submit(parts_, *request,
           [this](absl::StatusOr<api::FeedbackResponse> response) {
             if (!response.ok()) return End(response.status());
             const absl::Status status = SerializeMessage(*response, &out_);
             if (!status.ok()) return End(status);
             StartWrite(&out_);
           });
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the caller has gone"));
    ReadNext();
  }
  void OnDone() override {
    parts_.rpc.shutdown->Forget(this);
    { MutexLock lock(&mu_); }  // whoever called Finish has let go of it
    delete this;
  }

 private:
  void ReadNext() {
    MutexLock lock(&mu_);
    busy_ = false;
    if (leaving_) return EndLocked(absl::UnavailableError(kLeaving));
    StartRead(&in_);
  }
  // Ends the stream when what is under way is answered.
  void Leave() {
    MutexLock lock(&mu_);
    leaving_ = true;
    if (!busy_) EndLocked(absl::UnavailableError(kLeaving));
  }
  void End(const absl::Status& status) {
    MutexLock lock(&mu_);
    EndLocked(status);
  }
  void EndLocked(const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(ended_, true)) return;
    const grpc::Status wire = visit_.ToWire(status);
    visit_.Ended(wire.error_code());
    Finish(wire);
  }

  const Parts& parts_;
  Visit visit_;
  bool first_ = true;  // message
  ByteBuffer in_, out_;
  Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = false;  // with a message
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

class Service final : public Base {
 public:
  explicit Service(const Parts* parts) : parts_(*parts) {}

  ServerUnaryReactor* Feedback(CallbackServerContext* context,
                               const ByteBuffer* in, ByteBuffer* out) override {
    using Call = UnaryCall<api::FeedbackRequest, api::FeedbackResponse>;
    return Call::Start(
        parts_.rpc, methods::kFeedback, context, in, out,
        [this](Call::Ptr call) {
          if (call->cancelled() || call->deadline() < absl::Now()) {
            return call->Finish(absl::DeadlineExceededError(
                "the deadline passed before work began; nothing was written"));
          }
          Submit(parts_, call->request(),
                 [call](absl::StatusOr<api::FeedbackResponse> response) {
                   if (!response.ok()) return call->Finish(response.status());
                   call->response() = *std::move(response);
                   call->Finish(absl::OkStatus());
                 });
        });
  }

  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* StreamFeedback(
      CallbackServerContext* context) override {
    return new Stream(parts_, context);
  }

  ServerUnaryReactor* RetractEvents(CallbackServerContext* context,
                                    const ByteBuffer* in,
                                    ByteBuffer* out) override {
    using Call =
        UnaryCall<api::RetractEventsRequest, api::RetractEventsResponse>;
    return Call::Start(
        parts_.rpc, methods::kRetractEvents, context, in, out,
        [this](Call::Ptr call) {
          auto refs = Refs(call->request());
          if (!refs.ok()) return call->Finish(refs.status());
          const absl::Status submitted = parts_.store->Submit(features::Retract{
              .refs = *std::move(refs),
              .done = [this,
                       call](absl::StatusOr<features::RetractResult> result) {
                if (!result.ok()) return call->Finish(result.status());
                call->response().set_retracted(result->retracted);
                call->response().set_consistency_token(
                    ConsistencyToken(parts_.store->log_id(), result->sequence));
                call->Finish(absl::OkStatus());
              }});
          if (!submitted.ok()) call->Finish(submitted);
        });
  }

 private:
  static absl::StatusOr<std::vector<features::Retract::Ref>> Refs(
      const api::RetractEventsRequest& request) {
    if (request.events_size() == 0) {
      return InvalidField("events", "nothing",
                          absl::StrCat("1 to ", kMaxBatch));
    }
    RETURN_IF_ERROR(CheckSize("events", request.events_size(), kMaxBatch));
    std::vector<features::Retract::Ref> refs;
    for (int i = 0; i < request.events_size(); ++i) {
      const auto& ref = request.events(i);
      RETURN_IF_ERROR(
          CheckId(absl::StrCat("events[", i, "].user"), ref.user()));
      RETURN_IF_ERROR(
          CheckId(absl::StrCat("events[", i, "].event_id"), ref.event_id()));
      refs.push_back({ref.user(), ref.event_id()});
    }
    return refs;
  }

  const Parts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeFeedbackService(const Parts* parts) {
  return std::make_unique<Service>(parts);
}

}  // namespace nearline::server
