#include "model/ridge.h"

#include <algorithm>
#include <cmath>

namespace nearline::model {
namespace {

// Solves (A + ridge I) X = B in place by Cholesky; A [n, n] symmetric, B [n,
// m].
void SolveRidge(std::vector<double>* a, size_t n, double ridge,
                std::vector<double>* b, size_t m) {
  auto& A = *a;
  auto& B = *b;
  for (size_t i = 0; i < n; ++i) A[i * n + i] += ridge;
  for (size_t j = 0; j < n; ++j) {
    double diagonal = A[j * n + j];
    for (size_t k = 0; k < j; ++k) diagonal -= A[j * n + k] * A[j * n + k];
    diagonal = std::sqrt(std::max(diagonal, 1e-12));
    A[j * n + j] = diagonal;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = A[i * n + j];
      for (size_t k = 0; k < j; ++k) sum -= A[i * n + k] * A[j * n + k];
      A[i * n + j] = sum / diagonal;
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) {
      for (size_t c = 0; c < m; ++c)
        B[i * m + c] -= A[i * n + k] * B[k * m + c];
    }
    for (size_t c = 0; c < m; ++c) B[i * m + c] /= A[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) {
      for (size_t c = 0; c < m; ++c)
        B[i * m + c] -= A[k * n + i] * B[k * m + c];
    }
    for (size_t c = 0; c < m; ++c) B[i * m + c] /= A[i * n + i];
  }
}

// F^T F [n, n].
std::vector<double> Gram(const SparseRows& f, size_t n) {
  std::vector<double> gram(n * n, 0.0);
  for (size_t i = 0; i + 1 < f.offsets.size(); ++i) {
    for (size_t a = f.offsets[i]; a < f.offsets[i + 1]; ++a) {
      for (size_t b = f.offsets[i]; b < f.offsets[i + 1]; ++b) {
        gram[f.columns[a] * n + f.columns[b]] +=
            static_cast<double>(f.values[a]) * f.values[b];
      }
    }
  }
  return gram;
}

// F^T T [n, dim].
std::vector<double> Project(const SparseRows& f, size_t n,
                            const std::vector<float>& table, size_t dim) {
  std::vector<double> out(n * dim, 0.0);
  for (size_t i = 0; i + 1 < f.offsets.size(); ++i) {
    const float* const row = table.data() + i * dim;
    for (size_t a = f.offsets[i]; a < f.offsets[i + 1]; ++a) {
      double* const sum = out.data() + f.columns[a] * dim;
      for (size_t c = 0; c < dim; ++c) {
        sum[c] += static_cast<double>(f.values[a]) * row[c];
      }
    }
  }
  return out;
}

}  // namespace

std::vector<float> RidgeMap(const SparseRows& features, size_t width,
                            const std::vector<float>& table, size_t dim,
                            double ridge) {
  std::vector<double> weights = Project(features, width, table, dim);
  std::vector<double> gram = Gram(features, width);
  SolveRidge(&gram, width, ridge, &weights, dim);
  return {weights.begin(), weights.end()};
}

}  // namespace nearline::model
