#include "model/fold_in.h"

#include <numeric>

#include "model/cholesky.h"
#include "model/kernels.h"

namespace nearline::model {

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

}  // namespace nearline::model
