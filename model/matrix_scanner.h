#ifndef NEARLINE_MODEL_MATRIX_SCANNER_H_
#define NEARLINE_MODEL_MATRIX_SCANNER_H_

#include <memory>
#include <vector>

#include "base/mutex.h"
#include "model/item_table.h"
#include "model/packed_matrix.h"
#include "model/scoring.h"
#include "model/top_k.h"

namespace nearline::model {

// Scanner::Score by rows [N, D] and bias [N, 1].
void ScoreRows(const ItemTable& table, const ItemTable& bias,
               const float* query, absl::Span<ScoredRow> rows);

// The matrix product over all items, base and tail, in blocks that stay in
// cache, top-k fused into it; what fills no block yet is scored row by row, and
// so are the rows that rounding hurts. All that is within the product's error
// of the k-th is scored again in float32; of a shortlist only what may or may
// not belong to it.
class MatrixScanner final : public Scanner {
 public:
  static constexpr Row kSmallestTailBlock = 8;
  // What rounding may take from a row, as a share of the mean row's length;
  // 0.01 is usual, and with more too many would be nominated. Rows of which a
  // few values dwarf the rest are scored apart, if they are few.
  static constexpr float kMostLoss = 0.03f;

  // The tables outlive this: rows [N, D] and bias [N, 1].
  static absl::StatusOr<std::unique_ptr<MatrixScanner>> Create(
      const ItemTable* rows, const ItemTable* bias,
      PackedMatrix::Precision precision = PackedMatrix::Fastest());
  absl::Status Scan(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks,
                    absl::Span<const int> ks,
                    std::vector<std::vector<ScoredRow>>* best) const override;
  absl::Status Shortlist(
      absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
      absl::Span<const int> ks,
      std::vector<std::vector<ScoredRow>>* best) const override;
  // As Scan, among the rows that came after training and those apart alone.
  absl::Status ScanOthers(absl::Span<const float> queries,
                          absl::Span<const RowMask* const> masks,
                          absl::Span<const int> ks,
                          std::vector<std::vector<ScoredRow>>* best) const;
  // Of the trained rows those that are scored apart, in order.
  const std::vector<Row>& apart() const { return apart_; }
  // The k best of the nominees by exact score, from which theirs differ by at
  // most `bound`; best first.
  std::vector<ScoredRow> Rescore(const float* query, size_t k, float bound,
                                 TopK::Nominees nominees) const;
  void Score(const float* query, absl::Span<ScoredRow> rows) const override {
    ScoreRows(rows_, bias_, query, rows);
  }
  void Extend(Row rows) override;
  ScanReport report() const override {
    return {.precision = precision_ == PackedMatrix::Precision::kFloat32
                             ? "float32"
                             : "int8"};
  }

 private:
  // Rows of the tail from `first` on.
  struct TailBlock {
    Row first;
    PackedMatrix matrix;
    std::vector<float> bias;  // -infinity of rows apart
    float max_bias;           // by magnitude
    std::vector<Row> apart;
    Row end() const { return first + static_cast<Row>(bias.size()); }
  };
  // In order of row, without gaps.
  using Tail = std::vector<std::shared_ptr<const TailBlock>>;
  // Rows that one product covers: a block of the base, or of the tail.
  struct Part {
    const PackedMatrix* matrix;
    int block;
    const float* bias;
    Row first;
  };

  struct Kind {
    bool base;     // all rows, or those of ScanOthers
    bool ordered;  // Scan, or Shortlist
  };
  // Any number of queries.
  absl::Status ScanAll(Kind kind, absl::Span<const float> queries,
                       absl::Span<const RowMask* const> masks,
                       absl::Span<const int> ks,
                       std::vector<std::vector<ScoredRow>>* best) const;
  // At most kMaxBatch queries; appends to `best`.
  void ScanBatch(Kind kind, const float* queries,
                 absl::Span<const RowMask* const> masks,
                 absl::Span<const int> ks,
                 std::vector<std::vector<ScoredRow>>* best) const;
  std::vector<Part> Parts(bool base, const Tail& tail) const;
  void ScanParts(absl::Span<const Part> parts,
                 const PackedMatrix::Queries& queries,
                 absl::Span<TopK> top) const;
  // Those that no product has, of the first `end`.
  std::vector<Row> RowsApart(const Tail& tail, size_t end) const;
  void ScanRows(absl::Span<const Row> rows, const float* queries,
                absl::Span<TopK> top) const;
  absl::StatusOr<std::shared_ptr<const TailBlock>> Pack(Row first,
                                                        Row end) const;
  std::shared_ptr<const Tail> tail() const {
    MutexLock lock(&mu_);
    return tail_;
  }
  // Rescore's rows, of which only those are scored again that need it.
  std::vector<ScoredRow> Choose(const float* query, size_t k, float bound,
                                TopK::Nominees nominees) const;

  MatrixScanner(const ItemTable* rows, const ItemTable* bias,
                PackedMatrix::Precision precision, float most_lost,
                PackedMatrix matrix);
  const ItemTable& rows_;
  const ItemTable& bias_;
  const float max_bias_;  // by magnitude
  const PackedMatrix::Precision precision_;
  const float most_lost_;  // of a row that is not apart
  const PackedMatrix matrix_;
  std::vector<Row> apart_;         // of the base
  std::vector<float> other_bias_;  // the base's, -infinity of rows apart
  mutable Mutex mu_;
  std::shared_ptr<const Tail> tail_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<Tail>();
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_MATRIX_SCANNER_H_
