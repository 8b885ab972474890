#include "model/generation.h"

#include <algorithm>
#include <cmath>

#include "base/workers.h"
#include "model/evaluate.h"
#include "model/recommender.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

using features::Attributes;
using features::Catalogue;
using features::kNoOrdinal;

// The slow, obvious networks, straight from the formulas.
class Obvious {
 public:
  explicit Obvious(const Bundle& bundle) : t_(bundle.tensors) {}

  double VaeScore(const History& history, Row item) const {
    const auto h = Tanh(
        FirstLayer("mult-vae.item.encoder", "mult-vae.encoder.bias", history));
    const auto mu = Dense("mult-vae.mean", h);
    const auto q = Tanh(Dense("mult-vae.hidden", mu));
    return Dot(q, "mult-vae.item.decoder", item) +
           At("mult-vae.item.bias", item);
  }
  double NeuMfScore(const History& history, Row item) const {
    auto h =
        Tanh(FirstLayer("neumf.item.history", "neumf.history.bias", history));
    auto z = Dense("neumf.mlp.user", h);
    for (size_t i = 0; i < z.size(); ++i) {
      z[i] += At("neumf.item.mlp", item * z.size() + i);
    }
    z = Dense("neumf.mlp.2", Relu(z));
    z = Relu(z);
    double mlp = 0;
    for (size_t i = 0; i < z.size(); ++i) mlp += z[i] * At("neumf.mlp.last", i);
    for (size_t c = 0; c < 5; ++c) {
      double sum = 0;
      for (size_t i = 0; i < history.rows.size(); ++i) {
        sum += history.weights[i] *
               At("neumf.item.linear", history.rows[i] * 5 + c);
      }
      h.push_back(sum);
    }
    return Dot(h, "neumf.item.gmf", item) + At("neumf.item.bias", item) + mlp;
  }

 private:
  using Vector = std::vector<double>;
  double At(const std::string& name, size_t i) const {
    return t_.all().at(name).values[i];
  }
  Vector FirstLayer(const std::string& table, const std::string& bias,
                    const History& history) const {
    const Tensor& b = t_.all().at(bias);
    Vector out(b.values.begin(), b.values.end());
    double norm = 0;
    for (const float w : history.weights) norm += static_cast<double>(w) * w;
    for (size_t i = 0; i < history.rows.size(); ++i) {
      for (size_t j = 0; j < out.size(); ++j) {
        out[j] += history.weights[i] / std::sqrt(norm) *
                  At(table, history.rows[i] * out.size() + j);
      }
    }
    return out;
  }
  Vector Dense(const std::string& name, const Vector& x) const {
    const Tensor& w = t_.all().at(name + ".weight");
    Vector out;
    for (int64_t o = 0; o < w.shape[0]; ++o) {
      double sum = At(name + ".bias", static_cast<size_t>(o));
      for (size_t i = 0; i < x.size(); ++i) {
        sum += x[i] * w.values[static_cast<size_t>(o) * x.size() + i];
      }
      out.push_back(sum);
    }
    return out;
  }
  static Vector Tanh(Vector x) {
    for (double& v : x) v = std::tanh(v);
    return x;
  }
  static Vector Relu(Vector x) {
    for (double& v : x) v = std::max(0.0, v);
    return x;
  }
  double Dot(const Vector& q, const std::string& table, Row item) const {
    double sum = 0;
    for (size_t i = 0; i < q.size(); ++i) {
      sum += q[i] * At(table, item * q.size() + i);
    }
    return sum;
  }
  const Tensors& t_;
};

History MakeHistory() {
  return {.rows = {3, 14, 15, 92}, .weights = {1, 0.5f, 2, 1}};
}

TEST(Generation, ShortlistScoresEqualTheObviousNetwork) {
  const Bundle bundle = TinyBundle(700);
  const auto generation = Generation::Create(bundle);
  ASSERT_THAT(generation, IsOk());
  const History history = MakeHistory();
  const RowMask mask(700, true);
  const Query query{&history, &mask, 700};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &lists),
              IsOk());
  ASSERT_EQ(lists[0].size(), 700u);
  const Obvious obvious(bundle);
  for (const ScoredRow& s : lists[0]) {
    EXPECT_NEAR(s.score, obvious.VaeScore(history, s.row), 1e-4);
  }
  EXPECT_TRUE(std::is_sorted(lists[0].begin(), lists[0].end()));
}

