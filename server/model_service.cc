#include <utility>

#include "base/text.h"
#include "proto/nearline/v1/model.grpc.pb.h"
#include "server/convert.h"
#include "server/methods.h"
#include "server/services.h"
#include "server/stream_writer.h"

namespace nearline::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Base = api::ModelService::WithRawCallbackMethod_Retrain<
    api::ModelService::WithRawCallbackMethod_WatchRun<
        api::ModelService::WithRawCallbackMethod_ListGenerations<
            api::ModelService::WithRawCallbackMethod_Rollback<
                api::ModelService::Service>>>>;

class Service final : public Base {
 public:
  explicit Service(const Parts* parts) : parts_(*parts) {}

  ServerUnaryReactor* Retrain(CallbackServerContext* context,
                              const ByteBuffer* in, ByteBuffer* out) override {
    using Call = UnaryCall<api::RetrainRequest, api::RetrainResponse>;
    return Call::Start(
        parts_.rpc, methods::kRetrain, context, in, out,
        [this](Call::Ptr call) {
          const api::RetrainRequest& request = call->request();
          if (request.reason().size() > kMaxIdBytes) {
            return call->Finish(InvalidField(
                "reason", absl::StrCat(request.reason().size(), " bytes"),
                absl::StrCat("at most ", kMaxIdBytes)));
          }
          const auto started =
              parts_.retrainer->Start(request.cold(), request.reason());
          if (!started.ok()) return call->Finish(started.status());
          call->response().set_run_id(started->run_id);
          call->response().set_joined(started->joined);
          call->Finish(absl::OkStatus());
        });
  }

  grpc::ServerWriteReactor<ByteBuffer>* WatchRun(
      CallbackServerContext* context, const ByteBuffer* in) override {
    api::WatchRunRequest request;
    const auto writer = StreamWriter::Make(parts_.rpc, methods::kWatchRun,
                                           context, *in, &request);
    if (!writer->open()) return writer.get();
    // A weak pointer: a watcher must not keep a finished stream alive.
    const auto watch = parts_.retrainer->Watch(
        request.run_id(), [this, weak = std::weak_ptr<StreamWriter>(writer)](
                              const RunStatus& run) {
          const auto w = weak.lock();
          if (w == nullptr) return;
          api::RunProgress progress;
          ToApi(run, parts_.clock->Now(), &progress);
          w->Write(progress);
          if (run.done()) w->Close(absl::OkStatus());
        });
    if (!watch.ok()) {
      writer->Close(watch.status());
    } else {
      writer->set_callbacks(
          {.on_done = [retrainer = parts_.retrainer, id = *watch] {
            retrainer->Unwatch(id);
          }});
    }
    return writer.get();
  }

  ServerUnaryReactor* ListGenerations(CallbackServerContext* context,
                                      const ByteBuffer* in,
                                      ByteBuffer* out) override {
    using Call =
        UnaryCall<api::ListGenerationsRequest, api::ListGenerationsResponse>;
    return Call::Start(
        parts_.rpc, methods::kListGenerations, context, in, out,
        [this](Call::Ptr call) {
          const auto manifests = parts_.generations->List();
          if (!manifests.ok()) return call->Finish(manifests.status());
          const GenerationPtr current = parts_.slot->Snapshot();
          for (const model::Manifest& manifest : *manifests) {
            const bool serves =
                current != nullptr && current->id() == manifest.id;
            ToApi(manifest, serves, call->response().add_generations());
          }
          call->Finish(absl::OkStatus());
        });
  }

  ServerUnaryReactor* Rollback(CallbackServerContext* context,
                               const ByteBuffer* in, ByteBuffer* out) override {
    using Call = UnaryCall<api::RollbackRequest, api::RollbackResponse>;
    return Call::Start(parts_.rpc, methods::kRollback, context, in, out,
                       [this](Call::Ptr call) {
                         call->Finish(RollBack(call->request().generation(),
                                               &call->response()));
                       });
  }

 private:
  absl::Status RollBack(std::string id, api::RollbackResponse* response) {
    const GenerationPtr current = parts_.slot->Snapshot();
    ASSIGN_OR_RETURN(const auto manifests, parts_.generations->List());
    const auto named = [&](const model::Manifest& m) {
      if (!id.empty()) return m.id == id;
      return m.accepted && current != nullptr &&
             m.created_micros < current->manifest().created_micros;
    };
    const auto found = std::find_if(manifests.begin(), manifests.end(), named);
    if (found == manifests.end()) {
      return absl::NotFoundError(
          id.empty() ? "there is no earlier accepted generation"
                     : absl::StrCat("no generation ", Quoted(id)));
    }
    const absl::Status published = parts_.slot->Publish(found->id);
    if (absl::IsDataLoss(published)) {
      return absl::FailedPreconditionError(absl::StrCat(
          published.message(), "; the generation in service stays"));
    }
    RETURN_IF_ERROR(published);
    response->set_generation(found->id);
    if (current != nullptr) response->set_previous(current->id());
    return absl::OkStatus();
  }

  const Parts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelService(const Parts* parts) {
  return std::make_unique<Service>(parts);
}

}  // namespace nearline::server
