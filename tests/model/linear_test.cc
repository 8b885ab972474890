// Models in closed form, against the book's slow way.
#include <cmath>
#include <numeric>

#include "base/random.h"
#include "model/train.h"
#include "tests/model/two_tastes.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

// linear decoder^T [n, n] in double.
std::vector<double> Product(const Tensors& tensors, int64_t n,
                            const std::string& model = "ease") {
  const Tensor& left = tensors.all().at(model + ".item.linear");
  const Tensor& right = tensors.all().at(model + ".item.decoder");
  const int64_t rank = left.shape[1];
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) {
        sum += static_cast<double>(
                   left.values[static_cast<size_t>(i * rank + r)]) *
               right.values[static_cast<size_t>(j * rank + r)];
      }
      out.push_back(sum);
    }
  }
  return out;
}

// EASE by the book, with an inverse by Gauss and Jordan.
std::vector<double> SlowEase(const TrainingSet& set, double lambda) {
  const auto n = static_cast<size_t>(set.items);
  std::vector<std::vector<double>> m(n, std::vector<double>(2 * n, 0.0));
  for (int64_t u = 0; u < set.train.users(); ++u) {
    for (const uint32_t a : set.train.ItemsOf(u)) {
      for (const uint32_t b : set.train.ItemsOf(u)) m[a][b] += 1;
    }
  }
  for (size_t i = 0; i < n; ++i) m[i][i] += lambda, m[i][n + i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = m[i][i];
    for (double& x : m[i]) x /= pivot;
    for (size_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double factor = m[k][i];
      for (size_t j = 0; j < 2 * n; ++j) m[k][j] -= factor * m[i][j];
    }
  }
  std::vector<double> b;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      b.push_back(i == j ? 0 : -m[i][n + j] / m[j][n + j]);
    }
  }
  return b;
}

TEST(Ease, IsTheClosedFormAndItsTruncation) {
  const TrainingSet set = TwoTastes();
  const std::vector<double> expected = SlowEase(set, 10);
  Parameters p = *ParametersOf("ease");
  ASSERT_THAT(p.Set("lambda", 10), IsOk());
  ASSERT_THAT(p.Set("rank", 0), IsOk());
  const auto full = Train("ease", set, p, {});
  ASSERT_THAT(full, IsOk());
  const std::vector<double> product = Product(*full, set.items);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(product[i], expected[i], 1e-5) << i;
  }
  // With every rank more, less is lost of B + shift I.
  double before = 1e9;
  for (const int rank : {4, 16, 59}) {
    ASSERT_THAT(p.Set("rank", rank), IsOk());
    const auto truncated = Train("ease", set, p, {});
    ASSERT_THAT(truncated, IsOk());
    const std::vector<double> approximate = Product(*truncated, set.items);
    double lost = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double shift = i % 61 == 0 ? p["shift"] : 0;
      lost += std::pow(approximate[i] - expected[i] - shift, 2);
    }
    EXPECT_LT(lost, before);
    before = lost;
  }
  EXPECT_LT(before, 0.01);
}

// What neighbours add, [n, n].
std::vector<double> NeighboursOf(const Tensors& tensors, int64_t n,
                                 const std::string& model) {
  const Tensor& rows = tensors.all().at(model + ".neighbours.rows");
  const Tensor& weights = tensors.all().at(model + ".neighbours.weights");
  std::vector<double> out(static_cast<size_t>(n * n), 0.0);
  for (size_t at = 0; at < rows.values.size(); ++at) {
    const size_t row = at / static_cast<size_t>(rows.shape[1]);
    out[row * static_cast<size_t>(n) + static_cast<size_t>(rows.values[at])] +=
        weights.values[at];
  }
  return out;
}

// Events of which most are of a few popular items: the first singular value is
// much larger than the rest.
TrainingSet MostlyPopular() {
  TrainingSet set;
  set.items = 60;
  Random random(5);
  for (int user = 0; user < 300; ++user) {
    for (uint32_t item = 0; item < 60; ++item) {
      if (random.Uniform() > std::pow(0.93, item)) continue;
      set.train.items.push_back(item);
      set.train.weights.push_back(1);
    }
    set.train.EndUser();
  }
  return set;
}

