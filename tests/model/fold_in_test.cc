// Users folded in, against gradients and slow sums.
#include "model/fold_in.h"

#include <cmath>
#include <memory>

#include "base/random.h"
#include "model/folding.h"
#include "model/generation.h"
#include "model/kernels.h"
#include "model/logistic_fold_in.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

constexpr int kDim = 71, kItems = 140;

std::vector<float> RandomRows() {
  Random random(5);
  std::vector<float> out(kDim * kItems);
  for (float& x : out) x = static_cast<float>(random.Normal());
  return out;
}

// d/dp of sum_h w_h (p . v_h - 1)^2 + sum a (p . v - t)^2
// + ridge (W + base) |p|^2, halved.
std::vector<double> Gradient(const std::vector<float>& rows,
                             const History& history, const float* p, double a,
                             double t, double ridge, double base) {
  std::vector<double> out(kDim, 0.0);
  const auto add = [&](size_t row, double weight, double target) {
    double score = 0;
    for (size_t i = 0; i < kDim; ++i) score += p[i] * rows[row * kDim + i];
    for (size_t i = 0; i < kDim; ++i) {
      out[i] += weight * (score - target) * rows[row * kDim + i];
    }
  };
  double total = base;
  for (size_t h = 0; h < history.rows.size(); ++h) {
    add(history.rows[h], history.weights[h], 1);
    total += history.weights[h];
  }
  for (size_t row = 0; row < kItems; ++row) add(row, a, t);
  for (size_t i = 0; i < kDim; ++i) out[i] += ridge * total * p[i];
  return out;
}

TEST(FoldIn, IsWhereTheGradientVanishes) {
  const std::vector<float> rows = RandomRows();
  const ItemTable table(rows, kDim);
  const double a = 0.1, t = -2, ridge = 0.02, base = 4;
  std::vector<float> pull(kDim, 0.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    pull[i % kDim] += static_cast<float>(a * t) * rows[i];
  }
  const FoldInEncoder encoder(
      &table,
      std::make_unique<FoldIn>(ScaledGram(rows, kDim, a), pull, ridge, base));
  const History few{.rows = {3}, .weights = {2}};
  History many;
  for (Row row = 0; row < 30; ++row) {
    many.rows.push_back(row);
    many.weights.push_back(0.1f * static_cast<float>(row + 1));
  }
  const History none;
  const History* const histories[] = {&few, &many, &none};
  std::vector<float> queries;
  ASSERT_THAT(encoder.Encode(histories, &queries), IsOk());
  ASSERT_EQ(queries.size(), 3u * kDim);
  for (size_t i = 0; i < 3; ++i) {
    for (const double g :
         Gradient(rows, *histories[i], queries.data() + i * kDim, a, t, ridge,
                  base)) {
      EXPECT_NEAR(g, 0, 1e-4);
    }
  }
  for (size_t i = 0; i < kDim; ++i) EXPECT_NE(queries[i], 0);
}

// Where a history is the average one, the sum of gathered rows is its solution.
TEST(FoldIn, IsGatheredOfTheAverageHistory) {
  const std::vector<float> rows = RandomRows();
  const FoldIn fold_in(ScaledGram(rows, kDim, 0.1),
                       std::vector<float>(kDim, 0.0f), 0.02, 4);
  std::vector<float> counts(kItems, 0.0f), weights;
  std::vector<const float*> some;
  double events = 0;
  for (size_t row = 5; row < 30; ++row) {
    counts[row] = static_cast<float>(row);
    weights.push_back(0.1f * counts[row]);
    some.push_back(rows.data() + row * kDim);
    events += weights.back();
  }
  const std::vector<float> gathered = fold_in.Gathered(rows, counts, events);
  std::vector<float> solution(kDim), sum(kDim, 0.0f);
  fold_in.Solve(some, weights, solution.data());
  for (size_t row = 5; row < 30; ++row) {
    AddScaled(gathered.data() + row * kDim, weights[row - 5], kDim, sum.data());
  }
  for (size_t i = 0; i < kDim; ++i) EXPECT_NEAR(sum[i], solution[i], 1e-4);
}

