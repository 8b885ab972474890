// The gRPC services: thin shells that parse, check, admit and answer. Methods
// are raw, because packaged gRPC answers broken messages by itself otherwise.
#ifndef NEARLINE_SERVER_SERVICES_H_
#define NEARLINE_SERVER_SERVICES_H_

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/service_type.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "features/retention.h"
#include "features/store.h"
#include "model/bundle.h"
#include "server/backups.h"
#include "server/batcher.h"
#include "server/config.h"
#include "server/listener.h"
#include "server/metrics.h"
#include "server/model_slot.h"
#include "server/pipeline.h"
#include "server/retrainer.h"
#include "server/wire.h"

namespace nearline::server {

// What the services work on; all of it outlives them.
struct Parts {
  const Config* config = nullptr;
  const Clock* clock = nullptr;
  features::Store* store = nullptr;
  model::GenerationStore* generations = nullptr;
  ModelSlot* slot = nullptr;
  Pipeline* pipeline = nullptr;
  Batcher<RecommendJob>* batcher = nullptr;
  Retrainer* retrainer = nullptr;
  Listener* listener = nullptr;
  features::Retention* retention = nullptr;  // null: everything is kept
  Backups* backups = nullptr;                // null: there is no backup.dir
  Metrics* metrics = nullptr;
  RpcEnvironment rpc;
  absl::Time started;
  std::string device;
};

std::unique_ptr<grpc::Service> MakeRecommendationService(const Parts* parts);
std::unique_ptr<grpc::Service> MakeFeedbackService(const Parts* parts);
std::unique_ptr<grpc::Service> MakeModelService(const Parts* parts);
std::unique_ptr<grpc::Service> MakeCatalogService(const Parts* parts);
std::unique_ptr<grpc::Service> MakeAdminService(const Parts* parts);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_SERVICES_H_