// A linear model of rank 6 with 5 neighbours a row, random.
Bundle LinearBundle(int items) {
  Bundle bundle;
  bundle.manifest.id = "g-linear";
  bundle.manifest.retriever = "ease";
  Random random(5);
  for (int i = 0; i < items; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  const auto add = [&](const char* name, int64_t width) {
    std::vector<float> values;
    for (int64_t i = 0; i < items * width; ++i) {
      values.push_back(static_cast<float>(random.Normal()));
    }
    bundle.tensors.Add(name, {items, width}, std::move(values));
  };
  add("ease.item.linear", 6);
  add("ease.item.decoder", 6);
  add("ease.item.bias", 1);
  add("ease.neighbours.weights", 5);
  std::vector<float> rows;
  for (int64_t i = 0; i < items * 5; ++i) {
    rows.push_back(
        static_cast<float>(random.Below(static_cast<uint64_t>(items))));
  }
  bundle.tensors.Add("ease.neighbours.rows", {items, 5}, std::move(rows));
  bundle.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
      std::vector<const Attributes*>(static_cast<size_t>(items), nullptr), {},
      &bundle.tensors);
  return bundle;
}

TEST(Generation, NeighboursAddToTheScan) {
  const Bundle bundle = LinearBundle(200);
  const auto generation = Generation::Create(bundle);
  ASSERT_THAT(generation, IsOk());
  Catalogue catalogue(0);
  catalogue.Put(0, {.id = "later", .listed = true});
  (*generation)->BindAll(catalogue);
  const History history = MakeHistory();
  RowMask mask(201, true);
  mask.Clear(200);
  for (const Row row : history.rows) mask.Clear(row);
  const auto at = [&](const char* name, size_t i) {
    return static_cast<double>(bundle.tensors.all().at(name).values[i]);
  };
  std::vector<ScoredRow> expected;
  for (Row row = 0; row < 200; ++row) {
    if (!mask[row]) continue;
    double score = at("ease.item.bias", row);
    for (size_t h = 0; h < 4; ++h) {
      const double weight = history.weights[h];
      for (size_t d = 0; d < 6; ++d) {
        score += weight * at("ease.item.linear", history.rows[h] * 6 + d) *
                 at("ease.item.decoder", row * 6 + d);
      }
      for (size_t k = 0; k < 5; ++k) {
        const size_t i = history.rows[h] * 5 + k;
        if (at("ease.neighbours.rows", i) != row) continue;
        score += weight * at("ease.neighbours.weights", i);
      }
    }
    expected.push_back({static_cast<float>(score), row});
  }
  std::sort(expected.begin(), expected.end());
  for (const int k : {1, 10, 201}) {
    const Query query{&history, &mask, k};
    std::vector<std::vector<ScoredRow>> lists;
    ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
    const size_t found = std::min<size_t>(lists[0].size(), 100);
    ASSERT_EQ(lists[0].size(), k == 201 ? 196u : static_cast<size_t>(k));
    for (size_t i = 0; i < found; ++i) {
      EXPECT_EQ(lists[0][i].row, expected[i].row);
      EXPECT_NEAR(lists[0][i].score, expected[i].score, 1e-4);
    }
  }
}

// Of three rows and a history of four, of which two positions count.
TEST(Generation, TheNewestItemsCountByTheirPlace) {
  Bundle bundle;
  bundle.manifest.id = "test";
  bundle.manifest.retriever = "recent";
  bundle.items = {"a", "b", "c"};
  bundle.tensors.Add("recent.item.recent", {3, 2}, {1, 2, 3, 4, 5, 6});
  bundle.tensors.Add("recent.recent.positions", {2, 2}, {1, 0.5f, 0.25f, 2});
  bundle.tensors.Add("recent.item.decoder", {3, 2}, {1, 0, 0, 1, 1, 1});
  bundle.tensors.Add("recent.item.bias", {3, 1}, {0, 0.5f, 1});
  bundle.manifest.parameters["item_features"] =
      ItemFeatureMap::Fit({nullptr, nullptr, nullptr}, {}, &bundle.tensors);
  const auto scores = [&](const History& history) {
    const auto generation = Generation::Create(bundle);
    EXPECT_THAT(generation, IsOk());
    const RowMask mask(3, true);
    const Query query{&history, &mask, 3};
    std::vector<std::vector<ScoredRow>> lists;
    EXPECT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
    std::map<Row, float> out;
    for (const ScoredRow& s : lists[0]) out[s.row] = s.score;
    return out;
  };
  // The newest is b, before it came c; a is too old.
  const float x = (3 * 1 + 5 * 0.25f) / std::sqrt(2.0f);
  const float y = (4 * 0.5f + 6 * 2) / std::sqrt(2.0f);
  auto found = scores({.rows = {0, 2, 1}, .weights = {9, 1, 1}});
  EXPECT_NEAR(found[0], x, 1e-5);
  EXPECT_NEAR(found[1], y + 0.5f, 1e-5);
  EXPECT_NEAR(found[2], x + y + 1, 1e-5);
  found = scores({});
  EXPECT_EQ(found[2], 1);
  bundle.tensors.Add("recent.recent.positions", {2, 3}, {1, 1, 1, 1, 1, 1});
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kInvalidArgument, "recent.positions"));
}

