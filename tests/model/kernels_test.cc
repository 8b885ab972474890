#include "model/kernels.h"

#include <cmath>
#include <limits>

#include "base/random.h"
#include "model/packed_matrix.h"
#include "model/top_k.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

std::vector<float> RandomFloats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(random.Normal());
  return out;
}

TEST(Kernels, AgreeWithPlainLoopsAtEveryLength) {
  for (size_t n = 1; n < 70; ++n) {
    const auto a = RandomFloats(n, n), b = RandomFloats(n, n + 100);
    std::vector<float> sum = b, relu(n), tanh = a;
    AddScaled(a.data(), 0.5f, n, sum.data());
    AddRelu(a.data(), b.data(), n, relu.data());
    AddBiasTanh(b.data(), n, tanh.data());
    double dot = 0;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(sum[i], b[i] + 0.5f * a[i], 1e-6);
      EXPECT_EQ(relu[i], std::max(0.0f, a[i] + b[i]));
      EXPECT_NEAR(tanh[i], std::tanh(a[i] + b[i]), 1e-6);
      dot += static_cast<double>(a[i]) * b[i];
    }
    EXPECT_NEAR(Dot(a.data(), b.data(), n), dot, 1e-4);
  }
}

TEST(Kernels, FindEveryIndexAbove) {
  for (size_t n = 1; n < 70; ++n) {
    const auto scores = RandomFloats(n, n), bias = RandomFloats(n, n + 7);
    std::vector<uint32_t> found(n), expected;
    for (size_t i = 0; i < n; ++i) {
      if (scores[i] + bias[i] > 0.3f) {
        expected.push_back(static_cast<uint32_t>(i));
      }
    }
    found.resize(
        IndicesAbove(scores.data(), bias.data(), n, 0.3f, found.data()));
    EXPECT_EQ(found, expected);
  }
}

TEST(PackedMatrix, MultipliesLikeThreeLoops) {
  for (const int n : {1, 17, 512, 700}) {
    for (const int m : {1, 3, 32, 33}) {
      const int d = 40;
      const auto rows = RandomFloats(static_cast<size_t>(n * d), 1);
      const auto queries = RandomFloats(static_cast<size_t>(m * d), 2);
      const auto matrix = PackedMatrix::Create(rows.data(), n, d);
      ASSERT_THAT(matrix, IsOk());
      std::vector<float> out(static_cast<size_t>(m * n));
      matrix->Multiply(queries.data(), m, out.data());
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          double sum = 0;
          for (int k = 0; k < d; ++k) {
            sum +=
                static_cast<double>(queries[static_cast<size_t>(i * d + k)]) *
                rows[static_cast<size_t>(j * d + k)];
          }
          ASSERT_NEAR(out[static_cast<size_t>(i * n + j)], sum, 1e-3)
              << n << " " << m;
        }
      }
    }
  }
}

std::vector<ScoredRow> SortAll(const std::vector<float>& scores,
                               const std::vector<float>& bias,
                               const RowMask& mask, size_t k) {
  std::vector<ScoredRow> all;
  for (Row r = 0; r < scores.size(); ++r) {
    if (mask[r]) all.push_back({scores[r] + bias[r], r});
  }
  std::sort(all.begin(), all.end());
  all.resize(std::min(k, all.size()));
  return all;
}

TEST(TopK, EqualsAFullSortUnderMasksAndTies) {
  Random random(9);
  for (int round = 0; round < 300; ++round) {
    const size_t n = 1 + random.Below(2000);
    std::vector<float> scores(n), bias(n, 0.0f);
    // Few distinct scores: ties everywhere.
    for (float& s : scores) s = static_cast<float>(random.Below(20));
    RowMask mask(n);
    for (Row r = 0; r < n; ++r) {
      if (random.Below(3) > 0) mask.Set(r);
    }
    const size_t k = 1 + random.Below(50);
    TopK top(static_cast<int>(k), &mask);
    for (size_t first = 0; first < n; first += 512) {
      top.Add(scores.data() + first, bias.data() + first,
              std::min<size_t>(512, n - first), static_cast<Row>(first));
    }
    EXPECT_EQ(top.Take(), SortAll(scores, bias, mask, k));
  }
}

TEST(TopK, NeverKeepsNaN) {
  const std::vector<float> scores = {std::numeric_limits<float>::quiet_NaN(),
                                     1};
  const std::vector<float> bias(2, 0.0f);
  const RowMask mask(2, true);
  TopK top(2, &mask);
  top.Add(scores.data(), bias.data(), 2, 0);
  EXPECT_EQ(top.Take().size(), 1u);
}

TEST(RowMask, FullMasksHaveNoBitBeyondTheEnd) {
  EXPECT_EQ(RowMask(70, true).Count(), 70);
  EXPECT_EQ(RowMask(64, true).Count(), 64);
}

}  // namespace
}  // namespace nearline::model
