// Small symmetric systems, by Cholesky's method.
#ifndef NEARLINE_MODEL_CHOLESKY_H_
#define NEARLINE_MODEL_CHOLESKY_H_

#include <cstddef>

namespace nearline::model {

// a [n, n], of which only the lower triangle is read, becomes L with
// a = L L^T.
void Factorize(size_t n, float* a);

// x becomes (L L^T)^-1 x, of the L that Factorize leaves.
void SolveFactorized(size_t n, const float* a, float* x);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CHOLESKY_H_
