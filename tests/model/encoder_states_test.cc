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
#include "model/user_features.h"
#include "tests/model/head_bundle.h"
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
    for (size_t i = 0; i < history.rows.size(); ++i) {
      const Row row = history.rows[i];
      length += history.weights[i] *
                std::sqrt(Dot(first_[row], first_[row], kFirst) +
                          Dot(second_[row], second_[row], kSecond));
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      ASSERT_NEAR(sums[i], fresh[i], 1e-5 * length) << i;
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
void Event(size_t longest, Row items, Random* random, History* history) {
  const Row row = static_cast<Row>(random->Below(items));
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
    Event(60, kRows, &random, &histories[user]);
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
        Event(50, kRows, &random, &histories[user]);
        states.Sum(user, histories[user], sums.data());
        ExpectAlike(sums, histories[user]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(states.stats().bytes, 16 * 2 * 800);
}

TEST_F(EncoderStatesTest, WhatIsTakenOutLeavesNoErrorBehind) {
  EncoderStates states(1 << 20, {&first_, &second_});
  std::vector<float> sums(states.dim());
  History history = Start(20);
  states.Sum(3, history, sums.data());
  history.rows.push_back(300);
  history.weights.push_back(3e6f);
  states.Sum(3, history, sums.data());
  ExpectAlike(sums, history);
  history = Start(20);
  states.Sum(3, history, sums.data());
  ExpectAlike(sums, history);
}

TEST_F(EncoderStatesTest, SomeNewItemsInTheMiddleAreFewChanges) {
  EncoderStates states(1 << 20, {&first_, &second_});
  std::vector<float> sums(states.dim());
  History history = Start(60);
  states.Sum(3, history, sums.data());
  for (const Row row : {200, 201, 202}) {
    history.rows.insert(history.rows.begin() + 5, row);
    history.weights.insert(history.weights.begin() + 5, 2);
  }
  history.rows.erase(history.rows.begin() + 20, history.rows.begin() + 23);
  history.weights.erase(history.weights.begin() + 20,
                        history.weights.begin() + 23);
  states.Sum(3, history, sums.data());
  ExpectAlike(sums, history);
  EXPECT_EQ(states.stats().updated, 1);
}

TEST_F(EncoderStatesTest, WhatWasReadBeforeClearIsNotKept) {
  EncoderStates states(1 << 20, {&first_, &second_});
  std::vector<float> sums(states.dim());
  const History history = Start(40);
  states.Clear();
  states.Sum(1, history, sums.data(), /*clears=*/0);
  EXPECT_EQ(sums, Fresh(history));
  EXPECT_EQ(states.stats().users, 0);
  states.Sum(1, history, sums.data(), /*clears=*/1);
  EXPECT_EQ(states.stats().users, 1);
  QueryCache queries(1 << 20, 1);
  const float query = 7;
  float found = 0;
  queries.Clear();
  queries.Put(history, &query, 0);
  EXPECT_FALSE(queries.Find(history, 1, &found));
  queries.Put(history, &query, 1);
  EXPECT_TRUE(queries.Find(history, 1, &found));
}

// A model that ranks what it has retrieved, by the same sums.
Bundle NeuMfBundle() {
  Bundle bundle = TinyBundle(90);
  bundle.manifest.retriever = "neumf";
  return bundle;
}

// Directions instead of sums.
Bundle DirectionBundle() {
  Random random(5);
  Bundle bundle = TinyBundle(90);
  bundle.manifest.retriever = "mult-dae";
  AddRandom("mult-dae.item.encoder", {90, 12}, &random, &bundle);
  bundle.tensors.Add("mult-dae.encoder.length", {1}, {5});
  AddRandom("mult-dae.item.decoder", {90, 12}, &random, &bundle);
  AddRandom("mult-dae.item.bias", {90, 1}, &random, &bundle);
  Fit(&bundle);
  return bundle;
}

// Attributes of users move the query.
Bundle TraitBundle() {
  const features::Attributes attributes = {{"region", "north"}};
  Bundle bundle = TinyBundle(90);
  bundle.manifest.parameters["user_features"] =
      UserFeatures(AttributeFeatures({&attributes}, {.min_count = 1}), 24,
                   RandomFloats(3 * 24, 6), {1, 1, 1, 1, 1, 1, 1})
          .Save(&bundle.tensors);
  return bundle;
}

class EncoderStatesOf : public testing::TestWithParam<Bundle (*)()> {};

TEST_P(EncoderStatesOf, LeaveAnswersAsTheyAre) {
  constexpr Row kItems = 90;
  const auto plain = Generation::Create(GetParam()());
  const auto kept = Generation::Create(GetParam()());
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(kept, IsOk());
  EXPECT_EQ((*plain)->states(), nullptr);
  (*kept)->KeepStates(1 << 20);
  ASSERT_NE((*kept)->states(), nullptr);
  const RowMask mask(kItems, true);
  const features::Attributes attributes = {{"region", "north"}};
  Random random(8);
  std::vector<History> histories = {Start(40), Start(30), Start(5), {}};
  for (int round = 0; round < 20; ++round) {
    std::vector<Query> queries;
    for (uint32_t user = 0; user < histories.size(); ++user) {
      History& history = histories[user];
      const size_t longest = user == 2 ? EncoderStates::kShortest - 1 : 45;
      if (!history.rows.empty()) Event(longest, kItems, &random, &history);
      (*kept)->AddTraits(&attributes, &history);
      queries.push_back({&history, &mask, 10, user});
    }
    queries[1].user = Query::kNobody;
    std::vector<std::vector<ScoredRow>> expected, found;
    const RecommendOptions options{.shortlist = 40, .rank = round % 3 > 0};
    ASSERT_THAT(Recommend(**plain, queries, options, &expected), IsOk());
    ASSERT_THAT(Recommend(**kept, queries, options, &found), IsOk());
    for (size_t i = 0; i < queries.size(); ++i) {
      ASSERT_EQ(found[i].size(), expected[i].size());
      for (size_t r = 0; r < found[i].size(); ++r) {
        const float score = expected[i][r].score;
        EXPECT_EQ(found[i][r].row, expected[i][r].row);
        EXPECT_NEAR(found[i][r].score, score, 1e-4 * (1 + std::abs(score)));
      }
    }
  }
  // The one user who is known and has a long history.
  EXPECT_EQ((*kept)->states()->stats().users, 1);
  EXPECT_EQ((*kept)->states()->stats().rebuilt, 1);
  EXPECT_EQ((*kept)->states()->stats().updated, 19);
  (*kept)->Forget();
  EXPECT_EQ((*kept)->states()->stats().users, 0);
  EXPECT_EQ((*kept)->forgets(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Models, EncoderStatesOf,
                         testing::Values([] { return TinyBundle(90); },
                                         HeadBundle, NeuMfBundle,
                                         DirectionBundle, TraitBundle));

TEST(Generation, SumsThatEncoderAndRankerShareAreKeptOnce) {
  const auto generation = Generation::Create(NeuMfBundle());
  ASSERT_THAT(generation, IsOk());
  (*generation)->KeepStates(1 << 20);
  EXPECT_EQ((*generation)->states()->dim(), 16u + 5);
  EXPECT_EQ((*generation)->ranker_sums(), 0u);
  const auto two = Generation::Create(TinyBundle(90));
  ASSERT_THAT(two, IsOk());
  (*two)->KeepStates(1 << 20);
  EXPECT_EQ((*two)->states()->dim(), 24u + 16 + 5);
  EXPECT_EQ((*two)->ranker_sums(), 24u);
}

// The ranker sums for itself what is not kept for it.
TEST(Generation, RanksWithoutSumsOfItsOwn) {
  const auto plain = Generation::Create(TinyBundle(90));
  const auto kept = Generation::Create(TinyBundle(90));
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(kept, IsOk());
  (*kept)->KeepStates(1 << 20, /*rank=*/false);
  EXPECT_EQ((*kept)->ranker_sums(), std::nullopt);
  const RowMask mask(90, true);
  const History history = Start(40);
  const Query query{&history, &mask, 10, 1};
  std::vector<std::vector<ScoredRow>> expected, found;
  ASSERT_THAT(Recommend(**plain, {&query, 1}, {}, &expected), IsOk());
  ASSERT_THAT(Recommend(**kept, {&query, 1}, {}, &found), IsOk());
  for (size_t r = 0; r < 10; ++r) {
    EXPECT_EQ(found[0][r].row, expected[0][r].row);
    EXPECT_NEAR(found[0][r].score, expected[0][r].score, 1e-4);
  }
}

}  // namespace
}  // namespace nearline::model
