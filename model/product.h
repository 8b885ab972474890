// Matrix products of training, by oneDNN on the calling thread alone.
#ifndef NEARLINE_MODEL_PRODUCT_H_
#define NEARLINE_MODEL_PRODUCT_H_

#include <cstdint>

#include "model/training_kernels.h"

namespace nearline::model {

// Row-major [rows, columns], or the transpose of it.
template <typename T>
struct MatrixView {
  const T* at;
  int64_t rows, columns;
  bool transpose = false;
  int64_t stride = 0;  // values from row to row; 0: columns
};

// out = a b, or out += a b with `add`; rows of `out` follow each other. False,
// with `out` undefined, when memory has run out.
bool Multiply(const MatrixView<float>& a, const MatrixView<float>& b,
              float* out, bool add = false);
// The same for values of bfloat16, summed in float32; false also where there is
// no such product for this processor.
bool Multiply(const MatrixView<Bfloat16>& a, const MatrixView<Bfloat16>& b,
              float* out, bool add = false);

// Whether the processor multiplies bfloat16 faster than float32.
bool HasFastBfloat16();

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PRODUCT_H_
