#ifndef NEARLINE_MODEL_RIDGE_H_
#define NEARLINE_MODEL_RIDGE_H_

#include <cstddef>
#include <vector>

#include "model/sparse_rows.h"

namespace nearline::model {

// Ridge regression of rows on features: W [width, dim] that makes
// |F W - T|^2 + ridge |W|^2 least. `features` F is [n, width], `table` T [n,
// dim]. By Cholesky, in double.
std::vector<float> RidgeMap(const SparseRows& features, size_t width,
                            const std::vector<float>& table, size_t dim,
                            double ridge);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_RIDGE_H_
