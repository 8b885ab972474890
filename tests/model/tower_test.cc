// What attributes of items and users are worth.
#include "model/tower.h"

#include "absl/strings/str_format.h"
#include "model/generation.h"
#include "model/recommender.h"
#include "model/user_tower.h"
#include "tests/model/train_fixture.h"
#include "tests/model/two_tastes.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

class TowerTest : public TrainTest {
 protected:
  // A tenth of the items untouched, half of them of either kind.
  static bool IsNew(uint32_t item) { return item % 20 < 2; }

  // Trained on the others, as rows 0 .. 53.
  absl::StatusOr<Bundle> TrainedWithoutNew(TrainingSet* set) {
    const TrainingSet all = TwoTastes();
    Bundle bundle;
    std::vector<uint32_t> row(60);
    for (uint32_t i = 0; i < 60; ++i) {
      if (IsNew(i)) continue;
      row[i] = static_cast<uint32_t>(bundle.items.size());
      bundle.items.push_back(absl::StrFormat("i%03d", i));
      set->attributes.push_back(all.attributes[i]);
    }
    set->items = static_cast<int64_t>(bundle.items.size());
    for (int64_t u = 0; u < all.train.users(); ++u) {
      for (const uint32_t item : all.train.ItemsOf(u)) {
        if (IsNew(item)) continue;
        set->train.items.push_back(row[item]);
        set->train.weights.push_back(1);
      }
      set->train.EndUser();
    }
    ASSIGN_OR_RETURN(bundle.tensors, Train(Model(), *set, Small(), {}));
    bundle.manifest.id = "test";
    bundle.manifest.retriever = Model();
    bundle.manifest.parameters["item_features"] =
        ItemFeatureMap::Fit(set->attributes, {}, &bundle.tensors);
    return bundle;
  }
};

TEST_P(TowerTest, PutsNewItemsAmongTheirKind) {
  TrainingSet set;
  auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  ASSERT_THAT(FitTower(set, {}, &*bundle), IsOk());
  const auto generation = Generation::Create(*std::move(bundle));
  ASSERT_THAT(generation, IsOk());
  features::Catalogue catalogue(0);
  catalogue.Put(
      0, {.id = "even", .attributes = {{"kind", "even"}}, .listed = true});
  catalogue.Put(1,
                {.id = "odd", .attributes = {{"kind", "odd"}}, .listed = true});
  (*generation)->BindAll(catalogue);
  ASSERT_EQ((*generation)->rows(), 56u);
  const History history{.rows = {1, 3, 5}, .weights = {1, 1, 1}};  // odd ones
  const RowMask mask(56, true);
  const Query query{&history, &mask, 56};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
  std::vector<size_t> place(56);
  for (size_t i = 0; i < 56; ++i) place[lists[0][i].row] = i;
  // In the middle of 28 odd ones, below which are 28 even ones.
  EXPECT_GT(place[55], 2u);
  EXPECT_LT(place[55], 26u);
  EXPECT_GT(place[54], 27u);
}

TEST(DemandForUntouched, IsOfNewItemsAndOfThoseThatWereOverlooked) {
  TrainingSet set{.items = 10, .untouched = 100};
  const auto fill = [&](const std::vector<int>& counts) {
    set.train = {};
    for (uint32_t item = 0; item < counts.size(); ++item) {
      set.train.items.insert(set.train.items.end(),
                             static_cast<size_t>(counts[item]), item);
    }
    set.train.EndUser();
  };
  // All are touched often: what is not must be new.
  fill(std::vector<int>(10, 5));
  EXPECT_EQ(DemandForUntouched(set), 1);
  // Six singletons and one pair: 6 * 6 / 4 = 9 are overlooked, and wanted in 6
  // of 20 events; the average item is in 2.
  fill({1, 1, 1, 1, 1, 1, 2, 4, 4, 4});
  EXPECT_NEAR(DemandForUntouched(set), 0.09 * (6.0 / 9 / 2) + 0.91, 1e-9);
  set.untouched = 5;
  EXPECT_NEAR(DemandForUntouched(set), 6.0 / 9 / 2, 1e-9);
  set.untouched = 0;
  EXPECT_EQ(DemandForUntouched(set), 1);
}

TEST_P(TowerTest, LittleWantedItemsStandLower) {
  TrainingSet set;
  auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  // 50 items that were touched once each.
  for (uint32_t item = 0; item < 50; ++item) {
    std::erase(set.train.items, item);
  }
  for (uint32_t item = 0; item < 50; ++item) set.train.items.push_back(item);
  set.train.weights.assign(set.train.items.size(), 1);
  set.train.offsets = {0, set.train.size() / 2, set.train.size()};
  Bundle lowered = *bundle, as_it_is = *bundle;
  ASSERT_THAT(FitTower(set, {}, &as_it_is), IsOk());
  set.untouched = 50;
  ASSERT_LT(DemandForUntouched(set), 0.5);
  ASSERT_THAT(FitTower(set, {}, &lowered), IsOk());
  const std::string map =
      ItemFeatureMap::MapOf(BiasTable(bundle->manifest.retriever));
  EXPECT_LT(lowered.tensors.all().at(map).values.back(),
            as_it_is.tensors.all().at(map).values.back());
}

