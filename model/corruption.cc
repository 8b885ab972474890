#include "model/corruption.h"

#include <algorithm>
#include <cmath>

namespace nearline::model {

const std::vector<float>& Corruptor::Normalized(
    absl::Span<const float> weights) {
  kept_.assign(weights.begin(), weights.end());
  const bool cold =
      corruption_.cold_share > 0 && random_.Uniform() < corruption_.cold_share;
  if (cold) KeepFew();
  double squares = 0;
  for (const float x : kept_) squares += static_cast<double>(x) * x;
  const double dropout = cold ? 0 : corruption_.dropout;
  const auto scale = static_cast<float>(
      1.0 / std::sqrt(std::max(squares, 1e-12)) / (1.0 - dropout));
  for (float& x : kept_) {
    x *= dropout > 0 && random_.Uniform() < dropout ? 0.0f : scale;
  }
  return kept_;
}

// Leaves 1 to kFew of the weights, each as likely as any other.
void Corruptor::KeepFew() {
  const size_t n = kept_.size();
  size_t left = std::min<size_t>(1 + random_.Below(Corruption::kFew), n);
  for (size_t i = 0; i < n; ++i) {
    if (random_.Below(n - i) < left) {
      --left;
    } else {
      kept_[i] = 0;
    }
  }
}

}  // namespace nearline::model
