#ifndef NEARLINE_FEATURES_RETENTION_H_
#define NEARLINE_FEATURES_RETENTION_H_

#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/store.h"

namespace nearline::features {

// Reads the whole log once, in order of users, and retires what was kept for as
// long as the store's options say, a few events at a time, so that other writes
// come between; then forgets the users of whom nothing is left. `on_part` is
// called after each part with what was retired in it and the time that it took;
// false ends the sweep with CANCELLED. Returns the sum. Errors else: the
// store's.
using OnPart =
    std::function<bool(const RetireResult& more, absl::Duration took)>;
absl::StatusOr<RetireResult> SweepOnce(Store* store, absl::Time now,
                                       const OnPart& on_part);

// Sweeps shortly after the start, then once an interval, on a thread that takes
// at most a quarter of a processor. Thread-safe.
class Retention {
 public:
  using OnSweep = std::function<void(const absl::StatusOr<RetireResult>&)>;
  // The store and the clock outlive this. `on_sweep` is called on the thread.
  Retention(Store* store, const Clock* clock, OnSweep on_sweep);
  ~Retention();

  struct Stats {
    int64_t events = 0, users = 0;  // retired, also by a sweep under way
    int64_t failures = 0;           // sweeps that did not get through
    absl::Time last_sweep;          // whole; the start before there was one
  };
  Stats stats() const;

 private:
  void Loop();
  bool Wait(absl::Duration duration);  // false when the server stops

  Store& store_;
  const Clock& clock_;
  const OnSweep on_sweep_;
  mutable Mutex mu_;
  CondVar cv_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Stats stats_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_RETENTION_H_
