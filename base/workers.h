#ifndef NEARLINE_BASE_WORKERS_H_
#define NEARLINE_BASE_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace nearline {

// Threads that share the turns of a loop. The caller's own is none of them, so
// that what a turn sets for its thread stays there.
class Workers {
 public:
  explicit Workers(int threads);
  ~Workers();

  // Calls turn(i) once for each i in [0, n), in any order, and returns when all
  // have returned. One call at a time; turns must not throw.
  void ForEach(int64_t n, const std::function<void(int64_t)>& turn);

 private:
  void Loop();

  Mutex mu_;
  CondVar begin_, end_;
  int64_t round_ ABSL_GUARDED_BY(mu_) = 0;  // calls of ForEach so far
  int busy_ ABSL_GUARDED_BY(mu_) = 0;       // threads still at the last one
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int64_t turns_ = 0;  // these two change while no thread is busy
  const std::function<void(int64_t)>* turn_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> threads_;
};

}  // namespace nearline

#endif  // NEARLINE_BASE_WORKERS_H_
