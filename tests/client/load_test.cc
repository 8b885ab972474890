#include "client/load.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/random.h"
#include "tests/testing.h"

namespace nearline::client {
namespace {

TEST(Histogram, QuantilesAreThoseOfTheSortedValues) {
  Histogram histogram;
  Random random(1);
  std::vector<int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    // From nanoseconds to hours.
    values.push_back(static_cast<int64_t>(std::exp(30 * random.Uniform())));
    histogram.Add(absl::Nanoseconds(values.back()));
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto place = static_cast<size_t>(
        std::ceil(q * static_cast<double>(values.size())) - 1);
    const int64_t exact = values[place];
    const int64_t read = absl::ToInt64Nanoseconds(histogram.Quantile(q));
    EXPECT_GE(read, exact) << q;
    EXPECT_LE(read, exact + exact / 64 + 1) << q;
  }
  EXPECT_EQ(histogram.Max(), absl::Nanoseconds(values.back()));
  EXPECT_EQ(histogram.count(), 20'000);
}

TEST(Histogram, TakesTheShortestAndTheLongest) {
  Histogram histogram;
  histogram.Add(absl::Nanoseconds(-5));  // a clock that was set back
  histogram.Add(absl::ZeroDuration());
  histogram.Add(absl::InfiniteDuration());
  EXPECT_EQ(histogram.Quantile(0.5), absl::ZeroDuration());
  EXPECT_EQ(histogram.count(), 3);
  EXPECT_GT(histogram.Max(), absl::Hours(1'000'000));
}

TEST(Histogram, OfNothingIsZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.Quantile(0.99), absl::ZeroDuration());
  EXPECT_EQ(histogram.Mean(), absl::ZeroDuration());
}

// Answers calls on a thread of its own, as gRPC does.
class Answerer {
 public:
  ~Answerer() {
    MutexLock lock(&mu_);
    for (std::thread& thread : threads_) thread.join();
  }
  // Calls `before` first.
  void Answer(int slot, Load* load, std::function<void()> before) {
    MutexLock lock(&mu_);
    threads_.emplace_back([slot, load, before = std::move(before)] {
      before();
      load->Answered(slot, Call::kRecommend, grpc::Status::OK);
    });
  }

 private:
  Mutex mu_;
  std::vector<std::thread> threads_;
};

TEST(Load, AClosedLoopSendsOnASlotWhenItHasBeenAnswered) {
  Answerer answerer;
  std::vector<std::atomic<int>> in_flight(3);
  std::atomic<bool> twice{false};
  const auto load =
      Load::Run({.slots = 3, .seconds = 0.05}, [&](int slot, Load* load) {
        auto& mine = in_flight[static_cast<size_t>(slot)];
        if (++mine > 1) twice = true;
        answerer.Answer(slot, load, [&mine] { --mine; });
      });
  EXPECT_FALSE(twice);
  EXPECT_GE((*load)[Call::kRecommend].latency.count(), 3);
  EXPECT_EQ((*load)[Call::kFeedback].latency.count(), 0);
}

TEST(Load, ByTheClockAsManyCallsBeginAsTheRateSays) {
  const auto load =
      Load::Run({.slots = 10, .seconds = 0.1, .rate = 1000, .poisson = false},
                [](int slot, Load* load) {
                  load->Answered(slot, Call::kRecommend, grpc::Status::OK);
                });
  EXPECT_EQ((*load)[Call::kRecommend].latency.count() + load->not_begun(), 99);
}

// A call that is late because an earlier one took long is as slow as its caller
// saw it.
TEST(Load, ByTheClockTimeCountsFromWhenACallShouldHaveBegun) {
  ManualClock clock(absl::UnixEpoch());
  bool first = true;
  const auto load =
      Load::Run({.slots = 1,
                 .seconds = 0.06,
                 .rate = 1000,
                 .poisson = false,
                 .clock = &clock},
                [&](int slot, Load* load) {
                  // The generator itself is held up.
                  if (std::exchange(first, false))
                    clock.Advance(absl::Milliseconds(50));
                  load->Answered(slot, Call::kRecommend, grpc::Status::OK);
                });
  // The first 50 calls, due after 1, 2, ... ms, are answered after 50; nine
  // more begin on time.
  const Histogram& latency = (*load)[Call::kRecommend].latency;
  EXPECT_EQ(latency.count(), 59);
  EXPECT_EQ(latency.Max(), absl::Milliseconds(49));
  EXPECT_GE(latency.Quantile(30 / 59.0), absl::Milliseconds(20));
  EXPECT_EQ(latency.Quantile(9 / 59.0), absl::ZeroDuration());
}

TEST(Load, WhatFailedIsCountedByCodeAndNotTimed) {
  int calls = 0;
  const auto load = Load::Run(
      {.slots = 1, .seconds = 0.02, .rate = 1000, .poisson = false},
      [&](int slot, Load* load) {
        load->Answered(slot, Call::kRecommend,
                       ++calls % 2 == 0
                           ? grpc::Status::OK
                           : grpc::Status(grpc::RESOURCE_EXHAUSTED, ""));
      });
  const LoadCounts& counts = (*load)[Call::kRecommend];
  EXPECT_EQ(counts.codes[grpc::OK], calls / 2);
  EXPECT_EQ(counts.codes[grpc::RESOURCE_EXHAUSTED], (calls + 1) / 2);
  EXPECT_EQ(counts.latency.count(), calls / 2);
  int64_t by_second = 0;
  for (const auto& n : counts.by_second) by_second += n;
  EXPECT_EQ(by_second, calls / 2);
}

}  // namespace
}  // namespace nearline::client
