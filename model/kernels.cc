#include "model/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

// Highway compiles this file once a target; the order of its headers matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
#include <hwy/contrib/math/math-inl.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace nearline::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

void AddScaledImpl(const float* row, float weight, size_t n, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto w = hn::Set(d, weight);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::MulAdd(w, hn::LoadU(d, row + i), hn::LoadU(d, out + i)), d,
               out + i);
  }
  for (; i < n; ++i) out[i] += weight * row[i];
}

// A strip of the sum, of `Vectors` vectors, stays in registers while the rows
// pass by.
template <size_t Vectors>
HWY_INLINE void SumStrip(const float* const* rows, const float* weights,
                         size_t m, size_t i, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  auto s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  for (size_t j = 0; j < m; ++j) {
    const auto w = hn::Set(d, weights[j]);
    const float* const row = rows[j] + i;
    s0 = hn::MulAdd(w, hn::LoadU(d, row), s0);
    if constexpr (Vectors > 1) {
      s1 = hn::MulAdd(w, hn::LoadU(d, row + lanes), s1);
      s2 = hn::MulAdd(w, hn::LoadU(d, row + 2 * lanes), s2);
      s3 = hn::MulAdd(w, hn::LoadU(d, row + 3 * lanes), s3);
    }
    if constexpr (Vectors > 4) {
      s4 = hn::MulAdd(w, hn::LoadU(d, row + 4 * lanes), s4);
      s5 = hn::MulAdd(w, hn::LoadU(d, row + 5 * lanes), s5);
      s6 = hn::MulAdd(w, hn::LoadU(d, row + 6 * lanes), s6);
      s7 = hn::MulAdd(w, hn::LoadU(d, row + 7 * lanes), s7);
    }
  }
  hn::StoreU(s0, d, out + i);
  if constexpr (Vectors > 1) {
    hn::StoreU(s1, d, out + i + lanes);
    hn::StoreU(s2, d, out + i + 2 * lanes);
    hn::StoreU(s3, d, out + i + 3 * lanes);
  }
  if constexpr (Vectors > 4) {
    hn::StoreU(s4, d, out + i + 4 * lanes);
    hn::StoreU(s5, d, out + i + 5 * lanes);
    hn::StoreU(s6, d, out + i + 6 * lanes);
    hn::StoreU(s7, d, out + i + 7 * lanes);
  }
}

void SumScaledImpl(const float* const* rows, const float* weights, size_t m,
                   size_t n, float* out) {
  const size_t lanes = hn::Lanes(D());
  size_t i = 0;
  for (; i + 8 * lanes <= n; i += 8 * lanes) {
    SumStrip<8>(rows, weights, m, i, out);
  }
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    SumStrip<4>(rows, weights, m, i, out);
  }
  for (; i + lanes <= n; i += lanes) SumStrip<1>(rows, weights, m, i, out);
  for (; i < n; ++i) {
    out[i] = 0;
    for (size_t j = 0; j < m; ++j) out[i] += weights[j] * rows[j][i];
  }
}

void BlendImpl(float a, float b, const float* x, size_t n, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto va = hn::Set(d, a);
  const auto vb = hn::Set(d, b);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto kept = hn::Mul(va, hn::LoadU(d, out + i));
    hn::StoreU(hn::MulAdd(vb, hn::LoadU(d, x + i), kept), d, out + i);
  }
  for (; i < n; ++i) out[i] = a * out[i] + b * x[i];
}

