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
  EXPECT_DOUBLE_EQ(PlainRecall(hits, 4, 2), 0.25);
  EXPECT_DOUBLE_EQ(Precision(hits, 5), 0.4);
  EXPECT_DOUBLE_EQ(Precision(hits, 10), 0.2);
  EXPECT_DOUBLE_EQ(F1(hits, 4, 5), 2 * 0.4 * 0.5 / (0.4 + 0.5));
  EXPECT_DOUBLE_EQ(F1({false}, 4, 5), 0);
  EXPECT_DOUBLE_EQ(AveragePrecision(hits, 4, 5), (1.0 + 2.0 / 3) / 4);
  EXPECT_DOUBLE_EQ(AveragePrecision(hits, 4, 2), 0.5);
  EXPECT_DOUBLE_EQ(ReciprocalRank({false, false, true}, 3), 1.0 / 3);
  EXPECT_DOUBLE_EQ(ReciprocalRank({false, false, true}, 2), 0);
  // Of 2 wanted and 3 unwanted: 3 + 2 pairs of 6 stand right; one that is not
  // among the candidates comes last.
  EXPECT_DOUBLE_EQ(Auc(hits, 2), 5.0 / 6);
  EXPECT_DOUBLE_EQ(Auc(hits, 4), 5.0 / 12);
  EXPECT_DOUBLE_EQ(Auc({true, true}, 2), 0.5);
  EXPECT_DOUBLE_EQ(Gini({3, 3, 3}), 0);
  EXPECT_DOUBLE_EQ(Gini({0, 0, 6}), 2.0 / 3);
  EXPECT_DOUBLE_EQ(Gini({1, 3}), 0.25);
}

// Three users; item 0 has all, item 1 two, item 2 one of them.
TEST(ListMeter, TellsWhatListsAreLike) {
  features::Interactions train;
  for (const uint32_t items : {3u, 2u, 1u}) {
    for (uint32_t i = 0; i < items; ++i) {
      train.items.push_back(i);
      train.weights.push_back(1);
    }
    train.EndUser();
  }
  ListMeter meter(train, 3);
  const Case c{.history = {.rows = {1}, .weights = {1}}};
  const RankedCase ranked{.list = {{2, 0}, {1, 2}}, .hits = {false, false}};
  const auto of = [&](const char* name) {
    return meter.OfUser(*MetricSpec::Parse(name), c, ranked);
  };
  EXPECT_NEAR(of("novelty@2"), (0 + std::log2(3.0)) / 2, 1e-9);
  EXPECT_NEAR(of("novelty@1"), 0, 1e-9);
  EXPECT_NEAR(of("diversity@2"), 1 - 1 / std::sqrt(3.0), 1e-6);
  EXPECT_NEAR(of("popularity_lift@2"), (3.0 + 1) / 2 / 2 - 1, 1e-9);
  const std::vector<RankedCase> lists = {ranked, {.list = {{1, 0}}}};
  EXPECT_NEAR(meter.OfLists(*MetricSpec::Parse("coverage@2"), lists), 2.0 / 3,
              1e-9);
  EXPECT_NEAR(meter.OfLists(*MetricSpec::Parse("gini@2"), lists),
              Gini({2, 0, 1}), 1e-9);
}

TEST(ListMeter, CalibrationComparesSharesOfGenres) {
  const std::vector<std::string> both = {"A", "B"};
  const std::vector<features::Attributes> attributes = {
      {{"genres", std::string("A")}},
      {{"genres", both}},
      {{"genres", std::string("B")}},
      {}};
  ListMeter meter({}, 4, attributes);
  EXPECT_TRUE(meter.KnowsGenres());
  EXPECT_FALSE(ListMeter({}, 4).KnowsGenres());
  const Case c{.history = {.rows = {1, 3}, .weights = {1, 1}}};
  const RankedCase ranked{.list = {{3, 0}, {2, 2}, {1, 3}}};
  const auto of = [&](const char* name, const Case& of_case) {
    return meter.OfUser(*MetricSpec::Parse(name), of_case, ranked);
  };
  EXPECT_NEAR(
      of("calibration@1", c),
      0.5 * std::log(0.5 / (0.99 + 0.005)) + 0.5 * std::log(0.5 / 0.005), 1e-9);
  EXPECT_NEAR(of("calibration@3", c), 0, 1e-9);
  EXPECT_NEAR(of("calibration@3", Case()), 0, 1e-9);
}

// Nobody has item 1.
TEST(ListMeter, NoveltyOfWhatNobodyHasIsFinite) {
  features::Interactions train;
  for (int user = 0; user < 4; ++user) {
    train.items.push_back(0);
    train.weights.push_back(1);
    train.EndUser();
  }
  ListMeter meter(train, 2);
  EXPECT_NEAR(
      meter.OfUser(*MetricSpec::Parse("novelty@1"), Case(), {.list = {{1, 1}}}),
      2, 1e-9);
}

TEST(Metrics, MeanAndStandardError) {
  const Estimate e = MeanOf({1, 2, 3});
  EXPECT_DOUBLE_EQ(e.mean, 2);
  EXPECT_NEAR(e.stderr_, std::sqrt(1.0 / 3), 1e-12);
}

TEST(MetricSpec, NamesWhatThereIs) {
  for (const char* name :
       {"recall@20", "auc", "popularity_lift@5", "log_loss", "rmse"}) {
    EXPECT_EQ(MetricSpec::Parse(name)->Name(), name);
  }
  for (const char* bad :
       {"ndcg", "ndcg@0", "ndcg@1001", "bleu@3", "@", "auc@3"}) {
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
