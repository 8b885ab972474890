// The loops on each instruction set of this processor, against plain ones.
#include "model/kernels.h"
#include "model/selection_kernels.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <hwy/highway.h>

#include "base/random.h"
#include "model/relu_layer.h"
#include "model/training_kernels.h"
#include "tests/model/random_floats.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

class Kernels : public testing::TestWithParam<int64_t> {
 protected:
  Kernels() { Choose(GetParam()); }
  ~Kernels() override { Choose(0); }

  // One of Highway's targets; 0: the best.
  static void Choose(int64_t target) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

INSTANTIATE_TEST_SUITE_P(Targets, Kernels,
                         testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& test) {
                           return hwy::TargetName(test.param);
                         });

TEST_P(Kernels, AreThoseOfTheTarget) {
  EXPECT_STREQ(KernelTarget(), hwy::TargetName(GetParam()));
}

TEST_P(Kernels, AgreeWithPlainLoopsAtEveryLength) {
  for (size_t n = 1; n < 70; ++n) {
    const auto a = RandomFloats(n, n), b = RandomFloats(n, n + 100);
    std::vector<float> sum = b, tanh = a, blend = b, sigmoid = a, p = a, q = b;
    Approach(0.75f, 0.5f, n, p.data(), q.data());
    Blend(0.25f, 0.5f, a.data(), n, blend.data());
    AddScaled(a.data(), 0.5f, n, sum.data());
    AddBiasTanh(b.data(), n, tanh.data());
    Sigmoid(n, sigmoid.data());
    double dot = 0;
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(sum[i], b[i] + 0.5f * a[i], 1e-6);
      EXPECT_NEAR(blend[i], 0.25f * b[i] + 0.5f * a[i], 1e-6);
      EXPECT_NEAR(p[i], 0.75f * a[i] + 0.5f * b[i], 1e-6);
      EXPECT_NEAR(q[i], 0.75f * b[i] + 0.5f * a[i], 1e-6);
      EXPECT_NEAR(tanh[i], std::tanh(a[i] + b[i]), 1e-6);
      EXPECT_NEAR(sigmoid[i], 1 / (1 + std::exp(-a[i])), 1e-6);
      dot += static_cast<double>(a[i]) * b[i];
    }
    EXPECT_NEAR(Dot(a.data(), b.data(), n), dot, 1e-4);
  }
}

// Of every number of rows and columns, with and without what is added.
TEST_P(Kernels, ReluLayerAgreesWithPlainLoops) {
  for (size_t out = 1; out < 70; out += 3) {
    const size_t in = out % 4 == 0 ? 0 : out % 9 + 1, n = out % 11 + 1;
    const size_t x_stride = in + 2;
    const auto weight = RandomFloats(out * in, out),
               x = RandomFloats(n * x_stride, 2);
    const auto rows = RandomFloats(n * out, 3);
    const ReluLayer layer(weight, out, in);
    ASSERT_EQ(layer.stride() % 16, 0u);
    auto bias = RandomFloats(out, 4);
    bias.resize(layer.stride(), 0.0f);
    std::vector<const float*> more;
    for (size_t i = 0; i < n; ++i) more.push_back(rows.data() + i * out);
    for (const bool added : {false, true}) {
      std::vector<float> y(n * layer.stride(), -1.0f);
      layer.Apply(x.data(), x_stride, n, bias.data(),
                  added ? more.data() : nullptr, y.data());
      for (size_t i = 0; i < n; ++i) {
        for (size_t o = 0; o < layer.stride(); ++o) {
          double sum = 0;
          if (o < out) {
            sum = bias[o] + (added ? rows[i * out + o] : 0.0f);
            for (size_t j = 0; j < in; ++j) {
              sum +=
                  static_cast<double>(x[i * x_stride + j]) * weight[o * in + j];
            }
          }
          EXPECT_NEAR(y[i * layer.stride() + o], std::max(0.0, sum), 1e-5);
        }
      }
    }
  }
}

TEST_P(Kernels, SoftmaxIsTheOneByTheBook) {
  for (size_t n = 1; n < 70; ++n) {
    const auto logits = RandomFloats(n, n), bias = RandomFloats(n, n + 100);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(logits[i] + bias[i]);
    std::vector<float> x = logits;
    EXPECT_NEAR(Softmax(bias.data(), 0.5f, n, x.data()), std::log(sum), 1e-5);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(x[i], 0.5 * std::exp(logits[i] + bias[i]) / sum, 1e-6);
    }
  }
  // Neither overflows.
  const float zeros[3] = {};
  float far[] = {-1000, 1000, 1000};
  EXPECT_FLOAT_EQ(Softmax(zeros, 1, 3, far), 1000 + std::log(2.0f));
  EXPECT_EQ(far[0], 0);
  EXPECT_FLOAT_EQ(far[1], 0.5f);
}

