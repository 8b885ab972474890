#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/version.h"
#include "model/devices.h"
#include "model/index_scanner.h"
#include "model/kernels.h"
#include "server/health_service.h"
#include "server/services.h"

namespace nearline::server {
namespace {

constexpr prometheus::MetricType kCounter = prometheus::MetricType::Counter;
constexpr prometheus::MetricType kGauge = prometheus::MetricType::Gauge;

int LeadersOf(const Config& config) {
  if (config.serving.leaders > 0) return config.serving.leaders;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2);
}

std::vector<Metrics::Reading> ReadParts(const Parts& parts) {
  const features::Store::Stats s = parts.store->stats();
  const Retrainer::Stats r = parts.retrainer->stats();
  std::vector<Metrics::Reading> out = {
      {"nearline_queued_requests",
       "Recommend calls waiting for a batch.",
       kGauge,
       static_cast<double>(parts.batcher->queued()),
       {}},
      {"nearline_queued_events",
       "Events waiting for the disk.",
       kGauge,
       static_cast<double>(s.queued_events),
       {}},
      {"nearline_store_syncs_total",
       "Writes synced to disk.",
       kCounter,
       static_cast<double>(s.syncs),
       {}},
      {"nearline_store_sync_seconds_total",
       "Time spent in synced writes.",
       kCounter,
       absl::ToDoubleSeconds(s.sync_time),
       {}},
      {"nearline_store_failed_writes_total",
       "Writes that failed.",
       kCounter,
       static_cast<double>(s.failed_writes),
       {}},
      {"nearline_store_sequence",
       "Sequence of the newest event.",
       kGauge,
       static_cast<double>(parts.store->sequence()),
       {}},
      {"nearline_store_users",
       "Users known.",
       kGauge,
       static_cast<double>(parts.store->users()),
       {}},
      {"nearline_store_items",
       "Items in the catalogue.",
       kGauge,
       static_cast<double>(parts.store->ReadCatalogue()->listed()),
       {}},
      {"nearline_hot_profiles",
       "Profiles in memory.",
       kGauge,
       static_cast<double>(s.profiles.profiles),
       {}},
      {"nearline_hot_profile_bytes",
       "Memory of the profiles.",
       kGauge,
       static_cast<double>(s.profiles.bytes),
       {}},
      {"nearline_hot_profile_hits_total",
       "Profiles found in memory.",
       kCounter,
       static_cast<double>(s.profiles.hits),
       {}},
      {"nearline_hot_profile_misses_total",
       "Profiles read from the log.",
       kCounter,
       static_cast<double>(s.profiles.misses),
       {}},
      {"nearline_hot_profile_evictions_total",
       "Profiles pushed out.",
       kCounter,
       static_cast<double>(s.profiles.evictions),
       {}},
      {"nearline_training_runs_total",
       "Training runs, by outcome.",
       kCounter,
       static_cast<double>(r.published),
       {{"outcome", "published"}}},
      {"nearline_training_runs_total",
       "",
       kCounter,
       static_cast<double>(r.rejected),
       {{"outcome", "rejected"}}},
      {"nearline_training_runs_total",
       "",
       kCounter,
       static_cast<double>(r.failed),
       {{"outcome", "failed"}}},
      {"nearline_training_running",
       "1 while a run is under way.",
       kGauge,
       parts.retrainer->RunningId().empty() ? 0.0 : 1.0,
       {}},
      {"nearline_training_last_duration_seconds",
       "Of the last run.",
       kGauge,
       absl::ToDoubleSeconds(r.last_duration),
       {}},
  };
  const GenerationPtr g = parts.slot->Snapshot();
  out.push_back({"nearline_generation_in_service",
                 "1 when a model serves, 0 when popular items do.",
                 kGauge,
                 g == nullptr ? 0.0 : 1.0,
                 {}});
  if (g == nullptr) return out;
  out.push_back({"nearline_generation_age_seconds",
                 "Since the model was trained.",
                 kGauge,
                 absl::ToDoubleSeconds(
                     parts.clock->Now() -
                     absl::FromUnixMicros(g->manifest().created_micros)),
                 {}});
  out.push_back({"nearline_index_recall",
                 "Share of the 100 best that the approximate index found when "
                 "it was tuned; 1 without one.",
                 kGauge,
                 g->scanner().report().recall,
                 {}});
  for (const auto& [name, value] : g->manifest().metrics) {
    if (!absl::StrContains(name, "@") || absl::StartsWith(name, "popularity")) {
      continue;
    }
    out.push_back({"nearline_generation_quality",
                   "Holdout metrics of the model in service.",
                   kGauge,
                   value,
                   {{"metric", name}}});
  }
  return out;
}

}  // namespace

