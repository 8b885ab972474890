#ifndef NEARLINE_SERVER_BATCHER_H_
#define NEARLINE_SERVER_BATCHER_H_

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"

namespace nearline::server {

struct BatcherOptions {
  int max_batch = 32;
  int max_queued = 1000;  // beyond: RESOURCE_EXHAUSTED
  int max_leaders = 1;    // batches run at a time
};

// Micro-batches without threads and without waiting: a caller that finds no
// leader leads, running batches until the queue is empty; others leave their
// job and go. Alone, a job runs at once; under load, batches fill while the one
// before runs. Thread-safe.
template <typename Job>
class Batcher {
 public:
  using Run = std::function<void(std::vector<std::unique_ptr<Job>> batch,
                                 int still_queued)>;

  Batcher(BatcherOptions options, Run run)
      : options_(options), run_(std::move(run)) {}

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
    Lead();
    return absl::OkStatus();
  }

  int queued() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return static_cast<int>(queue_.size());
  }

 private:
  void Lead() ABSL_LOCKS_EXCLUDED(mu_) {
    while (true) {
      std::vector<std::unique_ptr<Job>> batch;
      int still_queued = 0;
      {
        MutexLock lock(&mu_);
        while (!queue_.empty() &&
               static_cast<int>(batch.size()) < options_.max_batch) {
          batch.push_back(std::move(queue_.front()));
          queue_.pop_front();
        }
        if (batch.empty()) {
          --leaders_;
          return;
        }
        still_queued = static_cast<int>(queue_.size());
      }
      run_(std::move(batch), still_queued);
    }
  }

  const BatcherOptions options_;
  const Run run_;
  mutable Mutex mu_;
  std::deque<std::unique_ptr<Job>> queue_ ABSL_GUARDED_BY(mu_);
  int leaders_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_BATCHER_H_
