#include "server/retrainer.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/escaping.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "model/learn_job.h"
#include "model/parameters.h"
#include "server/child.h"

namespace nearline::server {
namespace {

constexpr size_t kMaxRuns = 100;

// Where a run's checkpoint and job lie while it is under way.
std::string FolderOf(const Config& config, const std::string& run_id) {
  return JoinPath(JoinPath(config.data_dir, "checkpoints"), run_id);
}

std::string JobOf(const Config& config, const std::string& run_id) {
  return JoinPath(FolderOf(config, run_id), "job.json");
}

}  // namespace

std::string TrainerProgram(const Config& config) {
  if (!config.training.program.empty()) return config.training.program;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "nearline-train").string();
}

absl::Status RunTrainer(const Config& config, const std::string& run_id,
                        const std::function<bool()>& stop,
                        const OnLine& on_line) {
  const std::string runs = JoinPath(config.data_dir, "runs");
  RETURN_IF_ERROR(MakeDirs(runs));
  const ChildOptions child{
      .command = {TrainerProgram(config), "run", "--job",
                  JobOf(config, run_id)},
      .error_file = JoinPath(runs, run_id + ".log"),
      .memory_bytes = config.training.memory_mb << 20,
      // In a container of its own it shares no quota with the server.
      .pace = config.training.socket.empty(),
      .hang_cpu = config.training.hang_cpu,
      .stop = stop};
  return RunChild(child, on_line);
}

absl::Duration RunStatus::TimeLeft(absl::Time now) const {
  if (done()) return absl::ZeroDuration();
  if (share_done < 0.02) return absl::Seconds(-1);
  return (now - started) * ((1 - share_done) / share_done);
}

Retrainer::Retrainer(const Config& config, features::Store* store,
                     model::GenerationStore* generations, ModelSlot* slot,
                     const Clock* clock, Run run)
    : config_(config),
      store_(*store),
      generations_(*generations),
      slot_(*slot),
      clock_(*clock),
      run_(std::move(run)),
      last_run_(clock->Now()) {
  // What the model in service has not seen counts, before and after a restart.
  if (const GenerationPtr current = slot_.Snapshot(); current != nullptr) {
    last_run_ = absl::FromUnixMicros(current->manifest().created_micros);
    last_sequence_ = current->manifest().sequence;
  }
  // What a run left behind when the server died.
  (void)RemoveAll(JoinPath(config_.data_dir, "checkpoints"));
  thread_ = std::thread([this] { Loop(); });
}

Retrainer::~Retrainer() { Stop(); }

void Retrainer::Stop() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    cv_.SignalAll();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  // What was asked for and never begun.
  std::deque<Order> orders;
  {
    MutexLock lock(&mu_);
    orders.swap(orders_);
    running_.clear();
    stats_.failed += static_cast<int64_t>(orders.size());
  }
  for (const Order& order : orders) {
    Update(order.id, [&](RunStatus* run) {
      run->phase = "done";
      run->ended = clock_.Now();
      run->state = RunStatus::State::kFailed;
      run->message = "the server stopped before the run began";
    });
  }
}

std::string Retrainer::Enqueue(bool cold, const std::string& reason) {
  RunStatus run;
  run.id = absl::StrCat(
      "run-",
      absl::FormatTime("%Y%m%d-%H%M%S-", clock_.Now(), absl::UTCTimeZone()),
      absl::BytesToHexString(RandomBytes(2)));
  run.started = clock_.Now();
  run.ended = absl::InfiniteFuture();
  orders_.push_back({run.id, cold, reason});
  running_ = run.id;
  runs_.push_back(run);
  if (runs_.size() > kMaxRuns) runs_.pop_front();
  cv_.SignalAll();
  return run.id;
}

absl::StatusOr<Retrainer::Started> Retrainer::Start(bool cold,
                                                    const std::string& reason) {
  MutexLock lock(&mu_);
  if (stopping_) return absl::UnavailableError("the server is stopping");
  if (running_.empty()) return Started{Enqueue(cold, reason), false};
  if (config_.training.second_request == "join") return Started{running_, true};
  return absl::FailedPreconditionError(
      absl::StrCat(running_, " is under way; wait for its end"));
}

absl::StatusOr<int64_t> Retrainer::Watch(const std::string& run_id,
                                         Watcher watcher) {
  MutexLock watch_lock(&watch_mu_);
  RunStatus now;
  {
    MutexLock lock(&mu_);
    const auto found =
        std::find_if(runs_.rbegin(), runs_.rend(), [&](const RunStatus& run) {
          return run_id.empty() || run.id == run_id;
        });
    if (found == runs_.rend()) {
      return absl::NotFoundError(
          run_id.empty() ? "there was no run yet; start one with Retrain"
                         : absl::StrCat("no run ", Quoted(run_id)));
    }
    now = *found;
  }
  const int64_t id = next_watch_++;
  watcher(now);
  watchers_[id] = {now.id, std::move(watcher)};
  return id;
}

