// What finds the best of many scores: loops over float32, chosen at run time as
// those of kernels.h are.
#ifndef NEARLINE_MODEL_SELECTION_KERNELS_H_
#define NEARLINE_MODEL_SELECTION_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace nearline::model {

// Writes every i in [0, n) with scores[i] + bias[i] > threshold, ascending, to
// `indices`, which has room for n + 64. Returns how many.
size_t IndicesAbove(const float* scores, const float* bias, size_t n,
                    float threshold, uint32_t* indices);

// Writes scores[i] + bias[i], where it is above the threshold, and first + i,
// ascending, of every i in [0, n) with bit i % 64 of eligible[i / 64] set.
// Returns how many.
size_t CollectAbove(const float* scores, const float* bias,
                    const uint64_t* eligible, size_t n, float threshold,
                    uint32_t first, float* values, uint32_t* numbers);

// Puts the values that reach `kth`, with their numbers, first, and behind them
// the others above the threshold, both in the order they had; the rest is
// dropped. Returns how many are left. There is room for 64 more of both.
size_t PartitionAtKth(float kth, float threshold, size_t n, float* values,
                      uint32_t* numbers);

// Raises maxima[j] to the largest of scores[i] + bias[i] with i % 64 == j and
// bit j of eligible[i / 64] set, for j in [0, 64). NaN is passed over. n is a
// multiple of 64.
void StridedMaxima(const float* scores, const float* bias,
                   const uint64_t* eligible, size_t n, float* maxima);

// The k-th largest of x, 0 < k <= n; no NaN, and n is a multiple of 64.
float KthLargest(const float* x, size_t n, size_t k);

// Sorts keys below 2^64 - 1 in O(n^2 / lanes). False, and nothing done, where
// that is too many.
bool SortFew(size_t n, uint64_t* keys);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SELECTION_KERNELS_H_
