#include "server/batcher.h"

#include <atomic>
#include <future>
#include <thread>

#include "tests/testing.h"

namespace nearline::server {
namespace {

struct Job {
  int number = 0;
};
using Batch = std::vector<std::unique_ptr<Job>>;
using Computed = std::function<void()>;

std::unique_ptr<Job> MakeJob(int number) {
  return std::make_unique<Job>(Job{number});
}

TEST(Batcher, ALoneJobRunsAtOnceOnItsCallersThread) {
  int ran = 0;
  Batcher<Job> batcher({}, [&](Batch batch, int, const Computed&) {
    ran += static_cast<int>(batch.size());
  });
  EXPECT_THAT(batcher.Submit(MakeJob(1)), IsOk());
  EXPECT_EQ(ran, 1);
}

TEST(Batcher, JobsThatComeWhileABatchRunsAreGathered) {
  std::vector<std::vector<int>> batches;
  std::vector<std::thread::id> threads;
  {
    Batcher<Job>* self = nullptr;
    Batcher<Job> batcher({.max_batch = 3},
                         [&](Batch batch, int, const Computed&) {
                           threads.push_back(std::this_thread::get_id());
                           batches.emplace_back();
                           for (const auto& job : batch)
                             batches.back().push_back(job->number);
                           if (batches.size() == 1) {
                             for (int i = 2; i <= 6; ++i)
                               EXPECT_THAT(self->Submit(MakeJob(i)), IsOk());
                           }
                         });
    self = &batcher;
    EXPECT_THAT(batcher.Submit(MakeJob(1)), IsOk());
  }
  EXPECT_THAT(batches, testing::ElementsAre(testing::ElementsAre(1),
                                            testing::ElementsAre(2, 3, 4),
                                            testing::ElementsAre(5, 6)));
  // The caller was let go after its own batch.
  EXPECT_EQ(threads[0], std::this_thread::get_id());
  EXPECT_NE(threads[1], threads[0]);
  EXPECT_NE(threads[2], threads[0]);
}

TEST(Batcher, AfterACrowdCallersLeaveLeadingToKeptThreadsForAWhile) {
  Mutex mu;
  CondVar cv;
  std::vector<std::thread::id> threads;  // of batches
  Batcher<Job>* self = nullptr;
  Batcher<Job> batcher({}, [&](Batch, int, const Computed&) {
    MutexLock lock(&mu);
    threads.push_back(std::this_thread::get_id());
    if (threads.size() == 1) {
      for (int i = 0; i < 2; ++i) EXPECT_THAT(self->Submit(MakeJob(i)), IsOk());
    }
    cv.SignalAll();
  });
  self = &batcher;
  const auto submit = [&](size_t batches) {  // of which this is the last
    EXPECT_THAT(batcher.Submit(MakeJob(0)), IsOk());
    MutexLock lock(&mu);
    while (threads.size() < batches) cv.Wait(&mu);
    return threads[batches - 1];
  };
  const auto caller = std::this_thread::get_id();
  EXPECT_EQ(submit(1), caller);
  {
    MutexLock lock(&mu);
    while (threads.size() < 2) cv.Wait(&mu);
  }
  EXPECT_NE(submit(3), caller);
  size_t batches = 4;
  while (submit(batches) != caller) ++batches;  // ends, or the test times out
  EXPECT_GE(batches, 16u);
}

TEST(Batcher, AThreadThatHelpsComputesTheNextBatchWhileOneIsDelivered) {
  std::vector<int> sizes;
  Batcher<Job>* self = nullptr;
  Batcher<Job> batcher({}, [&](Batch batch, int, const Computed& computed) {
    sizes.push_back(static_cast<int>(batch.size()));
    if (sizes.size() > 1) return;
    for (int i = 0; i < 3; ++i) EXPECT_THAT(self->Submit(MakeJob(i)), IsOk());
    std::thread([&] { self->Help(); }).join();  // too early: there is a leader
    EXPECT_EQ(sizes.size(), 1u);
    computed();
    std::thread([&] { self->Help(); }).join();
    EXPECT_THAT(sizes, testing::ElementsAre(1, 3));
  });
  self = &batcher;
  EXPECT_THAT(batcher.Submit(MakeJob(1)), IsOk());
  EXPECT_THAT(sizes, testing::ElementsAre(1, 3));
}

TEST(Batcher, WhereOneAndAHalfBatchesWaitASecondThreadMayLead) {
  std::vector<int> sizes;
  Batcher<Job>* self = nullptr;
  const auto help = [&] { std::thread([&] { self->Help(); }).join(); };
  Batcher<Job> batcher({.max_batch = 4}, [&](Batch batch, int, Computed) {
    sizes.push_back(static_cast<int>(batch.size()));
    if (sizes.size() > 1) return;
    for (int i = 0; i < 5; ++i) EXPECT_THAT(self->Submit(MakeJob(i)), IsOk());
    help();
    EXPECT_THAT(sizes, testing::ElementsAre(1));
    EXPECT_THAT(self->Submit(MakeJob(5)), IsOk());
    help();  // the two that are left are no crowd
    EXPECT_THAT(sizes, testing::ElementsAre(1, 4));
  });
  self = &batcher;
  EXPECT_THAT(batcher.Submit(MakeJob(1)), IsOk());
}

TEST(Batcher, WithoutHelpTheThreadThatDeliversLeadsOn) {
  std::vector<std::thread::id> threads;
  {
    Batcher<Job>* self = nullptr;
    Batcher<Job> batcher({}, [&](Batch, int, const Computed& computed) {
      threads.push_back(std::this_thread::get_id());
      // Two of them make a crowd, whose batch a kept thread leads.
      for (int i = 0; threads.size() == 1 && i < 2; ++i) {
        EXPECT_THAT(self->Submit(MakeJob(i)), IsOk());
      }
      computed();
      if (threads.size() == 2) {
        EXPECT_THAT(self->Submit(MakeJob(4)), IsOk());
      }
    });
    self = &batcher;
    EXPECT_THAT(batcher.Submit(MakeJob(1)), IsOk());
  }
  ASSERT_EQ(threads.size(), 3u);
  EXPECT_NE(threads[1], threads[0]);
  EXPECT_EQ(threads[2], threads[1]);
}

TEST(Batcher, AFullQueueRefusesAtOnce) {
  int refused = 0;
  Batcher<Job>* self = nullptr;
  bool first = true;
  Batcher<Job> batcher({.max_queued = 2}, [&](Batch, int, const Computed&) {
    if (!std::exchange(first, false)) return;
    for (int i = 0; i < 5; ++i) {
      refused += absl::IsResourceExhausted(self->Submit(MakeJob(i)));
    }
  });
  self = &batcher;
  EXPECT_THAT(batcher.Submit(MakeJob(0)), IsOk());
  EXPECT_EQ(refused, 3);
}

TEST(Batcher, EveryJobOfManyThreadsIsRunOnce) {
  std::atomic<int> ran{0};
  {
    Batcher<Job> batcher(
        {.max_batch = 4, .max_queued = 100000, .max_leaders = 2},
        [&](Batch batch, int, const Computed&) {
          ran += static_cast<int>(batch.size());
        });
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 500; ++i) {
          EXPECT_THAT(batcher.Submit(MakeJob(i)), IsOk());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  EXPECT_EQ(ran, 2000);
}

}  // namespace
}  // namespace nearline::server