TEST_P(Kernels, GradientsAndAdamAreTheOnesByTheBook) {
  for (size_t n = 1; n < 70; ++n) {
    const auto gradient = RandomFloats(n, n), start = RandomFloats(n, n + 100);
    std::vector<float> w = start, m(n), v(n), slope = gradient;
    TanhGradient(start.data(), n, slope.data());
    std::vector<double> w2(start.begin(), start.end()), m2(n), v2(n);
    for (int t = 1; t <= 3; ++t) {
      const double corrected1 = 1 - std::pow(0.9, t);
      const double corrected2 = 1 - std::pow(0.999, t);
      AdamStep({.step = static_cast<float>(0.01 / corrected1),
                .unbiased = static_cast<float>(1 / std::sqrt(corrected2)),
                .decay = 0.1f},
               gradient.data(), n, w.data(), m.data(), v.data());
      for (size_t i = 0; i < n; ++i) {
        const double g = gradient[i] + 0.1 * w2[i];
        m2[i] = 0.9 * m2[i] + 0.1 * g;
        v2[i] = 0.999 * v2[i] + 0.001 * g * g;
        w2[i] -= 0.01 * (m2[i] / corrected1) /
                 (std::sqrt(v2[i] / corrected2) + 1e-8);
      }
    }
    for (size_t i = 0; i < n; ++i) {
      EXPECT_NEAR(slope[i], gradient[i] * (1 - start[i] * start[i]), 1e-5);
      EXPECT_NEAR(w[i], w2[i], 1e-5);
      EXPECT_NEAR(m[i], m2[i], 1e-5);
      EXPECT_NEAR(v[i], v2[i], 1e-5);
    }
  }
}

TEST_P(Kernels, SigmoidsOfFarNumbersAreFinite) {
  std::vector<float> x = {-1000, -90, 90, 1000};
  Sigmoid(x.size(), x.data());
  EXPECT_THAT(x, testing::ElementsAre(testing::FloatNear(0, 1e-30f),
                                      testing::FloatNear(0, 1e-30f), 1, 1));
}

TEST_P(Kernels, SumRowsLikeTwoLoops) {
  for (const size_t n : {1u, 15u, 64u, 65u, 200u}) {
    for (const size_t m : {0u, 1u, 7u}) {
      const auto table = RandomFloats(n * m, 1), weights = RandomFloats(m, 2);
      std::vector<const float*> rows;
      for (size_t j = 0; j < m; ++j) rows.push_back(table.data() + j * n);
      std::vector<float> out(n, 7.0f);
      SumScaled(rows.data(), weights.data(), m, n, out.data());
      for (size_t i = 0; i < n; ++i) {
        double sum = 0;
        for (size_t j = 0; j < m; ++j) {
          sum += static_cast<double>(weights[j]) * rows[j][i];
        }
        EXPECT_NEAR(out[i], sum, 1e-5);
      }
    }
  }
}

TEST_P(Kernels, AddGramEqualsTheSlowSum) {
  for (const size_t n : {1u, 3u, 4u, 7u, 8u, 16u, 31u, 33u, 64u, 70u}) {
    for (const size_t m : {0u, 1u, 5u, 32u, 33u, 70u}) {
      const size_t stride = n + 3;
      const auto table = RandomFloats(m * n, n), weights = RandomFloats(m, m);
      std::vector<const float*> rows;
      for (size_t h = 0; h < m; ++h) rows.push_back(table.data() + h * n);
      const auto before = RandomFloats(n * stride, 1);
      auto out = before;
      AddGram(rows.data(), weights.data(), m, n, stride, out.data());
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j <= i; ++j) {
          double sum = before[i * stride + j];
          for (size_t h = 0; h < m; ++h) {
            sum += static_cast<double>(weights[h]) * rows[h][i] * rows[h][j];
          }
          ASSERT_NEAR(out[i * stride + j], sum, 2e-5) << n << " " << m;
        }
        for (size_t j = n; j < stride; ++j) {
          ASSERT_EQ(out[i * stride + j], before[i * stride + j]);
        }
      }
    }
  }
}

