// What the inner parts cost, each beside its yardstick in the same run:
//   build/release/bin/nearline_benchmarks --benchmark_filter=Scan
// Shapes are MovieLens 1M's. Compare within one run only.
#include <benchmark/benchmark.h>

#include <future>
#include <vector>

#include "base/random.h"
#include "base/varint.h"
#include "features/store_format.h"
#include "model/cpu_scoring.h"
#include "model/fold_in.h"
#include "model/kernels.h"
#include "model/logistic_fold_in.h"
#include "tests/features/store_fixture.h"

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

// Vectors of one space of few dimensions, as those of trained models are: the
// best rows of a query stand out.
std::vector<float> LikeTrained(size_t n, uint64_t seed) {
  constexpr size_t kRank = 100;
  const auto axes = RandomFloats(kRank * kDim, 0);
  const auto places = RandomFloats(n * kRank, seed);
  std::vector<float> out(n * kDim, 0.0f);
  for (size_t i = 0; i < n; ++i) {
    for (size_t r = 0; r < kRank; ++r) {
      model::AddScaled(axes.data() + r * kDim, places[i * kRank + r], kDim,
                       out.data() + i * kDim);
    }
  }
  return out;
}

void ByQuery(benchmark::State& state, int queries) {
  state.counters["cpu_per_query"] = benchmark::Counter(
      static_cast<double>(state.iterations() * queries),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

bool NoSuchPrecision(benchmark::State& state,
                     PackedMatrix::Precision precision) {
  if (precision == PackedMatrix::Precision::kFloat32 ||
      precision == PackedMatrix::Fastest()) {
    return false;
  }
  state.SkipWithError("this processor has no fast int8 product");
  return true;
}

// The bare product: the yardstick of the scan.
void BM_Product(benchmark::State& state) {
  const auto precision = static_cast<PackedMatrix::Precision>(state.range(0));
  const int m = static_cast<int>(state.range(1));
  const auto rows = RandomFloats(size_t{kItems} * kDim, 1);
  const auto values = RandomFloats(size_t{kBatch} * kDim, 2);
  if (NoSuchPrecision(state, precision)) return;
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
    ->ArgNames({"int8", "batch", "hot"})
    ->ArgsProduct({{0, 1}, {1, 32}, {0, 1}});

// The scan with its masks, top-k and exact scores.
void BM_Scan(benchmark::State& state) {
  const auto precision = static_cast<PackedMatrix::Precision>(state.range(0));
  const int m = static_cast<int>(state.range(1));
  const int k = static_cast<int>(state.range(2));
  const model::ItemTable rows(LikeTrained(kItems, 1), kDim);
  const model::ItemTable bias(RandomFloats(kItems, 3), 1);
  const auto values = LikeTrained(static_cast<size_t>(m), 2);
  if (NoSuchPrecision(state, precision)) return;
  const auto scanner = *model::MatrixScanner::Create(&rows, &bias, precision);
  const model::RowMask mask(kItems, true);
  const std::vector<const model::RowMask*> masks(static_cast<size_t>(m), &mask);
  const std::vector<int> ks(static_cast<size_t>(m), k);
  std::vector<std::vector<model::ScoredRow>> best;
  for (auto _ : state) {
    if (!scanner->Scan(values, masks, ks, &best).ok()) std::abort();
  }
  ByQuery(state, m);
}
BENCHMARK(BM_Scan)
    ->ArgNames({"int8", "batch", "k"})
    ->ArgsProduct({{0, 1}, {1, 32}, {11, 200}});

// A user gathered, folded in by least squares or by the logistic loss, from as
// many items as a user of MovieLens 1M has.
void BM_Encode(benchmark::State& state) {
  constexpr int kFactors = 192, kHistory = 165;
  auto values = RandomFloats(size_t{kItems} * kFactors, 1);
  for (float& x : values) x *= 0.1f;
  const model::ItemTable rows(values, kFactors);
  const model::FoldInEncoder squares(
      &rows, std::make_unique<model::FoldIn>(
                 model::ScaledGram(values, kFactors, 0.3),
                 std::vector<float>(kFactors, 0.0f), 0.007, 1000));
  std::vector<float> drawn(values.begin(), values.begin() + 2048 * kFactors);
  const model::FoldInEncoder logistic(
      &rows, std::make_unique<model::LogisticFoldIn>(std::move(drawn), kFactors,
                                                     8, 0.045));
  const model::HistoryEncoder gathers(std::nullopt, &rows);
  const model::Encoder* const encoders[] = {&gathers, &squares, &logistic};
  const model::Encoder* const encoder = encoders[state.range(0)];
  model::History history;
  for (model::Row row = 0; row < kHistory; ++row) {
    history.rows.push_back(row * 20);
    history.weights.push_back(1);
  }
  const model::History* const one[] = {&history};
  std::vector<float> query;
  for (auto _ : state) {
    if (!encoder->Encode(one, &query).ok()) std::abort();
    benchmark::DoNotOptimize(query.data());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_Encode)->ArgName("fold_in")->DenseRange(0, 2);

// A shortlist of 200 put in order: by NeuMF, or by the head of two paths, with
// the joint model's shapes.
void BM_Rank(benchmark::State& state) {
  constexpr int kCandidates = 200, kHistory = 100;
  const bool head = state.range(0) != 0;
  const int width = head ? 64 : 200, layer1 = head ? 64 : 128;
  const std::vector<size_t> widths = {200, 512};
  const auto table = [](int dim, uint64_t seed) {
    return model::ItemTable(RandomFloats(size_t{kItems} * dim, seed), dim);
  };
  const model::ItemTable history_rows = table(width, 1),
                         linear = table(192, 12), gmf = table(width + 192, 2),
                         bias = table(1, 3), mlp = table(layer1, 4),
                         rows = table(712, 5);
  const auto dense = [](int out, int in, uint64_t seed) {
    return *model::DenseLayer::Create(RandomFloats(size_t(out) * in, seed),
                                      RandomFloats(out, seed + 1), in);
  };
  model::NeuMfRanker::Parts parts{.mlp = &mlp};
  size_t inputs_in = 0;
  if (head) {
    model::HeadInputs::Parts inputs{
        .widths = widths, .rows = &rows, .bias = &bias, .popularity = &bias};
    inputs.SetMeans();
    inputs.mean.assign(widths.size() + 2, 0.0f);
    inputs.scale.assign(widths.size() + 2, 1.0f);
    parts.inputs.emplace(std::move(inputs));
    inputs_in = parts.inputs->size();
  } else {
    parts.linear = &linear;
    parts.gmf = &gmf;
    parts.gmf_bias = &bias;
  }
  const auto relu = [](size_t out, size_t in, uint64_t seed) {
    return model::NeuMfRanker::Layer{
        model::ReluLayer(RandomFloats(out * in, seed), out, in),
        RandomFloats(out, seed + 1)};
  };
  const size_t h1 = static_cast<size_t>(layer1);
  const model::NeuMfRanker ranker(
      model::HistoryLayer(&history_rows, RandomFloats(width, 9)),
      dense(layer1, width, 10), {relu(h1, inputs_in, 8), relu(32, h1, 7)},
      RandomFloats(32, 6), std::move(parts));
  model::History history;
  for (model::Row row = 0; row < kHistory; ++row) {
    history.rows.push_back(row * 30);
    history.weights.push_back(1);
  }
  std::vector<model::ScoredRow> shortlist;
  for (model::Row row = 0; row < kCandidates; ++row) {
    shortlist.push_back({0.0f, row * 17 % kItems});
  }
  const auto query = RandomFloats(712, 11);
  std::vector<float> scores;
  for (auto _ : state) {
    if (!ranker.Score(history, query.data(), shortlist, &scores).ok()) {
      std::abort();
    }
    benchmark::DoNotOptimize(scores.data());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_Rank)->ArgName("head")->Arg(0)->Arg(1);

constexpr int kEvents = 100, kUsers = 1000, kCatalogue = 3000;

void ByEvent(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * kEvents);
}

// What Feedback does after parsing, one call of a hundred events at a time.
void BM_DurableFeedback(benchmark::State& state) {
  const TempDir dir;
  const auto store = features::OpenStore(dir.path());
  std::vector<features::Item> items;
  for (int i = 0; i < kCatalogue; ++i)
    items.push_back({absl::StrCat("i", i), {}});
  if (!features::Do<features::Sequence>(
           store.get(), features::UpsertItems{.items = std::move(items)})
           .ok()) {
    std::abort();
  }
  Random random(1);
  for (auto _ : state) {
    std::vector<features::NewEvent> events;
    for (int i = 0; i < kEvents; ++i) {
      events.push_back(
          features::Like(absl::StrCat("u", random.Below(kUsers)),
                         absl::StrCat("i", random.Below(kCatalogue)),
                         absl::StrCat(random.Next())));
    }
    if (!features::AppendAll(store.get(), std::move(events)).ok()) std::abort();
  }
  ByEvent(state);
}
BENCHMARK(BM_DurableFeedback)->UseRealTime();

// RocksDB alone with the same rows, tables, options and syncs.
void BM_BareRocksDb(benchmark::State& state) {
  const TempDir dir;
  const auto options = features::TestOptions(dir.path()).database;
  const auto database = *features::Database::Open(options);
  Random random(1);
  features::Sequence sequence = 0;
  for (auto _ : state) {
    rocksdb::WriteBatch batch;
    for (int i = 0; i < kEvents; ++i) {
      features::Event event;
      event.user = static_cast<features::Ordinal>(random.Below(kUsers));
      event.item = static_cast<features::Ordinal>(random.Below(kCatalogue));
      event.sequence = ++sequence;
      event.time_micros = absl::GetCurrentTimeNanos() / 1000;
      event.event_id = absl::StrCat(random.Next());
      batch.Put(database->table(features::kEvents),
                features::EventKey(event.user, event.sequence),
                features::EncodeEvent(event));
      batch.Put(database->table(features::kSequences),
                features::SequenceKey(event.sequence),
                features::OrdinalKey(event.user));
      batch.Put(database->table(features::kEventIds),
                features::EventIdKey(event.user, {random.Next(), 0}),
                features::EncodeEventId({.sequence = event.sequence,
                                         .payload_hash = random.Next(),
                                         .time_micros = event.time_micros}));
      std::string count;
      PutRaw(&count, 1.0);
      batch.Put(database->table(features::kCounts),
                features::OrdinalKey(event.item), count);
    }
    batch.Put(database->table(features::kMeta), "next_sequence",
              std::to_string(sequence));
    if (!database->Write(&batch).ok()) std::abort();
  }
  ByEvent(state);
}
BENCHMARK(BM_BareRocksDb)->UseRealTime();

}  // namespace
}  // namespace nearline

BENCHMARK_MAIN();