// out[i] = weight * row[i].
void ScaleImpl(const float* row, float weight, size_t n, float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto w = hn::Set(d, weight);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::Mul(w, hn::LoadU(d, row + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = weight * row[i];
}

// Four rows of `out`, of which `count` are there, and `Vectors` vectors of
// their columns, from the j-th, stay in registers while `m` rows pass by. To
// the r-th of the four, the h-th gives scaled[h * n + r] times itself.
template <size_t Vectors>
HWY_INLINE void AddGramTile(const float* const* rows, const float* scaled,
                            size_t m, size_t n, size_t count, size_t j,
                            size_t stride, float* out) {
  const D d;
  const size_t second = (Vectors - 1) * hn::Lanes(d);
  auto a0 = hn::Zero(d), b0 = a0, a1 = a0, b1 = a0;
  auto a2 = a0, b2 = a0, a3 = a0, b3 = a0;
  for (size_t h = 0; h < m; ++h) {
    const float* const s = scaled + h * n;
    const auto s0 = hn::Set(d, s[0]), s1 = hn::Set(d, s[1]);
    const auto s2 = hn::Set(d, s[2]), s3 = hn::Set(d, s[3]);
    const auto a = hn::LoadU(d, rows[h] + j);
    a0 = hn::MulAdd(a, s0, a0);
    a1 = hn::MulAdd(a, s1, a1);
    a2 = hn::MulAdd(a, s2, a2);
    a3 = hn::MulAdd(a, s3, a3);
    if constexpr (Vectors > 1) {
      const auto b = hn::LoadU(d, rows[h] + j + second);
      b0 = hn::MulAdd(b, s0, b0);
      b1 = hn::MulAdd(b, s1, b1);
      b2 = hn::MulAdd(b, s2, b2);
      b3 = hn::MulAdd(b, s3, b3);
    }
  }
  const auto add = [&](size_t r, auto a, auto b) {
    if (r >= count) return;
    float* const to = out + r * stride + j;
    hn::StoreU(hn::Add(hn::LoadU(d, to), a), d, to);
    if constexpr (Vectors > 1) {
      hn::StoreU(hn::Add(hn::LoadU(d, to + second), b), d, to + second);
    }
  };
  add(0, a0, b0);
  add(1, a1, b1);
  add(2, a2, b2);
  add(3, a3, b3);
}

void AddGramImpl(const float* const* rows, const float* weights, size_t m,
                 size_t n, size_t stride, float* out) {
  constexpr size_t kTogether = 32;  // rows that stay in the first-level cache
  const size_t lanes = hn::Lanes(D());
  thread_local std::vector<float> scaled;  // beyond a row's end: not stored
  scaled.resize(kTogether * n + 4);
  for (size_t first = 0; first < m; first += kTogether) {
    const float* const* const some = rows + first;
    const size_t together = std::min(kTogether, m - first);
    for (size_t h = 0; h < together; ++h) {
      ScaleImpl(some[h], weights[first + h], n, scaled.data() + h * n);
    }
    for (size_t i = 0; i < n; i += 4) {
      const size_t count = std::min<size_t>(4, n - i);
      const float* const from = scaled.data() + i;
      float* const to = out + i * stride;
      size_t j = 0;
      for (; j < i + count && j + 2 * lanes <= n; j += 2 * lanes) {
        AddGramTile<2>(some, from, together, n, count, j, stride, to);
      }
      for (; j < i + count && j + lanes <= n; j += lanes) {
        AddGramTile<1>(some, from, together, n, count, j, stride, to);
      }
      for (; j < i + count; ++j) {
        for (size_t r = 0; r < count; ++r) {
          for (size_t h = 0; h < together; ++h) {
            to[r * stride + j] += from[h * n + r] * some[h][j];
          }
        }
      }
    }
  }
}

// What is left of Dot from the i-th on, added to both sums.
HWY_INLINE float FinishDot(const float* a, const float* b, size_t i, size_t n,
                           hn::Vec<D> sum0, hn::Vec<D> sum1) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (; i + lanes <= n; i += lanes) {
    sum0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum0);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

float DotImpl(const float* a, const float* b, size_t n) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d);
  auto sum1 = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    sum0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum0);
    sum1 = hn::MulAdd(hn::LoadU(d, a + i + lanes), hn::LoadU(d, b + i + lanes),
                      sum1);
  }
  return FinishDot(a, b, i, n, sum0, sum1);
}

