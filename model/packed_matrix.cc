#include "model/packed_matrix.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

using dnnl::memory;

dnnl::engine& Engine() {
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// Each serving thread has its own stream; creating one is not free.
dnnl::stream& Stream() {
  thread_local dnnl::stream stream(Engine());
  return stream;
}

// oneDNN 3 dropped the operation descriptor that version 2 asks for.
dnnl::matmul::primitive_desc Describe(const memory::desc& source,
                                      const memory::desc& weights,
                                      const memory::desc& out) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return {Engine(), source, weights, out, attr};
#else
  return {dnnl::matmul::desc(source, weights, out), attr, Engine()};
#endif
}

constexpr int kBatchSizes[] = {1, 2, 4, 8, 16, 32};

// The first size that m queries fit.
size_t SizeFor(int m) {
  size_t size = 0;
  while (kBatchSizes[size] < m) ++size;
  return size;
}

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

float Length(const float* x, int d) {
  return std::sqrt(Dot(x, x, static_cast<size_t>(d)));
}

// Appends x in bfloat16, rounded to nearest even. Returns the length of what
// was rounded away.
float RoundRow(const float* x, int d, std::vector<uint16_t>* out) {
  const size_t first = out->size();
  out->resize(first + static_cast<size_t>(d));
  thread_local std::vector<float> lost;
  lost.resize(static_cast<size_t>(d));
  for (size_t i = 0; i < lost.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(x[i]);
    const uint32_t kept = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    (*out)[first + i] = static_cast<uint16_t>(kept);
    lost[i] = x[i] - std::bit_cast<float>(kept << 16);
  }
  return Length(lost.data(), d);
}

}  // namespace

struct PackedMatrix::Impl {
  struct Product {
    dnnl::matmul primitive;
    memory::desc source, out, scratch;
  };

  int n = 0;
  int d = 0;
  memory::data_type type = memory::data_type::f32;
  float max_norm = 0, max_lost = 0;  // of rows, as in Queries
  int block_rows = 0;
  memory::desc weights;
  std::vector<memory> blocks;
  std::vector<Product> products;  // by kBatchSizes

  void Build(const float* rows);
};

void PackedMatrix::Impl::Build(const float* rows) {
  const int parts = (n + kBlockRows - 1) / kBlockRows;
  block_rows = RoundUp((n + parts - 1) / parts, 16);
  const memory::dims weight_dims = {d, block_rows};
  const auto f32 = memory::data_type::f32;
  const auto row_major = memory::format_tag::ab;
  std::vector<uint16_t> rounded;
  for (int i = 0; i < n; ++i) {
    const float* row = rows + static_cast<size_t>(i) * d;
    max_norm = std::max(max_norm, Length(row, d));
    if (type == memory::data_type::bf16) {
      rounded.clear();  // only the length counts; oneDNN rounds for itself
      max_lost = std::max(max_lost, RoundRow(row, d, &rounded));
    }
  }
  for (const int m : kBatchSizes) {
    const memory::desc source({m, d}, type, row_major);
    const memory::desc out({m, block_rows}, f32, row_major);
    // The largest batch chooses the layout; the smaller ones take it.
    if (m == kBatchSizes[0]) {
      const memory::desc widest({kMaxBatch, d}, type, row_major);
      const memory::desc widest_out({kMaxBatch, block_rows}, f32, row_major);
      weights =
          Describe(widest,
                   memory::desc(weight_dims, type, memory::format_tag::any),
                   widest_out)
              .weights_desc();
    }
    const auto pd = Describe(source, weights, out);
    products.push_back({dnnl::matmul(pd), source, out, pd.scratchpad_desc()});
  }
  std::vector<float> plain(static_cast<size_t>(block_rows) * d);
  const memory::desc plain_desc(weight_dims, f32, memory::format_tag::ba);
  for (int first = 0; first < n; first += block_rows) {
    const int count = std::min(block_rows, n - first);
    std::fill(plain.begin(), plain.end(), 0.0f);
    std::memcpy(plain.data(), rows + static_cast<size_t>(first) * d,
                sizeof(float) * static_cast<size_t>(count) * d);
    memory from(plain_desc, Engine(), plain.data());
    memory to(weights, Engine());
    dnnl::reorder(from, to).execute(Stream(), from, to);
    Stream().wait();
    blocks.push_back(std::move(to));
  }
}

