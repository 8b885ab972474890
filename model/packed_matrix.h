#ifndef NEARLINE_MODEL_PACKED_MATRIX_H_
#define NEARLINE_MODEL_PACKED_MATRIX_H_

#include <memory>

#include "base/status.h"

namespace nearline::model {

// A constant float32 matrix [n, d], laid out once for fast products by oneDNN.
// Products run on the calling thread alone. Immutable, thread-safe.
class PackedMatrix {
 public:
  // The rows of one block stay in the second-level cache with a batch's scores.
  static constexpr int kBlockRows = 512;
  // More queries are done in rounds of this many.
  static constexpr int kMaxBatch = 32;

  // Copies `rows`, row-major [n, d]; n, d > 0.
  static absl::StatusOr<PackedMatrix> Create(const float* rows, int n, int d);
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  int rows() const;
  int dim() const;
  int blocks() const;
  // Rows of block b: kBlockRows, fewer in the last.
  int BlockRows(int b) const;
  // Floats from one query's scores to the next in Multiply's `out`.
  int stride() const;

  // out[i * stride() + j] = queries[i] . row[b * kBlockRows + j] for m <=
  // kMaxBatch queries, row-major [m, d]. `out` has room for kMaxBatch *
  // stride() floats; what lies beyond BlockRows(b) is undefined.
  void MultiplyBlock(const float* queries, int m, int b, float* out) const;

  // out = queries * rows^T, [m, n], any m.
  void Multiply(const float* queries, int m, float* out) const;

 private:
  struct Impl;
  explicit PackedMatrix(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PACKED_MATRIX_H_
