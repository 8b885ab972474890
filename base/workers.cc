#include "base/workers.h"

namespace nearline {

Workers::Workers(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

Workers::~Workers() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    begin_.SignalAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void Workers::ForEach(int64_t n, const std::function<void(int64_t)>& turn) {
  MutexLock lock(&mu_);
  turns_ = n;
  turn_ = &turn;
  next_ = 0;
  busy_ = static_cast<int>(threads_.size());
  ++round_;
  begin_.SignalAll();
  while (busy_ > 0) end_.Wait(&mu_);
}

void Workers::Loop() {
  for (int64_t done = 0;; ++done) {
    {
      MutexLock lock(&mu_);
      while (round_ == done && !stopping_) begin_.Wait(&mu_);
      if (stopping_) return;
    }
    for (int64_t i = next_++; i < turns_; i = next_++) (*turn_)(i);
    MutexLock lock(&mu_);
    if (--busy_ == 0) end_.SignalAll();
  }
}

}  // namespace nearline
