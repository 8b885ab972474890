#include "server/fair_queue.h"

#include <vector>

#include "server/batcher.h"
#include "server/drain_rate.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

struct Job {
  int number = 0;
};
using Batch = std::vector<std::unique_ptr<Job>>;

std::unique_ptr<Job> MakeJob(int number) {
  return std::make_unique<Job>(Job{number});
}

std::vector<int> Drain(FairQueue<Job>* queue) {
  std::vector<int> numbers;
  while (!queue->empty()) numbers.push_back(queue->Pop()->number);
  return numbers;
}

TEST(FairQueue, CallersAreServedInTurnAndEachInOrder) {
  FairQueue<Job> queue;
  for (const int number : {11, 12, 13, 14}) queue.Push(1, MakeJob(number));
  for (const int number : {21, 22}) queue.Push(2, MakeJob(number));
  queue.Push(3, MakeJob(31));
  EXPECT_EQ(queue.size(), 7u);
  EXPECT_THAT(Drain(&queue), testing::ElementsAre(11, 21, 31, 12, 22, 13, 14));
}

TEST(FairQueue, ANewCallerWaitsForOneOfEachOther) {
  FairQueue<Job> queue;
  for (int i = 0; i < 100; ++i) queue.Push(1, MakeJob(i));
  queue.Push(2, MakeJob(200));
  EXPECT_LE(queue.Before(3), 2u);
  EXPECT_EQ(queue.Before(1), 101u);
}

TEST(FairQueue, WhoHasMostMakesRoom) {
  FairQueue<Job> queue;
  EXPECT_EQ(queue.Displace(1), nullptr);
  for (const int number : {11, 12, 13}) queue.Push(1, MakeJob(number));
  queue.Push(2, MakeJob(21));
  EXPECT_EQ(queue.Displace(1), nullptr);  // its own fault
  EXPECT_EQ(queue.Displace(2)->number, 13);
  EXPECT_EQ(queue.Displace(2), nullptr);  // two each, then
  EXPECT_EQ(queue.Displace(3)->number, 12);
  EXPECT_THAT(Drain(&queue), testing::ElementsAre(11, 21));
}

// Jobs that are submitted while the first batch runs: by one caller many, by
// another one.
TEST(Batcher, ANoisyCallerFillsTheQueueForItselfAlone) {
  std::vector<int> served, refused, turned_away;
  {
    Batcher<Job>* self = nullptr;
    bool first = true;
    Batcher<Job> batcher(
        {.max_batch = 2, .max_queued = 4},
        [&](Batch batch, int, const std::function<void()>&) {
          for (const auto& job : batch) served.push_back(job->number);
          if (!std::exchange(first, false)) return;
          for (int i = 11; i <= 16; ++i) {
            if (!self->Submit(MakeJob(i), {.caller = 1}).ok()) {
              turned_away.push_back(i);
            }
          }
          EXPECT_THAT(self->Submit(MakeJob(21), {.caller = 2}), IsOk());
        },
        [&](std::unique_ptr<Job> job, const absl::Status& status) {
          EXPECT_THAT(status, IsError(absl::StatusCode::kResourceExhausted,
                                      "the queue is full"));
          refused.push_back(job->number);
        });
    self = &batcher;
    EXPECT_THAT(batcher.Submit(MakeJob(1), {.caller = 1}), IsOk());
  }
  EXPECT_THAT(served, testing::ElementsAre(1, 11, 21, 12, 13));
  EXPECT_THAT(turned_away, testing::ElementsAre(15, 16));
  EXPECT_THAT(refused, testing::ElementsAre(14));
}

