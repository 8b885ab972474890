#include "model/metrics.h"

#include <cmath>

#include "model/evaluate.h"
#include "model/parameters.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

using absl::StatusCode;

TEST(Metrics, MatchAWrittenOutExample) {
  // Hits at ranks 1 and 3 of five; four wanted items.
  const std::vector<bool> hits = {true, false, true, false, false};
  const double gain = 1 / std::log2(2.0) + 1 / std::log2(4.0);
  const double ideal = 1 / std::log2(2.0) + 1 / std::log2(3.0) +
                       1 / std::log2(4.0) + 1 / std::log2(5.0);
  EXPECT_DOUBLE_EQ(Ndcg(hits, 4, 5), gain / ideal);
  EXPECT_DOUBLE_EQ(Recall(hits, 4, 5), 0.5);
  EXPECT_DOUBLE_EQ(Recall(hits, 4, 2), 0.5);  // min(k, positives) = 2
  EXPECT_DOUBLE_EQ(HitRate(hits, 1), 1);
  EXPECT_DOUBLE_EQ(HitRate({false, true}, 1), 0);
  EXPECT_DOUBLE_EQ(Ndcg({}, 3, 10), 0);
}

TEST(Metrics, MeanAndStandardError) {
  const Estimate e = MeanOf({1, 2, 3});
  EXPECT_DOUBLE_EQ(e.mean, 2);
  EXPECT_NEAR(e.stderr_, std::sqrt(1.0 / 3), 1e-12);
}

TEST(MetricSpec, NamesWhatThereIs) {
  EXPECT_EQ(MetricSpec::Parse("recall@20")->Name(), "recall@20");
  for (const char* bad : {"ndcg", "ndcg@0", "ndcg@1001", "bleu@3", "@"}) {
    EXPECT_THAT(MetricSpec::Parse(bad),
                IsError(StatusCode::kInvalidArgument, "ndcg@K"));
  }
}

TEST(Bootstrap, IsRepeatableAndBracketsTheDifference) {
  std::vector<double> a, b;
  for (int i = 0; i < 200; ++i) {
    a.push_back(0.5 + 0.001 * (i % 10));
    b.push_back(0.4);
  }
  const Interval one = PairedBootstrap(a, b, 0.95, 500, 1);
  const Interval two = PairedBootstrap(a, b, 0.95, 500, 1);
  EXPECT_EQ(one.low, two.low);
  EXPECT_LT(one.low, 0.1045);
  EXPECT_GT(one.high, 0.1045);
  EXPECT_GT(one.low, 0.1);
}

std::vector<double> Users(double mean, int n = 400) {
  std::vector<double> out;
  for (int i = 0; i < n; ++i) out.push_back(mean + 0.1 * ((i % 5) - 2));
  return out;
}

TEST(Gate, AcceptsTheBetterAndTheNearlyAsGood) {
  EXPECT_TRUE(Decide(Users(.30), Users(.25), Users(.2), {}).accepted);
  EXPECT_TRUE(Decide(Users(.25), Users(.25), Users(.2), {}).accepted);
}

TEST(Gate, RefusesAProvenLossHoweverSmall) {
  const GateDecision d = Decide(Users(.2499), Users(.25), Users(.2), {});
  EXPECT_FALSE(d.accepted);
  EXPECT_THAT(d.words, testing::HasSubstr("it is worse"));
}

TEST(Gate, WithoutAnIncumbentPopularityIsTheBar) {
  EXPECT_TRUE(Decide(Users(.25), {}, Users(.2), {}).accepted);
  EXPECT_FALSE(Decide(Users(.15), {}, Users(.2), {}).accepted);
}

TEST(Gate, WithFewUsersOnlyPopularityMustNotBeBetter) {
  const GateDecision d =
      Decide(Users(.21, 20), Users(.9, 20), Users(.2, 20), {});
  EXPECT_TRUE(d.accepted);
  EXPECT_THAT(d.words, testing::HasSubstr("too few"));
}

TEST(Parameters, NameTheRange) {
  auto p = ParametersOf("mult-vae");
  ASSERT_THAT(p, IsOk());
  EXPECT_THAT(p->SetText("dropout=0.3"), IsOk());
  EXPECT_EQ((*p)["dropout"], 0.3);
  EXPECT_THAT(p->SetText("dropout=2"),
              IsError(StatusCode::kInvalidArgument, "[0, 0.95]"));
  EXPECT_THAT(p->SetText("hidden=10.5"),
              IsError(StatusCode::kInvalidArgument, "whole"));
  EXPECT_THAT(p->SetText("depth=2"),
              IsError(StatusCode::kInvalidArgument, "there are"));
  EXPECT_THAT(ParametersOf("oracle"),
              IsError(StatusCode::kInvalidArgument, "mult-vae"));
}

}  // namespace
}  // namespace nearline::model
