// hnswlib's graph beside our index: the same rows, the same queries, as wide a
// search as finds as much.
#include <hnswlib/hnswlib.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "tests/bench/scan_benchmarks.h"

namespace nearline {
namespace {

struct Graph {
  std::unique_ptr<hnswlib::InnerProductSpace> space;
  std::unique_ptr<hnswlib::HierarchicalNSW<float>> graph;
  double recall = 0, seconds = 0;
};

std::vector<uint64_t> Search(const Graph& g, const float* query) {
  constexpr size_t kBest = 100;
  std::vector<uint64_t> rows;
  auto found = g.graph->searchKnn(query, kBest);
  for (; !found.empty(); found.pop()) rows.push_back(found.top().second);
  return rows;
}

// Of the first half of the queries, or of the second.
double RecallOf(const Graph& g, const Vectors& vectors, size_t dim,
                size_t half) {
  constexpr size_t kHalf = kQueries / 2;
  size_t common = 0, all = 0;
  for (size_t q = half * kHalf; q < (half + 1) * kHalf; ++q) {
    const auto found = Search(g, vectors.queries.data() + q * dim);
    const std::set<uint64_t> rows(found.begin(), found.end());
    for (const uint32_t row : vectors.best[q]) common += rows.contains(row);
    all += vectors.best[q].size();
  }
  return static_cast<double>(common) / static_cast<double>(all);
}

void BM_Hnsw(benchmark::State& state) {
  const Shape shape{static_cast<int>(state.range(0)), 64};
  if (!__builtin_cpu_supports("avx2")) {
    return state.SkipWithError("this processor has no AVX2");
  }
  const Vectors& vectors = VectorsOf(shape);
  const auto dim = static_cast<size_t>(shape.dim);
  const Graph& g = Once<Graph>(shape, [&] {
    Graph g;
    const auto start = std::chrono::steady_clock::now();
    g.space = std::make_unique<hnswlib::InnerProductSpace>(dim);
    g.graph = std::make_unique<hnswlib::HierarchicalNSW<float>>(
        g.space.get(), static_cast<size_t>(shape.items), 16, 200);
    for (size_t row = 0; row < static_cast<size_t>(shape.items); ++row) {
      g.graph->addPoint(vectors.rows.data() + row * dim, row);
    }
    g.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    for (size_t ef = 100; ef <= 3200; ef += ef / 4) {
      g.graph->setEf(ef);
      if (RecallOf(g, vectors, dim, 0) >= 0.97) break;
    }
    g.recall = RecallOf(g, vectors, dim, 1);
    return g;
  });
  size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        Search(g, vectors.queries.data() + next++ % kQueries * dim));
  }
  state.counters["recall"] = g.recall;
  state.counters["build_seconds"] = g.seconds;
  ByQuery(state, 1);
}
BENCHMARK(BM_Hnsw)->ArgName("items")->Arg(100'000)->Arg(1'000'000);

}  // namespace
}  // namespace nearline
