#include "model/training_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

// Highway compiles this file once a target; the order of its headers matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/training_kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace nearline::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

void TanhGradientImpl(const float* y, size_t n, float* dy) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, y + i);
    const auto slope = hn::NegMulAdd(v, v, hn::Set(d, 1.0f));
    hn::StoreU(hn::Mul(hn::LoadU(d, dy + i), slope), d, dy + i);
  }
  for (; i < n; ++i) dy[i] *= 1 - y[i] * y[i];
}

float SoftmaxImpl(const float* bias, float scale, size_t n, float* x) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const size_t whole = n - n % lanes;
  auto most = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (size_t i = 0; i < whole; i += lanes) {
    const auto v = hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, bias + i));
    hn::StoreU(v, d, x + i);
    most = hn::Max(most, v);
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  for (size_t i = whole; i < n; ++i) {
    x[i] += bias[i];
    largest = std::max(largest, x[i]);
  }
  auto sums = hn::Zero(d);
  for (size_t i = 0; i < whole; i += lanes) {
    const auto e =
        hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, largest)));
    hn::StoreU(e, d, x + i);
    sums = hn::Add(sums, e);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, sums));
  for (size_t i = whole; i < n; ++i) {
    x[i] = std::exp(x[i] - largest);
    sum += x[i];
  }
  const float factor = scale / sum;
  for (size_t i = 0; i < whole; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i);
  }
  for (size_t i = whole; i < n; ++i) x[i] *= factor;
  return largest + std::log(sum);
}

void AdamStepImpl(const AdamRates& rates, const float* gradient, size_t n,
                  float* weights, float* first, float* second) {
  constexpr float kBeta1 = AdamRates::kBeta1, kBeta2 = AdamRates::kBeta2;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto step = hn::Set(d, rates.step);
  const auto unbiased = hn::Set(d, rates.unbiased);
  const auto decay = hn::Set(d, rates.decay);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto w = hn::LoadU(d, weights + i);
    const auto g = hn::MulAdd(decay, w, hn::LoadU(d, gradient + i));
    const auto m = hn::MulAdd(hn::Set(d, kBeta1), hn::LoadU(d, first + i),
                              hn::Mul(hn::Set(d, 1 - kBeta1), g));
    const auto v = hn::MulAdd(hn::Set(d, kBeta2), hn::LoadU(d, second + i),
                              hn::Mul(hn::Set(d, 1 - kBeta2), hn::Mul(g, g)));
    const auto length =
        hn::MulAdd(hn::Sqrt(v), unbiased, hn::Set(d, AdamRates::kEpsilon));
    hn::StoreU(m, d, first + i);
    hn::StoreU(v, d, second + i);
    hn::StoreU(hn::NegMulAdd(step, hn::Div(m, length), w), d, weights + i);
  }
  for (; i < n; ++i) {
    const float g = gradient[i] + rates.decay * weights[i];
    first[i] = kBeta1 * first[i] + (1 - kBeta1) * g;
    second[i] = kBeta2 * second[i] + (1 - kBeta2) * g * g;
    weights[i] -= rates.step * first[i] /
                  (std::sqrt(second[i]) * rates.unbiased + AdamRates::kEpsilon);
  }
}

void ApproachImpl(float keep, float step, size_t n, float* p, float* q) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto k = hn::Set(d, keep), s = hn::Set(d, step);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto a = hn::LoadU(d, p + i), b = hn::LoadU(d, q + i);
    hn::StoreU(hn::MulAdd(s, b, hn::Mul(k, a)), d, p + i);
    hn::StoreU(hn::MulAdd(s, a, hn::Mul(k, b)), d, q + i);
  }
  for (; i < n; ++i) {
    const float a = p[i], b = q[i];
    p[i] = keep * a + step * b;
    q[i] = keep * b + step * a;
  }
}

void ToBfloat16Impl(const float* x, size_t n, Bfloat16* out) {
  const D d;
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<int32_t, D> signed32;
  const hn::Rebind<uint16_t, D> d16;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits = hn::BitCast(d32, hn::LoadU(d, x + i));
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
    const auto rounded =
        hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fffu))));
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(signed32, rounded)), d16, out + i);
  }
  for (; i < n; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    out[i] = static_cast<Bfloat16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

void AddBfloat16Impl(const Bfloat16* x, size_t n, float* out) {
  const D d;
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<uint16_t, D> d16;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto bits =
        hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, x + i)));
    hn::StoreU(hn::Add(hn::LoadU(d, out + i), hn::BitCast(d, bits)), d,
               out + i);
  }
  for (; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof(value));
    out[i] += value;
  }
}

}  // namespace nearline::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nearline::model {

HWY_EXPORT(TanhGradientImpl);
HWY_EXPORT(SoftmaxImpl);
HWY_EXPORT(AdamStepImpl);
HWY_EXPORT(ApproachImpl);
HWY_EXPORT(ToBfloat16Impl);
HWY_EXPORT(AddBfloat16Impl);

void TanhGradient(const float* y, size_t n, float* dy) {
  HWY_DYNAMIC_DISPATCH(TanhGradientImpl)(y, n, dy);
}
float Softmax(const float* bias, float scale, size_t n, float* x) {
  return HWY_DYNAMIC_DISPATCH(SoftmaxImpl)(bias, scale, n, x);
}
void AdamStep(const AdamRates& rates, const float* gradient, size_t n,
              float* weights, float* first, float* second) {
  HWY_DYNAMIC_DISPATCH(AdamStepImpl)
  (rates, gradient, n, weights, first, second);
}
void Approach(float keep, float step, size_t n, float* p, float* q) {
  HWY_DYNAMIC_DISPATCH(ApproachImpl)(keep, step, n, p, q);
}
void ToBfloat16(const float* x, size_t n, Bfloat16* out) {
  HWY_DYNAMIC_DISPATCH(ToBfloat16Impl)(x, n, out);
}
void AddBfloat16(const Bfloat16* x, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddBfloat16Impl)(x, n, out);
}

}  // namespace nearline::model
#endif  // HWY_ONCE
