// The scan, each part beside its yardstick in the same run:
//   build/release/bin/nearline_benchmarks --benchmark_filter=Scan
// Compare within one run only; tests/bench/run.sh does.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "model/devices.h"
#include "model/generation.h"
#include "model/index_scanner.h"
#include "model/matrix_scanner.h"
#include "model/synthesize.h"
#include "tests/bench/scan_benchmarks.h"

namespace nearline {

using model::PackedMatrix;
using model::Row;
using model::RowMask;
using model::ScoredRow;

const Vectors& VectorsOf(Shape shape) {
  return Once<Vectors>(shape, [&] {
    auto bundle = *model::SynthesizeBundle(
        {.retriever = "elsa", .items = shape.items, .dim = shape.dim});
    Vectors out;
    out.rows = bundle.tensors.all().at("elsa.item.decoder").values;
    const auto d = static_cast<size_t>(shape.dim);
    Random random(2);
    for (int q = 0; q < kQueries; ++q) {
      std::vector<float> query(d, 0);
      for (int i = 0; i < 3; ++i) {
        const size_t row = random.Below(static_cast<uint64_t>(shape.items));
        for (size_t c = 0; c < d; ++c) query[c] += out.rows[row * d + c];
      }
      out.queries.insert(out.queries.end(), query.begin(), query.end());
    }
    if (shape.items < 100'000) return out;
    const model::ItemTable rows(out.rows, d);
    const model::ItemTable bias(
        std::vector<float>(static_cast<size_t>(shape.items), 0), 1);
    const auto scanner = *model::MatrixScanner::Create(&rows, &bias);
    const RowMask mask(static_cast<size_t>(shape.items), true);
    const std::vector<const RowMask*> masks(kQueries, &mask);
    std::vector<std::vector<ScoredRow>> best;
    if (!scanner
             ->Scan(out.queries, masks, std::vector<int>(kQueries, 100), &best)
             .ok()) {
      std::abort();
    }
    for (const auto& list : best) {
      out.best.emplace_back();
      for (const ScoredRow& row : list) out.best.back().push_back(row.row);
    }
    return out;
  });
}

namespace {

// Precision, items, dim of a benchmark's first three arguments.
struct Setup {
  explicit Setup(const Vectors& vectors, Shape shape,
                 PackedMatrix::Precision precision)
      : rows(vectors.rows, static_cast<size_t>(shape.dim)),
        bias(std::vector<float>(static_cast<size_t>(shape.items), 0), 1),
        matrix(*PackedMatrix::Create(vectors.rows.data(), shape.items,
                                     shape.dim, precision)),
        scanner(*model::MatrixScanner::Create(&rows, &bias, precision)) {}
  const model::ItemTable rows, bias;
  const PackedMatrix matrix;
  const std::unique_ptr<model::MatrixScanner> scanner;
};

Shape ShapeOf(const benchmark::State& state) {
  return {static_cast<int>(state.range(1)), static_cast<int>(state.range(2))};
}

// Null, and said so, where the processor has no fast product of that kind.
const Setup* SetupOf(benchmark::State& state) {
  const auto precision = static_cast<PackedMatrix::Precision>(state.range(0));
  if (precision != PackedMatrix::Precision::kFloat32 &&
      precision != PackedMatrix::Fastest()) {
    state.SkipWithError("this processor has no fast int8 product");
    return nullptr;
  }
  const Shape shape = ShapeOf(state);
  const std::pair key(static_cast<int>(precision), shape);
  const auto& setup = Once<std::unique_ptr<Setup>>(key, [&] {
    return std::make_unique<Setup>(VectorsOf(shape), shape, precision);
  });
  return setup.get();
}

// The bare product: the yardstick of the scan.
void BM_Product(benchmark::State& state) {
  const Setup* const setup = SetupOf(state);
  if (setup == nullptr) return;
  const PackedMatrix& matrix = setup->matrix;
  const int batch = static_cast<int>(state.range(3));
  const float* const queries = VectorsOf(ShapeOf(state)).queries.data();
  PackedMatrix::Queries prepared;
  std::vector<float> out(PackedMatrix::kMaxBatch *
                         static_cast<size_t>(matrix.stride()));
  for (auto _ : state) {
    for (int first = 0; first < batch; first += PackedMatrix::kMaxBatch) {
      matrix.Prepare(queries + static_cast<size_t>(first * matrix.dim()),
                     std::min(batch - first, PackedMatrix::kMaxBatch),
                     &prepared);
      for (int b = 0; b < matrix.blocks(); ++b) {
        matrix.MultiplyBlock(prepared, b, out.data());
      }
    }
    benchmark::DoNotOptimize(out.data());
  }
  ByQuery(state, batch);
}
BENCHMARK(BM_Product)
    ->ArgNames({"int8", "items", "dim", "batch"})
    ->ArgsProduct({{0, 1}, {3500, 20000}, {600}, {1, 8, 32, 128}})
    ->ArgsProduct({{1}, {3500}, {600}, {2, 4, 16, 64, 256}});

struct Asked {
  Asked(int items, int batch, int k)
      : mask(static_cast<size_t>(items), true),
        masks(static_cast<size_t>(batch), &mask),
        ks(static_cast<size_t>(batch), k) {}
  const RowMask mask;
  const std::vector<const RowMask*> masks;
  const std::vector<int> ks;
};

void RunScan(benchmark::State& state, const model::Scanner& scanner) {
  const int batch = static_cast<int>(state.range(3));
  const Shape shape = ShapeOf(state);
  const Asked asked(shape.items, batch, static_cast<int>(state.range(4)));
  // Others every time, as far as they go.
  const auto d = static_cast<size_t>(shape.dim);
  const auto all = absl::MakeConstSpan(VectorsOf(shape).queries);
  std::vector<std::vector<ScoredRow>> best;
  size_t next = 0;
  for (auto _ : state) {
    const auto queries = all.subspan(next * d, static_cast<size_t>(batch) * d);
    next = (next + static_cast<size_t>(batch)) % kQueries;
    if (!scanner.Scan(queries, asked.masks, asked.ks, &best).ok()) std::abort();
  }
  ByQuery(state, batch);
}

// The scan with its masks, top-k and exact scores.
void BM_Scan(benchmark::State& state) {
  const Setup* const setup = SetupOf(state);
  if (setup != nullptr) RunScan(state, *setup->scanner);
}
BENCHMARK(BM_Scan)
    ->ArgNames({"int8", "items", "dim", "batch", "k"})
    ->ArgsProduct({{0, 1}, {3500, 20000}, {600}, {1, 8, 32, 128}, {11, 100}})
    ->ArgsProduct({{1}, {3500}, {600}, {2, 4, 16, 64, 256}, {11}})
    ->ArgsProduct({{0, 1}, {3500, 20000}, {600}, {1, 32}, {200, 1000}});

// The same through LibTorch: a product, masks filled in, topk.
void BM_PlainScan(benchmark::State& state) {
  const Shape shape = ShapeOf(state);
  const auto device = model::OpenDevice("torch:cpu");
  if (!device.ok()) return state.SkipWithError("built without LibTorch");
  const auto& generation = Once<std::shared_ptr<model::Generation>>(shape, [&] {
    return *model::Generation::Create(
        *model::SynthesizeBundle(
            {.retriever = "elsa", .items = shape.items, .dim = shape.dim}),
        device->scoring);
  });
  RunScan(state, generation->scanner());
}
BENCHMARK(BM_PlainScan)
    ->ArgNames({"int8", "items", "dim", "batch", "k"})
    ->ArgsProduct({{0}, {3500, 20000}, {600}, {1, 32}, {11, 100}})
    ->ArgsProduct({{0}, {3500, 20000}, {600}, {1}, {1000}});

// Large catalogues: the exact scan in float32 and as it serves, the approximate
// index, and what it finds of the 100 best.
const model::IndexScanner& IndexOf(Shape shape) {
  const std::pair key(2, shape);
  const auto& index = Once<std::unique_ptr<model::IndexScanner>>(key, [&] {
    const Vectors& vectors = VectorsOf(shape);
    const auto* const rows =
        new model::ItemTable(vectors.rows, static_cast<size_t>(shape.dim));
    const auto* const bias = new model::ItemTable(
        std::vector<float>(static_cast<size_t>(shape.items), 0), 1);
    auto index = *model::IndexScanner::Create(
        rows, bias, *model::MatrixScanner::Create(rows, bias), {});
    // By half of the queries; the others tell what it finds.
    const RowMask mask(static_cast<size_t>(shape.items), true);
    const std::vector<const RowMask*> masks(kQueries / 2, &mask);
    const auto half = absl::MakeConstSpan(vectors.queries)
                          .subspan(0, vectors.queries.size() / 2);
    if (!index->Tune(half, masks).ok()) std::abort();
    return index;
  });
  return *index;
}

// Of the 100 best, for queries that it was not tuned by.
double RecallOf(const model::IndexScanner& index, const Vectors& vectors,
                int items) {
  const Asked asked(items, kQueries / 2, 100);
  std::vector<std::vector<ScoredRow>> best;
  const auto half =
      absl::MakeConstSpan(vectors.queries).subspan(vectors.queries.size() / 2);
  if (!index.Scan(half, asked.masks, asked.ks, &best).ok()) std::abort();
  size_t common = 0;
  for (size_t q = 0; q < best.size(); ++q) {
    const auto& exact = vectors.best[q + kQueries / 2];
    for (const ScoredRow& row : best[q]) {
      common +=
          static_cast<size_t>(std::count(exact.begin(), exact.end(), row.row));
    }
  }
  return static_cast<double>(common) / (100.0 * kQueries / 2);
}

void BM_IndexScan(benchmark::State& state) {
  const Shape shape = ShapeOf(state);
  const model::IndexScanner& index = IndexOf(shape);
  state.counters["recall"] = Once<double>(
      shape, [&] { return RecallOf(index, VectorsOf(shape), shape.items); });
  state.counters["lists"] = index.report().lists;
  state.counters["probes"] = index.report().probes;
  RunScan(state, index);
}
BENCHMARK(BM_IndexScan)
    ->ArgNames({"int8", "items", "dim", "batch", "k"})
    ->ArgsProduct({{1}, {100'000, 1'000'000}, {64}, {1, 32}, {11, 100}});
BENCHMARK(BM_Scan)
    ->ArgNames({"int8", "items", "dim", "batch", "k"})
    ->ArgsProduct({{0, 1}, {100'000, 1'000'000}, {64}, {1, 32}, {11, 100}});

void BM_BuildIndex(benchmark::State& state) {
  const Shape shape{static_cast<int>(state.range(0)), 64};
  const Vectors& vectors = VectorsOf(shape);
  const model::ItemTable rows(vectors.rows, static_cast<size_t>(shape.dim));
  const model::ItemTable bias(
      std::vector<float>(static_cast<size_t>(shape.items), 0), 1);
  for (auto _ : state) {
    auto exact = *model::MatrixScanner::Create(&rows, &bias);
    if (!model::IndexScanner::Create(&rows, &bias, std::move(exact), {}).ok()) {
      std::abort();
    }
  }
}
BENCHMARK(BM_BuildIndex)->ArgName("items")->Arg(100'000)->Arg(1'000'000);

// std::partial_sort over a query's scores, once they are stored.
void BM_PartialSort(benchmark::State& state) {
  const auto items = static_cast<size_t>(state.range(0));
  const auto k = static_cast<std::ptrdiff_t>(state.range(1));
  const auto scores = RandomFloats(items, 1);
  std::vector<ScoredRow> rows(items);
  for (auto _ : state) {
    for (size_t i = 0; i < items; ++i)
      rows[i] = {scores[i], static_cast<Row>(i)};
    std::partial_sort(rows.begin(), rows.begin() + k, rows.end());
    benchmark::DoNotOptimize(rows.data());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_PartialSort)
    ->ArgNames({"items", "k"})
    ->ArgsProduct({{3500, 20000}, {11, 100, 1000}});

// The same by the scan's own selection, which sees the scores block by block.
void BM_TopK(benchmark::State& state) {
  constexpr size_t kBlock = PackedMatrix::kBlockRows;
  const auto items = static_cast<size_t>(state.range(0));
  const auto scores = RandomFloats(items, 1);
  const std::vector<float> bias(items, 0.0f);
  const RowMask mask(items, true);
  std::vector<model::ScoredBlock> blocks;
  for (size_t first = 0; first < items; first += kBlock) {
    blocks.push_back({scores.data() + first, bias.data() + first,
                      std::min(kBlock, items - first),
                      static_cast<Row>(first)});
  }
  for (auto _ : state) {
    model::TopK top(static_cast<int>(state.range(1)), &mask);
    for (size_t b = 0; b < blocks.size(); b += 8) {
      top.Add(absl::MakeConstSpan(blocks).subspan(b, 8));
    }
    benchmark::DoNotOptimize(top.Take());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_TopK)
    ->ArgNames({"items", "k"})
    ->ArgsProduct({{3500, 20000}, {11, 100, 1000}});

}  // namespace
}  // namespace nearline
