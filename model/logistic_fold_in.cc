#include "model/logistic_fold_in.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "model/cholesky.h"
#include "model/fold_in.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

constexpr int kSteps = 30, kTries = 20;
// How much of the first step's promise a step may promise for no other to
// follow: about the square of how far p is from the solution.
constexpr float kEnough = 1e-5f;
// How steeply the loss may rise where a step ends, by how steeply it fell where
// it began.
constexpr float kMostRise = 0.1f;

// What the last steps of a descent have taught of the second derivative
// (Nocedal, 1980): L-BFGS.
class Curvatures {
 public:
  explicit Curvatures(size_t dim) : dim_(dim) { steps_.reserve(kSteps); }

  // A step along -direction, times length, took the gradient from `before` to
  // `after`.
  void Learn(const float* direction, float length, const float* before,
             const float* after) {
    Step step;
    step.moved.assign(dim_, 0.0f);
    step.turned.assign(after, after + dim_);
    AddScaled(direction, -length, dim_, step.moved.data());
    AddScaled(before, -1, dim_, step.turned.data());
    const float bend = Dot(step.moved.data(), step.turned.data(), dim_);
    if (!(bend > 0)) return;
    step.inverse = 1 / bend;
    steps_.push_back(std::move(step));
  }

  // Multiplies x by the inverse second derivative, as far as it is known;
  // `known` does so with what is known without any step.
  template <typename Known>
  void Divide(const Known& known, float* x) const {
    std::array<float, kSteps> shares;
    for (size_t i = steps_.size(); i-- > 0;) {
      const Step& step = steps_[i];
      shares[i] = step.inverse * Dot(step.moved.data(), x, dim_);
      AddScaled(step.turned.data(), -shares[i], dim_, x);
    }
    known(x);
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Step& step = steps_[i];
      const float turn = step.inverse * Dot(step.turned.data(), x, dim_);
      AddScaled(step.moved.data(), shares[i] - turn, dim_, x);
    }
  }

 private:
  struct Step {
    std::vector<float> moved, turned;
    float inverse = 0;
  };
  const size_t dim_;
  std::vector<Step> steps_;
};

}  // namespace

LogisticFoldIn::LogisticFoldIn(std::vector<float> drawn, int dim,
                               double negatives, double ridge)
    : dim_(dim),
      drawn_(std::move(drawn)),
      negatives_(static_cast<float>(negatives)),
      ridge_(static_cast<float>(ridge)) {
  // s (1 - s) where a score of 2 is: most rows lie below, the ones that count
  // above.
  constexpr double kBend = 0.1;
  const auto d = static_cast<size_t>(dim);
  const auto rows = static_cast<double>(drawn_.size() / d);
  curvature_ = ScaledGram(drawn_, dim, kBend * negatives / rows);
  double mean = 0;
  for (size_t i = 0; i < d; ++i) {
    mean += curvature_[i * d + i] / static_cast<double>(d);
  }
  // Where no drawn row points there may be a user's.
  const float least = std::max(ridge_, static_cast<float>(0.1 * mean));
  for (size_t i = 0; i < d; ++i) curvature_[i * d + i] += least;
  Factorize(d, curvature_.data());
}

void LogisticFoldIn::Gradient(const History& history, const float* p,
                              float* out) const {
  const auto d = static_cast<size_t>(dim_);
  const size_t n = history.rows.size(), s = drawn_.size() / d;
  thread_local std::vector<const float*> rows;
  thread_local std::vector<float> pulls;
  rows.assign(history.rows.begin(), history.rows.end());
  for (size_t i = 0; i < s; ++i) rows.push_back(drawn_.data() + i * d);
  pulls.resize(n + s);
  DotRows(p, rows.data(), n + s, d, pulls.data());
  for (size_t i = 0; i < n; ++i) pulls[i] = -pulls[i];
  Sigmoid(n + s, pulls.data());
  for (size_t i = 0; i < n; ++i) pulls[i] *= -history.shares[i];
  const float share = negatives_ / static_cast<float>(s);
  for (size_t i = n; i < n + s; ++i) pulls[i] *= share;
  SumScaled(rows.data(), pulls.data(), n + s, d, out);
  AddScaled(p, history.ridge, d, out);
}

void LogisticFoldIn::Solve(absl::Span<const float* const> rows,
                           absl::Span<const float> weights, float* out) const {
  const auto d = static_cast<size_t>(dim_);
  std::fill(out, out + d, 0.0f);
  double total = 0;
  for (const float w : weights) total += w;
  if (!(total > 0)) return;
  std::vector<float> shares;
  for (const float w : weights) {
    shares.push_back(static_cast<float>(w / total));
  }
  const History history = {
      rows, shares,
      static_cast<float>(ridge_ * static_cast<double>(rows.size()) / total)};
  std::vector<float> gradient(d), direction, next(d), after(d);
  Gradient(history, out, gradient.data());
  Curvatures curvatures(d);
  float first = 0;
  for (int step = 0; step < kSteps; ++step) {
    direction = gradient;
    curvatures.Divide(
        [&](float* x) { SolveFactorized(d, curvature_.data(), x); },
        direction.data());
    const float promise = Dot(direction.data(), gradient.data(), d);
    if (step == 0) first = promise;
    if (!(promise > kEnough * first)) return;
    // The loss is convex: where it rises again, the lowest point is before.
    float length = 1;
    for (int tries = 0;; ++tries) {
      std::copy(out, out + d, next.begin());
      AddScaled(direction.data(), -length, d, next.data());
      Gradient(history, next.data(), after.data());
      const float rise = -Dot(direction.data(), after.data(), d);
      if (rise <= kMostRise * promise) break;
      if (tries == kTries || std::isnan(rise)) return;
      length *= std::clamp(promise / (promise + rise), 0.1f, 0.9f);
    }
    curvatures.Learn(direction.data(), length, gradient.data(), after.data());
    std::copy(next.begin(), next.end(), out);
    gradient.swap(after);
  }
}

}  // namespace nearline::model
