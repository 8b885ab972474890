// What comes next, by what came last.
#include <omp.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "model/generation.h"
#include "model/recommender.h"
#include "model/train.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

// Every user starts somewhere on a round of 40 items and walks on by one, two
// or three.
TrainingSet Walks(int users = 300) {
  TrainingSet set;
  set.items = 40;
  set.in_order = true;
  Random random(2);
  for (int u = 0; u < users; ++u) {
    auto at = static_cast<uint32_t>(random.Below(40));
    for (int i = 0; i < 12; ++i) {
      set.train.items.push_back(at % 40);
      set.train.weights.push_back(1);
      at += 1 + static_cast<uint32_t>(random.Below(3));
    }
    set.train.EndUser();
  }
  return set;
}

absl::StatusOr<std::vector<ScoredRow>> Ask(const std::string& model,
                                           const TrainingSet& set,
                                           const Tensors& tensors,
                                           const History& history) {
  Bundle bundle;
  bundle.manifest.id = "test";
  bundle.manifest.retriever = model;
  for (int64_t i = 0; i < set.items; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  bundle.tensors = tensors;
  bundle.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
      std::vector<const features::Attributes*>(bundle.items.size(), nullptr),
      {}, &bundle.tensors);
  ASSIGN_OR_RETURN(const auto generation,
                   Generation::Create(std::move(bundle)));
  const RowMask mask(static_cast<size_t>(set.items), true);
  const Query query{&history, &mask, 3};
  std::vector<std::vector<ScoredRow>> lists;
  RETURN_IF_ERROR(Recommend(*generation, {&query, 1}, {}, &lists));
  return std::move(lists[0]);
}

std::vector<uint32_t> RowsOf(const std::vector<ScoredRow>& list) {
  std::vector<uint32_t> rows;
  for (const ScoredRow& s : list) rows.push_back(s.row);
  return rows;
}

TEST(Recent, GoesOnFromTheNewestItem) {
  const TrainingSet set = Walks();
  const auto tensors = Train("recent", set, *ParametersOf("recent"), {});
  ASSERT_THAT(tensors, IsOk());
  const auto list =
      Ask("recent", set, *tensors, {.rows = {3, 5, 6}, .weights = {1, 1, 1}});
  ASSERT_THAT(list, IsOk());
  EXPECT_THAT(RowsOf(*list), testing::UnorderedElementsAre(7, 8, 9));
}

