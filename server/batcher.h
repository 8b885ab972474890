#ifndef NEARLINE_SERVER_BATCHER_H_
#define NEARLINE_SERVER_BATCHER_H_

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "server/drain_rate.h"
#include "server/fair_queue.h"

namespace nearline::server {

struct BatcherOptions {
  int max_batch = 32;
  // Beyond: RESOURCE_EXHAUSTED. Also of jobs that would wait longer, as the
  // queue has lately been served.
  int max_queued = 1000;
  absl::Duration max_wait = absl::InfiniteDuration();
  // Batches computed at a time; twice as many where one and a half wait.
  int max_leaders = 1;
  const Clock* clock = Clock::Real();
};

// Whose a job is, and until when an answer is of use.
struct Admission {
  uint64_t caller = 0;
  absl::Time deadline = absl::InfiniteFuture();
};

// Micro-batches without waiting: a caller that finds no leader runs a batch on
// its own thread, so a lone job runs at once; others leave their job and go.
// Once a batch is computed, and before its answers are delivered, leadership is
// given up: no caller is held up by the work of others, and one batch is
// computed while the one before is delivered. Who leads next is the first
// thread that has time and says so by Help, or else the one that delivers, when
// it is done, or one that is kept for that. In a crowd a second one may lead
// beside another. For a while after a batch of several, callers leave leading
// to them, and bring more jobs instead: under load, batches fill. Callers are
// served in turn, job by job. Thread-safe.
template <typename Job>
class Batcher {
 public:
  // Runs a batch. To call `computed` when only delivery is left is allowed,
  // once.
  using Run = std::function<void(std::vector<std::unique_ptr<Job>> batch,
                                 int still_queued,
                                 const std::function<void()>& computed)>;
  // Answers a job that was admitted and has lost its place after all.
  using Refuse =
      std::function<void(std::unique_ptr<Job> job, const absl::Status& status)>;

  Batcher(BatcherOptions options, Run run, Refuse refuse = {})
      : options_(options), run_(std::move(run)), refuse_(std::move(refuse)) {
    // One more than usually compute: it delivers.
    for (int i = 0; i <= options_.max_leaders; ++i) {
      threads_.emplace_back([this] { Keep(); });
    }
  }
  // Runs what is queued.
  ~Batcher() {
    {
      MutexLock lock(&mu_);
      stopping_ = true;
      cv_.SignalAll();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  // Errors: RESOURCE_EXHAUSTED when the queue is full or too slow; the job is
  // dropped, and nobody else will answer it. A full queue still takes a job
  // whose caller has fewer waiting than another: that one's last is refused.
  absl::Status Submit(std::unique_ptr<Job> job, const Admission& admission = {})
      ABSL_LOCKS_EXCLUDED(mu_) {
    std::unique_ptr<Job> displaced;
    bool lead = false;
    {
      MutexLock lock(&mu_);
      RETURN_IF_ERROR(Admit(admission, &displaced));
      queue_.Push(admission.caller, std::move(job));
      if (lone_batches_ < kQuiet) {
        CallKept();
      } else {
        lead = BeginToLead(options_.max_leaders);
      }
    }
    if (displaced != nullptr) refuse_(std::move(displaced), Full());
    if (!lead) return absl::OkStatus();
    RunBatch();
    MutexLock lock(&mu_);
    CallKept();
    return absl::OkStatus();
  }

  // For a thread that has time, and whom nobody waits for: leads a batch if
  // jobs wait and nobody leads, or a crowd waits. Where more wait than that, it
  // is needed where it came from: calls that nobody takes in time cannot be
  // refused in time either.
  void Help() ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      if (static_cast<int>(queue_.size()) > 3 * options_.max_batch) {
        return CallKept();
      }
      if (!BeginToHelp()) return;
    }
    LeadOn();
  }

  int queued() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return static_cast<int>(queue_.size());
  }

 private:
  static constexpr int64_t kQuiet = 16;  // lone batches after a crowd

