// The inner loop of the index, compiled for every instruction set that Highway
// knows and chosen at run time.
#ifndef NEARLINE_MODEL_LIST_KERNELS_H_
#define NEARLINE_MODEL_LIST_KERNELS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nearline::model {

// Sixteen rows of int8 each lie in a group, [pairs, 16, 2]: out[16 * g + r] is
// the product of row r of group g with the query, [pairs] of two int16 each.
// Exact with QuantizePairs' queries of at most 8,000 numbers.
void DotsOfGroups(const int8_t* groups, const int32_t* query, size_t pairs,
                  size_t count, int32_t* out);

// Rounds x to integers up to 2,047 times `scale`, laid out for DotsOfGroups.
// Returns the length of what was rounded away; NaN when a value is not finite.
float QuantizePairs(const float* x, size_t n, std::vector<int32_t>* out,
                    float* scale);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_LIST_KERNELS_H_
