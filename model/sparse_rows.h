#ifndef NEARLINE_MODEL_SPARSE_ROWS_H_
#define NEARLINE_MODEL_SPARSE_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nearline::model {

// A sparse matrix by rows: row r has columns[offsets[r] .. offsets[r + 1]).
struct SparseRows {
  std::vector<size_t> offsets = {0};  // [rows + 1]
  std::vector<uint32_t> columns;      // [nnz]
  std::vector<float> values;          // [nnz]

  int64_t rows() const { return static_cast<int64_t>(offsets.size()) - 1; }
  // Ends the row whose columns were pushed since the last call.
  void EndRow() { offsets.push_back(columns.size()); }

  // n: how many columns there are. O(nnz + n); rows stay in order.
  SparseRows Transposed(int64_t n) const;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SPARSE_ROWS_H_
