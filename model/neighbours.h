// The sparse part of a linear model: what a product of low rank leaves out of
// its matrix of items by items (docs/decisions/0013).
#ifndef NEARLINE_MODEL_NEIGHBOURS_H_
#define NEARLINE_MODEL_NEIGHBOURS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "model/scoring.h"
#include "model/tensors.h"

namespace nearline::model {

// K neighbours of each of N rows, N_ji what row j's weight in a history adds to
// the score of row i. Thread-safe.
class Neighbours {
 public:
  // Both [N, K]: for row j the numbers of rows, whole and below N, and N_ji of
  // them, where 0 fills up. Errors: INVALID_ARGUMENT.
  static absl::StatusOr<Neighbours> Create(const Tensor& rows,
                                           const Tensor& weights);

  // The rows i that the history reaches, each once in no order, with
  // sum_j x_j N_ji.
  void Gather(const History& history, std::vector<ScoredRow>* sums) const;

 private:
  Neighbours(size_t width, std::vector<Row> rows, std::vector<float> weights)
      : width_(width), rows_(std::move(rows)), weights_(std::move(weights)) {}
  size_t width_;  // K
  std::vector<Row> rows_;
  std::vector<float> weights_;
};

// What Neighbours are made from: of each row the K entries that are largest by
// magnitude.
class NeighbourTable {
 public:
  // Beyond, float32 cannot tell one row's number from the next.
  static constexpr int64_t kMostRows = 1 << 24;

  NeighbourTable(int64_t rows, int64_t width);
  // The entries of a row, each of another row. Different rows may be set at the
  // same time.
  void Set(int64_t row, std::vector<ScoredRow> entries);
  // As "<model>.neighbours.rows" and ".weights".
  void Export(const std::string& model, Tensors* out) const;

 private:
  const int64_t rows_, width_;
  std::vector<float> neighbours_, weights_;  // [rows, width]
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_NEIGHBOURS_H_