TEST(Generation, RefusesNeighboursThatAreNone) {
  const float nan = std::nanf("");
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, float>>{{"rows", 200},
                                                  {"rows", -1},
                                                  {"rows", 0.5f},
                                                  {"rows", nan},
                                                  {"weights", nan}}) {
    Bundle bundle = LinearBundle(200);
    const std::string tensor = absl::StrCat("ease.neighbours.", name);
    std::vector<float> values = bundle.tensors.all().at(tensor).values;
    values[7] = value;
    bundle.tensors.Add(tensor, {200, 5}, std::move(values));
    EXPECT_THAT(Generation::Create(std::move(bundle)),
                IsError(absl::StatusCode::kInvalidArgument,
                        "whole number in [0, 200)"));
  }
  Bundle bundle = LinearBundle(200);
  bundle.tensors.Add("ease.neighbours.weights", {200, 1},
                     std::vector<float>(200, 1));
  EXPECT_THAT(Generation::Create(std::move(bundle)),
              IsError(absl::StatusCode::kInvalidArgument, "one shape"));
}

TEST(Generation, RankedScoresEqualTheObviousNetwork) {
  const Bundle bundle = TinyBundle(300);
  const auto generation = Generation::Create(bundle);
  ASSERT_THAT(generation, IsOk());
  const History history = MakeHistory();
  const RowMask mask(300, true);
  const Query query{&history, &mask, 60};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.shortlist = 40}, &lists),
              IsOk());
  ASSERT_EQ(lists[0].size(), 60u);
  const Obvious obvious(bundle);
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_NEAR(lists[0][i].score, obvious.NeuMfScore(history, lists[0][i].row),
                1e-4);
  }
  // Behind the shortlist comes the scan's order, with scores that never rise.
  for (size_t i = 1; i < 60; ++i) {
    EXPECT_LE(lists[0][i].score, lists[0][i - 1].score);
  }
}

// A shortlist is scanned in no order when all of the answer is ranked anew.
TEST(Generation, ShortlistsWithAndWithoutOrderAreRankedAlike) {
  constexpr int kItems = 900, kShortlist = 40;
  for (const float last : {0.3f, 3e38f}) {  // the ranker says no number by this
    Bundle bundle = TinyBundle(kItems);
    bundle.tensors.Add("neumf.mlp.last", {6},
                       {last, -last, last, -last, last, -last});
    bundle.tensors.Add("neumf.mlp.2.bias", {6}, {1, 9, 20, 3, 1, 70});
    const auto generation = Generation::Create(bundle);
    ASSERT_THAT(generation, IsOk());
    const RowMask mask(kItems, true);
    for (const History& history : {MakeHistory(), History()}) {
      std::vector<std::vector<ScoredRow>> shorter, longer;
      const Query all_ranked{&history, &mask, kShortlist};
      ASSERT_THAT(Recommend(**generation, {&all_ranked, 1},
                            {.shortlist = kShortlist}, &shorter),
                  IsOk());
      const Query more{&history, &mask, kShortlist + 1};
      ASSERT_THAT(Recommend(**generation, {&more, 1}, {.shortlist = kShortlist},
                            &longer),
                  IsOk());
      longer[0].resize(kShortlist);
      EXPECT_EQ(shorter, longer) << last << " " << history.rows.size();
    }
  }
}

