#include "model/top_k.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "model/kernels.h"

namespace nearline::model {

TopK::TopK(int k, const RowMask* mask, float slack)
    : k_(static_cast<size_t>(k)),
      mask_(mask),
      slack_(slack),
      limit_(2 * k_ + 64) {
  best_.reserve(limit_);
}

void TopK::Seed(const float* scores, const float* bias, size_t n, Row first) {
  constexpr size_t kSets = 64, kMostRows = 1024;
  n = std::min(n, kMostRows) / kSets * kSets;
  if (k_ > kSets || n == 0) return;
  uint64_t eligible[kMostRows / kSets];
  for (size_t i = 0; i < n; i += kSets) {
    eligible[i / kSets] = mask_->From(first + static_cast<Row>(i));
  }
  float maxima[kSets];
  StridedMaxima(scores, bias, eligible, n, maxima);
  std::nth_element(maxima, maxima + k_ - 1, maxima + kSets, std::greater<>());
  if (!std::isinf(maxima[k_ - 1])) SetThreshold(maxima[k_ - 1]);
}

// Just below the k-th, so that a lower row with the same score still comes in.
void TopK::SetThreshold(float kth) {
  threshold_ =
      std::nextafter(kth - slack_, -std::numeric_limits<float>::infinity());
}

void TopK::Add(const float* scores, const float* bias, size_t n, Row first) {
  constexpr size_t kStep = 256;
  if (best_.empty() && std::isinf(threshold_)) Seed(scores, bias, n, first);
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
      if (best_.size() >= limit_) Shrink();
    }
  }
}

void TopK::Shrink() {
  if (best_.size() <= k_) return;
  std::nth_element(best_.begin(),
                   best_.begin() + static_cast<std::ptrdiff_t>(k_) - 1,
                   best_.end());
  SetThreshold(best_[k_ - 1].score);
  const auto kth = best_.begin() + static_cast<std::ptrdiff_t>(k_);
  const auto end =
      slack_ == 0 ? kth
                  : std::partition(kth, best_.end(), [&](const ScoredRow& r) {
                      return r.score > threshold_;
                    });
  best_.erase(end, best_.end());
  limit_ = std::max(limit_, 2 * best_.size());
}

std::vector<ScoredRow> TopK::Take() {
  Shrink();
  if (slack_ == 0) std::sort(best_.begin(), best_.end());
  return std::move(best_);
}

}  // namespace nearline::model