TEST_P(TowerTest, TheSameSeedGivesTheSameMap) {
  TrainingSet set;
  const auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  Bundle a = *bundle, b = *bundle;
  ASSERT_THAT(FitTower(set, {.seed = 3}, &a), IsOk());
  ASSERT_THAT(FitTower(set, {.seed = 3}, &b), IsOk());
  const std::string map =
      ItemFeatureMap::MapOf(ScannedTable(bundle->manifest.retriever));
  EXPECT_EQ(a.tensors.all().at(map).values, b.tensors.all().at(map).values);
  EXPECT_NE(a.tensors.all().at(map).values,
            bundle->tensors.all().at(map).values);
}

TEST_P(TowerTest, WithoutAttributesNothingChanges) {
  TrainingSet set;
  auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  set.attributes.clear();
  const auto before = bundle->tensors.all();
  ASSERT_THAT(FitTower(set, {}, &*bundle), IsOk());
  for (const auto& [name, tensor] : before) {
    EXPECT_EQ(bundle->tensors.all().at(name).values, tensor.values) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TowerTest,
                         testing::Values("mult-vae", "mult-dae", "ease", "ials",
                                         "gmf", "joint", kCosineJoint),
                         NameOf);

const features::Attributes kEven = {{"taste", "even"}, {"name", "a"}};
const features::Attributes kOdd = {{"taste", "odd"}, {"name", "b"}};

class UserTowerTest : public TrainTest {
 protected:
  void SetUp() override {
    for (int64_t u = 0; u < set_.train.users(); ++u) {
      set_.user_attributes.push_back(u % 2 == 0 ? &kEven : &kOdd);
    }
  }
  absl::StatusOr<Bundle> Trained() {
    Bundle bundle;
    for (int i = 0; i < 60; ++i) {
      bundle.items.push_back(absl::StrFormat("i%03d", i));
    }
    ASSIGN_OR_RETURN(bundle.tensors, Train(Model(), set_, Small(), {}));
    bundle.manifest.id = "test";
    bundle.manifest.retriever = Model();
    bundle.manifest.parameters["item_features"] =
        ItemFeatureMap::Fit(set_.attributes, {}, &bundle.tensors);
    return bundle;
  }

  TrainingSet set_ = TwoTastes();
};

TEST_P(UserTowerTest, KnowsTheTasteOfWhoHasShownNothing) {
  auto bundle = Trained();
  ASSERT_THAT(bundle, IsOk());
  Bundle again = *bundle;
  ASSERT_THAT(FitUsers(set_, {}, &*bundle), IsOk());
  ASSERT_THAT(FitUsers(set_, {}, &again), IsOk());
  EXPECT_EQ(bundle->tensors.all().at("user_features.map").values,
            again.tensors.all().at("user_features.map").values);
  const auto generation = Generation::Create(*std::move(bundle));
  ASSERT_THAT(generation, IsOk());
  const RowMask mask(60, true);
  for (const uint32_t taste : {0u, 1u}) {
    History history;
    (*generation)->AddTraits(taste == 0 ? &kEven : &kOdd, &history);
    EXPECT_FALSE(history.empty());
    const Query query{&history, &mask, 20};
    std::vector<std::vector<ScoredRow>> lists;
    ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
    for (const ScoredRow& s : lists[0]) EXPECT_EQ(s.row % 2, taste);
  }
}

TEST_P(UserTowerTest, WhatFewShareOrFewHaveIsNoKnowledge) {
  auto bundle = Trained();
  ASSERT_THAT(bundle, IsOk());
  for (size_t u = 190; u < set_.user_attributes.size(); ++u) {
    set_.user_attributes[u] = nullptr;
  }
  ASSERT_THAT(FitUsers(set_, {}, &*bundle), IsOk());
  EXPECT_FALSE(bundle->tensors.Has("user_features.map"));
  std::vector<features::Attributes> names(set_.user_attributes.size());
  for (size_t u = 0; u < names.size(); ++u) {
    names[u] = {{"name", absl::StrCat(u)}};
    set_.user_attributes[u] = &names[u];
  }
  ASSERT_THAT(FitUsers(set_, {}, &*bundle), IsOk());
  EXPECT_FALSE(bundle->tensors.Has("user_features.map"));
}

INSTANTIATE_TEST_SUITE_P(Models, UserTowerTest,
                         testing::Values("mult-vae", "mult-dae", "ease", "ials",
                                         "gmf", "joint", kCosineJoint),
                         NameOf);

}  // namespace
}  // namespace nearline::model
