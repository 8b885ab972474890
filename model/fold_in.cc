#include "model/fold_in.h"

#include <algorithm>
#include <cmath>

#include "model/kernels.h"

namespace nearline::model {
namespace {

// a [n, n], its lower triangle, becomes L with a = L L^T; x becomes a^-1 x.
void SolvePositive(size_t n, float* a, float* x) {
  for (size_t i = 0; i < n; ++i) {
    float* const row = a + i * n;
    for (size_t j = 0; j < i; ++j) {
      row[j] = (row[j] - Dot(row, a + j * n, j)) / a[j * n + j];
    }
    row[i] = std::sqrt(std::max(1e-12f, row[i] - Dot(row, row, i)));
    x[i] = (x[i] - Dot(row, x, i)) / row[i];
  }
  for (size_t i = n; i-- > 0;) {
    x[i] /= a[i * n + i];
    AddScaled(a + i * n, -x[i], i, x);
  }
}

// out [D, D] += rows^T diag(weights) rows, the lower triangle alone.
void AddGram(absl::Span<const float* const> rows,
             absl::Span<const float> weights, size_t dim, float* out) {
  thread_local std::vector<float> column, sum;
  column.resize(rows.size());
  sum.resize(dim);
  for (size_t i = 0; i < dim; ++i) {
    for (size_t h = 0; h < rows.size(); ++h)
      column[h] = weights[h] * rows[h][i];
    SumScaled(rows.data(), column.data(), rows.size(), i + 1, sum.data());
    AddScaled(sum.data(), 1, i + 1, out + i * dim);
  }
}

}  // namespace

std::vector<float> ScaledGram(const std::vector<float>& rows, int dim,
                              double a) {
  constexpr size_t kTogether = 256;  // rows that stay in the cache
  const auto d = static_cast<size_t>(dim);
  std::vector<float> gram(d * d, 0.0f);
  const std::vector<float> weights(kTogether, static_cast<float>(a));
  std::vector<const float*> some;
  for (size_t first = 0; first < rows.size(); first += kTogether * d) {
    some.clear();
    for (size_t at = first; at < std::min(rows.size(), first + kTogether * d);
         at += d) {
      some.push_back(rows.data() + at);
    }
    AddGram(some, absl::MakeSpan(weights).first(some.size()), d, gram.data());
  }
  for (size_t i = 0; i < d; ++i) {
    for (size_t j = 0; j < i; ++j) gram[j * d + i] = gram[i * d + j];
  }
  return gram;
}

void FoldIn::Solve(absl::Span<const float* const> rows,
                   absl::Span<const float> weights, float* out) const {
  const size_t d = pull_.size();
  thread_local std::vector<float> a;
  a = gram_;
  AddGram(rows, weights, d, a.data());
  double total = base_;
  for (const float w : weights) total += w;
  for (size_t i = 0; i < d; ++i) {
    a[i * d + i] += static_cast<float>(ridge_ * total);
  }
  SumScaled(rows.data(), weights.data(), rows.size(), d, out);
  AddScaled(pull_.data(), 1, d, out);
  SolvePositive(d, a.data(), out);
}

absl::Status FoldInEncoder::Encode(absl::Span<const History* const> histories,
                                   std::vector<float>* queries) const {
  const auto d = static_cast<size_t>(dim());
  queries->resize(histories.size() * d);
  thread_local std::vector<const float*> rows;
  for (size_t i = 0; i < histories.size(); ++i) {
    rows.clear();
    for (const Row row : histories[i]->rows) rows.push_back(rows_[row]);
    fold_in_.Solve(rows, histories[i]->weights, queries->data() + i * d);
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
