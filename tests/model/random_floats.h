#ifndef NEARLINE_TESTS_MODEL_RANDOM_FLOATS_H_
#define NEARLINE_TESTS_MODEL_RANDOM_FLOATS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace nearline::model {

// Of a normal distribution.
inline std::vector<float> RandomFloats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(random.Normal());
  return out;
}

}  // namespace nearline::model

#endif  // NEARLINE_TESTS_MODEL_RANDOM_FLOATS_H_
