#include "model/user_features.h"

#include <cmath>

#include "model/generation.h"
#include "model/recommender.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

const features::Attributes kAnn = {{"sex", "f"}, {"age", 30.0}};
const features::Attributes kBob = {{"sex", "m"}, {"age", 50.0}};

AttributeFeatures Known() {
  return AttributeFeatures({&kAnn, &kBob, &kAnn, &kBob}, {.min_count = 2});
}

// Four features (age 30, age 50, f, m), the constant, and what is for empty
// histories.
UserFeatures Made(UserFeatures::Gains gains = {1, 0.5f}) {
  return UserFeatures(Known(), 2, {-1, 0, 1, 0, 0, 2, 0, 4, 8, 8, 100, 0},
                      gains);
}

TEST(UserFeatures, BucketsAreByPowersOfTwo) {
  EXPECT_EQ(UserFeatures::BucketOf(0), 0u);
  EXPECT_EQ(UserFeatures::BucketOf(1), 1u);
  EXPECT_EQ(UserFeatures::BucketOf(2), 2u);
  EXPECT_EQ(UserFeatures::BucketOf(3), 2u);
  EXPECT_EQ(UserFeatures::BucketOf(255), 8u);
  EXPECT_EQ(UserFeatures::BucketOf(256), 9u);
  EXPECT_EQ(UserFeatures::BucketOf(1'000'000), 9u);
}

TEST(UserFeatures, AddLessToLongerHistories) {
  const UserFeatures users = Made();
  History history;
  history.traits = users.TraitsOf(kAnn, history);
  float query[] = {0, 0};
  users.AddTo(history, query);
  EXPECT_FLOAT_EQ(query[0], -1 + 0 + 8 + 100);
  EXPECT_FLOAT_EQ(query[1], 2 + 8);
  history = {.rows = {7}, .weights = {1}};
  history.traits = users.TraitsOf(kBob, history);
  float other[] = {1, 1};
  users.AddTo(history, other);
  EXPECT_FLOAT_EQ(other[0], 1 + (1 + 0 + 8) * 0.5f);
  EXPECT_FLOAT_EQ(other[1], 1 + (4 + 8) * 0.5f);
  history = {.rows = {7, 8}, .weights = {1, 1}};
  EXPECT_TRUE(users.TraitsOf(kBob, history).empty());
  EXPECT_TRUE(users.TraitsOf({{"sex", "x"}}, {}).empty());
}

// A bundle of which attributes of users are part.
Bundle WithUsers() {
  Bundle bundle = TinyBundle(50);
  std::vector<float> map;
  for (int i = 0; i < 6 * 24; ++i) {
    map.push_back(0.1f * static_cast<float>(i % 7));
  }
  bundle.manifest.parameters["user_features"] =
      UserFeatures(Known(), 24, std::move(map), {1, 0.5f})
          .Save(&bundle.tensors);
  return bundle;
}

TEST(UserFeatures, AreServedAndKept) {
  const auto plain = Generation::Create(TinyBundle(50));
  const auto with = Generation::Create(WithUsers());
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(with, IsOk());
  (*with)->KeepQueries(1 << 20);
  History ann{.rows = {3}, .weights = {1}}, bob = ann, nobody = ann;
  (*with)->AddTraits(&kAnn, &ann);
  (*with)->AddTraits(&kBob, &bob);
  (*with)->AddTraits(nullptr, &nobody);
  (*plain)->AddTraits(&kAnn, &nobody);
  EXPECT_TRUE(nobody.traits.empty());
  const RowMask mask(50, true);
  const auto scores = [&](const Generation& generation,
                          const History& history) {
    const Query query{&history, &mask, 5};
    std::vector<std::vector<ScoredRow>> lists;
    EXPECT_THAT(Recommend(generation, {&query, 1}, {.rank = false}, &lists),
                IsOk());
    std::vector<float> out;
    for (const ScoredRow& s : lists[0]) out.push_back(s.score);
    return out;
  };
  EXPECT_EQ(scores(**with, nobody), scores(**plain, nobody));
  for (int round = 0; round < 2; ++round) {  // the second from memory
    EXPECT_NE(scores(**with, ann), scores(**with, bob));
    EXPECT_NE(scores(**with, ann), scores(**with, nobody));
  }
}

TEST(UserFeatures, WithoutEventsTheScansOrderStands) {
  const auto generation = Generation::Create(WithUsers());
  ASSERT_THAT(generation, IsOk());
  History history;
  (*generation)->AddTraits(&kAnn, &history);
  const RowMask mask(50, true);
  const Query query{&history, &mask, 20};
  std::vector<std::vector<ScoredRow>> ranked, scanned;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &ranked), IsOk());
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &scanned),
              IsOk());
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(ranked[0][i].row, scanned[0][i].row);
  }
}

TEST(UserFeatures, BadBundlesAreRefused) {
  Bundle bundle = WithUsers();
  bundle.tensors.Add("user_features.map", {3, 24}, std::vector<float>(72));
  EXPECT_THAT(Generation::Create(std::move(bundle)),
              IsError(absl::StatusCode::kInvalidArgument, "user_features.map"));
  bundle = WithUsers();
  bundle.manifest.parameters["user_features"] = "sex";
  EXPECT_THAT(Generation::Create(std::move(bundle)),
              IsError(absl::StatusCode::kInvalidArgument, "user_features"));
  bundle = TinyBundle(50);
  bundle.manifest.parameters["user_features"] = Json::array();
  EXPECT_THAT(Generation::Create(std::move(bundle)),
              IsError(absl::StatusCode::kNotFound, "user_features.map"));
}

}  // namespace
}  // namespace nearline::model
