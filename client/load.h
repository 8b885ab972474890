#ifndef NEARLINE_CLIENT_LOAD_H_
#define NEARLINE_CLIENT_LOAD_H_

#include <grpcpp/grpcpp.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "client/histogram.h"

namespace nearline::client {

// What a call of a benchmark is.
enum class Call { kEmpty, kBatched, kRecommend, kFeedback };
inline constexpr int kCalls = 4;

struct LoadOptions {
  int slots = 128;     // calls in flight, at most
  double seconds = 5;  // calls begin within
  // 0: a closed loop, each slot sends its next call when the one before has
  // been answered. Else calls a second, begun when their time has come, whether
  // earlier ones have been answered or not; what finds no slot free begins
  // late, and its time counts from when it should have begun.
  double rate = 0;
  bool poisson = true;  // arrivals; else evenly spaced
  uint64_t seed = 1;
  const Clock* clock = Clock::Real();
};

// What was answered with OK, of one kind of call.
struct LoadCounts {
  Histogram latency;
  static constexpr size_t kCodes = 17;
  std::array<std::atomic<int64_t>, kCodes> codes{};  // by gRPC's number
  std::vector<std::atomic<int64_t>> by_second;  // since the start; the last one
                                                // has all that came later
};

// One round of calls. Thread-safe where it says so.
class Load {
 public:
  // Begins a call on a slot that is free, which ends, on any thread, in
  // load->Answered.
  using Send = std::function<void(int slot, Load* load)>;

  // Returns when the last call has been answered.
  static std::unique_ptr<Load> Run(const LoadOptions& options,
                                   const Send& send);

  // Thread-safe. To be called once for every call, by who sent it.
  void Answered(int slot, Call call, const grpc::Status& status);

  const LoadCounts& operator[](Call call) const {
    return counts_[static_cast<size_t>(call)];
  }
  // The first failure; OK without any. Once all calls have been answered.
  grpc::Status failure() const {
    MutexLock lock(&mu_);
    return failure_;
  }
  // When a slot's call began, or should have.
  absl::Time began(int slot) const { return began_[static_cast<size_t>(slot)]; }
  // That calls came for; of a closed loop, from the first to the last answer.
  double seconds() const {
    return options_.rate > 0 ? options_.seconds : absl::ToDoubleSeconds(took_);
  }
  // Calls of an open loop that were still to come when its time was over.
  int64_t not_begun() const { return not_begun_; }

 private:
  Load(const LoadOptions& options, const Send& send);
  void Next(int slot);
  void RunOpen();

  const LoadOptions options_;
  const Send& send_;
  const absl::Time start_, end_;
  std::vector<absl::Time> began_;  // by slot
  std::array<LoadCounts, kCalls> counts_;
  absl::Duration took_;
  int64_t not_begun_ = 0;
  mutable Mutex mu_;
  grpc::Status failure_ ABSL_GUARDED_BY(mu_);
  CondVar cv_;
  std::vector<int> free_ ABSL_GUARDED_BY(mu_);  // open loop
  int active_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_LOAD_H_