TEST_P(Kernels, FindEveryIndexAbove) {
  for (size_t n = 1; n < 70; ++n) {
    const auto scores = RandomFloats(n, n), bias = RandomFloats(n, n + 7);
    std::vector<uint32_t> found(n + 64), expected;
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

TEST_P(Kernels, RowsHaveTheDotsOfOneByOne) {
  for (size_t n = 1; n < 70; ++n) {
    const size_t m = n % 14;
    const auto x = RandomFloats(n, n), values = RandomFloats(n * 14, 5);
    std::vector<const float*> rows;
    for (size_t j = 0; j < m; ++j) rows.push_back(values.data() + j * n);
    std::vector<float> out(m + 1, -1.0f);
    DotRows(x.data(), rows.data(), m, n, out.data());
    for (size_t j = 0; j < m; ++j) {
      EXPECT_EQ(out[j], Dot(x.data(), rows[j], n)) << n << " " << j;
    }
    EXPECT_EQ(out[m], -1);
  }
}

TEST_P(Kernels, CollectWhatIsAboveAndEligible) {
  Random random(6);
  for (size_t n = 1; n < 200; ++n) {
    auto scores = RandomFloats(n, n);
    const auto bias = RandomFloats(n, n + 7);
    scores[n / 2] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<uint64_t> eligible = {random.Next(), random.Next(),
                                            random.Next(), random.Next()};
    std::vector<float> values(n + 64), expected;
    std::vector<uint32_t> numbers(n + 64), expected_numbers;
    for (size_t i = 0; i < n; ++i) {
      if (((eligible[i / 64] >> (i % 64)) & 1) == 0) continue;
      if (!(scores[i] + bias[i] > 0.3f)) continue;
      expected.push_back(scores[i] + bias[i]);
      expected_numbers.push_back(static_cast<uint32_t>(1000 + i));
    }
    const size_t count =
        CollectAbove(scores.data(), bias.data(), eligible.data(), n, 0.3f, 1000,
                     values.data(), numbers.data());
    values.resize(count);
    numbers.resize(count);
    EXPECT_EQ(values, expected);
    EXPECT_EQ(numbers, expected_numbers);
  }
}

TEST_P(Kernels, PartitionAtTheKth) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (size_t n = 1; n < 200; ++n) {
    auto values = RandomFloats(n + 64, n);
    values[0] = n % 3 == 0 ? kInfinity : 0.5f;  // a tie with the k-th
    std::vector<uint32_t> numbers(n + 64);
    std::vector<std::pair<float, uint32_t>> reaching, others;
    for (size_t i = 0; i < n; ++i) {
      numbers[i] = static_cast<uint32_t>(7 * i);
      if (values[i] >= 0.5f) {
        reaching.emplace_back(values[i], numbers[i]);
      } else if (values[i] > -0.25f) {
        others.emplace_back(values[i], numbers[i]);
      }
    }
    const size_t left =
        PartitionAtKth(0.5f, -0.25f, n, values.data(), numbers.data());
    reaching.insert(reaching.end(), others.begin(), others.end());
    ASSERT_EQ(left, reaching.size());
    for (size_t i = 0; i < left; ++i) {
      EXPECT_EQ(values[i], reaching[i].first);
      EXPECT_EQ(numbers[i], reaching[i].second);
    }
  }
}

TEST_P(Kernels, KthLargestIsTheOneOfASort) {
  for (const size_t n : {64, 128, 256, 1024}) {
    auto x = RandomFloats(n, n);
    x[7] = std::numeric_limits<float>::infinity();
    x[8] = 0.0f;
    x[10] = -0.0f;
    for (size_t i = 0; i < n; i += 3) x[i] = x[0];  // ties
    std::fill(x.end() - 5, x.end(), -std::numeric_limits<float>::infinity());
    auto sorted = x;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t k = 1; k <= n; ++k) {
      EXPECT_EQ(KthLargest(x.data(), n, k), sorted[k - 1]) << k;
    }
  }
}

TEST_P(Kernels, KthLargestOfTooFewNumbersIsNone) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x(64, -kInfinity);
  EXPECT_EQ(KthLargest(x.data(), 64, 1), -kInfinity);
  x[40] = kInfinity;
  x[41] = -3;
  EXPECT_EQ(KthLargest(x.data(), 64, 1), kInfinity);
  EXPECT_EQ(KthLargest(x.data(), 64, 2), -3);
  EXPECT_EQ(KthLargest(x.data(), 64, 3), -kInfinity);
}

