#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/version.h"
#include "model/devices.h"
#include "model/index_scanner.h"
#include "model/kernels.h"
#include "server/door.h"
#include "server/health_service.h"
#include "server/listener.h"
#include "server/readings.h"
#include "server/services.h"
#include "server/trainer_host.h"

namespace nearline::server {
namespace {

int LeadersOf(const Config& config) {
  if (config.serving.leaders > 0) return config.serving.leaders;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2);
}

using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

void HandOn(Listener* listener, Acceptor* acceptor) {
  listener->Start([acceptor](int listening_fd, int fd) {
    Acceptor::NewConnectionParameters in;
    in.listener_fd = listening_fd;
    in.fd = fd;
    acceptor->HandleNewConnection(&in);
  });
}

// gRPC bounds what comes in, not what it becomes: 16 MiB of compressed zeros
// would be 16 GiB before anybody asks who sent them.
void RefuseCompression(grpc::ServerBuilder* builder) {
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
}

void LogSweep(const absl::StatusOr<features::RetireResult>& swept) {
  if (!swept.ok()) {
    spdlog::error("retention: the sweep failed and is tried again soon: {}",
                  swept.status().ToString());
  } else if (swept->events + swept->users > 0) {
    spdlog::info("retention: {} events and {} users had been kept long enough",
                 swept->events, swept->users);
  }
}

}  // namespace

struct Server::Impl {
  Config config;
  std::optional<FileLock> lock;
  std::unique_ptr<Door> door;
  std::unique_ptr<Listener> listener;
  Metrics metrics;
  ShutdownNotice shutdown;
  std::unique_ptr<features::Store> store;
  std::unique_ptr<model::LocalGenerationStore> generations;
  std::unique_ptr<ModelSlot> slot;
  std::unique_ptr<Pipeline> pipeline;
  std::unique_ptr<Batcher<RecommendJob>> batcher;
  std::unique_ptr<Retrainer> retrainer;
  std::unique_ptr<Backups> backups;  // null: there is no backup.dir
  std::unique_ptr<features::Retention> retention;  // null: all is kept
  Parts parts;
  HealthService health{&parts.rpc};
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<Acceptor> acceptor;
  std::unique_ptr<grpc::Server> grpc;
  // For probes; null: not by itself.
  std::unique_ptr<Listener> health_listener;
  std::unique_ptr<Acceptor> health_acceptor;
  std::unique_ptr<grpc::Server> health_grpc;

  absl::Status OpenParts();
  absl::Status Listen();
  absl::Status ListenForProbes();
};