TEST(Generation, ABatchAnswersLikeItsRequestsAlone) {
  const auto generation = Generation::Create(TinyBundle(600));
  ASSERT_THAT(generation, IsOk());
  std::vector<History> histories(45);
  const RowMask mask(600, true);
  std::vector<Query> queries;
  for (uint32_t i = 0; i < histories.size(); ++i) {
    histories[i] = {.rows = {i, i * 7 + 1}, .weights = {1, 1}};
    queries.push_back({&histories[i], &mask, static_cast<int>(1 + i)});
  }
  std::vector<std::vector<ScoredRow>> together, alone;
  ASSERT_THAT(Recommend(**generation, queries, {}, &together), IsOk());
  for (size_t i = 0; i < queries.size(); ++i) {
    ASSERT_THAT(Recommend(**generation, {&queries[i], 1}, {}, &alone), IsOk());
    ASSERT_EQ(together[i].size(), alone[0].size());
    for (size_t r = 0; r < alone[0].size(); ++r) {
      EXPECT_NEAR(together[i][r].score, alone[0][r].score, 1e-4);
    }
  }
}

TEST(Generation, BindsByIdAndGivesNewItemsRows) {
  const auto made = Generation::Create(TinyBundle(50));
  ASSERT_THAT(made, IsOk());
  Generation& g = **made;
  Catalogue catalogue(0);
  catalogue.Put(0, {.id = "i007", .listed = true});
  catalogue.Put(1, {.id = "brand-new", .listed = true});
  catalogue.Put(2, {.id = "unlisted"});
  g.BindAll(catalogue);
  EXPECT_EQ(g.RowOf(0), 7u);
  EXPECT_EQ(g.OrdinalOf(7), 0u);
  EXPECT_EQ(g.OrdinalOf(8), kNoOrdinal);
  EXPECT_EQ(g.RowOf(1), 50u);
  EXPECT_EQ(g.rows(), 51u);
  EXPECT_EQ(g.RowOf(2), kNoRow);

  const History history{.rows = {1}, .weights = {1}};
  const RowMask mask(51, true);
  const Query query{&history, &mask, 51};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(g, {&query, 1}, {}, &lists), IsOk());
  EXPECT_EQ(lists[0].size(), 51u);
}

TEST(Generation, RefusesWrongShapesByName) {
  Bundle bundle = TinyBundle(20);
  bundle.tensors.Add("mult-vae.mean.bias", {3}, {1, 2, 3});
  EXPECT_THAT(
      Generation::Create(bundle),
      IsError(absl::StatusCode::kInvalidArgument, "mult-vae.mean.bias"));
  bundle = TinyBundle(20);
  bundle.items.pop_back();
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kInvalidArgument, ".item."));
  bundle = TinyBundle(20);
  bundle.manifest.retriever = "oracle";
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kInvalidArgument, "oracle"));
}

TEST(ItemFeatures, PredictRowsThatAreLinearInTheAttributes) {
  // Rows are the sum of a row for the genre and a multiple of the year.
  std::vector<Attributes> attributes;
  Tensors tensors;
  std::vector<float> rows;
  for (int i = 0; i < 200; ++i) {
    const double year = 1950 + i % 50;
    attributes.push_back(
        {{"genre", std::string(i % 2 ? "war" : "love")}, {"year", year}});
    rows.push_back(i % 2 ? 1.0f : -1.0f);
    rows.push_back(static_cast<float>((year - 1975) / 25));
  }
  tensors.Add("m.item.t", {200, 2}, rows);
  std::vector<const Attributes*> pointers;
  for (const Attributes& a : attributes) pointers.push_back(&a);
  const Json description =
      ItemFeatureMap::Fit(pointers, {.ridge = 0.01}, &tensors);
  Tensors narrow = tensors;
  EXPECT_THAT(ItemFeatureMap::Load(description, {{"m.item.t", 3}}, &narrow),
              IsError(absl::StatusCode::kInvalidArgument, "m.item.t"));
  const auto map =
      ItemFeatureMap::Load(description, {{"m.item.t", 2}}, &tensors);
  ASSERT_THAT(map, IsOk());
  const auto row =
      map->Row("m.item.t", {{"genre", std::string("war")}, {"year", 1990.0}});
  EXPECT_NEAR(row[0], 1.0, 0.02);
  EXPECT_NEAR(row[1], 0.6, 0.02);
  const auto unknown = map->Row("m.item.t", {{"colour", std::string("red")}});
  EXPECT_NEAR(unknown[0], 0.0, 0.02);
}