// Singular vectors times their values would differ in length by these, and a
// row be rounded to int8 by the largest of its values.
TEST(Truncation, SpreadsARowOverAllOfItsValues) {
  const TrainingSet set = MostlyPopular();
  for (const char* model : {"paths", "user-knn"}) {
    Parameters p = *ParametersOf(model);
    ASSERT_THAT(p.Set("rank", 16), IsOk());
    const auto tensors = Train(model, set, p, {});
    ASSERT_THAT(tensors, IsOk());
    const Tensor& rows =
        tensors->all().at(std::string(model) + ".item.decoder");
    std::vector<double> squares(16, 0.0);
    for (size_t i = 0; i < rows.values.size(); ++i) {
      squares[i % 16] += static_cast<double>(rows.values[i]) * rows.values[i];
    }
    double all = 0;
    for (const double square : squares) all += square;
    const double most = *std::max_element(squares.begin(), squares.end());
    EXPECT_LT(most / all, 0.2) << model;
  }
}

TEST(Ease, NeighboursAreTheLargestOfWhatTheTruncationLeavesOut) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> expected = SlowEase(set, 10);
  Parameters p = *ParametersOf("ease");
  ASSERT_THAT(p.Set("lambda", 10), IsOk());
  ASSERT_THAT(p.Set("rank", 8), IsOk());
  for (const size_t width : {5, 60}) {
    ASSERT_THAT(p.Set("neighbour_width", static_cast<double>(width)), IsOk());
    const auto tensors = Train("ease", set, p, {});
    ASSERT_THAT(tensors, IsOk());
    const std::vector<double> product = Product(*tensors, set.items);
    const std::vector<double> rest = NeighboursOf(*tensors, set.items, "ease");
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> lost;
      size_t kept = 0;
      double least_kept = 1e9;
      for (size_t j = 0; j < n; ++j) {
        const size_t at = i * n + j;
        if (i == j) continue;
        if (rest[at] == 0) {
          lost.push_back(std::abs(expected[at] - product[at]));
          continue;
        }
        ++kept;
        EXPECT_NEAR(product[at] + rest[at], expected[at], 1e-5);
        least_kept = std::min(least_kept, std::abs(rest[at]));
      }
      EXPECT_EQ(kept, std::min(width, n - 1));
      for (const double value : lost) EXPECT_LE(value, least_kept + 1e-6);
    }
  }
}

// Z^T Z [n, n], pair by pair.
std::vector<double> SlowPaths(const TrainingSet& set, double item_exponent,
                              double user_exponent) {
  const auto n = static_cast<size_t>(set.items);
  std::vector<double> degree(n, 0.0), out(n * n, 0.0);
  for (size_t i = 0; i < set.train.items.size(); ++i) {
    degree[set.train.items[i]] += set.train.weights[i];
  }
  for (int64_t u = 0; u < set.train.users(); ++u) {
    const auto items = set.train.ItemsOf(u);
    const double of_user =
        std::pow(static_cast<double>(items.size()), -user_exponent);
    for (const uint32_t a : items) {
      for (const uint32_t b : items) {
        out[a * n + b] += of_user * std::pow(degree[a], -item_exponent) *
                          std::pow(degree[b], -item_exponent);
      }
    }
  }
  return out;
}

TEST(Paths, AreTheSlowOnes) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> expected = SlowPaths(set, 0.4, 0.8);
  Parameters p = *ParametersOf("paths");
  ASSERT_THAT(p.Set("item_exponent", 0.4), IsOk());
  ASSERT_THAT(p.Set("user_exponent", 0.8), IsOk());
  ASSERT_THAT(p.Set("saturation", 1e6), IsOk());
  ASSERT_THAT(p.Set("rank", 8), IsOk());
  const auto tensors = Train("paths", set, p, {});
  ASSERT_THAT(tensors, IsOk());
  const std::vector<double> product = Product(*tensors, set.items, "paths");
  const std::vector<double> rest = NeighboursOf(*tensors, set.items, "paths");
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      // No path leads from the even items to the odd ones.
      if (i == j || (i + j) % 2 == 1) continue;
      ASSERT_NEAR(product[i * n + j] + rest[i * n + j], expected[i * n + j],
                  1e-4);
    }
  }
}