TEST(FoldIn, StepsLeadToTheSolution) {
  const std::vector<float> rows = RandomRows();
  const double a = 0.1;
  const FoldIn fold_in(ScaledGram(rows, kDim, a),
                       std::vector<float>(kDim, 0.1f), 0.02, 4);
  std::vector<const float*> some;
  std::vector<float> weights;
  for (size_t row = 0; row < 30; ++row) {
    some.push_back(rows.data() + row * kDim);
    weights.push_back(0.1f * static_cast<float>(row + 1));
  }
  std::vector<float> solution(kDim);
  fold_in.Solve(some, weights, solution.data());
  const auto distance = [&](int steps, std::vector<float> from) {
    fold_in.Approach(some, weights, steps, from.data());
    double sum = 0;
    for (size_t i = 0; i < kDim; ++i) {
      sum += std::pow(from[i] - solution[i], 2);
    }
    return std::sqrt(sum);
  };
  const std::vector<float> zeros(kDim, 0.0f);
  double last = distance(0, zeros);
  for (int steps = 1; steps < 8; ++steps) {
    const double now = distance(steps, zeros);
    EXPECT_LT(now, last) << steps;
    last = now;
  }
  EXPECT_LT(distance(kDim, zeros), 1e-4);
  // Nothing is lost by steps too many.
  EXPECT_LT(distance(10 * kDim, zeros), 1e-4);
  EXPECT_LT(distance(5, solution), 1e-4);
}

// The gradient of the logistic loss, sum by sum.
std::vector<double> LogisticGradient(const std::vector<float>& rows,
                                     const std::vector<float>& drawn,
                                     const History& history, const float* p,
                                     double negatives, double ridge) {
  std::vector<double> out(kDim, 0.0);
  const auto add = [&](const float* row, double sign, double weight) {
    double score = 0;
    for (size_t i = 0; i < kDim; ++i) score += p[i] * row[i];
    const double pull = weight * sign / (1 + std::exp(-sign * score));
    for (size_t i = 0; i < kDim; ++i) out[i] += pull * row[i];
  };
  double total = 0;
  for (const float w : history.weights) total += w;
  for (size_t h = 0; h < history.rows.size(); ++h) {
    add(rows.data() + history.rows[h] * kDim, -1, history.weights[h] / total);
  }
  for (size_t at = 0; at < drawn.size(); at += kDim) {
    add(drawn.data() + at, 1,
        negatives * kDim / static_cast<double>(drawn.size()));
  }
  const auto n = static_cast<double>(history.rows.size());
  for (size_t i = 0; i < kDim; ++i) out[i] += ridge * n / total * p[i];
  return out;
}

TEST(LogisticFoldInTest, IsWhereTheGradientVanishes) {
  // Scores of any size, and ridges that matter or not.
  for (const float length : {0.02f, 0.3f, 3.0f}) {
    for (const double ridge : {1e-4, 0.05}) {
      std::vector<float> rows = RandomRows();
      for (float& x : rows) x *= length;
      const std::vector<float> drawn(rows.begin() + 40 * kDim, rows.end());
      const ItemTable table(rows, kDim);
      const FoldInEncoder encoder(
          &table, std::make_unique<LogisticFoldIn>(drawn, kDim, 8, ridge));
      const History few{.rows = {3}, .weights = {2}};
      History many;
      for (Row row = 20; row < 60; ++row) {
        many.rows.push_back(row);
        many.weights.push_back(0.1f * static_cast<float>(row));
      }
      const History* const histories[] = {&few, &many};
      std::vector<float> queries;
      ASSERT_THAT(encoder.Encode(histories, &queries), IsOk());
      for (size_t i = 0; i < 2; ++i) {
        const std::vector<float> nothing(kDim, 0.0f);
        const auto length_at = [&](const float* p) {
          double sum = 0;
          for (const double g :
               LogisticGradient(rows, drawn, *histories[i], p, 8, ridge)) {
            sum += g * g;
          }
          return std::sqrt(sum);
        };
        EXPECT_LT(length_at(queries.data() + i * kDim),
                  1e-2 * length_at(nothing.data()))
            << length << " " << ridge << " " << i;
      }
    }
  }
}

// Of rows that are unlike the drawn ones, of which nothing but the ridge keeps
// the vector from growing.
TEST(LogisticFoldInTest, FallsWhereNothingWasDrawn) {
  const std::vector<float> rows = RandomRows();
  const std::vector<float> drawn(rows.begin(), rows.begin() + 12 * kDim);
  std::vector<const float*> some;
  for (size_t row = 20; row < 24; ++row) {
    some.push_back(rows.data() + row * kDim);
  }
  const std::vector<float> weights(some.size(), 1.0f);
  const auto loss = [&](const std::vector<float>& p, double ridge) {
    double sum = ridge / 2 * Dot(p.data(), p.data(), kDim);
    for (const float* const row : some) {
      sum +=
          std::log1p(std::exp(-static_cast<double>(Dot(p.data(), row, kDim)))) /
          4;
    }
    for (size_t at = 0; at < drawn.size(); at += kDim) {
      sum += 8.0 / 12 *
             std::log1p(std::exp(
                 static_cast<double>(Dot(p.data(), drawn.data() + at, kDim))));
    }
    return sum;
  };
  double last = 1;  // that which the least ridge leaves is the least
  for (const double ridge : {0.1, 0.01, 0.001, 1e-4, 1e-6}) {
    std::vector<float> p(kDim);
    LogisticFoldIn(drawn, kDim, 8, ridge).Solve(some, weights, p.data());
    const double now = loss(p, ridge);
    EXPECT_LT(now, last) << ridge;
    last = now;
  }
  EXPECT_LT(last, 0.01);
}