TEST(Recent, IsPartOfJointWhereThereIsAnOrder) {
  TrainingSet set = Walks();
  Parameters p = *ParametersOf("joint");
  for (const char* setting : {"hidden=16", "rank=16", "epochs=5"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto ordered = Train("joint", set, p, {});
  ASSERT_THAT(ordered, IsOk());
  ASSERT_TRUE(ordered->Has("joint.item.recent"));
  const auto list =
      Ask("joint", set, *ordered, {.rows = {3, 5, 6}, .weights = {1, 1, 1}});
  ASSERT_THAT(list, IsOk());
  EXPECT_THAT(RowsOf(*list), testing::IsSubsetOf({7u, 8u, 9u, 10u}));
  const auto again = Train("joint", set, p, {.warm_start = &*ordered});
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->Has("joint.item.recent"));
  set.in_order = false;
  const auto unordered = Train("joint", set, p, {});
  ASSERT_THAT(unordered, IsOk());
  EXPECT_FALSE(unordered->Has("joint.item.recent"));
}

// Tables of the obvious version, in double.
struct Slow {
  using Table = std::vector<std::vector<double>>;
  static Table Of(const Tensors& tensors, const std::string& name) {
    const Tensor& t = tensors.all().at(name);
    Table out;
    for (int64_t r = 0; r < t.shape[0]; ++r) {
      const auto first = t.values.begin() + r * t.shape[1];
      out.emplace_back(first, first + t.shape[1]);
    }
    return out;
  }
  explicit Slow(const Tensors& t)
      : e(Of(t, "recent.item.recent")),
        v(Of(t, "recent.item.decoder")),
        b(Of(t, "recent.item.bias")),
        w(Of(t, "recent.recent.positions")) {}

  double Loss(const TrainingSet& set) const {
    double loss = 0;
    int places = 0;
    for (int64_t u = 0; u < set.train.users(); ++u) {
      const auto items = set.train.ItemsOf(u);
      for (size_t at = 1; at < items.size(); ++at, ++places) {
        const size_t n = std::min(at, w.size());
        std::vector<double> p(e[0].size(), 0.0);
        for (size_t l = 0; l < n; ++l) {
          for (size_t c = 0; c < p.size(); ++c) {
            p[c] += w[l][c] * e[items[at - 1 - l]][c] /
                    std::sqrt(static_cast<double>(n));
          }
        }
        double sum = 0, wanted = 0;
        for (size_t i = 0; i < v.size(); ++i) {
          double score = b[i][0];
          for (size_t c = 0; c < p.size(); ++c) score += p[c] * v[i][c];
          sum += std::exp(score);
          if (i == items[at]) wanted = score;
        }
        loss += std::log(sum) - wanted;
      }
    }
    return loss / places;
  }

  Table e, v, b, w;
};

// By the slope of the obvious loss, value by value, and Adam by the book.
TEST(Recent, TakesTheStepsOfTheSlowWay) {
  const TrainingSet set = Walks(5);
  Parameters p = *ParametersOf("recent");
  for (const char* setting : {"factors=3", "length=4", "dropout=0", "epochs=6",
                              "learning_rate=0.04"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  Tensors start;
  Random random(7);
  const auto add = [&](const char* name, int64_t rows, int64_t columns) {
    std::vector<float> values;
    for (int64_t i = 0; i < rows * columns; ++i) {
      values.push_back(static_cast<float>(random.Normal()));
    }
    start.Add(name, {rows, columns}, std::move(values));
  };
  add("recent.item.recent", 40, 3);
  add("recent.item.decoder", 40, 3);
  add("recent.item.bias", 40, 1);
  add("recent.recent.positions", 4, 3);
  // A warm start takes a third of the epochs at a quarter of the rate; an epoch
  // is one step here.
  const auto trained = Train("recent", set, p, {.warm_start = &start});
  ASSERT_THAT(trained, IsOk());

  Slow slow(start);
  std::map<double*, std::pair<double, double>> moments;
  for (int step = 1; step <= 2; ++step) {
    const double rate = 0.01 * (1 - (step - 1) / 2.0);
    std::map<double*, double> slopes;
    for (Slow::Table* table : {&slow.e, &slow.v, &slow.b, &slow.w}) {
      for (auto& row : *table) {
        for (double& x : row) {
          const double was = std::exchange(x, x + 1e-5);
          const double above = slow.Loss(set);
          x = was - 1e-5;
          slopes[&x] = (above - slow.Loss(set)) / 2e-5;
          x = was;
        }
      }
    }
    for (const auto& [x, slope] : slopes) {
      auto& [m, s] = moments[x];
      m = 0.9 * m + 0.1 * slope;
      s = 0.999 * s + 0.001 * slope * slope;
      *x -= rate * m / (1 - std::pow(0.9, step)) /
            (std::sqrt(s / (1 - std::pow(0.999, step))) + 1e-8);
    }
  }
  const Slow fast(*trained);
  EXPECT_NEAR(fast.Loss(set), slow.Loss(set), 1e-5);
  for (size_t i = 0; i < 40; ++i) {
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(fast.v[i][c], slow.v[i][c], 2e-4);
    }
    EXPECT_NEAR(fast.b[i][0], slow.b[i][0], 2e-4);
  }
  for (size_t l = 0; l < 4; ++l) {
    for (size_t c = 0; c < 3; ++c) {
      EXPECT_NEAR(fast.w[l][c], slow.w[l][c], 2e-4);
    }
  }
}

TEST(Recent, ThreadsAndSeedsGiveTheSameWeights) {
  TrainingSet set = Walks();
  Parameters p = *ParametersOf("recent");
  // A sample of the items in each step.
  for (const char* setting : {"epochs=2", "batch=20", "candidates=10"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto a = Train("recent", set, p, {.threads = 1});
  const auto b = Train("recent", set, p, {.threads = 3});
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  for (const auto& [name, tensor] : a->all()) {
    EXPECT_EQ(tensor.values, b->all().at(name).values) << name;
  }
  // What is trained next has as many.
  EXPECT_EQ(omp_get_max_threads(), 3);
}

TEST(Recent, OfOneEventAUserThereIsNothingToLearn) {
  TrainingSet set;
  set.items = 3;
  for (uint32_t u = 0; u < 3; ++u) {
    set.train.items.push_back(u);
    set.train.weights.push_back(1);
    set.train.EndUser();
  }
  EXPECT_THAT(Train("recent", set, *ParametersOf("recent"), {}),
              IsError(absl::StatusCode::kFailedPrecondition, "two events"));
  // joint does without.
  Parameters p = *ParametersOf("joint");
  for (const char* setting : {"hidden=8", "epochs=2", "recent_weight=1"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto joint = Train("joint", set, p, {});
  ASSERT_THAT(joint, IsOk());
  EXPECT_FALSE(joint->Has("joint.item.recent"));
}

}  // namespace
}  // namespace nearline::model
