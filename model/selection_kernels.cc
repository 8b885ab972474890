#include "model/selection_kernels.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

// Highway compiles this file once a target; the order of its headers matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/selection_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace nearline::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

size_t IndicesAboveImpl(const float* scores, const float* bias, size_t n,
                        float threshold, uint32_t* indices) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const size_t lanes = hn::Lanes(d);
  const auto limit = hn::Set(d, threshold);
  auto at = hn::Iota(d32, 0);
  size_t count = 0;
  size_t i = 0;
  // Without a branch: where a few of many are above, it is guessed wrong.
  for (; i + lanes <= n; i += lanes) {
    const auto above = hn::Gt(
        hn::Add(hn::LoadU(d, scores + i), hn::LoadU(d, bias + i)), limit);
    hn::StoreU(hn::Compress(at, hn::RebindMask(d32, above)), d32,
               indices + count);
    count += hn::CountTrue(d, above);
    at = hn::Add(at, hn::Set(d32, static_cast<uint32_t>(lanes)));
  }
  for (; i < n; ++i) {
    if (scores[i] + bias[i] > threshold) {
      indices[count++] = static_cast<uint32_t>(i);
    }
  }
  return count;
}

// Bit j for lane j.
HWY_INLINE uint64_t BitsOf(hn::Mask<D> mask) {
  constexpr size_t kBytes = (hn::MaxLanes(D()) + 7) / 8;
  uint8_t bytes[8] = {};
  hn::StoreMaskBits(D(), mask, bytes);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, bytes, kBytes);
  return bits;
}

size_t CollectAboveImpl(const float* scores, const float* bias,
                        const uint64_t* eligible, size_t n, float threshold,
                        uint32_t first, float* values, uint32_t* numbers) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto limit = hn::Set(d, threshold);
  size_t count = 0;
  for (size_t begin = 0; begin < n; begin += 64) {
    const float* const s = scores + begin;
    const float* const b = bias + begin;
    uint64_t above = 0;
    if (begin + 64 <= n) {
      for (size_t i = 0; i < 64; i += lanes) {
        const auto sum = hn::Add(hn::LoadU(d, s + i), hn::LoadU(d, b + i));
        above |= BitsOf(hn::Gt(sum, limit)) << i;
      }
    } else {
      for (size_t i = 0; begin + i < n; ++i) {
        above |= uint64_t{s[i] + b[i] > threshold} << i;
      }
    }
    for (above &= eligible[begin / 64]; above != 0; above &= above - 1) {
      const auto i = static_cast<size_t>(std::countr_zero(above));
      values[count] = s[i] + b[i];
      numbers[count++] = first + static_cast<uint32_t>(begin + i);
    }
  }
  return count;
}

size_t PartitionAtKthImpl(float kth, float threshold, size_t n, float* values,
                          uint32_t* numbers) {
  const D d;
  const hn::RebindToUnsigned<D> d32;
  const size_t lanes = hn::Lanes(d);
  constexpr size_t kMostKept = 1 << 16;  // room, from one call to the next
  struct Scratch {
    std::vector<float> values;
    std::vector<uint32_t> numbers;
  };
  thread_local Scratch kept;
  Scratch large;
  auto& [behind, numbers_behind] = n <= kMostKept ? kept : large;
  behind.resize(std::max(behind.size(), n + 64));
  numbers_behind.resize(behind.size());
  size_t reaching = 0, other = 0;
  for (size_t i = 0; i < n; i += lanes) {
    const auto there = hn::FirstN(d, n - i);
    const auto v = hn::LoadU(d, values + i);
    const auto number = hn::LoadU(d32, numbers + i);
    const auto reaches = hn::And(there, hn::Ge(v, hn::Set(d, kth)));
    const auto between =
        hn::AndNot(reaches, hn::And(there, hn::Gt(v, hn::Set(d, threshold))));
    const auto put = [&](auto which, float* to, uint32_t* number_to) {
      hn::StoreU(hn::Compress(v, which), d, to);
      hn::StoreU(hn::Compress(number, hn::RebindMask(d32, which)), d32,
                 number_to);
      return hn::CountTrue(d, which);
    };
    other += put(between, behind.data() + other, numbers_behind.data() + other);
    reaching += put(reaches, values + reaching, numbers + reaching);
  }
  std::copy_n(behind.data(), other, values + reaching);
  std::copy_n(numbers_behind.data(), other, numbers + reaching);
  return reaching + other;
}

void StridedMaximaImpl(const float* scores, const float* bias,
                       const uint64_t* eligible, size_t n, float* maxima) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (size_t j = 0; j < 64; j += lanes) {
    auto largest = hn::LoadU(d, maxima + j);
    for (size_t i = j; i < n; i += 64) {
      const uint64_t word = eligible[i / 64] >> j;
      uint8_t bits[8];
      __builtin_memcpy(bits, &word, sizeof(bits));
      const auto sum =
          hn::Add(hn::LoadU(d, scores + i), hn::LoadU(d, bias + i));
      const auto larger =
          hn::And(hn::LoadMaskBits(d, bits), hn::Gt(sum, largest));
      largest = hn::IfThenElse(larger, sum, largest);
    }
    hn::StoreU(largest, d, maxima + j);
  }
}

