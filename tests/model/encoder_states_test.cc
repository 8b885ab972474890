// Sums that are caught up with, against sums of all rows.
#include "model/encoder_states.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "base/random.h"
#include "model/cpu_scoring.h"
#include "model/generation.h"
#include "model/kernels.h"
#include "model/recommender.h"
#include "tests/model/random_floats.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

constexpr size_t kRows = 400, kFirst = 24, kSecond = 10;

class EncoderStatesTest : public testing::Test {
 protected:
  const ItemTable first_{RandomFloats(kRows * kFirst, 1), kFirst};
  const ItemTable second_{RandomFloats(kRows * kSecond, 2), kSecond};

  std::vector<float> Fresh(const History& history) const {
    std::vector<float> sums(kFirst + kSecond);
    GatherSum(first_, history, 1, sums.data());
    GatherSum(second_, history, 1, sums.data() + kFirst);
    return sums;
  }
  void ExpectAlike(const std::vector<float>& sums,
                   const History& history) const {
    const std::vector<float> fresh = Fresh(history);
    double length = 0;
    for (const float value : fresh) length += double{value} * value;
    for (size_t i = 0; i < sums.size(); ++i) {
      ASSERT_NEAR(sums[i], fresh[i], 1e-5 * std::sqrt(length)) << i;
    }
  }
};

History Start(size_t items) {
  History history;
  for (Row row = 0; row < items; ++row) {
    history.rows.push_back(row);
    history.weights.push_back(1);
  }
  return history;
}

// An event as profiles take it: a known item goes to the end with more weight,
// or stays, when the event came late; what is beyond the longest history goes.
void Event(size_t longest, Random* random, History* history) {
  const Row row = static_cast<Row>(random->Below(kRows));
  const auto at = std::find(history->rows.begin(), history->rows.end(), row);
  const auto place = at - history->rows.begin();
  float weight = 0.5f;
  const bool late = random->Below(4) == 0;
  if (at != history->rows.end()) {
    weight += history->weights[static_cast<size_t>(place)];
    if (late) {
      history->weights[static_cast<size_t>(place)] = weight;
      return;
    }
    history->rows.erase(at);
    history->weights.erase(history->weights.begin() + place);
  }
  const auto to = static_cast<std::ptrdiff_t>(
      late ? random->Below(history->rows.size()) : history->rows.size());
  history->rows.insert(history->rows.begin() + to, row);
  history->weights.insert(history->weights.begin() + to, weight);
  if (history->rows.size() <= longest) return;
  history->rows.erase(history->rows.begin());
  history->weights.erase(history->weights.begin());
}

TEST_F(EncoderStatesTest, AreCaughtUpWith) {
  EncoderStates states(1 << 20, {&first_, &second_});
  ASSERT_EQ(states.dim(), kFirst + kSecond);
  Random random(3);
  constexpr uint32_t kUsers = 5;
  std::vector<History> histories(kUsers, Start(50));
  std::vector<float> sums(states.dim());
  constexpr int kEvents = 5000;
  for (int event = 0; event < kEvents; ++event) {
    const auto user = static_cast<uint32_t>(random.Below(kUsers));
    Event(60, &random, &histories[user]);
    if (event % 7 == 0) continue;  // not asked for after each
    states.Sum(user, histories[user], sums.data());
    ExpectAlike(sums, histories[user]);
  }
  const EncoderStates::Stats stats = states.stats();
  EXPECT_EQ(stats.users, kUsers);
  // Now and then one is made anew: errors do not add up for ever.
  EXPECT_GT(stats.updated, 20 * stats.rebuilt);
  EXPECT_GT(stats.rebuilt,
            kEvents / static_cast<int>(EncoderStates::kMostChanges) / 2);
}

TEST_F(EncoderStatesTest, AreMadeAnewForAnotherHistory) {
  EncoderStates states(1 << 20, {&first_, &second_});
  std::vector<float> sums(states.dim());
  History history = Start(40);
  states.Sum(7, history, sums.data());
  std::reverse(history.rows.begin(), history.rows.end());
  states.Sum(7, history, sums.data());
  ExpectAlike(sums, history);
  EXPECT_EQ(states.stats().rebuilt, 2);
  history = {};  // erased
  states.Sum(7, history, sums.data());
  EXPECT_EQ(sums, Fresh(history));
  EXPECT_EQ(states.stats().rebuilt, 3);
}

