#ifndef NEARLINE_SERVER_RETRAINER_H_
#define NEARLINE_SERVER_RETRAINER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/store.h"
#include "model/bundle.h"
#include "server/config.h"
#include "server/model_slot.h"

namespace nearline::server {

// A training run as it stands.
struct RunStatus {
  enum class State { kRunning, kPublished, kRejected, kFailed };
  std::string id;
  State state = State::kRunning;
  std::string phase = "waiting";
  int epoch = 0;
  int epochs = 0;
  double loss = 0;
  double share_done = 0;
  absl::Time started;
  absl::Time ended;  // infinite future while running
  std::string message;
  std::string generation;
  std::string first;  // a generation published on the way; empty: none
  std::map<std::string, double> candidate;
  std::map<std::string, double> incumbent;

  bool done() const { return state != State::kRunning; }
  absl::Duration TimeLeft(absl::Time now) const;  // negative while unknown
};

// training.program, or else nearline-train in the folder of this program.
std::string TrainerProgram(const Config& config);

// Runs the trainer on the job of a run, which lies in data_dir, as a child of
// this process, and calls `on_line` with every line that it prints. `stop` is
// asked about once a second; true ends it. Errors: as of RunChild.
using OnLine = std::function<void(const std::string&)>;
absl::Status RunTrainer(const Config& config, const std::string& run_id,
                        const std::function<bool()>& stop,
                        const OnLine& on_line);

// The retrain supervisor: triggers, the child process, the gate's verdict,
// publication. One run at a time. Thread-safe.
class Retrainer {
 public:
  // RunTrainer, or what does the same elsewhere.
  using Run =
      std::function<absl::Status(const Config&, const std::string& run_id,
                                 const std::function<bool()>&, const OnLine&)>;
  // All outlive this.
  Retrainer(const Config& config, features::Store* store,
            model::GenerationStore* generations, ModelSlot* slot,
            const Clock* clock, Run run = RunTrainer);
  ~Retrainer();

  // Ends a run under way and starts no other; its watchers hear of the end.
  void Stop();

  struct Started {
    std::string run_id;
    bool joined = false;
  };
  // Errors: FAILED_PRECONDITION when a run is under way and the configuration
  // refuses a second request; UNAVAILABLE after Stop.
  absl::StatusOr<Started> Start(bool cold, const std::string& reason);

  // The run's state now and at every change, until `Unwatch`. An empty id is
  // the newest run. Callbacks come from one thread at a time, and must call
  // neither Watch nor Unwatch. Errors: NOT_FOUND.
  using Watcher = std::function<void(const RunStatus&)>;
  absl::StatusOr<int64_t> Watch(const std::string& run_id, Watcher watcher);
  // After it returns, the watcher is not called any more.
  void Unwatch(int64_t watch);

  // Returns when no checkpoint of the log that is there now is on disk any
  // more: a trainer has it only while it reads, which takes seconds.
  void AwaitNoCheckpoint();

  // Empty when no run is under way.
  std::string RunningId() const;
  std::optional<RunStatus> Running() const;  // none while none is under way
  struct Stats {
    int64_t published = 0, rejected = 0, failed = 0;
    // Since the last that was published.
    int64_t rejected_in_a_row = 0, failed_in_a_row = 0;
    absl::Duration last_duration;
  };
  Stats stats() const;

 private:
  struct Order {
    std::string id;
    bool cold = false;
    std::string reason;
  };
  // One child process of a run.
  struct Stage {
    std::string retriever, ranker;
    double begin = 0, end = 1;  // shares of the run
  };

  void Loop();
  void Execute(const Order& order);
  void PublishFirst(const Order& order, const Stage& stage);
  absl::StatusOr<model::Manifest> Train(const Order& order, const Stage& stage);
  absl::Status MakeCheckpoint(const std::string& folder);
  void RemoveCheckpoint();
  void ForgetCheckpoint();
  void Told(const std::string& id, const Stage& stage, const std::string& line,
            std::string* generation, std::string* error);
  void Update(const std::string& id,
              const std::function<void(RunStatus*)>& change);
  std::string Enqueue(bool cold, const std::string& reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool DueLocked(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Config& config_;
  features::Store& store_;
  model::GenerationStore& generations_;
  ModelSlot& slot_;
  const Clock& clock_;
  const Run run_;
  std::atomic<bool> stopping_{false};

  mutable Mutex mu_;
  CondVar cv_;
  std::deque<Order> orders_ ABSL_GUARDED_BY(mu_);
  std::string running_ ABSL_GUARDED_BY(mu_);
  std::string checkpoint_ ABSL_GUARDED_BY(mu_);      // empty: there is none
  std::deque<RunStatus> runs_ ABSL_GUARDED_BY(mu_);  // newest last, at most 100
  absl::Time last_run_ ABSL_GUARDED_BY(mu_);
  features::Sequence last_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  void Count(RunStatus::State outcome) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Stats stats_ ABSL_GUARDED_BY(mu_);

  Mutex watch_mu_;  // held while watchers are called, so that Unwatch waits
  struct Watched {
    std::string run_id;
    Watcher watcher;
  };
  std::map<int64_t, Watched> watchers_ ABSL_GUARDED_BY(watch_mu_);
  int64_t next_watch_ ABSL_GUARDED_BY(watch_mu_) = 1;

  std::thread thread_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_RETRAINER_H_
