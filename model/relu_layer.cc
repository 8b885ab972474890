#include "model/relu_layer.h"

#include <algorithm>

// Highway compiles this file once a target; the order of its headers matters.
// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/relu_layer.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace nearline::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// What y's rows are padded to holds whole vectors.
using D = hn::CappedTag<float, 16>;

// Four rows from `row` on, of which `count` are there, and `Vectors` vectors of
// their columns, from `column` on, stay in registers while the inputs pass by.
template <size_t Vectors>
HWY_INLINE void ReluTile(const ReluLayer::Args& a, size_t row, size_t count,
                         size_t column) {
  const D d;
  const size_t second = (Vectors - 1) * hn::Lanes(d);
  const size_t r1 = count > 1 ? 1 : 0, r2 = count > 2 ? 2 : 0,
               r3 = count > 3 ? 3 : 0;
  const auto start = [&](size_t r, size_t at) {
    const auto bias = hn::LoadU(d, a.bias + at);
    if (a.more == nullptr) return bias;
    const float* const more = a.more[row + r];
    if (at + hn::Lanes(d) <= a.out)
      return hn::Add(bias, hn::LoadU(d, more + at));
    float end[16] = {};  // nothing is read beyond the row
    for (size_t o = at; o < a.out; ++o) end[o - at] = more[o];
    return hn::Add(bias, hn::LoadU(d, end));
  };
  auto a0 = start(0, column), a1 = start(r1, column), a2 = start(r2, column),
       a3 = start(r3, column);
  const size_t next = column + second;
  auto b0 = start(0, next), b1 = start(r1, next), b2 = start(r2, next),
       b3 = start(r3, next);
  const float* const x = a.x + row * a.x_stride;
  for (size_t i = 0; i < a.in; ++i) {
    const float* const w = a.weight + i * a.stride + column;
    const auto x0 = hn::Set(d, x[i]), x1 = hn::Set(d, x[r1 * a.x_stride + i]);
    const auto x2 = hn::Set(d, x[r2 * a.x_stride + i]);
    const auto x3 = hn::Set(d, x[r3 * a.x_stride + i]);
    const auto w0 = hn::LoadU(d, w);
    a0 = hn::MulAdd(x0, w0, a0);
    a1 = hn::MulAdd(x1, w0, a1);
    a2 = hn::MulAdd(x2, w0, a2);
    a3 = hn::MulAdd(x3, w0, a3);
    if constexpr (Vectors > 1) {
      const auto w1 = hn::LoadU(d, w + second);
      b0 = hn::MulAdd(x0, w1, b0);
      b1 = hn::MulAdd(x1, w1, b1);
      b2 = hn::MulAdd(x2, w1, b2);
      b3 = hn::MulAdd(x3, w1, b3);
    }
  }
  // In this order a sum that is no number stays so.
  const auto store = [&](size_t r, auto first, auto other) {
    if (r >= count) return;
    float* const to = a.y + (row + r) * a.stride + column;
    hn::StoreU(hn::Max(hn::Zero(d), first), d, to);
    if constexpr (Vectors > 1) {
      hn::StoreU(hn::Max(hn::Zero(d), other), d, to + second);
    }
  };
  store(0, a0, b0);
  store(1, a1, b1);
  store(2, a2, b2);
  store(3, a3, b3);
}

void ReluLayerImpl(const ReluLayer::Args& a, size_t n) {
  const size_t lanes = hn::Lanes(D());
  for (size_t row = 0; row < n; row += 4) {
    const size_t count = std::min<size_t>(4, n - row);
    size_t column = 0;
    for (; column + 2 * lanes <= a.stride; column += 2 * lanes) {
      ReluTile<2>(a, row, count, column);
    }
    for (; column < a.stride; column += lanes) {
      ReluTile<1>(a, row, count, column);
    }
  }
}

}  // namespace nearline::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace nearline::model {

HWY_EXPORT(ReluLayerImpl);

ReluLayer::ReluLayer(const std::vector<float>& weight, size_t out, size_t in)
    : in_(in), out_(out), stride_((out + 15) / 16 * 16) {
  weight_.assign(in * stride_, 0.0f);
  for (size_t o = 0; o < out; ++o) {
    for (size_t i = 0; i < in; ++i) {
      weight_[i * stride_ + o] = weight[o * in + i];
    }
  }
}

void ReluLayer::Apply(const float* x, size_t x_stride, size_t n,
                      const float* bias, const float* const* more,
                      float* y) const {
  HWY_DYNAMIC_DISPATCH(ReluLayerImpl)
  ({weight_.data(), in_, out_, stride_, x, x_stride, bias, more, y}, n);
}

}  // namespace nearline::model
#endif  // HWY_ONCE
