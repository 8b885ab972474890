#include "model/packed_matrix.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

#include "base/status.h"

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

int RoundUp(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace

struct PackedMatrix::Impl {
  struct Product {
    dnnl::matmul primitive;
    memory::desc source, out, scratch;
  };

  int n = 0;
  int d = 0;
  int block_rows = 0;
  memory::desc weights;
  std::vector<memory> blocks;
  std::vector<Product> products;  // by kBatchSizes

  void Build(const float* rows);
};

void PackedMatrix::Impl::Build(const float* rows) {
  block_rows = std::min(kBlockRows, RoundUp(n, 16));
  const memory::dims weight_dims = {d, block_rows};
  const auto f32 = memory::data_type::f32;
  const auto row_major = memory::format_tag::ab;
  for (const int m : kBatchSizes) {
    const memory::desc source({m, d}, f32, row_major);
    const memory::desc out({m, block_rows}, f32, row_major);
    // The largest batch chooses the layout; the smaller ones take it.
    if (m == kBatchSizes[0]) {
      const memory::desc widest({kMaxBatch, d}, f32, row_major);
      const memory::desc widest_out({kMaxBatch, block_rows}, f32, row_major);
      weights =
          Describe(widest,
                   memory::desc(weight_dims, f32, memory::format_tag::any),
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

absl::StatusOr<PackedMatrix> PackedMatrix::Create(const float* rows, int n,
                                                  int d) {
  if (n <= 0 || d <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("matrix [", n, ", ", d, "] is empty"));
  }
  auto impl = std::make_unique<Impl>();
  impl->n = n;
  impl->d = d;
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

void PackedMatrix::MultiplyBlock(const float* queries, int m, int b,
                                 float* out) const {
  // The thread may have come from anywhere; one product, one thread.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  size_t size = 0;
  while (kBatchSizes[size] < m) ++size;
  const Impl::Product& product = impl_->products[size];
  // A batch between two sizes is padded: oneDNN reads and writes whole sizes.
  thread_local std::vector<float> padded;
  if (kBatchSizes[size] != m) {
    padded.assign(static_cast<size_t>(kBatchSizes[size]) * impl_->d, 0.0f);
    std::memcpy(padded.data(), queries,
                sizeof(float) * static_cast<size_t>(m) * impl_->d);
    queries = padded.data();
  }
  thread_local std::vector<char> scratch;
  const size_t scratch_size = product.scratch.get_size();
  if (scratch.size() < scratch_size + 64) scratch.resize(scratch_size + 64);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  void* const aligned =
      reinterpret_cast<void*>((address + 63) & ~uintptr_t{63});
  memory source(product.source, Engine(), const_cast<float*>(queries));
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
  scores.resize(static_cast<size_t>(kMaxBatch) * stride());
  for (int first = 0; first < m; first += kMaxBatch) {
    const int count = std::min(kMaxBatch, m - first);
    for (int b = 0; b < blocks(); ++b) {
      MultiplyBlock(queries + static_cast<size_t>(first) * dim(), count, b,
                    scores.data());
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
