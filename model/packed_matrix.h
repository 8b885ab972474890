#ifndef NEARLINE_MODEL_PACKED_MATRIX_H_
#define NEARLINE_MODEL_PACKED_MATRIX_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "base/status.h"

namespace nearline::model {

// A constant matrix [n, d], laid out once for fast products by oneDNN. Products
// run on the calling thread alone. Immutable, thread-safe.
class PackedMatrix {
 public:
  enum class Precision {
    kFloat32,
    kInt8,  // rows and queries rounded, each with its scale; sums exact
  };
  // kInt8 where the processor multiplies it faster.
  static Precision Fastest();

  // The rows of one block stay in the second-level cache with a batch's scores.
  static constexpr int kBlockRows = 512;
  // More queries are done in rounds of this many.
  static constexpr int kMaxBatch = 32;

  // Copies `rows`, row-major float32 [n, d]; n, d > 0. In int8, of rows from
  // which rounding takes more than a length of `most_lost`, or which it cannot
  // round, all products are 0.
  static absl::StatusOr<PackedMatrix> Create(
      const float* rows, int n, int d,
      Precision precision = Precision::kFloat32,
      float most_lost = std::numeric_limits<float>::infinity());
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  int rows() const;
  int dim() const;
  int blocks() const;
  // Rows of block b: stride(), or fewer in the last.
  int BlockRows(int b) const;
  // Floats from one query's scores to the next in Multiply's `out`.
  int stride() const;

  // Queries as products read them: rounded, and padded to a size that oneDNN
  // was prepared for. Good for every matrix of the same d and precision.
  struct Queries {
    int m = 0;
    std::vector<float> values;
    std::vector<int8_t> rounded;
    std::vector<float> scales;  // of each query's rounded values
    std::vector<float> lost;    // length of what rounding took from each query
  };
  // 0 < m <= kMaxBatch queries, row-major [m, d].
  void Prepare(const float* queries, int m, Queries* out) const;

  // out[i * stride() + j] = queries[i] . row[b * stride() + j]. `out` has
  // room for kMaxBatch * stride() floats; what lies beyond BlockRows(b) is
  // undefined.
  void MultiplyBlock(const Queries& queries, int b, float* out) const;

  // Most by which MultiplyBlock's product of a query and a row that is not
  // left out, with a bias of at most `bias` added, can differ from one made in
  // float32. `norm` is the query's length, `lost` as in Queries.
  float ErrorBound(float norm, float lost, float bias) const;

  // The rows that lose too much, in order.
  const std::vector<int>& left_out() const;

  // out = queries * rows^T, [m, n], any m.
  void Multiply(const float* queries, int m, float* out) const;

 private:
  struct Impl;
  explicit PackedMatrix(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PACKED_MATRIX_H_