  absl::Status Full() const {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full (", options_.max_queued,
                     " requests waiting); retry after a pause"));
  }

  absl::Status Admit(const Admission& admission,
                     std::unique_ptr<Job>* displaced)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (queue_.empty()) return absl::OkStatus();
    const absl::Duration wait =
        static_cast<double>(queue_.Before(admission.caller) + 1) *
        drain_.a_job();
    if (wait > options_.max_wait) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "the queue is slow: an answer would take about ",
          absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1))),
          "; retry after a pause"));
    }
    // The way to the caller and back takes time, too, most of all under load.
    if (2 * wait > admission.deadline - options_.clock->Now()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "an answer would take about ",
          absl::FormatDuration(absl::Trunc(wait, absl::Milliseconds(1))),
          ", more than half of the time to its deadline; retry after a pause, "
          "or give more time"));
    }
    if (static_cast<int>(queue_.size()) < options_.max_queued) {
      return absl::OkStatus();
    }
    if (refuse_) *displaced = queue_.Displace(admission.caller);
    return *displaced == nullptr ? Full() : absl::OkStatus();
  }

  // Makes the calling thread a leader, if there is something to lead and fewer
  // than `most` lead.
  bool BeginToLead(int most) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (queue_.empty() || leaders_ >= most) return false;
    ++leaders_;
    return true;
  }
  // For threads whom nobody waits for: they may be more in a crowd.
  bool BeginToHelp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const bool crowd =
        2 * static_cast<int>(queue_.size()) >= 3 * options_.max_batch;
    return BeginToLead(crowd ? 2 * options_.max_leaders : options_.max_leaders);
  }

  // Wakes a kept thread for jobs that nobody else will come for: no leader, and
  // no thread that delivers and leads on.
  void CallKept() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (delivering_ == 0 && BeginToHelp()) {
      ++handed_over_;
      cv_.Signal();
    }
  }

  // By a leader; leads until others do, or nothing is left.
  void LeadOn() ABSL_LOCKS_EXCLUDED(mu_) {
    for (bool lead = true; lead;) {
      RunBatch();
      MutexLock lock(&mu_);
      lead = BeginToHelp();
    }
  }

  // By a leader, who is none any more afterwards.
  void RunBatch() ABSL_LOCKS_EXCLUDED(mu_) {
    std::vector<std::unique_ptr<Job>> batch;
    int still_queued = 0;
    {
      MutexLock lock(&mu_);
      while (!queue_.empty() &&
             static_cast<int>(batch.size()) < options_.max_batch) {
        batch.push_back(queue_.Pop());
      }
      drain_.BatchBegins(options_.clock->Now(), batch.size(), !queue_.empty());
      still_queued = static_cast<int>(queue_.size());
      lone_batches_ = batch.size() > 1 ? 0 : lone_batches_ + 1;
    }
    bool led = true;
    const auto computed = [&] {
      if (!std::exchange(led, false)) return;
      MutexLock lock(&mu_);
      ++delivering_;
      --leaders_;
    };
    if (!batch.empty()) run_(std::move(batch), still_queued, computed);
    computed();
    MutexLock lock(&mu_);
    --delivering_;
    if (stopping_) cv_.SignalAll();
  }

  void Keep() ABSL_LOCKS_EXCLUDED(mu_) {
    while (true) {
      {
        MutexLock lock(&mu_);
        while (handed_over_ == 0 &&
               !(stopping_ && leaders_ == 0 && delivering_ == 0)) {
          cv_.Wait(&mu_);
        }
        if (handed_over_ == 0) return;
        --handed_over_;
      }
      LeadOn();
    }
  }

  const BatcherOptions options_;
  const Run run_;
  const Refuse refuse_;  // may be empty
  mutable Mutex mu_;
  FairQueue<Job> queue_ ABSL_GUARDED_BY(mu_);
  DrainRate drain_ ABSL_GUARDED_BY(mu_);
  CondVar cv_;
  int leaders_ ABSL_GUARDED_BY(mu_) = 0;
  int delivering_ ABSL_GUARDED_BY(mu_) = 0;   // threads that lead on afterwards
  int handed_over_ ABSL_GUARDED_BY(mu_) = 0;  // leaderships without a thread
  // Since the last batch of several.
  int64_t lone_batches_ ABSL_GUARDED_BY(mu_) = kQuiet;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_BATCHER_H_
