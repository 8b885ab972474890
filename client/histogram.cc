#include "client/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nearline::client {

size_t Histogram::BucketOf(uint64_t nanos) {
  const int shift =
      std::max(0, static_cast<int>(std::bit_width(nanos)) - kBits);
  return (static_cast<size_t>(shift) << (kBits - 1)) +
         static_cast<size_t>(nanos >> shift);
}

uint64_t Histogram::EndOf(size_t bucket) {
  constexpr size_t kHalf = size_t{1} << (kBits - 1);
  const size_t shift = bucket < 2 * kHalf ? 0 : bucket / kHalf - 1;
  return ((uint64_t{bucket} - shift * kHalf + 1) << shift) - 1;
}

void Histogram::Add(absl::Duration value) {
  const int64_t nanos = std::max<int64_t>(0, absl::ToInt64Nanoseconds(value));
  buckets_[BucketOf(static_cast<uint64_t>(nanos))].fetch_add(
      1, std::memory_order_relaxed);
  count_.fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(nanos, std::memory_order_relaxed);
  int64_t max = max_.load(std::memory_order_relaxed);
  while (nanos > max &&
         !max_.compare_exchange_weak(max, nanos, std::memory_order_relaxed)) {
  }
}

absl::Duration Histogram::Quantile(double q) const {
  const auto below = std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(q * static_cast<double>(count()))));
  int64_t seen = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket].load(std::memory_order_relaxed);
    if (seen >= below) {
      return std::min(Max(),
                      absl::Nanoseconds(static_cast<int64_t>(EndOf(bucket))));
    }
  }
  return Max();
}

absl::Duration Histogram::Mean() const {
  return count() == 0
             ? absl::ZeroDuration()
             : absl::Nanoseconds(sum_.load(std::memory_order_relaxed)) /
                   count();
}

}  // namespace nearline::client
