#include "model/list_kernels.h"

#include <algorithm>
#include <cmath>

// Highway compiles this file once a target; the order of its headers matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/list_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace nearline::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void DotsOfGroupsImpl(const int8_t* groups, const int32_t* query, size_t pairs,
                      size_t count, int32_t* out) {
  constexpr size_t kGroup = 16;
  const hn::CappedTag<int16_t, 2 * kGroup> d16;
  const hn::Repartition<int32_t, decltype(d16)> d32;
  const hn::Rebind<int8_t, decltype(d16)> d8;
  const size_t lanes = hn::Lanes(d16);
  for (size_t group = 0; group < count; ++group) {
    for (size_t part = 0; part < 2 * kGroup; part += lanes) {
      const int8_t* rows = groups + group * pairs * 2 * kGroup + part;
      auto sum = hn::Zero(d32), other = sum;
      for (size_t pair = 0; pair < pairs; ++pair, rows += 2 * kGroup) {
        const auto values = hn::PromoteTo(d16, hn::LoadU(d8, rows));
        const auto both = hn::BitCast(d16, hn::Set(d32, query[pair]));
        sum = hn::ReorderWidenMulAccumulate(d32, values, both, sum, other);
      }
      hn::StoreU(hn::RearrangeToOddPlusEven(sum, other), d32,
                 out + group * kGroup + part / 2);
    }
  }
}

}  // namespace nearline::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nearline::model {

HWY_EXPORT(DotsOfGroupsImpl);

void DotsOfGroups(const int8_t* groups, const int32_t* query, size_t pairs,
                  size_t count, int32_t* out) {
  HWY_DYNAMIC_DISPATCH(DotsOfGroupsImpl)(groups, query, pairs, count, out);
}

float QuantizePairs(const float* x, size_t n, std::vector<int32_t>* out,
                    float* scale) {
  constexpr float kMost = 2047;
  float largest = 0;
  bool finite = true;
  for (size_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::abs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  *scale = largest / kMost;
  out->assign((n + 1) / 2, 0);
  if (!finite) return std::nanf("");
  if (largest == 0) return 0;
  float squares = 0;
  for (size_t i = 0; i < n; ++i) {
    const auto rounded = static_cast<int32_t>(std::lrint(x[i] / *scale));
    const float lost = x[i] - static_cast<float>(rounded) * *scale;
    squares += lost * lost;
    // The first of a pair is in the lower half.
    const auto half = static_cast<uint16_t>(rounded);
    (*out)[i / 2] =
        static_cast<int32_t>(static_cast<uint32_t>((*out)[i / 2]) |
                             static_cast<uint32_t>(half) << (i % 2 * 16));
  }
  return std::sqrt(squares);
}

}  // namespace nearline::model
#endif  // HWY_ONCE