absl::Status Server::Impl::OpenParts() {
  ASSIGN_OR_RETURN(lock, FileLock::Acquire(JoinPath(config.data_dir, "LOCK")));
  const std::string restoring = RestoringIn(config.data_dir);
  if (FileExists(restoring) &&
      !FileExists(JoinPath(config.data_dir, "store"))) {
    return absl::FailedPreconditionError(
        absl::StrCat("a restore into ", config.data_dir,
                     " was cut short: run `nearline-server restore` again"));
  }
  RETURN_IF_ERROR(RemoveAll(restoring));  // of one that was all but done
  ASSIGN_OR_RETURN(const model::Device device,
                   model::OpenDevice(config.device));
  config.training.device = std::exchange(config.device, device.name);
  features::StoreOptions options = config.store;
  options.database.path = JoinPath(config.data_dir, "store");
  options.database.log = [](int level, absl::string_view message) {
    // Two checkpoints' bookkeeping, which RocksDB warns of.
    if (absl::StrContains(message, "File Deletions")) return;
    const bool lost = absl::StrContains(message, "dropping") &&
                      absl::StrContains(message, "Corruption");
    const auto to =
        level >= 3 || lost ? spdlog::level::err : spdlog::level::warn;
    spdlog::log(to, "store: {}", std::string(message));
    if (lost) {
      spdlog::error(
          "the newest part of the log was damaged and is left out. After a "
          "crash that is what was never acknowledged; after damage to the disk "
          "acknowledged events are lost: compare with a backup or a replica");
    }
  };
  ASSIGN_OR_RETURN(store, features::Store::Open(std::move(options)));
  generations = std::make_unique<model::LocalGenerationStore>(
      JoinPath(config.data_dir, "generations"));
  const model::ScoringFactory scoring =
      config.serving.index_items == 0
          ? device.scoring
          : model::WithIndex(device.scoring,
                             {.least_items = config.serving.index_items,
                              .recall = config.serving.index_recall});
  const ModelSlotOptions slot_options = {
      .keep_retired = config.serving.page_ttl,
      .rank = config.serving.rank,
      .query_cache_bytes = config.serving.query_cache_mb << 20,
      .encoder_state_bytes = config.serving.encoder_states_mb << 20};
  slot = std::make_unique<ModelSlot>(store.get(), generations.get(), scoring,
                                     slot_options, Clock::Real());
  RETURN_IF_ERROR(slot->LoadCurrent());
  PipelineOptions pipeline_options;
  pipeline_options.recommend = {.shortlist = config.serving.shortlist,
                                .rank = config.serving.rank};
  pipeline_options.page_ttl = config.serving.page_ttl;
  pipeline_options.overload_queue = config.serving.max_queued / 2;
  pipeline = std::make_unique<Pipeline>(
      store.get(), slot.get(), pipeline_options, Clock::Real(),
      [this](const BatchReport& report) { metrics.OnBatch(report); });
  batcher = std::make_unique<Batcher<RecommendJob>>(
      BatcherOptions{.max_batch = config.serving.max_batch,
                     .max_queued = config.serving.max_queued,
                     .max_wait = config.serving.max_wait,
                     .max_leaders = LeadersOf(config)},
      [this](std::vector<std::unique_ptr<RecommendJob>> batch, int queued,
             const std::function<void()>& computed) {
        pipeline->Run(std::move(batch), queued, computed);
      },
      [](std::unique_ptr<RecommendJob> job, const absl::Status& status) {
        job->done(status);
      });
  const auto by_host = [](const Config& c, const std::string& run_id,
                          const std::function<bool()>& stop,
                          const OnLine& on_line) {
    return RunTrainerByHost(c, run_id, stop, on_line);
  };
  retrainer = std::make_unique<Retrainer>(
      config, store.get(), generations.get(), slot.get(), Clock::Real(),
      config.training.socket.empty() ? Retrainer::Run(RunTrainer) : by_host);
  ASSIGN_OR_RETURN(backups,
                   Backups::Open(config, store.get(), generations.get()));
  if (config.store.retention.enabled()) {
    retention = std::make_unique<features::Retention>(store.get(),
                                                      Clock::Real(), LogSweep);
  }
  parts = {.config = &config,
           .clock = Clock::Real(),
           .store = store.get(),
           .generations = generations.get(),
           .slot = slot.get(),
           .pipeline = pipeline.get(),
           .batcher = batcher.get(),
           .retrainer = retrainer.get(),
           .retention = retention.get(),
           .backups = backups.get(),
           .metrics = &metrics,
           .rpc = {.metrics = &metrics,
                   .access = door->access(),
                   .audit = door->audit(),
                   .shutdown = &shutdown,
                   .max_metadata_bytes = config.limits.max_metadata_kb << 10,
                   .slow_call = config.log.slow_calls,
                   .idle = [this] { batcher->Help(); }},
           .started = absl::Now(),
           .device = device.name};
  metrics.set_reader([this] {
    std::vector<Metrics::Reading> readings = ReadParts(parts);
    for (const auto& more : {door->Read(), ReadListener(listener.get())}) {
      readings.insert(readings.end(), more.begin(), more.end());
    }
    return readings;
  });
  return absl::OkStatus();
}

