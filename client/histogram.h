#ifndef NEARLINE_CLIENT_HISTOGRAM_H_
#define NEARLINE_CLIENT_HISTOGRAM_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace nearline::client {

// Counts of durations in buckets that grow with them, as HdrHistogram has them:
// a value read out is at most 1/64 above the one put in. Any length of time,
// 32 kB of memory. Thread-safe.
class Histogram {
 public:
  void Add(absl::Duration value);
  int64_t count() const { return count_.load(std::memory_order_relaxed); }
  // The least duration that a share `q` in [0, 1] of the values do not exceed;
  // zero without any.
  absl::Duration Quantile(double q) const;
  absl::Duration Max() const {
    return absl::Nanoseconds(max_.load(std::memory_order_relaxed));
  }
  absl::Duration Mean() const;

 private:
  // Below 2^kBits ns each has its own bucket; above, 2^(kBits - 1) to a
  // doubling.
  static constexpr int kBits = 7;
  static constexpr int kBuckets = (64 - kBits + 2) << (kBits - 1);

  static size_t BucketOf(uint64_t nanos);
  static uint64_t EndOf(size_t bucket);  // the greatest value that it holds

  std::array<std::atomic<int64_t>, kBuckets> buckets_{};
  std::atomic<int64_t> count_{0}, sum_{0}, max_{0};
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_HISTOGRAM_H_