// With all of the spectrum: M = B (I + B / t)^-1, so M + M B / t = B.
TEST(Paths, SaturationBendsTheSpectrum) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> b = SlowPaths(set, 0.3, 0.5);
  Parameters p = *ParametersOf("paths");
  ASSERT_THAT(p.Set("rank", 60), IsOk());
  ASSERT_THAT(p.Set("saturation", 1e6), IsOk());
  const auto unbent = Train("paths", set, p, {});
  ASSERT_THAT(p.Set("saturation", 0.5), IsOk());
  const auto bent = Train("paths", set, p, {});
  ASSERT_THAT(unbent, IsOk());
  ASSERT_THAT(bent, IsOk());
  // The largest eigenvalue of the product, by power iteration.
  const auto largest = [&](const Tensors& tensors) {
    const std::vector<double> m = Product(tensors, set.items, "paths");
    std::vector<double> v(n, 1.0);
    double length = 0;
    for (int round = 0; round < 300; ++round) {
      std::vector<double> w(n, 0.0);
      for (size_t i = 0; i < n * n; ++i) w[i / n] += m[i] * v[i % n];
      length =
          std::sqrt(std::inner_product(w.begin(), w.end(), w.begin(), 0.0));
      for (size_t i = 0; i < n; ++i) v[i] = w[i] / length;
    }
    return length;
  };
  const double first = largest(*unbent), limit = 0.5 * first;
  EXPECT_NEAR(largest(*bent), first / (1 + first / limit), 1e-3);
  const std::vector<double> m = Product(*bent, set.items, "paths");
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = m[i * n + j];
      for (size_t k = 0; k < n; ++k) {
        sum += m[i * n + k] * b[k * n + j] / limit;
      }
      ASSERT_NEAR(sum, b[i * n + j], 1e-3);
    }
  }
}

// By the book: cosines of columns, and a sum over users.
TEST(Neighbours, AreTheSlowOnes) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  std::vector<std::vector<double>> x;
  for (int64_t u = 0; u < set.train.users(); ++u) {
    x.emplace_back(n, 0.0);
    for (const uint32_t item : set.train.ItemsOf(u)) x.back()[item] = 1;
  }
  const auto dot = [&](size_t i, size_t j, bool by_length) {
    double sum = 0;
    for (const std::vector<double>& user : x) {
      double events = 0;
      for (const double weight : user) events += weight;
      sum += user[i] * user[j] / (by_length ? std::sqrt(events) + 2 : 1.0);
    }
    return sum;
  };
  Parameters p = *ParametersOf("item-knn");
  ASSERT_THAT(p.Set("shrinkage", 5), IsOk());
  const auto items = Train("item-knn", set, p, {});
  ASSERT_THAT(p.Set("neighbours", 3), IsOk());
  const auto nearest = Train("item-knn", set, p, {});
  Parameters q = *ParametersOf("user-knn");
  ASSERT_THAT(q.Set("shrinkage", 2), IsOk());
  const auto users = Train("user-knn", set, q, {});
  ASSERT_THAT(items, IsOk());
  ASSERT_THAT(nearest, IsOk());
  ASSERT_THAT(users, IsOk());
  const auto all = Product(*items, set.items, "item-knn");
  const auto few = Product(*nearest, set.items, "item-knn");
  const auto of_users = Product(*users, set.items, "user-knn");
  for (size_t i = 0; i < n; ++i) {
    std::vector<double> row(
        all.begin() + static_cast<std::ptrdiff_t>(i * n),
        all.begin() + static_cast<std::ptrdiff_t>(i * n + n));
    std::sort(row.rbegin(), row.rend());
    int kept = 0;
    for (size_t j = 0; j < n; ++j) {
      const double cosine =
          dot(i, j, false) /
          (std::sqrt(dot(i, i, false) * dot(j, j, false)) + 5);
      ASSERT_NEAR(all[i * n + j], i == j ? 0 : cosine, 1e-5);
      ASSERT_NEAR(of_users[i * n + j], i == j ? 0 : dot(i, j, true), 1e-4);
      if (few[i * n + j] == 0) continue;
      ++kept;
      EXPECT_GE(few[i * n + j], row[2] - 1e-6);
    }
    EXPECT_EQ(kept, 3);
  }
}

TEST(Ease, RefusesWhatDoesNotFitInMemory) {
  TrainingSet set;
  set.items = 10'000'000;
  set.train.items = {1};
  set.train.weights = {1};
  set.train.EndUser();
  EXPECT_THAT(Train("ease", set, *ParametersOf("ease"), {}),
              IsError(absl::StatusCode::kResourceExhausted, "mult-dae"));
}

}  // namespace
}  // namespace nearline::model
