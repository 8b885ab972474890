#ifndef NEARLINE_SERVER_BATCHER_H_
#define NEARLINE_SERVER_BATCHER_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"

namespace nearline::server {

struct BatcherOptions {
  int max_batch = 32;
  int max_queued = 1000;  // beyond: RESOURCE_EXHAUSTED
  int max_leaders = 1;    // batches run at a time
};

// Micro-batches without waiting: a caller that finds no leader runs a batch on
// its own thread, so a lone job runs at once; others leave their job and go.
// When jobs came meanwhile a thread kept for that leads on, so that no caller
// is held up by the work of others, until the queue is empty. Under load,
// batches fill while the one before runs. Thread-safe.
template <typename Job>
class Batcher {
 public:
  using Run = std::function<void(std::vector<std::unique_ptr<Job>> batch,
                                 int still_queued)>;

  Batcher(BatcherOptions options, Run run)
      : options_(options), run_(std::move(run)) {
    for (int i = 0; i < options_.max_leaders; ++i) {
      threads_.emplace_back([this] { LeadOn(); });
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

  // Errors: RESOURCE_EXHAUSTED when the queue is full; the job is dropped, and
  // nobody else will answer it.
  absl::Status Submit(std::unique_ptr<Job> job) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      if (static_cast<int>(queue_.size()) >= options_.max_queued) {
        return absl::ResourceExhaustedError(
            absl::StrCat("the queue is full (", queue_.size(),
                         " requests waiting); retry after a pause"));
      }
      queue_.push_back(std::move(job));
      if (leaders_ >= options_.max_leaders) return absl::OkStatus();
      ++leaders_;
    }
    RunBatch();
    MutexLock lock(&mu_);
    if (queue_.empty()) {
      --leaders_;
    } else {
      ++handed_over_;  // leadership goes with it
      cv_.Signal();
    }
    return absl::OkStatus();
  }

  int queued() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return static_cast<int>(queue_.size());
  }

 private:
  // Returns false when nothing was queued.
  bool RunBatch() ABSL_LOCKS_EXCLUDED(mu_) {
    std::vector<std::unique_ptr<Job>> batch;
    int still_queued = 0;
    {
      MutexLock lock(&mu_);
      while (!queue_.empty() &&
             static_cast<int>(batch.size()) < options_.max_batch) {
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      still_queued = static_cast<int>(queue_.size());
    }
    if (batch.empty()) return false;
    run_(std::move(batch), still_queued);
    return true;
  }

  void LeadOn() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    while (true) {
      while (handed_over_ == 0 && !stopping_) cv_.Wait(&mu_);
      if (handed_over_ == 0) return;
      --handed_over_;
      while (!queue_.empty()) {
        mu_.Unlock();
        RunBatch();
        mu_.Lock();
      }
      --leaders_;
    }
  }

  const BatcherOptions options_;
  const Run run_;
  mutable Mutex mu_;
  std::deque<std::unique_ptr<Job>> queue_ ABSL_GUARDED_BY(mu_);
  CondVar cv_;
  int leaders_ ABSL_GUARDED_BY(mu_) = 0;
  int handed_over_ ABSL_GUARDED_BY(mu_) = 0;  // leaderships without a thread
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;  // max_leaders
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_BATCHER_H_