TEST(QueryCache, FindsOnlyTheWholeHistory) {
  QueryCache cache(1 << 20, 2);
  const History history{{1, 5}, {1.0f, 2.0f}};
  const float query[] = {3, 4};
  float found[2] = {};
  EXPECT_FALSE(cache.Find(history, 2, found));
  cache.Put(history, query);
  EXPECT_TRUE(cache.Find(history, 2, found));
  EXPECT_THAT(found, testing::ElementsAre(3, 4));
  EXPECT_FALSE(cache.Find({{1, 5}, {1.0f, 2.5f}}, 2, found));
  EXPECT_FALSE(cache.Find({{5, 1}, {1.0f, 2.0f}}, 2, found));
  EXPECT_FALSE(cache.Find({{1}, {1.0f}}, 2, found));
  cache.Clear();
  EXPECT_FALSE(cache.Find(history, 2, found));
}

TEST(QueryCache, LeastRecentlyUsedGoesFirst) {
  constexpr Row kHistories = 10'000;  // of 150 bytes or so
  QueryCache cache(256 << 10, 1);
  const History favourite{{kHistories}, {1.0f}};
  const float query = 7;
  float found = 0;
  cache.Put(favourite, &query);
  for (Row row = 0; row < kHistories; ++row) {
    cache.Put({{row}, {1.0f}}, &query);
    EXPECT_TRUE(cache.Find(favourite, 1, &found));
  }
  int kept = 0;
  for (Row row = 0; row < kHistories; ++row) {
    if (!cache.Find({{row}, {1.0f}}, 1, &found)) continue;
    ++kept;
    EXPECT_GT(row, kHistories / 2);
  }
  EXPECT_GT(kept, 1000);
  EXPECT_LT(kept, 2500);
}

TEST(QueryCache, WhatIsLargerThanTheBudgetIsNotKept) {
  QueryCache cache(1, 1);
  const History history{{1}, {1.0f}};
  float query = 7;
  cache.Put(history, &query);
  EXPECT_FALSE(cache.Find(history, 1, &query));
}

TEST(Generation, AnswersAlikeWithAndWithoutKeptQueries) {
  auto plain = Generation::Create(TinyBundle(50));
  auto kept = Generation::Create(TinyBundle(50));
  ASSERT_THAT(plain, IsOk());
  (*kept)->KeepQueries(1 << 20);
  const RowMask mask(50, true);
  const History a{{1, 2}, {1, 1}}, b{{7}, {1}}, c{{9, 3}, {0.5f, 1}};
  for (const auto& histories :
       {std::vector{a, b}, std::vector{b, c, a}, std::vector{c}}) {
    std::vector<Query> queries;
    for (const History& h : histories) queries.push_back({&h, &mask, 10});
    std::vector<std::vector<ScoredRow>> expected, got;
    ASSERT_THAT(Recommend(**plain, queries, {}, &expected), IsOk());
    ASSERT_THAT(Recommend(**kept, queries, {}, &got), IsOk());
    EXPECT_EQ(got, expected);
  }
}

// As many lists as fill several rounds of turns.
TEST(RankCases, GivesTheSameListsOnAnyNumberOfThreads) {
  const auto generation = Generation::Create(TinyBundle(60));
  ASSERT_THAT(generation, IsOk());
  Random random(8);
  std::vector<Case> cases(2500);
  for (Case& c : cases) {
    const auto first = static_cast<Row>(random.Below(50));
    c.history = {.rows = {first, first + 3}, .weights = {1, 0.5f}};
    c.mask = RowMask(60, true);
    for (const Row row : c.history.rows) c.mask.Clear(row);
    c.truth = {first + 1, first + 9};
    c.positives = 2;
  }
  const auto one = RankCases(**generation, cases, 10, {});
  ASSERT_THAT(one, IsOk());
  Workers workers(3);
  double share = 0;
  const auto three = RankCases(
      **generation, cases, 10, {}, [&](double done) { share = done; },
      &workers);
  ASSERT_THAT(three, IsOk());
  EXPECT_EQ(share, 1);
  size_t hits = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ((*one)[i].list, (*three)[i].list);
    EXPECT_EQ((*one)[i].hits, (*three)[i].hits);
    for (size_t r = 0; r < 10; ++r) {
      const auto& truth = cases[i].truth;
      const bool wanted = std::find(truth.begin(), truth.end(),
                                    (*one)[i].list[r].row) != truth.end();
      EXPECT_EQ((*one)[i].hits[r], wanted);
      hits += wanted;
    }
  }
  EXPECT_GT(hits, 0u);
}

}  // namespace
}  // namespace nearline::model
