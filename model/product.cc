#include "model/product.h"

#include <omp.h>

#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>

namespace nearline::model {
namespace {

using dnnl::memory;

// A product of one shape, [m, k] by [k, n].
struct Shape {
  int64_t m, k, n;
  memory::dims a, b;  // strides
  bool add;

  auto Key() const { return std::tie(m, k, n, a, b, add); }
  bool operator<(const Shape& o) const { return Key() < o.Key(); }
};

struct Product {
  memory::desc a, b, out;
  dnnl::matmul run;
};

template <typename T>
memory::dims StridesOf(const MatrixView<T>& x) {
  const int64_t row = x.stride > 0 ? x.stride : x.columns;
  return x.transpose ? memory::dims{1, row} : memory::dims{row, 1};
}

template <typename T>
Shape ShapeOf(const MatrixView<T>& a, const MatrixView<T>& b, bool add) {
  return {.m = a.transpose ? a.columns : a.rows,
          .k = a.transpose ? a.rows : a.columns,
          .n = b.transpose ? b.rows : b.columns,
          .a = StridesOf(a),
          .b = StridesOf(b),
          .add = add};
}

// This thread is one of ours; the others have their own products.
void StayOnThisThread() {
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
}

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

Product Prepare(const Shape& shape) {
  constexpr auto kHalf = memory::data_type::bf16;
  const memory::desc a({shape.m, shape.k}, kHalf, shape.a);
  const memory::desc b({shape.k, shape.n}, kHalf, shape.b);
  const memory::desc out({shape.m, shape.n}, memory::data_type::f32,
                         memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  dnnl::post_ops after;
  if (shape.add) after.append_sum();
  attributes.set_post_ops(after);
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(Engine(), a, b, out,
                                                 attributes);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, out),
                                                 attributes, Engine());
#endif
  return {a, b, out, dnnl::matmul(description)};
}

// Prepared once a thread: to find a product anew costs more than a small one.
const Product* Prepared(const Shape& shape) {
  constexpr size_t kMost = 64;
  thread_local std::map<Shape, Product> products;
  const auto found = products.find(shape);
  if (found != products.end()) return &found->second;
  if (products.size() >= kMost) products.clear();
  return &products.emplace(shape, Prepare(shape)).first->second;
}

}  // namespace

bool Multiply(const MatrixView<float>& a, const MatrixView<float>& b,
              float* out, bool add) {
  StayOnThisThread();
  const Shape shape = ShapeOf(a, b, add);
  const auto stride = [](const MatrixView<float>& x) {
    return x.stride > 0 ? x.stride : x.columns;
  };
  return dnnl::sgemm(a.transpose ? 'T' : 'N', b.transpose ? 'T' : 'N', shape.m,
                     shape.n, shape.k, 1.0f, a.at, stride(a), b.at, stride(b),
                     add ? 1.0f : 0.0f, out, shape.n) == dnnl::status::success;
}

bool Multiply(const MatrixView<Bfloat16>& a, const MatrixView<Bfloat16>& b,
              float* out, bool add) {
  StayOnThisThread();
  try {
    thread_local dnnl::stream stream(Engine());
    const Product* const product = Prepared(ShapeOf(a, b, add));
    memory left(product->a, Engine(), const_cast<Bfloat16*>(a.at));
    memory right(product->b, Engine(), const_cast<Bfloat16*>(b.at));
    memory result(product->out, Engine(), out);
    product->run.execute(stream, {{DNNL_ARG_SRC, left},
                                  {DNNL_ARG_WEIGHTS, right},
                                  {DNNL_ARG_DST, result}});
    stream.wait();
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

bool HasFastBfloat16() {
#if defined(__x86_64__)
  // Every later set has the bits of the earlier ones.
  const auto has = [](dnnl::cpu_isa isa) {
    const int needed = static_cast<int>(isa);
    return (static_cast<int>(dnnl::get_effective_cpu_isa()) & needed) == needed;
  };
  // Without AMX, Intel's processors multiply bfloat16 at half the speed of
  // float32, AMD's at twice. By name, not by a stopwatch: a run that is
  // repeated on the same processor has the same numbers.
  return has(dnnl::cpu_isa::avx512_core_amx) ||
         (has(dnnl::cpu_isa::avx512_core_bf16) && __builtin_cpu_is("amd"));
#else
  return false;
#endif
}

}  // namespace nearline::model
