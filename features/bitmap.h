#ifndef NEARLINE_FEATURES_BITMAP_H_
#define NEARLINE_FEATURES_BITMAP_H_

#include <roaring/roaring.hh>

namespace roaring {}

namespace nearline::features {

// A compressed set of ordinals. CRoaring declares its class in the global
// namespace before version 0.3 and in its own since.
namespace bitmap_internal {
using namespace ::roaring;
using Bitmap = Roaring;
}  // namespace bitmap_internal
using bitmap_internal::Bitmap;

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_BITMAP_H_
