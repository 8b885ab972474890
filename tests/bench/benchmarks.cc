// What the inner parts cost, each beside its yardstick in the same run:
//   build/release/bin/nearline_benchmarks --benchmark_filter=Scan
// Shapes are MovieLens 1M's. Compare within one run only.
#include <benchmark/benchmark.h>

#include <vector>

#include "base/random.h"
#include "model/cpu_scoring.h"

namespace nearline {
namespace {

using model::PackedMatrix;

constexpr int kItems = 3584, kDim = 600, kBatch = 32;

std::vector<float> RandomFloats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(0.1 * random.Normal());
  return out;
}

void ByQuery(benchmark::State& state, int queries) {
  state.counters["cpu_per_query"] = benchmark::Counter(
      static_cast<double>(state.iterations() * queries),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// The bare product: the yardstick of the scan.
void BM_Product(benchmark::State& state) {
  const auto precision = static_cast<PackedMatrix::Precision>(state.range(0));
  const int m = static_cast<int>(state.range(1));
  const auto rows = RandomFloats(size_t{kItems} * kDim, 1);
  const auto values = RandomFloats(size_t{kBatch} * kDim, 2);
  const auto matrix =
      *PackedMatrix::Create(rows.data(), kItems, kDim, precision);
  PackedMatrix::Queries queries;
  std::vector<float> out(size_t{kBatch} * PackedMatrix::kBlockRows);
  matrix.Prepare(values.data(), m, &queries);
  for (auto _ : state) {
    for (int b = 0; b < matrix.blocks(); ++b) {
      matrix.MultiplyBlock(queries, state.range(2) ? 0 : b, out.data());
    }
    benchmark::DoNotOptimize(out.data());
  }
  ByQuery(state, m);
}
BENCHMARK(BM_Product)
    ->ArgNames({"bf16", "batch", "hot"})
    ->ArgsProduct({{0, 1}, {1, 32}, {0, 1}});

}  // namespace
}  // namespace nearline

BENCHMARK_MAIN();
