#ifndef NEARLINE_SERVER_DRAIN_RATE_H_
#define NEARLINE_SERVER_DRAIN_RATE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace nearline::server {

// How long a queue takes for a job, by the time between batches while others
// wait behind them. What was slow once is forgotten while none do.
class DrainRate {
 public:
  // A batch of so many jobs begins; whether others wait behind it.
  void BatchBegins(absl::Time now, size_t jobs, bool others_wait) {
    if (waited_ > 0) {
      // The clock may be set.
      const absl::Duration took = std::clamp(
          (now - began_) / waited_, absl::ZeroDuration(), absl::Seconds(1));
      a_job_ =
          a_job_ == absl::ZeroDuration() ? took : 0.9 * a_job_ + 0.1 * took;
    } else {
      a_job_ *= 0.9;
    }
    began_ = now;
    waited_ = others_wait ? static_cast<int64_t>(jobs) : 0;
  }
  // Zero while it is not known.
  absl::Duration a_job() const { return a_job_; }

 private:
  absl::Duration a_job_;
  absl::Time began_;
  int64_t waited_ = 0;  // jobs of the last batch, if others waited; else 0
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_DRAIN_RATE_H_
