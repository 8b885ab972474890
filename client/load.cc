#include "client/load.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace nearline::client {

Load::Load(const LoadOptions& options, const Send& send)
    : options_(options),
      send_(send),
      start_(options.clock->Now()),
      end_(start_ + absl::Seconds(options.seconds)),
      began_(static_cast<size_t>(options.slots)) {
  for (LoadCounts& counts : counts_) {
    counts.by_second = std::vector<std::atomic<int64_t>>(
        static_cast<size_t>(std::ceil(options.seconds)));
  }
}

std::unique_ptr<Load> Load::Run(const LoadOptions& options, const Send& send) {
  std::unique_ptr<Load> load(new Load(options, send));
  if (options.rate > 0) {
    load->RunOpen();
  } else {
    {
      MutexLock lock(&load->mu_);
      load->active_ = options.slots;
    }
    for (int slot = 0; slot < options.slots; ++slot) load->Next(slot);
  }
  MutexLock lock(&load->mu_);
  while (load->active_ > 0) load->cv_.Wait(&load->mu_);
  load->took_ = options.clock->Now() - load->start_;
  return load;
}

// A slot of a closed loop sends its next call, or rests.
void Load::Next(int slot) {
  absl::Time& began = began_[static_cast<size_t>(slot)];
  began = options_.clock->Now();
  if (began < end_) {
    send_(slot, this);
    return;
  }
  MutexLock lock(&mu_);
  if (--active_ == 0) cv_.Signal();
}

void Load::RunOpen() {
  prctl(PR_SET_TIMERSLACK, 1);  // a sleep ends when it should
  Random random(options_.seed);
  {
    MutexLock lock(&mu_);
    for (int slot = 0; slot < options_.slots; ++slot) free_.push_back(slot);
  }
  const absl::Duration mean = absl::Seconds(1 / options_.rate);
  absl::Time due = start_;
  while (true) {
    due += options_.poisson ? -std::log(1 - random.Uniform()) * mean : mean;
    if (due >= end_) return;
    absl::SleepFor(due - options_.clock->Now());
    if (options_.clock->Now() >= end_) {  // slots were free too late
      ++not_begun_;
      continue;
    }
    int slot = 0;
    {
      MutexLock lock(&mu_);
      while (free_.empty()) cv_.Wait(&mu_);
      slot = free_.back();
      free_.pop_back();
      ++active_;
    }
    began_[static_cast<size_t>(slot)] = due;
    send_(slot, this);
  }
}

void Load::Answered(int slot, Call call, const grpc::Status& status) {
  LoadCounts& counts = counts_[static_cast<size_t>(call)];
  const absl::Time now = options_.clock->Now();
  const auto code = static_cast<size_t>(status.error_code());
  counts.codes[std::min(code, LoadCounts::kCodes - 1)].fetch_add(
      1, std::memory_order_relaxed);
  if (status.ok()) {
    counts.latency.Add(now - began_[static_cast<size_t>(slot)]);
    const auto second =
        static_cast<size_t>(std::max(0.0, absl::ToDoubleSeconds(now - start_)));
    counts.by_second[std::min(second, counts.by_second.size() - 1)].fetch_add(
        1, std::memory_order_relaxed);
  } else {
    MutexLock lock(&mu_);
    if (failure_.ok()) failure_ = status;
  }
  if (options_.rate <= 0) return Next(slot);
  MutexLock lock(&mu_);
  free_.push_back(slot);
  --active_;
  cv_.Signal();
}

}  // namespace nearline::client
