#include "model/packed_matrix.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "base/huge_pages.h"
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
dnnl::matmul::primitive_desc DescribeProduct(const memory::desc& source,
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

bool Has(dnnl::cpu_isa isa) {
  // Every later set has the bits of the earlier ones.
  const int needed = static_cast<int>(isa);
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

// What the length of int8 rows is filled up to: oneDNN copies what fills no AMX
// tile; other instructions take four at a time.
int DepthStep() {
#if defined(__x86_64__)
  if (Has(dnnl::cpu_isa::avx512_core_amx)) return 64;
#endif
  return 4;
}

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

float Length(const float* x, int d) {
  return std::sqrt(Dot(x, x, static_cast<size_t>(d)));
}

}  // namespace

struct PackedMatrix::Impl {
  struct Product {
    dnnl::matmul primitive;
    memory::desc source, out, scratch;
  };

  int n = 0;
  int d = 0;
  int depth = 0;  // d and zeros
  bool int8 = false;
  float most_lost = 0;  // of a row that is not left out
  std::vector<int> left_out;
  std::vector<float> scales;  // of each row, when int8
  // Of rows: their lengths, and of what rounding took.
  float max_norm = 0, max_lost = 0;
  int block_rows = 0;
  memory::desc weights;
  HugeBuffer storage;
  std::vector<memory> blocks;     // in `storage`, one after the other
  std::vector<Product> products;  // by kBatchSizes

  size_t BlockBytes() const { return (weights.get_size() + 63) / 64 * 64; }
  void Build(const float* rows);
  void ChooseLayout();
  void PackFloat(const float* rows, int count);
  void PackInt8(const float* rows, int first, int count);
  void LayOut(void* plain, memory::data_type type);
  void Execute(int m, const void* queries, int b, void* out) const;
};

void PackedMatrix::Impl::Build(const float* rows) {
  const int parts = (n + kBlockRows - 1) / kBlockRows;
  block_rows = RoundUp((n + parts - 1) / parts, 16);
  depth = int8 ? RoundUp(d, DepthStep()) : d;
  ChooseLayout();
  storage = AllocateHuge(static_cast<size_t>(parts) * BlockBytes());
  for (int first = 0; first < n; first += block_rows) {
    const int count = std::min(block_rows, n - first);
    const float* const block = rows + static_cast<size_t>(first) * d;
    int8 ? PackInt8(block, first, count) : PackFloat(block, count);
  }
  scales.resize(blocks.size() * static_cast<size_t>(block_rows), 0.0f);
}

// The largest batch chooses the layout; the smaller ones take it.
void PackedMatrix::Impl::ChooseLayout() {
  const auto type = int8 ? memory::data_type::s8 : memory::data_type::f32;
  const auto sums = int8 ? memory::data_type::s32 : memory::data_type::f32;
  const auto row_major = memory::format_tag::ab;
  const memory::desc any({depth, block_rows}, type, memory::format_tag::any);
  weights = DescribeProduct({{kMaxBatch, depth}, type, row_major}, any,
                            {{kMaxBatch, block_rows}, sums, row_major})
                .weights_desc();
  for (const int m : kBatchSizes) {
    const memory::desc source({m, depth}, type, row_major);
    const memory::desc out({m, block_rows}, sums, row_major);
    const auto pd = DescribeProduct(source, weights, out);
    products.push_back({dnnl::matmul(pd), source, out, pd.scratchpad_desc()});
  }
}

void PackedMatrix::Impl::PackFloat(const float* rows, int count) {
  std::vector<float> plain(static_cast<size_t>(block_rows) * depth);
  std::copy(rows, rows + static_cast<size_t>(count) * d, plain.begin());
  for (int i = 0; i < count; ++i) {
    max_norm = std::max(max_norm, Length(rows + static_cast<size_t>(i) * d, d));
  }
  LayOut(plain.data(), memory::data_type::f32);
}

// A block of `count` rows, the first of which is row `first`.
void PackedMatrix::Impl::PackInt8(const float* rows, int first, int count) {
  std::vector<int8_t> plain(static_cast<size_t>(block_rows) * depth);
  for (int i = 0; i < count; ++i) {
    const float* const row = rows + static_cast<size_t>(i) * d;
    int8_t* const to = plain.data() + static_cast<size_t>(i) * depth;
    float scale = 0;
    const float lost = QuantizeInt8(row, static_cast<size_t>(d), to, &scale);
    if (!(lost <= most_lost)) {
      left_out.push_back(first + i);
      std::fill_n(to, d, int8_t{0});
      scales.push_back(0);
      continue;
    }
    scales.push_back(scale);
    max_lost = std::max(max_lost, lost);
    max_norm = std::max(max_norm, Length(row, d));
  }
  LayOut(plain.data(), memory::data_type::s8);
}

// The next block, row-major [block_rows, depth], as oneDNN wants it.
void PackedMatrix::Impl::LayOut(void* plain, memory::data_type type) {
  memory from({{depth, block_rows}, type, memory::format_tag::ba}, Engine(),
              plain);
  memory to(weights, Engine(), storage.get() + blocks.size() * BlockBytes());
  dnnl::reorder(from, to).execute(Stream(), from, to);
  Stream().wait();
  blocks.push_back(to);
}

PackedMatrix::PackedMatrix(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

PackedMatrix::Precision PackedMatrix::Fastest() {
#if defined(__x86_64__)
  // Older instructions saturate in the middle of a sum.
  if (Has(dnnl::cpu_isa::avx512_core_vnni)) return Precision::kInt8;
#endif
  return Precision::kFloat32;
}

absl::StatusOr<PackedMatrix> PackedMatrix::Create(const float* rows, int n,
                                                  int d, Precision precision,
                                                  float most_lost) {
  if (n <= 0 || d <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix [", n, ", ", d, "] is empty"));
  }
  auto impl = std::make_unique<Impl>();
  impl->n = n;
  impl->d = d;
  impl->most_lost = most_lost;
  // Beyond, a sum of products of int8 could overflow.
  constexpr int kLongest = std::numeric_limits<int32_t>::max() / (127 * 127);
  impl->int8 = precision == Precision::kInt8 && d <= kLongest;
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
  const auto depth = static_cast<size_t>(impl_->depth);
  const auto count = static_cast<size_t>(m);
  const auto padded = static_cast<size_t>(kBatchSizes[SizeFor(m)]);
  out->m = m;
  out->lost.assign(count, 0.0f);
  if (!impl_->int8) {
    out->values.assign(queries, queries + count * d);
    out->values.resize(padded * d, 0.0f);
    return;
  }
  out->scales.resize(count);
  out->rounded.assign(padded * depth, 0);
  for (size_t i = 0; i < count; ++i) {
    out->lost[i] = QuantizeInt8(
        queries + i * d, d, out->rounded.data() + i * depth, &out->scales[i]);
  }
}

float PackedMatrix::ErrorBound(float norm, float lost, float bias) const {
  // (q - dq)(m - dm) against q m, by Cauchy and Schwarz; and the roundings of d
  // sums, of scales and of the bias.
  const float rounding =
      norm * impl_->max_lost + lost * (impl_->max_norm + impl_->max_lost);
  const float summing =
      std::numeric_limits<float>::epsilon() *
      (static_cast<float>(dim() + 4) * norm * impl_->max_norm + bias);
  return rounding + summing;
}

const std::vector<int>& PackedMatrix::left_out() const {
  return impl_->left_out;
}

void PackedMatrix::MultiplyBlock(const Queries& queries, int b,
                                 float* out) const {
  if (!impl_->int8) {
    impl_->Execute(queries.m, queries.values.data(), b, out);
    return;
  }
  thread_local std::vector<int32_t> sums;
  const auto stride = static_cast<size_t>(impl_->block_rows);
  sums.resize(kMaxBatch * stride);
  impl_->Execute(queries.m, queries.rounded.data(), b, sums.data());
  for (size_t i = 0; i < queries.scales.size(); ++i) {
    ScaleInt32(sums.data() + i * stride,
               impl_->scales.data() + static_cast<size_t>(b) * stride,
               queries.scales[i], stride, out + i * stride);
  }
}

// One block's product for m queries, padded as Prepare does it.
void PackedMatrix::Impl::Execute(int m, const void* queries, int b,
                                 void* out) const {
  // The thread may have come from anywhere; one product, one thread.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  const Product& product = products[SizeFor(m)];
  thread_local std::vector<char> scratch;
  const size_t scratch_size = product.scratch.get_size();
  if (scratch.size() < scratch_size + 64) scratch.resize(scratch_size + 64);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  void* const aligned =
      reinterpret_cast<void*>((address + 63) & ~uintptr_t{63});
  memory source(product.source, Engine(), const_cast<void*>(queries));
  memory result(product.out, Engine(), out);
  memory space(product.scratch, Engine(), aligned);
  product.primitive.execute(Stream(),
                            {{DNNL_ARG_SRC, source},
                             {DNNL_ARG_WEIGHTS, blocks[static_cast<size_t>(b)]},
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
