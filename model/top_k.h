#ifndef NEARLINE_MODEL_TOP_K_H_
#define NEARLINE_MODEL_TOP_K_H_

#include <cstdint>
#include <memory>
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
  TopK() = default;  // of no use before Start
  TopK(int k, const RowMask* mask) { Start(k, mask); }

  // Forgets what it was shown. k > 0. Rows that `mask` does not cover are not
  // eligible; it outlives the answer.
  void Start(int k, const RowMask* mask, float slack = 0);

  // NaN is never kept. Blocks that are shown together cost less.
  void Add(absl::Span<const ScoredBlock> blocks);
  // A row by itself; better one of Add's blocks where there are many.
  void AddOne(float score, Row row);
  // What is at or below it need not be shown.
  float threshold() const { return threshold_; }
  // Rows kept: k or more, or else all that were eligible.
  size_t size() const { return size_; }

  // The k best, best first.
  std::vector<ScoredRow> Take();

  // All that is kept, in no order, but that those that reach the k-th come
  // first. The caller's to change until the next Start, with room for 64 more.
  struct Nominees {
    float* scores;
    Row* rows;
    size_t size;
  };
  Nominees Nominate();

 private:
  void RaiseThreshold(absl::Span<const ScoredBlock> blocks);
  void AddBlock(const ScoredBlock& block);
  void SetThreshold(float kth);
  void Reserve(size_t count);
  void ShrinkIfFull();
  void Shrink();
  void CutTies();
  std::vector<ScoredRow> List() const;

  size_t k_ = 0;
  const RowMask* mask_ = nullptr;
  float slack_ = 0;
  // Nothing at or below it can be among the k best, unless ties are still open.
  float threshold_ = 0;
  // Of the best so far, in any order.
  std::unique_ptr<float[]> scores_;
  std::unique_ptr<Row[]> rows_;
  size_t size_ = 0;
  size_t limit_ = 0;  // to be shrunk from here on
  size_t room_ = 0;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TOP_K_H_