absl::Status Server::Impl::Listen() {
  services.push_back(MakeRecommendationService(&parts));
  services.push_back(MakeFeedbackService(&parts));
  services.push_back(MakeModelService(&parts));
  services.push_back(MakeCatalogService(&parts));
  services.push_back(MakeAdminService(&parts));
  static std::once_flag plugins;
  std::call_once(plugins, [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
  ASSIGN_OR_RETURN(
      listener, Listener::Bind(config.listen, config.limits.max_connections));
  parts.listener = listener.get();
  grpc::ServerBuilder builder;
  acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      door->Credentials());
  const Config::Limits& limits = config.limits;
  // Else whoever reaches the port could have it hold the beginnings of large
  // messages without end, before anybody asks who they are.
  grpc::ResourceQuota quota("nearline");
  quota.Resize(static_cast<size_t>(
                   std::max(limits.messages_mb, 4 * limits.max_message_mb))
               << 20);
  builder.SetResourceQuota(quota);
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(limits.max_message_mb << 20));
  // Beyond it gRPC ends the whole connection; Visit refuses the call alone.
  builder.AddChannelArgument(
      GRPC_ARG_MAX_METADATA_SIZE,
      static_cast<int>(std::max<int64_t>(8 * limits.max_metadata_kb, 64)
                       << 10));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             limits.max_calls_per_connection);
  // Whose machine is gone, without a word, holds nothing for longer.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 5 * 60 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20 * 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_MAX_CONNECTION_IDLE_MS,
      static_cast<int>(absl::ToInt64Milliseconds(limits.idle_connection)));
  builder.AddChannelArgument(
      GRPC_ARG_MAX_CONNECTION_AGE_MS,
      static_cast<int>(absl::ToInt64Milliseconds(limits.connection_age)));
  RefuseCompression(&builder);
  for (const auto& service : services) builder.RegisterService(service.get());
  builder.RegisterService(&health);
  grpc = builder.BuildAndStart();
  if (grpc == nullptr) {
    return absl::InternalError("gRPC did not start; its own log says why");
  }
  RETURN_IF_ERROR(ListenForProbes());
  if (!config.metrics_listen.empty()) {
    RETURN_IF_ERROR(metrics.Expose(config.metrics_listen));
  }
  HandOn(listener.get(), acceptor.get());
  return absl::OkStatus();
}

absl::Status Server::Impl::ListenForProbes() {
  if (config.health_listen.empty()) return absl::OkStatus();
  constexpr int kMostProbers = 100;
  ASSIGN_OR_RETURN(health_listener,
                   Listener::Bind(config.health_listen, kMostProbers));
  grpc::ServerBuilder builder;
  health_acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(1 << 10);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 10);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 60 * 1000);
  RefuseCompression(&builder);
  builder.RegisterService(&health);
  health_grpc = builder.BuildAndStart();
  if (health_grpc == nullptr) {
    return absl::InternalError("gRPC did not start; its own log says why");
  }
  HandOn(health_listener.get(), health_acceptor.get());
  return absl::OkStatus();
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Config config) {
  auto impl = std::make_unique<Impl>();
  impl->config = std::move(config);
  std::unique_ptr<Server> server(new Server(std::move(impl)));
  RETURN_IF_ERROR(MakeDirs(server->impl_->config.data_dir));
  // First: a door that cannot be locked is found before anything is loaded.
  ASSIGN_OR_RETURN(server->impl_->door, Door::Open(server->impl_->config));
  RETURN_IF_ERROR(server->impl_->OpenParts());
  RETURN_IF_ERROR(server->impl_->Listen());
  const GenerationPtr generation = server->impl_->slot->Snapshot();
  spdlog::info(
      "nearline {} serves on {} (port {}, {}), {}, {} kernels, log {} at "
      "{}, generation {}",
      kVersion, server->impl_->config.listen, server->port(),
      server->impl_->door->tls() ? "TLS" : "no TLS",
      server->impl_->parts.device, model::KernelTarget(),
      server->impl_->store->log_id(), server->impl_->store->sequence(),
      generation == nullptr ? "none" : generation->id());
  return server;
}

Server::~Server() {
  if (impl_->grpc != nullptr) {
    // Streams that watch end first; then no call is left hanging.
    impl_->health.Drain();
    impl_->listener->Stop();
    impl_->retrainer->Stop();
    if (impl_->backups != nullptr) impl_->backups->Cancel();
    // What comes while gRPC shuts down it ends with a bare CANCELLED. By then
    // those who heard that the server is leaving pause before they try again.
    impl_->shutdown.Give();
    absl::SleepFor(
        std::min(impl_->config.serving.drain / 50, absl::Milliseconds(250)));
    impl_->grpc->Shutdown(
        absl::ToChronoTime(absl::Now() + impl_->config.serving.drain));
    if (impl_->health_grpc != nullptr) {
      impl_->health_listener->Stop();
      impl_->health_grpc->Shutdown(absl::ToChronoTime(absl::Now()));
    }
    impl_->health_grpc.reset();
    impl_->grpc.reset();
  }
  impl_->metrics.StopExposing();
}

int Server::port() const { return impl_->listener->port(); }
std::string Server::Scrape() const { return impl_->metrics.Scrape(); }

}  // namespace nearline::server