// Four rows side by side, while the next four are fetched.
void DotRowsImpl(const float* x, const float* const* rows, size_t m, size_t n,
                 float* out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t j = 0;
  for (; j + 4 <= m; j += 4) {
    const float* const* const now = rows + j;
    const float* const* const next = j + 8 <= m ? now + 4 : rows + m - 4;
    auto a0 = hn::Zero(d), a1 = a0, b0 = a0, b1 = a0;
    auto c0 = a0, c1 = a0, e0 = a0, e1 = a0;
    size_t i = 0;
    for (; i + 2 * lanes <= n; i += 2 * lanes) {
      const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
      a0 = hn::MulAdd(x0, hn::LoadU(d, now[0] + i), a0);
      b0 = hn::MulAdd(x0, hn::LoadU(d, now[1] + i), b0);
      c0 = hn::MulAdd(x0, hn::LoadU(d, now[2] + i), c0);
      e0 = hn::MulAdd(x0, hn::LoadU(d, now[3] + i), e0);
      a1 = hn::MulAdd(x1, hn::LoadU(d, now[0] + i + lanes), a1);
      b1 = hn::MulAdd(x1, hn::LoadU(d, now[1] + i + lanes), b1);
      c1 = hn::MulAdd(x1, hn::LoadU(d, now[2] + i + lanes), c1);
      e1 = hn::MulAdd(x1, hn::LoadU(d, now[3] + i + lanes), e1);
      for (size_t r = 0; r < 4; ++r) {
        for (size_t at = i; at < i + 2 * lanes; at += 16) {
          __builtin_prefetch(next[r] + at);
        }
      }
    }
    out[j] = FinishDot(x, now[0], i, n, a0, a1);
    out[j + 1] = FinishDot(x, now[1], i, n, b0, b1);
    out[j + 2] = FinishDot(x, now[2], i, n, c0, c1);
    out[j + 3] = FinishDot(x, now[3], i, n, e0, e1);
  }
  for (; j < m; ++j) out[j] = DotImpl(x, rows[j], n);
}

void AddBiasTanhImpl(const float* bias, size_t n, float* x) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(
        hn::Tanh(d, hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, bias + i))), d,
        x + i);
  }
  // The remainder through a full vector, so that a value does not depend on its
  // place.
  if (i < n) {
    float tail[hn::MaxLanes(D())] = {};
    for (size_t j = i; j < n; ++j) tail[j - i] = x[j] + bias[j];
    hn::StoreU(hn::Tanh(d, hn::LoadU(d, tail)), d, tail);
    for (size_t j = i; j < n; ++j) x[j] = tail[j - i];
  }
}

void SigmoidImpl(size_t n, float* x) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto of = [&](auto v) {
    const auto one = hn::Set(d, 1.0f);
    // Highway's e^x is of no use beyond 104.
    const auto e = hn::Exp(d, hn::Min(hn::Neg(v), hn::Set(d, 80.0f)));
    return hn::Div(one, hn::Add(one, e));
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(of(hn::LoadU(d, x + i)), d, x + i);
  }
  if (i < n) {
    float tail[hn::MaxLanes(D())] = {};
    std::copy(x + i, x + n, tail);
    hn::StoreU(of(hn::LoadU(d, tail)), d, tail);
    std::copy(tail, tail + (n - i), x + i);
  }
}

float QuantizeInt8Impl(const float* x, size_t n, int8_t* out, float* scale) {
  const D d;
  const hn::Rebind<int8_t, D> d8;
  const size_t lanes = hn::Lanes(d);
  auto most = hn::Zero(d);
  auto zeros = hn::Zero(d);  // NaN where a value is not finite
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    most = hn::Max(most, hn::Abs(v));
    zeros = hn::MulAdd(v, hn::Zero(d), zeros);
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  float zero = hn::GetLane(hn::SumOfLanes(d, zeros));
  for (size_t j = i; j < n; ++j) {
    largest = std::max(largest, std::abs(x[j]));
    zero += x[j] * 0.0f;
  }
  // Where 127 / largest would overflow, nothing is lost by rounding to zero.
  constexpr float kSmallest = 1e-30f;
  if (!(zero == 0) || largest < kSmallest) {
    std::fill(out, out + n, int8_t{0});
    *scale = zero == 0 ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    return zero == 0 ? std::sqrt(DotImpl(x, x, n)) : *scale;
  }
  *scale = largest / 127;
  const float inverse = 127 / largest;
  auto squares = hn::Zero(d);
  for (i = 0; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    const auto rounded = hn::NearestInt(hn::Mul(v, hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d8, rounded), d8, out + i);
    const auto lost =
        hn::NegMulAdd(hn::ConvertTo(d, rounded), hn::Set(d, *scale), v);
    squares = hn::MulAdd(lost, lost, squares);
  }
  float sum = hn::GetLane(hn::SumOfLanes(d, squares));
  for (; i < n; ++i) {
    out[i] = static_cast<int8_t>(std::lrint(x[i] * inverse));
    const float lost = x[i] - static_cast<float>(out[i]) * *scale;
    sum += lost * lost;
  }
  return std::sqrt(sum);
}

