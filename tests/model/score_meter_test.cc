// Likelihoods and ratings told from scores, where the answer is known.
#include "model/score_meter.h"

#include <cmath>

#include "tests/testing.h"

namespace nearline::model {
namespace {

// A case whose candidates are the rows of `scores`, those in `truth` wanted.
struct Asked {
  Asked(const std::vector<float>& scores, std::vector<Row> truth) {
    for (size_t row = 0; row < scores.size(); ++row) {
      ranked.list.push_back({scores[row], static_cast<Row>(row)});
    }
    of_case.truth = std::move(truth);
  }
  Case of_case;
  RankedCase ranked;
};

double FittedLogLoss(const Asked& asked) {
  const ScoreMeter meter({}, {}, 0, {&asked.of_case, 1}, {&asked.ranked, 1},
                         {});
  return meter.LogLoss(asked.of_case, asked.ranked);
}

double Entropy(double p) {
  return -p * std::log(p) - (1 - p) * std::log(1 - p);
}

TEST(ScoreMeter, LogLossIsTheEntropyOfWhatScoresLeaveOpen) {
  // Scores that say nothing: one of four is wanted.
  EXPECT_NEAR(FittedLogLoss(Asked({1, 1, 1, 1}, {2})), Entropy(0.25), 1e-4);
  // Of the high three quarters are wanted, of the low one quarter, on whatever
  // scale.
  for (const float scale : {1e-3f, 1.0f, 1e3f}) {
    const float high = 5 * scale, low = 2 * scale;
    EXPECT_NEAR(
        FittedLogLoss(
            Asked({high, high, high, high, low, low, low, low}, {0, 1, 2, 4})),
        Entropy(0.25), 1e-4);
  }
  // A perfect order leaves little open, and is finite.
  const double perfect = FittedLogLoss(Asked({9, 1, 1, 1}, {0}));
  EXPECT_GT(perfect, 0);
  EXPECT_LT(perfect, 0.02);
}

class RatingsTest : public testing::Test {
 protected:
  // Each of four items was rated 2 and 4, so that none says anything.
  RatingsTest() {
    for (int user = 0; user < 2; ++user) {
      for (uint32_t item = 0; item < 4; ++item) {
        train_.items.push_back(item);
        train_.weights.push_back(1);
        train_ratings_.push_back(user == 0 ? 2 : 4);
      }
      train_.EndUser();
    }
    // Of 1,000 cases, items 0 and 1 have the high score and are rated 4, the
    // others 2.
    for (int i = 0; i < 1000; ++i) {
      cases_.push_back(asked_.of_case);
      ranked_.push_back(asked_.ranked);
      ratings_.push_back({.truth = {4, 4, 2, 2}});
    }
  }
  ScoreMeter::Sums ErrorsOf(const std::vector<float>& truth) {
    const ScoreMeter meter(train_, train_ratings_, 4, cases_, ranked_,
                           ratings_);
    ScoreMeter::Sums sums;
    meter.AddErrors(asked_.of_case, asked_.ranked, {.truth = truth}, &sums);
    return sums;
  }

  const Asked asked_{{1, 1, 0, 0}, {0, 1, 2, 3}};
  features::Interactions train_;
  std::vector<float> train_ratings_;
  std::vector<Case> cases_;
  std::vector<RankedCase> ranked_;
  std::vector<CaseRatings> ratings_;
};

TEST_F(RatingsTest, AreFoundWhereTheScoresTellThem) {
  const auto sums = ErrorsOf({4, 4, 2, 2});
  EXPECT_EQ(sums.ratings, 4);
  EXPECT_NEAR(sums.absolute, 0, 0.01);
  EXPECT_NEAR(sums.squared, 0, 0.01);
}

TEST_F(RatingsTest, ErrorsAreSummed) {
  const auto sums = ErrorsOf({3, 4, 2, 4});
  EXPECT_NEAR(sums.absolute, 1 + 2, 0.01);
  EXPECT_NEAR(sums.squared, 1 + 4, 0.02);
}

TEST_F(RatingsTest, AUsersOwnMeanCounts) {
  // Half of the users rate everything one higher, and did so before.
  for (size_t i = 0; i < ratings_.size(); i += 2) {
    ratings_[i] = {.history = {4, 4, 4, 4, 4}, .truth = {5, 5, 3, 3}};
  }
  for (float& rating : train_ratings_) rating = rating == 4 ? 5 : rating;
  for (size_t i = 1; i < ratings_.size(); i += 2) {
    ratings_[i].history = {3, 3, 3, 3, 3};
  }
  const ScoreMeter meter(train_, train_ratings_, 4, cases_, ranked_, ratings_);
  ScoreMeter::Sums sums;
  for (size_t i = 0; i < 2; ++i) {
    meter.AddErrors(cases_[i], ranked_[i], ratings_[i], &sums);
  }
  EXPECT_NEAR(sums.absolute, 0, 0.1);
}

}  // namespace
}  // namespace nearline::model
