// Debian's LibTorch multiplies with OpenBLAS, which takes a processor that is
// newer than itself for one of 2004, and is five times slower then.
#ifndef NEARLINE_MODEL_BLAS_H_
#define NEARLINE_MODEL_BLAS_H_

#include <string>

namespace nearline::model {

// What OPENBLAS_CORETYPE should say where OpenBLAS has chosen `core` on a
// processor with these instructions; empty where its choice will do.
std::string BetterBlasCore(const std::string& core, bool avx2, bool avx512);

// Starts this program anew, with the same arguments, when OpenBLAS has chosen
// badly and OPENBLAS_CORETYPE does not say otherwise: it chooses before main().
// To be called first in main(); returns when all is well, or cannot be mended.
void StartWithFastBlas(char** argv);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_BLAS_H_
