#ifndef NEARLINE_MODEL_INDEX_SCANNER_H_
#define NEARLINE_MODEL_INDEX_SCANNER_H_

#include <memory>
#include <vector>

#include "model/generation.h"
#include "model/matrix_scanner.h"

namespace nearline::model {

struct IndexOptions {
  int64_t least_items = 100'000;  // fewer are scanned whole
  double recall = 0.97;           // of the 100 best, that Tune aims at
};

// An approximate scan for large catalogues: the trained rows lie in lists, by
// direction (clusters.h), rounded to int8, and only the lists that promise most
// for a query are looked at. What is near the k-th is scored again in float32,
// so scores are those of the exact scan, and what is missing is missing from
// the lists that were passed over. Rows that came after training, and those
// that rounding hurts, are scanned whole. Where a mask leaves few rows, more
// lists are looked at, or all: at least as many rows come back as are asked for
// and eligible. Thread-safe, once it is tuned.
class IndexScanner final : public Scanner {
 public:
  // `exact` is over the same tables, which outlive this; `list_of` is what
  // ListsOf says of the rows, and may be empty: it is asked then. Errors:
  // INVALID_ARGUMENT for fewer rows than lists, or lists that there are not.
  static absl::StatusOr<std::unique_ptr<IndexScanner>> Create(
      const ItemTable* rows, const ItemTable* bias,
      std::unique_ptr<MatrixScanner> exact, const IndexOptions& options,
      std::vector<uint32_t> list_of = {});
  // Each row's list. Takes seconds for a million rows of a few dozen numbers.
  static absl::StatusOr<std::vector<uint32_t>> ListsOf(const float* rows,
                                                       size_t n, size_t d);

  absl::Status Scan(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks,
                    absl::Span<const int> ks,
                    std::vector<std::vector<ScoredRow>>* best) const override;
  void Score(const float* query, absl::Span<ScoredRow> rows) const override {
    exact_->Score(query, rows);
  }
  void Extend(Row rows) override { exact_->Extend(rows); }
  // Looks at as many lists as find the share of the 100 best, or at all.
  absl::Status Tune(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks) override;
  ScanReport report() const override {
    // Its lists hold rows in int8, whatever the exact scan does.
    return {
        .precision = probes_ < lists() ? "int8" : exact_->report().precision,
        .lists = lists(),
        .probes = probes_,
        .recall = recall_};
  }

 private:
  // Places of the layout are in groups of kGroup, so that a vector holds a pair
  // of numbers of each of a group's rows.
  static constexpr size_t kGroup = 16;

  IndexScanner(const ItemTable* rows, const ItemTable* bias,
               std::unique_ptr<MatrixScanner> exact,
               const IndexOptions& options)
      : rows_(*rows),
        bias_(*bias),
        exact_(std::move(exact)),
        options_(options) {}
  absl::Status Build(std::vector<uint32_t> list_of);
  void Place(const std::vector<uint32_t>& list_of, int lists);
  void PlaceRow(Row row, size_t place);
  absl::Status DescribeLists();
  int lists() const { return static_cast<int>(begin_.size()) - 1; }

  struct Search;
  // Scan, but for the queries whose numbers are put in `rest`: lists do not do
  // for them.
  absl::Status ScanSome(absl::Span<const float> queries,
                        absl::Span<const RowMask* const> masks,
                        absl::Span<const int> ks,
                        std::vector<std::vector<ScoredRow>>* best,
                        std::vector<size_t>* rest) const;
  // The lists in order of what they promise, `most` of them, by query.
  void RankLists(absl::Span<const float> queries, int most,
                 std::vector<std::vector<ScoredRow>>* lists) const;
  void ScanList(size_t list, Search* search) const;
  // Returns false when too few rows were found.
  bool SearchLists(const float* query, const RowMask& mask, int k, int probes,
                   const std::vector<ScoredRow>& lists,
                   std::vector<ScoredRow>* best) const;
  // How many lists; 0: all, by the exact scan.
  int ProbesFor(const RowMask& mask, int k) const;

  const ItemTable& rows_;
  const ItemTable& bias_;
  const std::unique_ptr<MatrixScanner> exact_;
  const IndexOptions options_;

  std::vector<size_t> begin_;   // of each list, in places; and the end
  std::vector<Row> row_at_;     // by place; kNoRow fills a group up
  std::vector<int8_t> values_;  // [groups, pairs, kGroup, 2]
  std::unique_ptr<const HugePages> pages_;  // of values_
  std::vector<float> scales_;               // by place
  std::vector<float> biases_;  // by place; -infinity where there is no row
  size_t pairs_ = 0;           // of numbers of a row
  float max_norm_ = 0, mean_norm_ = 0, max_lost_ = 0, max_bias_ = 0;
  // What a list promises: [mean row, spread] against [query, its length].
  std::unique_ptr<PackedMatrix> means_;
  std::vector<float> mean_bias_;
  int probes_ = 0;
  double recall_ = 0;
};

// Gives a bundle the lists of its scanned rows, so that who loads it need not
// find them.
absl::Status AddIndex(Bundle* bundle);

// `factory`, with an index over the scanned rows of large catalogues where it
// scans on the CPU.
ScoringFactory WithIndex(ScoringFactory factory, const IndexOptions& options);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_INDEX_SCANNER_H_
