#include "model/top_k.h"

#include <hwy/contrib/sort/vqsort.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "model/selection_kernels.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr size_t kStep = 512;          // rows that are looked at together
constexpr size_t kMostKept = 1 << 16;  // room, from one start to the next
constexpr size_t kBeyond = 64;         // what kernels may write beyond

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
  if (SortFew(keys->size(), keys->data())) return;
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

void TopK::Start(int k, const RowMask* mask, float slack) {
  k_ = static_cast<size_t>(k);
  mask_ = mask;
  slack_ = slack;
  threshold_ = kNone;
  size_ = 0;
  limit_ = 0;
  if (room_ > kMostKept) scores_ = nullptr;
  Reserve(2 * k_ + 64);
}

// For `count` rows until they are shrunk, and what may come to them at once.
void TopK::Reserve(size_t count) {
  limit_ = std::max(limit_, count);
  if (scores_ != nullptr && limit_ + kStep + kBeyond <= room_) return;
  room_ = limit_ + kStep + kBeyond;
  auto scores = std::make_unique_for_overwrite<float[]>(room_);
  auto rows = std::make_unique_for_overwrite<Row[]>(room_);
  std::copy_n(scores_.get(), size_, scores.get());
  std::copy_n(rows_.get(), size_, rows.get());
  scores_ = std::move(scores);
  rows_ = std::move(rows);
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

void TopK::AddOne(float score, Row row) {
  if (!(score > threshold_) || row >= mask_->rows() || !(*mask_)[row]) return;
  scores_[size_] = score;
  rows_[size_++] = row;
  ShrinkIfFull();
}

void TopK::ShrinkIfFull() {
  if (size_ < limit_) return;
  Shrink();
  Reserve(2 * size_);
}

void TopK::AddBlock(const ScoredBlock& block) {
  std::array<uint64_t, kStep / 64> eligible;
  for (size_t start = 0; start < block.n; start += kStep) {
    const size_t n = std::min(kStep, block.n - start);
    const Row first = block.first + static_cast<Row>(start);
    for (size_t i = 0; i < n; i += 64) {
      eligible[i / 64] = mask_->From(first + static_cast<Row>(i));
    }
    size_ += CollectAbove(block.scores + start, block.bias + start,
                          eligible.data(), n, threshold_, first,
                          scores_.get() + size_, rows_.get() + size_);
    ShrinkIfFull();
  }
}

void TopK::Shrink() {
  if (size_ <= k_) return;
  const size_t padded = (size_ + 63) / 64 * 64;
  std::fill(scores_.get() + size_, scores_.get() + padded, kNone);
  const float kth = KthLargest(scores_.get(), padded, k_);
  SetThreshold(kth);
  size_ = PartitionAtKth(kth, threshold_, size_, scores_.get(), rows_.get());
  if (slack_ == 0 && size_ > k_) CutTies();
}

// Where no score errs, of those with the k-th score the lower rows are better.
void TopK::CutTies() {
  std::vector<ScoredRow> best = List();
  std::nth_element(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(k_),
                   best.end());
  for (size_ = 0; size_ < k_; ++size_) {
    scores_[size_] = best[size_].score;
    rows_[size_] = best[size_].row;
  }
}

std::vector<ScoredRow> TopK::List() const {
  std::vector<ScoredRow> list(size_);
  for (size_t i = 0; i < size_; ++i) list[i] = {scores_[i], rows_[i]};
  return list;
}

TopK::Nominees TopK::Nominate() {
  Shrink();
  return {scores_.get(), rows_.get(), size_};
}

std::vector<ScoredRow> TopK::Take() {
  Shrink();
  std::vector<ScoredRow> best = List();
  SortBestFirst(absl::MakeSpan(best));
  if (best.size() > k_) best.resize(k_);
  return best;
}

}  // namespace nearline::model