TEST(LogisticFoldInTest, NothingIsKnownOfAnEmptyHistory) {
  const LogisticFoldIn fold_in(RandomRows(), kDim, 8, 0.1);
  std::vector<float> out(kDim, 1.0f);
  fold_in.Solve({}, {}, out.data());
  EXPECT_THAT(out, testing::Each(0));
}

TEST(LogisticFoldInTest, BundlesThatAreNoneAreRefused) {
  const auto load = [](float negatives, float ridge, int64_t rows,
                       int64_t width) {
    Tensors tensors;
    tensors.Add("mf.fold_in.drawn", {rows, width},
                std::vector<float>(static_cast<size_t>(rows * width), 1.0f));
    tensors.Add("mf.fold_in.logistic", {2}, {negatives, ridge});
    return LoadFolding("mf", 2, tensors);
  };
  EXPECT_THAT(load(8, 0.1f, 3, 2), IsOk());
  const auto refused = [](const char* text) {
    return IsError(absl::StatusCode::kInvalidArgument, text);
  };
  EXPECT_THAT(load(-1, 0.1f, 3, 2), refused("negatives >= 0"));
  EXPECT_THAT(load(8, 0, 3, 2), refused("ridge > 0"));
  EXPECT_THAT(load(8, std::nanf(""), 3, 2), refused("ridge > 0"));
  EXPECT_THAT(load(8, 0.1f, 0, 2), refused("mf.fold_in.drawn"));
  EXPECT_THAT(load(8, 0.1f, 3, 3), refused("mf.fold_in.drawn"));
}

TEST(ScaledGramTest, EqualsTheSlowSum) {
  Random random(6);
  std::vector<float> rows(kDim * 600);
  for (float& x : rows) x = static_cast<float>(random.Normal());
  const std::vector<float> gram = ScaledGram(rows, kDim, 0.5);
  for (size_t i = 0; i < kDim; ++i) {
    for (size_t j = 0; j < kDim; ++j) {
      double sum = 0;
      for (size_t row = 0; row < 600; ++row) {
        sum += 0.5 * rows[row * kDim + i] * rows[row * kDim + j];
      }
      EXPECT_NEAR(gram[i * kDim + j], sum, 1e-3);
    }
  }
}

TEST(FoldIn, BundlesThatAreNoLeastSquaresAreRefused) {
  const auto load = [](float ridge, float corner, int64_t width) {
    Bundle bundle;
    bundle.manifest.id = "g-1";
    bundle.manifest.retriever = "ials";
    bundle.items = {"a", "b", "c"};
    bundle.tensors.Add("ials.item.decoder", {3, 2}, {1, 0, 0, 1, 1, 1});
    bundle.tensors.Add("ials.item.bias", {3, 1}, {0, 0, 0});
    bundle.tensors.Add("ials.fold_in.gram", {2, 2}, {corner, 0, 0, 1});
    bundle.tensors.Add("ials.fold_in.pull", {width},
                       std::vector<float>(static_cast<size_t>(width), 0.0f));
    bundle.tensors.Add("ials.fold_in.ridge", {2}, {ridge, 1});
    // Of no use to a model that folds in, and of another width.
    bundle.tensors.Add("ials.item.linear", {3, 5}, std::vector<float>(15, 1));
    bundle.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
        std::vector<const features::Attributes*>(3, nullptr), {},
        &bundle.tensors);
    return Generation::Create(std::move(bundle));
  };
  EXPECT_THAT(load(0.1f, 1, 2), IsOk());
  const auto refused = [](const char* text) {
    return IsError(absl::StatusCode::kInvalidArgument, text);
  };
  EXPECT_THAT(load(-0.1f, 1, 2), refused("ials.fold_in.ridge"));
  EXPECT_THAT(load(0.1f, -1, 2), refused("ials.fold_in.gram"));
  EXPECT_THAT(load(0.1f, 1, 3), refused("ials.fold_in.pull"));
}

}  // namespace
}  // namespace nearline::model
