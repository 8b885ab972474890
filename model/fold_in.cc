#include "model/fold_in.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "model/kernels.h"

namespace nearline::model {
namespace {

// a [n, n], of which only the lower triangle is read, becomes L with
// a = L L^T, some columns at a time: these are eliminated within their own
// rows, then from the rows below, and what they explain is taken off the rest.
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

// x becomes (L L^T)^-1 x, of the L that Factorize leaves.
void SolveFactorized(size_t n, const float* a, float* x) {
  for (size_t i = 0; i < n; ++i) {
    x[i] = (x[i] - Dot(a + i * n, x, i)) / a[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    x[i] /= a[i * n + i];
    AddScaled(a + i * n, -x[i], i, x);
  }
}

}  // namespace

std::vector<float> ScaledGram(const std::vector<float>& rows, int dim,
                              double a) {
  const auto d = static_cast<size_t>(dim);
  std::vector<float> gram(d * d, 0.0f);
  std::vector<const float*> each;
  for (size_t at = 0; at < rows.size(); at += d) each.push_back(&rows[at]);
  const std::vector<float> weights(each.size(), static_cast<float>(a));
  AddGram(each.data(), weights.data(), each.size(), d, d, gram.data());
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
  AddGram(rows.data(), weights.data(), rows.size(), d, d, a.data());
  const float ridge = Ridge(weights);
  for (size_t i = 0; i < d; ++i) a[i * d + i] += ridge;
  SumScaled(rows.data(), weights.data(), rows.size(), d, out);
  AddScaled(pull_.data(), 1, d, out);
  Factorize(d, a.data());
  SolveFactorized(d, a.data(), out);
}

std::vector<float> FoldIn::Gathered(const std::vector<float>& rows,
                                    const std::vector<float>& counts,
                                    double events) const {
  const size_t d = pull_.size();
  const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
  std::vector<const float*> each;
  std::vector<float> weights;
  for (size_t i = 0; i < counts.size(); ++i) {
    each.push_back(rows.data() + i * d);
    weights.push_back(static_cast<float>(counts[i] * events / all));
  }
  std::vector<float> a = gram_;
  AddGram(each.data(), weights.data(), each.size(), d, d, a.data());
  const auto ridge = static_cast<float>(ridge_ * (events + base_));
  for (size_t i = 0; i < d; ++i) a[i * d + i] += ridge;
  Factorize(d, a.data());
  std::vector<float> out = rows;
  for (size_t i = 0; i < counts.size(); ++i) {
    SolveFactorized(d, a.data(), out.data() + i * d);
  }
  return out;
}

float FoldIn::Ridge(absl::Span<const float> weights) const {
  double total = base_;
  for (const float w : weights) total += w;
  return static_cast<float>(ridge_ * total);
}

void FoldIn::Apply(absl::Span<const float* const> rows,
                   absl::Span<const float> weights, float ridge, const float* x,
                   float* out) const {
  const size_t d = pull_.size();
  thread_local std::vector<const float*> all;
  thread_local std::vector<float> shares;
  all.assign(rows.begin(), rows.end());
  shares.clear();
  for (size_t h = 0; h < rows.size(); ++h) {
    shares.push_back(weights[h] * Dot(rows[h], x, d));
  }
  for (size_t i = 0; i < d; ++i) all.push_back(gram_.data() + i * d);
  shares.insert(shares.end(), x, x + d);
  SumScaled(all.data(), shares.data(), all.size(), d, out);
  AddScaled(x, ridge, d, out);
}

void FoldIn::Approach(absl::Span<const float* const> rows,
                      absl::Span<const float> weights, int steps,
                      float* out) const {
  const size_t d = pull_.size();
  const float ridge = Ridge(weights);
  thread_local std::vector<float> residual, direction, image;
  for (auto* const vector : {&residual, &direction, &image}) vector->resize(d);
  SumScaled(rows.data(), weights.data(), rows.size(), d, residual.data());
  AddScaled(pull_.data(), 1, d, residual.data());
  Apply(rows, weights, ridge, out, image.data());
  AddScaled(image.data(), -1, d, residual.data());
  direction = residual;
  float left = Dot(residual.data(), residual.data(), d);
  for (int step = 0; step < steps; ++step) {
    Apply(rows, weights, ridge, direction.data(), image.data());
    const float bend = Dot(direction.data(), image.data(), d);
    if (!(bend > 0)) return;  // there, as far as float32 can tell
    AddScaled(direction.data(), left / bend, d, out);
    AddScaled(image.data(), -left / bend, d, residual.data());
    const float next = Dot(residual.data(), residual.data(), d);
    Blend(next / left, 1, residual.data(), d, direction.data());
    left = next;
  }
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