TEST_F(EncoderStatesTest, LeastRecentlyUsedGoesFirst) {
  // Of one shard's users, which holds two.
  const int64_t bytes = 16 * 2 * 800;
  EncoderStates states(bytes, {&first_, &second_});
  std::vector<float> sums(states.dim());
  const History history = Start(40);
  for (const uint32_t user : {0, 16, 0, 32, 0, 16}) {
    states.Sum(user, history, sums.data());
    EXPECT_EQ(sums, Fresh(history));
  }
  // 0 was found again twice; 32 pushed 16 out.
  EXPECT_EQ(states.stats().updated, 2);
  EXPECT_EQ(states.stats().rebuilt, 4);
  EXPECT_EQ(states.stats().users, 2);
  EXPECT_LE(states.stats().bytes, bytes / 16);
  states.Clear();
  EXPECT_EQ(states.stats().users, 0);
  EXPECT_EQ(states.stats().bytes, 0);
  states.Sum(0, history, sums.data());
  EXPECT_EQ(sums, Fresh(history));
  EXPECT_EQ(states.stats().rebuilt, 5);
}

TEST_F(EncoderStatesTest, WhatIsLargerThanTheBudgetIsNotKept) {
  EncoderStates states(16, {&first_, &second_});
  std::vector<float> sums(states.dim());
  states.Sum(1, Start(40), sums.data());
  EXPECT_EQ(sums, Fresh(Start(40)));
  EXPECT_EQ(states.stats().users, 0);
  EXPECT_EQ(states.stats().bytes, 0);
}

TEST_F(EncoderStatesTest, AreSharedByThreads) {
  EncoderStates states(16 * 2 * 800, {&first_, &second_});
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([this, t, &states] {
      Random random(t);
      std::vector<History> histories(40, Start(45));
      std::vector<float> sums(states.dim());
      for (int i = 0; i < 1000; ++i) {
        const auto user = static_cast<uint32_t>(random.Below(40));
        Event(50, &random, &histories[user]);
        states.Sum(user, histories[user], sums.data());
        ExpectAlike(sums, histories[user]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(states.stats().bytes, 16 * 2 * 800);
}

// In two stages, of which both begin with sums.
TEST(Generation, AnswersAlikeWithAndWithoutKeptSums) {
  const auto plain = Generation::Create(TinyBundle(kRows));
  const auto kept = Generation::Create(TinyBundle(kRows));
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(kept, IsOk());
  EXPECT_EQ((*plain)->sums(), nullptr);
  (*kept)->KeepSums(1 << 20);
  ASSERT_NE((*kept)->sums(), nullptr);
  const RowMask mask(kRows, true);
  Random random(8);
  std::vector<History> histories = {Start(40), Start(60), Start(5), {}};
  for (int round = 0; round < 20; ++round) {
    std::vector<Query> queries;
    for (uint32_t user = 0; user < histories.size(); ++user) {
      const size_t longest = user == 2 ? EncoderStates::kShortest - 1 : 80;
      if (!histories[user].empty()) Event(longest, &random, &histories[user]);
      queries.push_back({&histories[user], &mask, 10, user});
    }
    queries[1].user = Query::kNobody;
    std::vector<std::vector<ScoredRow>> expected, found;
    const RecommendOptions options{.shortlist = 40, .rank = round % 3 > 0};
    ASSERT_THAT(Recommend(**plain, queries, options, &expected), IsOk());
    ASSERT_THAT(Recommend(**kept, queries, options, &found), IsOk());
    for (size_t i = 0; i < queries.size(); ++i) {
      ASSERT_EQ(found[i].size(), expected[i].size());
      for (size_t r = 0; r < found[i].size(); ++r) {
        EXPECT_NEAR(found[i][r].score, expected[i][r].score, 1e-4);
      }
    }
  }
  // The one user who is known and has a long history.
  EXPECT_EQ((*kept)->sums()->stats().users, 1);
  EXPECT_EQ((*kept)->sums()->stats().rebuilt, 1);
  EXPECT_EQ((*kept)->sums()->stats().updated, 19);
}

}  // namespace
}  // namespace nearline::model