PackedMatrix::PackedMatrix(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

PackedMatrix::Precision PackedMatrix::Fastest() {
  // Every later instruction set has the bits of the earlier ones.
  constexpr int kNeeded = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
  const int has = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (has & kNeeded) == kNeeded ? Precision::kBfloat16
                                    : Precision::kFloat32;
}

absl::StatusOr<PackedMatrix> PackedMatrix::Create(const float* rows, int n,
                                                  int d, Precision precision) {
  if (n <= 0 || d <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix [", n, ", ", d, "] is empty"));
  }
  auto impl = std::make_unique<Impl>();
  impl->n = n;
  impl->d = d;
  impl->type = precision == Precision::kBfloat16 ? memory::data_type::bf16
                                                 : memory::data_type::f32;
  omp_set_num_threads(1);
  try {
    impl->Build(rows);
  } catch (const dnnl::error& e) {
    return absl::InternalError(absl::StrCat("oneDNN cannot multiply by [", n,
                                            ", ", d, "]: ", e.what()));
  }
  return PackedMatrix(std::move(impl));
}

int PackedMatrix::rows() const { return impl_->n; }
int PackedMatrix::dim() const { return impl_->d; }
int PackedMatrix::blocks() const {
  return static_cast<int>(impl_->blocks.size());
}
int PackedMatrix::BlockRows(int b) const {
  return std::min(impl_->block_rows, impl_->n - b * impl_->block_rows);
}
int PackedMatrix::stride() const { return impl_->block_rows; }

void PackedMatrix::Prepare(const float* queries, int m, Queries* out) const {
  const auto d = static_cast<size_t>(dim());
  const size_t padded = d * static_cast<size_t>(kBatchSizes[SizeFor(m)]);
  out->m = m;
  out->lost.assign(static_cast<size_t>(m), 0.0f);
  if (impl_->type == memory::data_type::bf16) {
    out->rounded.clear();
    for (size_t i = 0; i < out->lost.size(); ++i) {
      out->lost[i] = RoundRow(queries + i * d, dim(), &out->rounded);
    }
    out->rounded.resize(padded, 0);
  } else {
    out->values.assign(queries, queries + static_cast<size_t>(m) * d);
    out->values.resize(padded, 0.0f);
  }
}

float PackedMatrix::ErrorBound(float norm, float lost, float bias) const {
  // (q - dq)(m - dm) against q m, by Cauchy and Schwarz; and d roundings of
  // sums.
  const float rounding =
      norm * impl_->max_lost + lost * (impl_->max_norm + impl_->max_lost);
  const float summing =
      std::numeric_limits<float>::epsilon() *
      (static_cast<float>(dim() + 1) * norm * impl_->max_norm + bias);
  return rounding + summing;
}

void PackedMatrix::MultiplyBlock(const Queries& queries, int b,
                                 float* out) const {
  // The thread may have come from anywhere; one product, one thread.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  const Impl::Product& product = impl_->products[SizeFor(queries.m)];
  const void* const values =
      impl_->type == memory::data_type::bf16
          ? static_cast<const void*>(queries.rounded.data())
          : queries.values.data();
  thread_local std::vector<char> scratch;
  const size_t scratch_size = product.scratch.get_size();
  if (scratch.size() < scratch_size + 64) scratch.resize(scratch_size + 64);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  void* const aligned =
      reinterpret_cast<void*>((address + 63) & ~uintptr_t{63});
  memory source(product.source, Engine(), const_cast<void*>(values));
  memory result(product.out, Engine(), out);
  memory space(product.scratch, Engine(), aligned);
  product.primitive.execute(
      Stream(), {{DNNL_ARG_SRC, source},
                 {DNNL_ARG_WEIGHTS, impl_->blocks[static_cast<size_t>(b)]},
                 {DNNL_ARG_DST, result},
                 {DNNL_ARG_SCRATCHPAD, space}});
  Stream().wait();
}

void PackedMatrix::Multiply(const float* queries, int m, float* out) const {
  thread_local std::vector<float> scores;
  thread_local Queries batch;
  scores.resize(static_cast<size_t>(kMaxBatch) * stride());
  for (int first = 0; first < m; first += kMaxBatch) {
    const int count = std::min(kMaxBatch, m - first);
    Prepare(queries + static_cast<size_t>(first) * dim(), count, &batch);
    for (int b = 0; b < blocks(); ++b) {
      MultiplyBlock(batch, b, scores.data());
      for (int i = 0; i < count; ++i) {
        std::memcpy(out + static_cast<size_t>(first + i) * rows() +
                        static_cast<size_t>(b) * stride(),
                    scores.data() + static_cast<size_t>(i) * stride(),
                    sizeof(float) * static_cast<size_t>(BlockRows(b)));
      }
    }
  }
}

}  // namespace nearline::model