void Retrainer::Unwatch(int64_t watch) {
  MutexLock lock(&watch_mu_);
  watchers_.erase(watch);
}

std::string Retrainer::RunningId() const {
  MutexLock lock(&mu_);
  return running_;
}

std::optional<RunStatus> Retrainer::Running() const {
  MutexLock lock(&mu_);
  for (const RunStatus& run : runs_) {
    if (!running_.empty() && run.id == running_) return run;
  }
  return std::nullopt;
}

Retrainer::Stats Retrainer::stats() const {
  MutexLock lock(&mu_);
  return stats_;
}

void Retrainer::Update(const std::string& id,
                       const std::function<void(RunStatus*)>& change) {
  RunStatus now;
  {
    MutexLock lock(&mu_);
    for (RunStatus& run : runs_) {
      if (run.id != id) continue;
      change(&run);
      now = run;
    }
  }
  MutexLock lock(&watch_mu_);
  for (const auto& [watch, watched] : watchers_) {
    if (watched.run_id == id) watched.watcher(now);
  }
}

bool Retrainer::DueLocked(absl::Time now) const {
  const Config::Training& t = config_.training;
  if (t.interval > absl::ZeroDuration() && now - last_run_ >= t.interval) {
    return true;
  }
  return t.every_events > 0 &&
         store_.sequence() - last_sequence_ >=
             static_cast<features::Sequence>(t.every_events);
}

void Retrainer::Loop() {
  while (!stopping_) {
    Order order;
    {
      MutexLock lock(&mu_);
      if (orders_.empty()) cv_.WaitFor(&mu_, absl::Seconds(1));
      if (stopping_) return;
      if (orders_.empty()) {
        if (!DueLocked(clock_.Now())) continue;
        Enqueue(false, "due");
      }
      order = orders_.front();
      orders_.pop_front();
      last_run_ = clock_.Now();
      last_sequence_ = store_.sequence();
    }
    Execute(order);
  }
}

void Retrainer::Execute(const Order& order) {
  spdlog::info("training run {} begins ({})", order.id,
               order.reason.empty() ? "asked for" : Quoted(order.reason));
  const Config::Training& t = config_.training;
  Stage main{t.retriever, t.ranker};
  if (slot_.Snapshot() == nullptr && !t.first.empty() &&
      (t.first != t.retriever || !t.ranker.empty())) {
    main.begin = 0.1;
    std::string first = t.first;
    if (first == "auto") {
      // Of so many items ease, whose time grows with their cube, still takes a
      // minute or so.
      constexpr size_t kEaseItems = 15000;
      first = store_.ReadCatalogue()->size() > kEaseItems ? "paths" : "ease";
    }
    PublishFirst(order, {first, "", 0, main.begin});
  }
  const absl::StatusOr<model::Manifest> manifest = Train(order, main);
  absl::Status published;
  if (manifest.ok() && manifest->accepted) {
    Update(order.id, [](RunStatus* run) {
      run->phase = "publish";
      run->share_done = 0.98;
    });
    published = slot_.Publish(manifest->id);
  }
  const absl::Status failure = manifest.ok() ? published : manifest.status();
  {
    MutexLock lock(&mu_);
    Count(!failure.ok()        ? RunStatus::State::kFailed
          : manifest->accepted ? RunStatus::State::kPublished
                               : RunStatus::State::kRejected);
    stats_.last_duration = clock_.Now() - last_run_;
    // Free before the watchers hear of the end, so that they may start another.
    running_.clear();
  }
  Update(order.id, [&](RunStatus* run) {
    run->phase = "done";
    if (failure.ok()) run->share_done = 1;
    run->ended = clock_.Now();
    if (manifest.ok()) {
      run->generation = manifest->id;
      run->candidate = manifest->metrics;
      run->incumbent = manifest->incumbent_metrics;
      run->message = manifest->decision;
      run->state = manifest->accepted ? RunStatus::State::kPublished
                                      : RunStatus::State::kRejected;
    }
    if (!failure.ok()) {
      run->state = RunStatus::State::kFailed;
      run->message = std::string(failure.message());
    }
  });
  if (failure.ok()) {
    spdlog::info("training run {}: {} {}", order.id, manifest->id,
                 manifest->decision);
  } else {
    spdlog::error("training run {} failed: {}", order.id, failure.ToString());
  }
  const absl::Status pruned =
      generations_.Prune(config_.training.keep_generations);
  if (!pruned.ok()) spdlog::warn("pruning: {}", pruned.ToString());
}

void Retrainer::Count(RunStatus::State outcome) {
  if (outcome == RunStatus::State::kPublished) {
    ++stats_.published;
    stats_.rejected_in_a_row = stats_.failed_in_a_row = 0;
  } else if (outcome == RunStatus::State::kRejected) {
    ++stats_.rejected;
    ++stats_.rejected_in_a_row;
  } else {
    ++stats_.failed;
    ++stats_.failed_in_a_row;
  }
}

