#include "model/top_k.h"

#include <hwy/contrib/sort/vqsort.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "model/kernels.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// The k-th largest of x, 0 < k <= x.size(), which is filled up.
float KthOf(std::vector<float>* x, size_t k) {
  x->resize((x->size() + 63) / 64 * 64, kNone);
  return KthLargest(x->data(), x->size(), k);
}

// Unsigned numbers in the opposite order of scores: 0 and -0 have the same.
uint32_t KeyOf(float score) {
  constexpr uint32_t kSign = 0x80000000;
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  return bits & kSign ? bits : ~(bits | kSign);
}
float ScoreOf(uint32_t key) {
  constexpr uint32_t kSign = 0x80000000;
  return std::bit_cast<float>(key & kSign ? key : ~key & ~kSign);
}

void SortKeys(std::vector<uint64_t>* keys) {
  constexpr size_t kFew = 32;  // which are not worth vectors
  if (keys->size() <= kFew) return std::sort(keys->begin(), keys->end());
  thread_local const hwy::Sorter sort;
  sort(keys->data(), keys->size(), hwy::SortAscending());
}

}  // namespace

void SortBestFirst(absl::Span<ScoredRow> rows) {
  thread_local std::vector<uint64_t> keys;
  keys.clear();
  for (const ScoredRow& one : rows) {
    keys.push_back(uint64_t{KeyOf(one.score)} << 32 | one.row);
  }
  SortKeys(&keys);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = {ScoreOf(static_cast<uint32_t>(keys[i] >> 32)),
               static_cast<Row>(keys[i])};
  }
}

TopK::TopK(int k, const RowMask* mask, float slack)
    : k_(static_cast<size_t>(k)),
      mask_(mask),
      slack_(slack),
      limit_(2 * k_ + 64) {
  best_.reserve(limit_);
}

// Of disjoint sets of rows, k have one at or above the k-th largest of the
// sets' maxima. Twice as many sets as k, or more, make that close to the k-th
// row.
void TopK::RaiseThreshold(absl::Span<const ScoredBlock> blocks) {
  constexpr size_t kSets = 64;  // that StridedMaxima tells apart
  size_t rows = 0;
  for (const ScoredBlock& block : blocks) rows += block.n / kSets * kSets;
  if (rows < k_) return;
  const bool across = 4 * k_ <= kSets;
  const size_t piece = kSets * std::max<size_t>(1, rows / (2 * k_));
  thread_local std::vector<float> maxima;
  thread_local std::vector<uint64_t> eligible;
  maxima.assign(across ? kSets : 0, kNone);
  for (const ScoredBlock& block : blocks) {
    const size_t n = block.n / kSets * kSets;
    for (size_t first = 0; first < n; first += across ? n : piece) {
      const size_t count = across ? n : std::min(piece, n - first);
      eligible.clear();
      for (size_t i = first; i < first + count; i += kSets) {
        eligible.push_back(mask_->From(block.first + static_cast<Row>(i)));
      }
      if (!across) maxima.resize(maxima.size() + kSets, kNone);
      StridedMaxima(block.scores + first, block.bias + first, eligible.data(),
                    count, maxima.data() + maxima.size() - kSets);
    }
  }
  const float kth = KthOf(&maxima, k_);
  if (kth != kNone) SetThreshold(kth);
}

// Just below the k-th, so that a lower row with the same score still comes in.
void TopK::SetThreshold(float kth) {
  const float below = std::nextafter(kth - slack_, kNone);
  threshold_ = std::max(threshold_, below);
}

void TopK::Add(absl::Span<const ScoredBlock> blocks) {
  RaiseThreshold(blocks);
  for (const ScoredBlock& block : blocks) AddBlock(block);
}

void TopK::AddBlock(const ScoredBlock& block) {
  constexpr size_t kStep = 512;
  uint32_t indices[kStep + 64];
  const size_t covered =
      mask_->rows() > block.first ? mask_->rows() - block.first : 0;
  const size_t n = std::min(block.n, covered);
  for (size_t start = 0; start < n; start += kStep) {
    const float* const scores = block.scores + start;
    const float* const bias = block.bias + start;
    const size_t count = IndicesAbove(scores, bias, std::min(kStep, n - start),
                                      threshold_, indices);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t at = indices[i];
      const Row row = block.first + static_cast<Row>(start) + at;
      if (!(*mask_)[row]) continue;
      best_.push_back({scores[at] + bias[at], row});
      if (best_.size() >= limit_) Shrink();
    }
  }
}

// Puts the rows that reach `kth` first, and those beyond the threshold behind
// them; returns how many these are. Without a branch: which is which is guessed
// wrong too often.
size_t TopK::Divide(float kth) {
  thread_local std::vector<ScoredRow> behind;
  behind.resize(best_.size());
  size_t first = 0, second = 0;
  for (const ScoredRow& row : best_) {
    const bool reaches = row.score >= kth;
    behind[second] = row;
    second += static_cast<size_t>(!reaches & (row.score > threshold_));
    best_[first] = row;
    first += static_cast<size_t>(reaches);
  }
  std::copy_n(behind.begin(), second,
              best_.begin() + static_cast<std::ptrdiff_t>(first));
  return first + second;
}

void TopK::Shrink() {
  if (best_.size() <= k_) return;
  auto end = best_.begin() + static_cast<std::ptrdiff_t>(k_);
  if (slack_ == 0) {
    std::nth_element(best_.begin(), end - 1, best_.end());
    SetThreshold(best_[k_ - 1].score);
  } else {
    thread_local std::vector<float> scores;
    scores.clear();
    for (const ScoredRow& row : best_) scores.push_back(row.score);
    const float kth = KthOf(&scores, k_);
    SetThreshold(kth);
    end = best_.begin() + static_cast<std::ptrdiff_t>(Divide(kth));
  }
  best_.erase(end, best_.end());
  limit_ = std::max(limit_, 2 * best_.size());
}

std::vector<ScoredRow> TopK::Take() {
  Shrink();
  if (slack_ == 0) SortBestFirst(absl::MakeSpan(best_));
  return std::move(best_);
}

}  // namespace nearline::model
