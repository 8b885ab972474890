#ifndef NEARLINE_MODEL_TOP_K_H_
#define NEARLINE_MODEL_TOP_K_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"

namespace nearline::model {

// A row of a generation: its trained items in byte order of id, then items that
// came later.
using Row = uint32_t;
inline constexpr Row kNoRow = 0xffffffffu;

struct ScoredRow {
  float score = 0;
  Row row = kNoRow;

  // Best first; of equals the lower row, which is the lower id.
  friend bool operator<(const ScoredRow& a, const ScoredRow& b) {
    return a.score != b.score ? a.score > b.score : a.row < b.row;
  }
  friend bool operator==(const ScoredRow&, const ScoredRow&) = default;
};

// The order of operator<, of scores that are numbers.
void SortBestFirst(absl::Span<ScoredRow> rows);

// One bit a row, set for the eligible.
class RowMask {
 public:
  RowMask() = default;
  explicit RowMask(size_t rows, bool value = false)
      : words_((rows + 63) / 64, value ? ~uint64_t{0} : 0), rows_(rows) {
    if (value && rows % 64 != 0) words_.back() >>= 64 - rows % 64;
  }
  size_t rows() const { return rows_; }
  bool operator[](Row row) const {
    return (words_[row / 64] >> (row % 64)) & 1;
  }
  // The bits of 64 rows from `row` on; beyond the end, 0.
  uint64_t From(Row row) const {
    const size_t word = row / 64, shift = row % 64;
    uint64_t bits = word < words_.size() ? words_[word] >> shift : 0;
    if (shift != 0 && word + 1 < words_.size()) {
      bits |= words_[word + 1] << (64 - shift);
    }
    return bits;
  }
  void Set(Row row) { words_[row / 64] |= uint64_t{1} << (row % 64); }
  void Clear(Row row) { words_[row / 64] &= ~(uint64_t{1} << (row % 64)); }
  int64_t Count() const {
    int64_t count = 0;
    for (const uint64_t word : words_) count += __builtin_popcountll(word);
    return count;
  }

 private:
  std::vector<uint64_t> words_;
  size_t rows_ = 0;
};

// Rows first .. first + n: row first + i has scores[i] + bias[i].
struct ScoredBlock {
  const float* scores = nullptr;
  const float* bias = nullptr;
  size_t n = 0;
  Row first = 0;
};

// Keeps the k best eligible rows of what it is shown, in any order of blocks;
// and with a slack every row whose score is within it of the k-th.
class TopK {
 public:
  // k > 0. Rows that `mask` does not cover are not eligible; it outlives this.
  TopK(int k, const RowMask* mask, float slack = 0);

  // NaN is never kept. Blocks that are shown together cost less.
  void Add(absl::Span<const ScoredBlock> blocks);

  // Without a slack, best first, at most k; with one, k of the k best
  // scores come first, and otherwise there is no order.
  std::vector<ScoredRow> Take();

 private:
  void RaiseThreshold(absl::Span<const ScoredBlock> blocks);
  void AddBlock(const ScoredBlock& block);
  void SetThreshold(float kth);
  void Shrink();
  size_t Divide(float kth);

  const size_t k_;
  const RowMask* mask_;
  const float slack_;
  size_t limit_;  // of best_, before it is shrunk
  // Nothing at or below it can be among the k best, unless ties are still open.
  float threshold_ = -std::numeric_limits<float>::infinity();
  std::vector<ScoredRow> best_;  // unordered
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TOP_K_H_