// A batch takes ten milliseconds, by the clock that the test sets: a job one,
// where ten of them make a batch. So few wait that no second thread leads.
class SlowBatcher {
 public:
  explicit SlowBatcher(BatcherOptions options) {
    options.max_batch = 10;
    options.clock = &clock_;
    auto batcher = std::make_unique<Batcher<Job>>(
        options, [this](Batch, int, const std::function<void()>&) {
          clock_.Advance(absl::Milliseconds(10));
          ++batches_;
          if (batches_ == 1) Submit(14);  // of which four wait for the next
          if (batches_ == 2) Submit(6);
          if (batches_ == 3) inside_();
        });
    self_ = batcher.get();
    batcher_ = std::move(batcher);
  }
  // Calls `inside` when it is known what a job takes, and none waits.
  void Run(std::function<void()> inside) {
    inside_ = std::move(inside);
    Submit(1);
    batcher_.reset();
    EXPECT_GE(batches_, 3);
  }
  void Submit(int jobs) {
    for (int i = 0; i < jobs; ++i) {
      EXPECT_THAT(self_->Submit(MakeJob(0)), IsOk());
    }
  }
  absl::Status SubmitUntil(absl::Duration deadline) {
    return self_->Submit(MakeJob(0), {.deadline = clock_.Now() + deadline});
  }

 private:
  ManualClock clock_{absl::UnixEpoch()};
  int batches_ = 0;
  std::function<void()> inside_;
  std::unique_ptr<Batcher<Job>> batcher_;
  Batcher<Job>* self_ = nullptr;  // also while it is destroyed
};

TEST(Batcher, WhatCannotBeDoneInTimeIsRefusedAtOnce) {
  SlowBatcher batcher({});
  batcher.Run([&] {
    batcher.Submit(1);
    EXPECT_THAT(batcher.SubmitUntil(absl::Milliseconds(1)),
                IsError(absl::StatusCode::kResourceExhausted, "its deadline"));
    EXPECT_THAT(batcher.SubmitUntil(absl::Milliseconds(5)), IsOk());
  });
}

TEST(Batcher, WhatWouldWaitTooLongIsRefusedAtOnce) {
  SlowBatcher batcher({.max_wait = absl::Milliseconds(5)});
  int taken = 0;
  batcher.Run([&] {
    for (int i = 0; i < 12; ++i) {
      const absl::Status status = batcher.SubmitUntil(absl::Hours(1));
      taken += status.ok();
      if (status.ok()) continue;
      EXPECT_THAT(status, IsError(absl::StatusCode::kResourceExhausted,
                                  "the queue is slow"));
    }
  });
  EXPECT_EQ(taken, 5);
}

TEST(DrainRate, IsTheTimeBetweenBatchesWhileOthersWait) {
  DrainRate drain;
  absl::Time now = absl::UnixEpoch();
  for (int batch = 0; batch < 5; ++batch) {
    drain.BatchBegins(now, 10, true);
    now += absl::Milliseconds(20);
  }
  EXPECT_EQ(drain.a_job(), absl::Milliseconds(2));
}

TEST(DrainRate, PausesWithoutAnybodyWaitingDoNotCount) {
  DrainRate drain;
  drain.BatchBegins(absl::UnixEpoch(), 10, false);
  drain.BatchBegins(absl::UnixEpoch() + absl::Hours(1), 10, false);
  EXPECT_EQ(drain.a_job(), absl::ZeroDuration());
}

TEST(DrainRate, AStallIsForgottenAndAClockThatIsSetDoesLittle) {
  DrainRate drain;
  absl::Time now = absl::UnixEpoch();
  drain.BatchBegins(now, 1, true);
  now += absl::Hours(1);
  drain.BatchBegins(now, 1, true);
  EXPECT_LE(drain.a_job(), absl::Seconds(1));
  now -= absl::Hours(2);
  drain.BatchBegins(now, 1, false);
  EXPECT_GE(drain.a_job(), absl::ZeroDuration());
  for (int batch = 0; batch < 100; ++batch) drain.BatchBegins(now, 1, false);
  EXPECT_LT(drain.a_job(), absl::Milliseconds(1));
}

}  // namespace
}  // namespace nearline::server
