#include "client/bench.h"

#include "tests/server/server_fixture.h"

namespace nearline::server {
namespace {

using client::BenchFigures;
using client::BenchOptions;
using client::BenchReport;
using client::RunBench;

class BenchTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    for (int user = 0; user < 5; ++user) {
      ASSERT_THAT(Feed(Like(absl::StrCat("u", user), "i001")), IsOk());
    }
  }
  BenchOptions Options(const std::string& what) {
    return {.server = {.address = address_},
            .what = what,
            .in_flight = 8,
            .seconds = 0.1,
            .warm_up = 0,
            .repetitions = 2,
            .events = 3,
            .writes = 0.5};
  }
};

std::vector<std::string> CallsOf(const BenchReport& report) {
  std::vector<std::string> calls;
  for (const BenchFigures& figures : report.rounds) {
    calls.push_back(figures.call);
    EXPECT_GT(figures.calls, 0) << figures.call;
    EXPECT_EQ(figures.errors, 0) << figures.call;
    EXPECT_LE(figures.p50_ms, figures.p999_ms);
    EXPECT_LE(figures.p999_ms, figures.max_ms);
  }
  return calls;
}

TEST_F(BenchTest, MeasuresEveryCallInTurnWithTheEmptyOne) {
  using testing::ElementsAre;
  for (const std::string what : {"recommend", "feedback", "batched"}) {
    const auto report = RunBench(Options(what));
    ASSERT_THAT(report, IsOk());
    EXPECT_THAT(CallsOf(*report), ElementsAre("empty", what, "empty", what));
    EXPECT_GT(report->ratios.at("throughput").median, 0);
  }
  const auto mixed = RunBench(Options("mixed"));
  ASSERT_THAT(mixed, IsOk());
  EXPECT_THAT(CallsOf(*mixed), ElementsAre("empty", "recommend", "feedback",
                                           "empty", "recommend", "feedback"));
}

TEST_F(BenchTest, SaysHowAnswersWereMade) {
  BenchOptions options = Options("recommend");
  options.baseline = "none";
  const auto report = RunBench(options);
  ASSERT_THAT(report, IsOk());
  const BenchFigures& figures = report->rounds[0];
  EXPECT_EQ(figures.served_by.at("ranked"), figures.calls);
  EXPECT_TRUE(report->ratios.empty());
}

TEST_F(BenchTest, ByTheClockTakesAShareOfWhatIsReachedWithout) {
  BenchOptions options = Options("recommend");
  options.in_flight = 0;
  options.seconds = 0.3;
  options.load = 0.5;
  const auto report = RunBench(options);
  ASSERT_THAT(report, IsOk());
  EXPECT_GT(report->rate, 0);
  for (const BenchFigures& figures : report->rounds) {
    EXPECT_LT(figures.calls_a_second, 2 * report->rate);
  }
}

TEST_F(BenchTest, WhatTheQueueRefusesIsCounted) {
  config_.serving.max_queued = 1;
  Start();
  BenchOptions options = Options("recommend");
  options.in_flight = 100;
  options.baseline = "none";
  const auto report = RunBench(options);
  ASSERT_THAT(report, IsOk());
  const BenchFigures& figures = report->rounds[0];
  EXPECT_EQ(figures.codes.at("RESOURCE_EXHAUSTED"), figures.errors);
  EXPECT_GT(figures.errors, 0);
}

TEST_F(BenchTest, WhatNobodyAnswersFailsWithTheFirstError) {
  BenchOptions options = Options("recommend");
  options.count = 5000;
  options.baseline = "none";
  EXPECT_THAT(RunBench(options).status(),
              IsError(absl::StatusCode::kInvalidArgument,
                      "calls failed, the first with: count = 5000"));
}

TEST_F(BenchTest, WithoutUsersItSaysWhatToDo) {
  ASSERT_THAT(client_->DeleteUser("u0"), IsOk());
  for (int user = 1; user < 5; ++user) {
    ASSERT_THAT(client_->DeleteUser(absl::StrCat("u", user)), IsOk());
  }
  EXPECT_THAT(RunBench(Options("recommend")),
              IsError(absl::StatusCode::kFailedPrecondition, "import"));
}

}  // namespace
}  // namespace nearline::server
