#include <utility>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "proto/nearline/v1/recommendation.grpc.pb.h"
#include "server/convert.h"
#include "server/methods.h"
#include "server/services.h"

namespace nearline::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Base = api::RecommendationService::WithRawCallbackMethod_Recommend<
    api::RecommendationService::WithRawCallbackMethod_SimilarItems<
        api::RecommendationService::Service>>;

std::string NewRequestId() {
  thread_local Random random(
      static_cast<uint64_t>(absl::GetCurrentTimeNanos()) ^
      reinterpret_cast<uintptr_t>(&random));
  return absl::StrFormat("%016x", random.Next());
}

class Service final : public Base {
 public:
  explicit Service(const Parts* parts) : parts_(*parts) {}

  ServerUnaryReactor* Recommend(CallbackServerContext* context,
                                const ByteBuffer* in,
                                ByteBuffer* out) override {
    using Call = UnaryCall<api::RecommendRequest, api::RecommendResponse>;
    return Call::Start(
        parts_.rpc, methods::kRecommend, context, in, out,
        [this](Call::Ptr call) {
          auto request = FromApi(&call->request());
          if (!request.ok()) return call->Finish(request.status());
          auto job = std::make_unique<RecommendJob>();
          job->request = *std::move(request);
          job->admitted = call->started();
          job->deadline = call->deadline();
          job->cancelled = [call] { return call->cancelled(); };
          std::string id = job->request.request_id.empty()
                               ? NewRequestId()
                               : job->request.request_id;
          job->done = [this, call, id = std::move(id)](
                          absl::StatusOr<RecommendAnswer> answer) {
            if (!answer.ok()) return call->Finish(answer.status());
            parts_.metrics->OnAnswer(answer->served_by,
                                     answer->degraded_reason);
            ToApi(*answer, parts_.store->log_id(), id, &call->response());
            call->Finish(absl::OkStatus());
          };
          const Admission admission = {call->share(), call->deadline()};
          const absl::Status admitted =
              parts_.batcher->Submit(std::move(job), admission);
          if (!admitted.ok()) call->Finish(admitted);
        });
  }

  ServerUnaryReactor* SimilarItems(CallbackServerContext* context,
                                   const ByteBuffer* in,
                                   ByteBuffer* out) override {
    using Call = UnaryCall<api::SimilarItemsRequest, api::SimilarItemsResponse>;
    return Call::Start(
        parts_.rpc, methods::kSimilarItems, context, in, out,
        [this](Call::Ptr call) {
          call->Finish(Similar(call->request(), &call->response()));
        });
  }

 private:
  absl::Status Similar(const api::SimilarItemsRequest& request,
                       api::SimilarItemsResponse* response) {
    RETURN_IF_ERROR(CheckId("item", request.item()));
    ASSIGN_OR_RETURN(const int count, CheckCount(request.count(), 10));
    RETURN_IF_ERROR(CheckSize("exclude", request.exclude_size(), kMaxBatch));
    for (int i = 0; i < request.exclude_size(); ++i) {
      RETURN_IF_ERROR(
          CheckId(absl::StrCat("exclude[", i, "]"), request.exclude(i)));
    }
    std::optional<features::Filter> filter;
    if (request.has_filter()) {
      ASSIGN_OR_RETURN(filter, FromApi(request.filter()));
    }
    ASSIGN_OR_RETURN(
        const Pipeline::Similar similar,
        parts_.pipeline->SimilarItems(
            request.item(), count,
            {request.exclude().begin(), request.exclude().end()}, filter));
    for (size_t i = 0; i < similar.items.size(); ++i) {
      api::ScoredItem* const item = response->add_items();
      item->set_item(similar.items[i]);
      item->set_score(similar.scores[i]);
    }
    response->set_generation(similar.generation);
    response->set_request_id(NewRequestId());
    response->set_consistency_token(
        ConsistencyToken(parts_.store->log_id(), parts_.store->sequence()));
    return absl::OkStatus();
  }

  const Parts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeRecommendationService(const Parts* parts) {
  return std::make_unique<Service>(parts);
}

}  // namespace nearline::server
