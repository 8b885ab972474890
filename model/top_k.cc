#include "model/top_k.h"

#include <algorithm>
#include <cmath>

#include "model/kernels.h"

namespace nearline::model {

TopK::TopK(int k, const RowMask* mask)
    : k_(static_cast<size_t>(k)), mask_(mask) {
  best_.reserve(2 * k_ + 64);
}

void TopK::Add(const float* scores, const float* bias, size_t n, Row first) {
  constexpr size_t kStep = 256;
  uint32_t indices[kStep];
  for (size_t start = 0; start < n; start += kStep) {
    const size_t count =
        IndicesAbove(scores + start, bias + start, std::min(kStep, n - start),
                     threshold_, indices);
    for (size_t i = 0; i < count; ++i) {
      const size_t at = start + indices[i];
      const Row row = first + static_cast<Row>(at);
      if (!(*mask_)[row]) continue;
      best_.push_back({scores[at] + bias[at], row});
      if (best_.size() >= 2 * k_ + 64) Shrink();
    }
  }
}

void TopK::Shrink() {
  if (best_.size() <= k_) return;
  std::nth_element(best_.begin(),
                   best_.begin() + static_cast<std::ptrdiff_t>(k_) - 1,
                   best_.end());
  best_.resize(k_);
  // Just below the k-th, so that a lower row with the same score still comes
  // in.
  threshold_ = std::nextafter(best_[k_ - 1].score,
                              -std::numeric_limits<float>::infinity());
}

std::vector<ScoredRow> TopK::Take() {
  Shrink();
  std::sort(best_.begin(), best_.end());
  return std::move(best_);
}

}  // namespace nearline::model