// Good at once, best a little later: what comes of it is not the run's end.
void Retrainer::PublishFirst(const Order& order, const Stage& stage) {
  const absl::StatusOr<model::Manifest> manifest = Train(order, stage);
  absl::Status status = manifest.status();
  if (status.ok() && manifest->accepted) status = slot_.Publish(manifest->id);
  if (!status.ok()) {
    spdlog::warn("training run {}: no first {}: {}", order.id, stage.retriever,
                 status.ToString());
    return;
  }
  spdlog::info("training run {}: first {} {}", order.id, manifest->id,
               manifest->decision);
  if (!manifest->accepted) return;
  Update(order.id, [&](RunStatus* run) { run->first = manifest->id; });
}

absl::StatusOr<model::Manifest> Retrainer::Train(const Order& order,
                                                 const Stage& stage) {
  Update(order.id, [](RunStatus* run) {
    run->phase = "checkpoint";
    run->epoch = run->epochs = 0;
  });
  const std::string folder = FolderOf(config_, order.id);
  RETURN_IF_ERROR(MakeDirs(folder));

  const Config::Training& t = config_.training;
  model::LearnJob job;
  job.checkpoint = JoinPath(folder, "store");
  job.generations = JoinPath(config_.data_dir, "generations");
  if (const GenerationPtr current = slot_.Snapshot(); current != nullptr) {
    job.incumbent = current->id();
  }
  // Another container may have devices that this one has not, or none.
  job.device = t.socket.empty()    ? config_.device
               : t.device == "cpu" ? "cpu"
                                   : "auto";
  job.warm_start = t.warm_start && !order.cold;
  job.retriever = stage.retriever;
  job.ranker = stage.ranker;
  job.parameters = t.parameters;
  job.event_types = config_.store.event_types;
  job.profile = config_.store.profile;
  job.established_after = config_.store.established_after;
  job.split = t.split;
  job.gate = t.gate;
  job.shortlist = config_.serving.shortlist;
  job.index_items = config_.serving.index_items;
  job.seed = static_cast<uint64_t>(t.seed);
  job.threads = t.threads;
  std::string generation, error;
  absl::Status status = MakeCheckpoint(job.checkpoint);
  if (status.ok()) {
    status = WriteFileAtomic(JobOf(config_, order.id), job.ToJson().dump(2));
  }
  if (status.ok()) {
    status = run_(
        config_, order.id, [this] { return stopping_.load(); },
        [&](const std::string& line) {
          Told(order.id, stage, line, &generation, &error);
        });
  }
  (void)RemoveAll(folder);
  ForgetCheckpoint();
  if (!error.empty()) return absl::AbortedError(error);
  RETURN_IF_ERROR(status);
  if (generation.empty()) {
    return absl::AbortedError(
        "the trainer ended without naming a generation; see its log");
  }
  return model::Bundle::ReadManifest(generations_.FolderOf(generation));
}

absl::Status Retrainer::MakeCheckpoint(const std::string& folder) {
  {
    MutexLock lock(&mu_);
    checkpoint_ = folder;
  }
  return store_.Checkpoint(folder);
}

void Retrainer::RemoveCheckpoint() {
  std::string folder;
  {
    MutexLock lock(&mu_);
    folder = checkpoint_;
  }
  if (folder.empty()) return;
  if (const absl::Status removed = RemoveAll(folder); !removed.ok()) {
    spdlog::error("{}", removed.ToString());  // tried again at the run's end
    return;
  }
  ForgetCheckpoint();
}

void Retrainer::ForgetCheckpoint() {
  MutexLock lock(&mu_);
  checkpoint_.clear();
  cv_.SignalAll();
}

void Retrainer::AwaitNoCheckpoint() {
  MutexLock lock(&mu_);
  const std::string now = checkpoint_;
  while (!now.empty() && checkpoint_ == now) cv_.Wait(&mu_);
}

void Retrainer::Told(const std::string& id, const Stage& stage,
                     const std::string& line, std::string* generation,
                     std::string* error) {
  const auto json = ParseJson(line);
  if (!json.ok() || !json->is_object()) return;
  if (json->contains("done")) {
    *generation = JsonReader(*json, "trainer").String("done");
  } else if (json->contains("error")) {
    *error = JsonReader(*json, "trainer").String("error");
  } else {
    JsonReader in(*json, "trainer");
    const std::string phase = in.String("phase");
    const auto epoch = static_cast<int>(in.Int("epoch"));
    const auto epochs = static_cast<int>(in.Int("epochs"));
    const double loss = in.Double("loss");
    const double share = in.Double("share");
    if (!in.status().ok()) return;
    if (phase != "load") RemoveCheckpoint();  // it has been read
    Update(id, [&](RunStatus* run) {
      run->phase = phase;
      run->epoch = epoch;
      run->epochs = epochs;
      run->loss = loss;
      const double done = 0.01 + 0.96 * std::clamp(share, 0.0, 1.0);
      run->share_done = stage.begin + (stage.end - stage.begin) * done;
    });
  }
}

}  // namespace nearline::server
