// What training inputs keep of histories.
#include "model/corruption.h"

#include <algorithm>
#include <cmath>

#include "tests/testing.h"

namespace nearline::model {
namespace {

const std::vector<float> kHistory(100, 2.0f);

int Kept(const std::vector<float>& weights) {
  return static_cast<int>(std::count_if(weights.begin(), weights.end(),
                                        [](float w) { return w != 0; }));
}

double Length(const std::vector<float>& weights) {
  double squares = 0;
  for (const float w : weights) squares += static_cast<double>(w) * w;
  return std::sqrt(squares);
}

TEST(Corruption, WithoutAnyTheHistoryIsNormalized) {
  Corruptor corruptor({}, 1);
  const auto& kept = corruptor.Normalized(std::vector<float>{3, 4});
  EXPECT_FLOAT_EQ(kept[0], 0.6f);
  EXPECT_FLOAT_EQ(kept[1], 0.8f);
  EXPECT_TRUE(corruptor.Normalized({}).empty());
}

TEST(Corruption, DropoutKeepsTheSumOnAverage) {
  Corruptor corruptor({.dropout = 0.5}, 2);
  double sum = 0;
  for (int user = 0; user < 200; ++user) {
    const auto& kept = corruptor.Normalized(kHistory);
    EXPECT_GT(Kept(kept), Corruption::kFew);
    for (const float w : kept) sum += w;
  }
  EXPECT_NEAR(sum / 200, 10, 0.3);  // 100 x 0.1 without dropout
}

TEST(Corruption, SomeUsersKeepAFewItemsAsIfTheyHadNoMore) {
  Corruptor corruptor({.dropout = 0.5, .cold_share = 0.3}, 3);
  int cold = 0;
  std::vector<int> counts(Corruption::kFew + 1, 0);
  for (int user = 0; user < 2000; ++user) {
    const auto& kept = corruptor.Normalized(kHistory);
    const int count = Kept(kept);
    ASSERT_GE(count, 1);
    if (count > Corruption::kFew) continue;  // of 100, dropout leaves more
    ++cold;
    ++counts[static_cast<size_t>(count)];
    EXPECT_NEAR(Length(kept), 1, 1e-5);
  }
  EXPECT_NEAR(cold / 2000.0, 0.3, 0.04);
  for (int count = 1; count <= Corruption::kFew; ++count) {
    EXPECT_GT(counts[static_cast<size_t>(count)], 0) << count;
  }
}

TEST(Corruption, OfAShortHistoryNoMoreIsKeptThanThereIs) {
  Corruptor corruptor({.cold_share = 1}, 4);
  std::vector<int> places(3, 0);
  for (int user = 0; user < 300; ++user) {
    const auto& kept = corruptor.Normalized(std::vector<float>{1, 1, 1});
    EXPECT_NEAR(Length(kept), 1, 1e-5);
    for (size_t i = 0; i < 3; ++i) places[i] += kept[i] != 0;
  }
  for (const int count : places) EXPECT_GT(count, 200);
  EXPECT_EQ(Kept(corruptor.Normalized(std::vector<float>{5})), 1);
}

TEST(Corruption, TheSameSeedKeepsTheSame) {
  Corruptor a({.dropout = 0.5, .cold_share = 0.3}, 5);
  Corruptor b({.dropout = 0.5, .cold_share = 0.3}, 5);
  for (int user = 0; user < 20; ++user) {
    EXPECT_EQ(a.Normalized(kHistory), b.Normalized(kHistory));
  }
}

}  // namespace
}  // namespace nearline::model