void ScaleInt32Impl(const int32_t* in, const float* scales, float factor,
                    size_t n, float* out) {
  const D d;
  const hn::Rebind<int32_t, D> d32;
  const size_t lanes = hn::Lanes(d);
  const auto f = hn::Set(d, factor);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto sums = hn::ConvertTo(d, hn::LoadU(d32, in + i));
    hn::StoreU(hn::Mul(sums, hn::Mul(f, hn::LoadU(d, scales + i))), d, out + i);
  }
  for (; i < n; ++i) {
    out[i] = static_cast<float>(in[i]) * (factor * scales[i]);
  }
}

const char* TargetImpl() { return hwy::TargetName(HWY_TARGET); }

}  // namespace nearline::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nearline::model {

HWY_EXPORT(AddScaledImpl);
HWY_EXPORT(BlendImpl);
HWY_EXPORT(SumScaledImpl);
HWY_EXPORT(AddGramImpl);
HWY_EXPORT(DotImpl);
HWY_EXPORT(DotRowsImpl);
HWY_EXPORT(AddBiasTanhImpl);
HWY_EXPORT(SigmoidImpl);
HWY_EXPORT(QuantizeInt8Impl);
HWY_EXPORT(ScaleInt32Impl);
HWY_EXPORT(TargetImpl);

void AddScaled(const float* row, float weight, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddScaledImpl)(row, weight, n, out);
}
void Blend(float a, float b, const float* x, size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(BlendImpl)(a, b, x, n, out);
}
void SumScaled(const float* const* rows, const float* weights, size_t m,
               size_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SumScaledImpl)(rows, weights, m, n, out);
}
void AddGram(const float* const* rows, const float* weights, size_t m, size_t n,
             size_t stride, float* out) {
  HWY_DYNAMIC_DISPATCH(AddGramImpl)(rows, weights, m, n, stride, out);
}
float Dot(const float* a, const float* b, size_t n) {
  return HWY_DYNAMIC_DISPATCH(DotImpl)(a, b, n);
}
void DotRows(const float* x, const float* const* rows, size_t m, size_t n,
             float* out) {
  HWY_DYNAMIC_DISPATCH(DotRowsImpl)(x, rows, m, n, out);
}
void AddBiasTanh(const float* bias, size_t n, float* x) {
  HWY_DYNAMIC_DISPATCH(AddBiasTanhImpl)(bias, n, x);
}
void Sigmoid(size_t n, float* x) { HWY_DYNAMIC_DISPATCH(SigmoidImpl)(n, x); }
float QuantizeInt8(const float* x, size_t n, int8_t* out, float* scale) {
  return HWY_DYNAMIC_DISPATCH(QuantizeInt8Impl)(x, n, out, scale);
}
void ScaleInt32(const int32_t* in, const float* scales, float factor, size_t n,
                float* out) {
  HWY_DYNAMIC_DISPATCH(ScaleInt32Impl)(in, scales, factor, n, out);
}
const char* KernelTarget() { return HWY_DYNAMIC_DISPATCH(TargetImpl)(); }

}  // namespace nearline::model
#endif  // HWY_ONCE