TEST_P(Kernels, FewAreSorted) {
  Random random(8);
  for (size_t n = 0; n < 140; ++n) {
    std::vector<uint64_t> keys(n);
    for (uint64_t& key : keys) key = random.Next() << random.Below(64);
    if (n > 9) keys[3] = keys[7] = keys[9] = n % 2 == 0 ? 0 : 5;
    auto expected = keys;
    std::sort(expected.begin(), expected.end());
    const bool done = SortFew(n, keys.data());
    EXPECT_TRUE(done || n > 32);  // two lanes
    if (!done) continue;
    EXPECT_EQ(keys, expected);
  }
}

TEST_P(Kernels, StridedMaximaSeeOnlyTheEligible) {
  constexpr size_t kRows = 320;
  auto scores = RandomFloats(kRows, 1);
  const auto bias = RandomFloats(kRows, 2);
  scores[70] = std::numeric_limits<float>::quiet_NaN();
  Random random(3);
  std::vector<uint64_t> eligible;
  for (size_t i = 0; i < kRows / 64; ++i) {
    eligible.push_back(random.Next() & ~uint64_t{2});  // never i % 64 == 1
  }
  eligible[1] |= 1 << 6;  // the NaN
  std::vector<float> expected(64, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < kRows; ++i) {
    if (((eligible[i / 64] >> (i % 64)) & 1) == 0 || i == 70) continue;
    expected[i % 64] = std::max(expected[i % 64], scores[i] + bias[i]);
  }
  expected[9] = 100;
  std::vector<float> maxima(64, -std::numeric_limits<float>::infinity());
  maxima[9] = 100;
  StridedMaxima(scores.data(), bias.data(), eligible.data(), kRows,
                maxima.data());
  EXPECT_EQ(maxima, expected);
  EXPECT_TRUE(std::isinf(maxima[1]));
}

TEST_P(Kernels, Int8IsTheNearestOfItsScale) {
  for (const size_t n : {1, 16, 37, 600}) {
    const auto x = RandomFloats(n, n);
    std::vector<int8_t> rounded(n);
    float scale = 0;
    const float lost = QuantizeInt8(x.data(), n, rounded.data(), &scale);
    double squares = 0;
    int most = 0;
    for (size_t i = 0; i < n; ++i) {
      const double error = x[i] - static_cast<double>(rounded[i]) * scale;
      EXPECT_LE(std::abs(error), 0.5001 * scale);
      squares += error * error;
      most = std::max(most, std::abs(static_cast<int>(rounded[i])));
    }
    EXPECT_EQ(most, 127);
    EXPECT_NEAR(lost, std::sqrt(squares), 1e-5);
  }
}

TEST_P(Kernels, Int8OfNothingAndOfWhatIsNoNumber) {
  std::vector<int8_t> rounded(20, 1);
  float scale = 1;
  std::vector<float> x(20, 0.0f);
  EXPECT_EQ(QuantizeInt8(x.data(), 20, rounded.data(), &scale), 0);
  EXPECT_EQ(scale, 0);
  EXPECT_THAT(rounded, testing::Each(0));
  x[7] = 1e-38f;
  EXPECT_NEAR(QuantizeInt8(x.data(), 20, rounded.data(), &scale), 0, 1e-37);
  for (const size_t at : {7, 19}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::infinity()}) {
      x.assign(20, 1.0f);
      x[at] = bad;
      EXPECT_TRUE(
          std::isnan(QuantizeInt8(x.data(), 20, rounded.data(), &scale)));
      EXPECT_TRUE(std::isnan(scale));
    }
  }
}

TEST_P(Kernels, ScaleSums) {
  const std::vector<float> scales = RandomFloats(37, 1);
  std::vector<int32_t> sums(37);
  for (int i = 0; i < 37; ++i) sums[static_cast<size_t>(i)] = i * i * 1000;
  std::vector<float> out(37);
  ScaleInt32(sums.data(), scales.data(), 0.5f, 37, out.data());
  for (size_t i = 0; i < 37; ++i) {
    EXPECT_FLOAT_EQ(out[i], static_cast<float>(sums[i]) * scales[i] * 0.5f);
  }
}

}  // namespace
}  // namespace nearline::model
