#include "model/product.h"

#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "model/blas.h"
#include "tests/model/random_floats.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
float Widen(Bfloat16 x) { return FromBits(uint32_t{x} << 16); }

TEST(Bfloat16, IsTheNearestAndOfTwoTheEvenOne) {
  const std::vector<float> x = {0.0f,
                                -2.0f,
                                FromBits(0x3f808000),  // between two
                                FromBits(0x3f818000),  // between two
                                FromBits(0x3f808001),  // just above
                                FromBits(0xbf807fff),  // just below
                                FromBits(0x3fffffff),  // up to 2
                                HUGE_VALF};
  const std::vector<Bfloat16> expected = {0x0000, 0xc000, 0x3f80, 0x3f82,
                                          0x3f81, 0xbf80, 0x4000, 0x7f80};
  for (size_t repeat = 1; repeat < 9; ++repeat) {  // in vectors and beside
    std::vector<float> values;
    for (size_t i = 0; i < repeat; ++i) {
      values.insert(values.end(), x.begin(), x.end());
    }
    values.resize(values.size() - 3);
    std::vector<Bfloat16> out(values.size());
    std::vector<float> sums(values.size(), 1.0f);
    ToBfloat16(values.data(), values.size(), out.data());
    AddBfloat16(out.data(), out.size(), sums.data());
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_EQ(out[i], expected[i % x.size()]) << values[i];
      EXPECT_EQ(sums[i], 1 + Widen(out[i]));
    }
  }
}

// A view of `at`, transposed or not, with rows `stride` apart.
template <typename T>
MatrixView<T> View(const std::vector<T>& at, int64_t rows, int64_t columns,
                   bool transpose, int64_t gap) {
  if (transpose) return {at.data(), columns, rows, true, rows + gap};
  return {at.data(), rows, columns, false, columns + gap};
}

template <typename T>
float At(const MatrixView<T>& x, int64_t i, int64_t j) {
  const T value = x.transpose ? x.at[j * x.stride + i] : x.at[i * x.stride + j];
  if constexpr (std::is_same_v<T, Bfloat16>) return Widen(value);
  return static_cast<float>(value);
}

template <typename T>
void ExpectThreeLoops(const MatrixView<T>& a, const MatrixView<T>& b, int64_t m,
                      int64_t k, int64_t n, float before,
                      const std::vector<float>& got) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = before;
      for (int64_t x = 0; x < k; ++x) {
        sum += static_cast<double>(At(a, i, x)) * At(b, x, j);
      }
      ASSERT_NEAR(got[static_cast<size_t>(i * n + j)], sum, 1e-3);
    }
  }
}

struct Shape {
  int64_t m, k, n;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {3, 70, 17}, {40, 33, 65}};

TEST(Product, OfFloat32IsTheOneOfThreeLoops) {
  for (const auto [m, k, n] : kShapes) {
    for (int which = 0; which < 8; ++which) {
      const bool left = which & 1, right = which & 2, add = which & 4;
      const auto a = RandomFloats(static_cast<size_t>((m + 5) * (k + 5)), 1);
      const auto b = RandomFloats(static_cast<size_t>((k + 5) * (n + 5)), 2);
      const auto x = View(a, m, k, left, 5), y = View(b, k, n, right, 3);
      std::vector<float> out(static_cast<size_t>(m * n), 1.0f);
      ASSERT_TRUE(Multiply(x, y, out.data(), add));
      ExpectThreeLoops(x, y, m, k, n, add ? 1.0f : 0.0f, out);
    }
  }
}

TEST(Product, OfBfloat16IsTheOneOfThreeLoops) {
  const Bfloat16 one = 0x3f80;
  float product = 0;
  if (!Multiply({&one, 1, 1}, {&one, 1, 1}, &product)) {
    ASSERT_FALSE(HasFastBfloat16());
    GTEST_SKIP() << "there is no product of bfloat16 for this processor";
  }
  for (const auto [m, k, n] : kShapes) {
    for (int which = 0; which < 8; ++which) {
      const bool left = which & 1, right = which & 2, add = which & 4;
      const auto a = RandomFloats(static_cast<size_t>((m + 5) * (k + 5)), 1);
      const auto b = RandomFloats(static_cast<size_t>((k + 5) * (n + 5)), 2);
      std::vector<Bfloat16> p(a.size()), q(b.size());
      ToBfloat16(a.data(), a.size(), p.data());
      ToBfloat16(b.data(), b.size(), q.data());
      const auto x = View(p, m, k, left, 5), y = View(q, k, n, right, 3);
      std::vector<float> out(static_cast<size_t>(m * n), 1.0f);
      ASSERT_TRUE(Multiply(x, y, out.data(), add));
      ExpectThreeLoops(x, y, m, k, n, add ? 1.0f : 0.0f, out);
    }
  }
}

TEST(Blas, IsToldOfProcessorsThatItDoesNotKnow) {
  EXPECT_EQ(BetterBlasCore("Prescott", true, true), "SkylakeX");
  EXPECT_EQ(BetterBlasCore("Prescott", true, false), "Haswell");
  EXPECT_EQ(BetterBlasCore("Prescott", false, false), "");
  EXPECT_EQ(BetterBlasCore("Zen", true, true), "");
}

}  // namespace
}  // namespace nearline::model
