#include "server/health_service.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "server/methods.h"

namespace nearline::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Whether the process is well; it is while it drains.
constexpr char kLive[] = "live";
constexpr std::array kServices = {"",
                                  kLive,
                                  "nearline.v1.RecommendationService",
                                  "nearline.v1.FeedbackService",
                                  "nearline.v1.ModelService",
                                  "nearline.v1.CatalogService",
                                  "nearline.v1.AdminService"};

bool Known(const std::string& service) {
  return std::find(kServices.begin(), kServices.end(), service) !=
         kServices.end();
}

HealthCheckResponse Answer(HealthCheckResponse::ServingStatus status) {
  HealthCheckResponse answer;
  answer.set_status(status);
  return answer;
}

}  // namespace

grpc::ServerUnaryReactor* HealthService::Check(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* in,
    grpc::ByteBuffer* out) {
  using Call = UnaryCall<HealthCheckRequest, HealthCheckResponse>;
  return Call::Start(
      rpc_, methods::kCheck, context, in, out, [this](const Call::Ptr& call) {
        const std::string& service = call->request().service();
        if (!Known(service)) {
          return call->Finish(absl::NotFoundError(
              absl::StrCat("no service ", Quoted(service), "; there are \"",
                           absl::StrJoin(kServices, "\", \""), "\"")));
        }
        call->response().set_status(draining() && service != kLive
                                        ? HealthCheckResponse::NOT_SERVING
                                        : HealthCheckResponse::SERVING);
        call->Finish(absl::OkStatus());
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* HealthService::Watch(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* in) {
  HealthCheckRequest request;
  const auto writer =
      StreamWriter::Make(rpc_, methods::kWatch, context, *in, &request);
  if (!writer->open()) return writer.get();
  const bool draining = Register(writer);
  // Of a stream that Drain has ended meanwhile, nothing more is written.
  writer->Write(Answer(!Known(request.service())
                           ? HealthCheckResponse::SERVICE_UNKNOWN
                       : draining ? HealthCheckResponse::NOT_SERVING
                                  : HealthCheckResponse::SERVING));
  if (draining) {
    writer->Close(absl::UnavailableError("the server is shutting down"));
  }
  return writer.get();
}

bool HealthService::Register(const std::shared_ptr<StreamWriter>& writer) {
  MutexLock lock(&mu_);
  watchers_.remove_if([](const auto& watcher) { return watcher.expired(); });
  watchers_.push_back(writer);
  return draining_;
}

void HealthService::Drain() {
  std::list<std::weak_ptr<StreamWriter>> watchers;
  {
    MutexLock lock(&mu_);
    draining_ = true;
    watchers.swap(watchers_);
  }
  for (const auto& watcher : watchers) {
    if (const auto writer = watcher.lock()) {
      writer->Write(Answer(HealthCheckResponse::NOT_SERVING));
      writer->Close(absl::UnavailableError("the server is shutting down"));
    }
  }
}

}  // namespace nearline::server
