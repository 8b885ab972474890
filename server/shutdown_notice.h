#ifndef NEARLINE_SERVER_SHUTDOWN_NOTICE_H_
#define NEARLINE_SERVER_SHUTDOWN_NOTICE_H_

#include <atomic>
#include <functional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"

namespace nearline::server {

// Whether the server is shutting down, and who is to be told. Thread-safe.
class ShutdownNotice {
 public:
  bool given() const { return given_.load(std::memory_order_acquire); }

  // Calls `leave` when it is given, or at once if it was; not any more when
  // Forget(owner) has returned, so that the owner lives as long: it is called
  // under this one's lock, may take the owner's, and calls nothing of this.
  void Tell(const void* owner, std::function<void()> leave) {
    MutexLock lock(&mu_);
    if (given()) return leave();
    told_.emplace(owner, std::move(leave));
  }
  void Forget(const void* owner) {
    MutexLock lock(&mu_);
    told_.erase(owner);
  }
  void Give() {
    MutexLock lock(&mu_);
    given_.store(true, std::memory_order_release);
    for (const auto& [owner, leave] : told_) leave();
  }

 private:
  std::atomic<bool> given_{false};
  Mutex mu_;
  absl::flat_hash_map<const void*, std::function<void()>> told_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_SHUTDOWN_NOTICE_H_