struct Server::Impl {
  Config config;
  std::optional<FileLock> lock;
  Metrics metrics;
  std::unique_ptr<features::Store> store;
  std::unique_ptr<model::LocalGenerationStore> generations;
  std::unique_ptr<ModelSlot> slot;
  std::unique_ptr<Pipeline> pipeline;
  std::unique_ptr<Batcher<RecommendJob>> batcher;
  std::unique_ptr<Retrainer> retrainer;
  Parts parts;
  HealthService health{&parts.rpc};
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::Server> grpc;
  int port = 0;

  absl::Status OpenParts();
  absl::Status Listen();
};

absl::Status Server::Impl::OpenParts() {
  RETURN_IF_ERROR(MakeDirs(config.data_dir));
  ASSIGN_OR_RETURN(lock, FileLock::Acquire(JoinPath(config.data_dir, "LOCK")));
  ASSIGN_OR_RETURN(const model::Device device,
                   model::OpenDevice(config.device));
  config.device = device.name;
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
      .query_cache_bytes = config.serving.query_cache_mb << 20};
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
  retrainer = std::make_unique<Retrainer>(
      config, store.get(), generations.get(), slot.get(), Clock::Real());
  parts = {.config = &config,
           .clock = Clock::Real(),
           .store = store.get(),
           .generations = generations.get(),
           .slot = slot.get(),
           .pipeline = pipeline.get(),
           .batcher = batcher.get(),
           .retrainer = retrainer.get(),
           .metrics = &metrics,
           .rpc = {.metrics = &metrics, .idle = [this] { batcher->Help(); }},
           .started = absl::Now(),
           .device = device.name};
  metrics.set_reader([this] { return ReadParts(parts); });
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
  grpc::ServerBuilder builder;
  builder.AddListeningPort(config.listen, grpc::InsecureServerCredentials(),
                           &port);
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(config.limits.max_message_mb << 20));
  // Two servers on one port would share its traffic in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  for (const auto& service : services) builder.RegisterService(service.get());
  builder.RegisterService(&health);
  grpc = builder.BuildAndStart();
  if (grpc == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", config.listen,
        ": is another server there? Set listen to a free host:port"));
  }
  if (!config.metrics_listen.empty()) {
    RETURN_IF_ERROR(metrics.Expose(config.metrics_listen));
  }
  return absl::OkStatus();
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(Config config) {
  auto impl = std::make_unique<Impl>();
  impl->config = std::move(config);
  std::unique_ptr<Server> server(new Server(std::move(impl)));
  RETURN_IF_ERROR(server->impl_->OpenParts());
  RETURN_IF_ERROR(server->impl_->Listen());
  const GenerationPtr generation = server->impl_->slot->Snapshot();
  spdlog::info(
      "nearline {} serves on {} (port {}), {}, {} kernels, log {} at "
      "{}, generation {}",
      kVersion, server->impl_->config.listen, server->impl_->port,
      server->impl_->parts.device, model::KernelTarget(),
      server->impl_->store->log_id(), server->impl_->store->sequence(),
      generation == nullptr ? "none" : generation->id());
  return server;
}

Server::~Server() {
  if (impl_->grpc != nullptr) {
    // Streams that watch end first; then no call is left hanging.
    impl_->health.Drain();
    impl_->retrainer->Stop();
    impl_->grpc->Shutdown(
        absl::ToChronoTime(absl::Now() + impl_->config.serving.drain));
    impl_->grpc.reset();
  }
  impl_->metrics.StopExposing();
}

int Server::port() const { return impl_->port; }
std::string Server::Scrape() const { return impl_->metrics.Scrape(); }

}  // namespace nearline::server