// Numbers in the order of floats.
uint32_t KeyOf(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
float FloatOf(uint32_t key) {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

// By bisection between the least and the largest; what is -infinity, to fill
// up, would make that long.
float KthLargestImpl(const float* x, size_t n, size_t k) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  const auto none = hn::Neg(infinity);
  auto least = infinity, largest = none;
  size_t numbers = 0;
  for (size_t i = 0; i < n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto is_number = hn::Gt(v, none);
    numbers += hn::CountTrue(d, is_number);
    least = hn::Min(least, hn::IfThenElse(is_number, v, infinity));
    largest = hn::Max(largest, v);
  }
  if (numbers < k) return hn::GetLane(none);
  uint32_t low = KeyOf(hn::GetLane(hn::MinOfLanes(d, least)));
  uint32_t high = KeyOf(hn::GetLane(hn::MaxOfLanes(d, largest)));
  while (low < high) {
    const uint32_t middle = high - (high - low) / 2;
    const auto limit = hn::Set(d, FloatOf(middle));
    size_t count = 0;  // of what reaches it
    for (size_t i = 0; i < n; i += lanes) {
      count += hn::CountTrue(d, hn::Ge(hn::LoadU(d, x + i), limit));
    }
    if (count == k) {  // the least of these
      auto kth = infinity;
      for (size_t i = 0; i < n; i += lanes) {
        const auto v = hn::LoadU(d, x + i);
        kth = hn::Min(kth, hn::IfThenElse(hn::Ge(v, limit), v, kth));
      }
      return hn::GetLane(hn::MinOfLanes(d, kth));
    }
    if (count > k) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return FloatOf(low);
}

// A key's place is how many are below it.
bool SortFewImpl(size_t n, uint64_t* keys) {
  const hn::ScalableTag<uint64_t> d;
  const size_t lanes = hn::Lanes(d);
  if (n > 16 * lanes) return false;
  constexpr uint64_t kHole = ~uint64_t{0};  // above all keys
  thread_local std::vector<uint64_t> from;
  from.assign((n + lanes - 1) / lanes * lanes, kHole);
  std::copy_n(keys, n, from.data());
  std::fill_n(keys, n, kHole);
  for (size_t i = 0; i < n; ++i) {
    const auto key = hn::Set(d, from[i]);
    size_t below = 0;
    for (size_t j = 0; j < n; j += lanes) {
      below += hn::CountTrue(d, hn::Lt(hn::LoadU(d, from.data() + j), key));
    }
    keys[below] = from[i];
  }
  // Of equal keys, all are told by the first.
  for (size_t i = 1; i < n; ++i) {
    if (keys[i] == kHole) keys[i] = keys[i - 1];
  }
  return true;
}

}  // namespace nearline::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nearline::model {

HWY_EXPORT(IndicesAboveImpl);
HWY_EXPORT(CollectAboveImpl);
HWY_EXPORT(PartitionAtKthImpl);
HWY_EXPORT(StridedMaximaImpl);
HWY_EXPORT(KthLargestImpl);
HWY_EXPORT(SortFewImpl);

size_t IndicesAbove(const float* scores, const float* bias, size_t n,
                    float threshold, uint32_t* indices) {
  return HWY_DYNAMIC_DISPATCH(IndicesAboveImpl)(scores, bias, n, threshold,
                                                indices);
}
size_t CollectAbove(const float* scores, const float* bias,
                    const uint64_t* eligible, size_t n, float threshold,
                    uint32_t first, float* values, uint32_t* numbers) {
  return HWY_DYNAMIC_DISPATCH(CollectAboveImpl)(
      scores, bias, eligible, n, threshold, first, values, numbers);
}
size_t PartitionAtKth(float kth, float threshold, size_t n, float* values,
                      uint32_t* numbers) {
  return HWY_DYNAMIC_DISPATCH(PartitionAtKthImpl)(kth, threshold, n, values,
                                                  numbers);
}
void StridedMaxima(const float* scores, const float* bias,
                   const uint64_t* eligible, size_t n, float* maxima) {
  HWY_DYNAMIC_DISPATCH(StridedMaximaImpl)(scores, bias, eligible, n, maxima);
}
float KthLargest(const float* x, size_t n, size_t k) {
  return HWY_DYNAMIC_DISPATCH(KthLargestImpl)(x, n, k);
}
bool SortFew(size_t n, uint64_t* keys) {
  return HWY_DYNAMIC_DISPATCH(SortFewImpl)(n, keys);
}

}  // namespace nearline::model
#endif  // HWY_ONCE
