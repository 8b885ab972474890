#include "model/cholesky.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "model/kernels.h"

namespace nearline::model {

// Some columns at a time: these are eliminated within their own rows, then from
// the rows below, and what they explain is taken off the rest.
void Factorize(size_t n, float* a) {
  constexpr size_t kColumns = 32;
  thread_local std::vector<float> below, sum;
  std::array<float, kColumns> minus;
  minus.fill(-1);
  for (size_t k = 0; k < n; k += kColumns) {
    const size_t end = std::min(n, k + kColumns);
    for (size_t i = k; i < end; ++i) {
      float* const row = a + i * n;
      for (size_t j = k; j < i; ++j) {
        row[j] = (row[j] - Dot(row + k, a + j * n + k, j - k)) / a[j * n + j];
      }
      row[i] =
          std::sqrt(std::max(1e-12f, row[i] - Dot(row + k, row + k, i - k)));
    }
    // Below, by column.
    const size_t m = n - end;
    if (m == 0) return;
    below.resize((end - k) * m);
    sum.resize(m);
    std::array<const float*, kColumns> columns;
    for (size_t j = k; j < end; ++j) {
      float* const column = below.data() + (j - k) * m;
      for (size_t i = 0; i < m; ++i) column[i] = a[(end + i) * n + j];
      SumScaled(columns.data(), a + j * n + k, j - k, m, sum.data());
      const float inverse = 1 / a[j * n + j];
      Blend(inverse, -inverse, sum.data(), m, column);
      for (size_t i = 0; i < m; ++i) a[(end + i) * n + j] = column[i];
      columns[j - k] = column;
    }
    AddGram(columns.data(), minus.data(), end - k, m, n, a + end * n + end);
  }
}

void SolveFactorized(size_t n, const float* a, float* x) {
  for (size_t i = 0; i < n; ++i) {
    x[i] = (x[i] - Dot(a + i * n, x, i)) / a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    x[i] /= a[i * n + i];
    AddScaled(a + i * n, -x[i], i, x);
  }
}

}  // namespace nearline::model
