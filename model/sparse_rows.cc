#include "model/sparse_rows.h"

namespace nearline::model {

SparseRows SparseRows::Transposed(int64_t n) const {
  SparseRows out;
  out.offsets.assign(static_cast<size_t>(n) + 1, 0);
  for (const uint32_t column : columns) ++out.offsets[column + 1];
  for (size_t i = 1; i < out.offsets.size(); ++i) {
    out.offsets[i] += out.offsets[i - 1];
  }
  out.columns.resize(columns.size());
  out.values.resize(columns.size());
  std::vector<size_t> next(out.offsets.begin(), out.offsets.end() - 1);
  for (size_t r = 0; r + 1 < offsets.size(); ++r) {
    for (size_t i = offsets[r]; i < offsets[r + 1]; ++i) {
      const size_t at = next[columns[i]]++;
      out.columns[at] = static_cast<uint32_t>(r);
      out.values[at] = values[i];
    }
  }
  return out;
}

}  // namespace nearline::model
