// A user's vector and a shortlist's order, beside what memory can do:
//   build/release/bin/nearline_benchmarks --benchmark_filter='Gather|Stream'
// Shapes are MovieLens 1M's. Compare within one run only.
#include <memory>
#include <vector>

#include "model/cpu_scoring.h"
#include "model/fold_in.h"
#include "model/kernels.h"
#include "model/logistic_fold_in.h"
#include "tests/bench/bench_common.h"

namespace nearline {
namespace {

constexpr int kItems = 3584;

model::History SomeHistory(int rows, int apart) {
  model::History history;
  for (int i = 0; i < rows; ++i) {
    history.rows.push_back(static_cast<model::Row>(i * apart));
    history.weights.push_back(1);
  }
  return history;
}

// The first layer of an autoencoder: a sum of the rows of a history, of a table
// of as many items.
void BM_Gather(benchmark::State& state) {
  const auto items = static_cast<size_t>(state.range(0));
  const int history = static_cast<int>(state.range(1));
  constexpr size_t kDim = 600;
  const auto& table = *Once<std::unique_ptr<model::ItemTable>>(items, [&] {
    return std::make_unique<model::ItemTable>(RandomFloats(items * kDim, 1),
                                              kDim);
  });
  // Other rows every time, as other users have.
  Random random(1);
  std::vector<model::History> histories(64, SomeHistory(history, 1));
  for (model::History& one : histories) {
    for (model::Row& row : one.rows)
      row = static_cast<model::Row>(random.Below(items));
  }
  std::vector<float> out(kDim);
  size_t next = 0;
  for (auto _ : state) {
    model::GatherSum(table, histories[next++ % 64], 1, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_Gather)
    ->ArgNames({"items", "rows"})
    ->ArgsProduct({{3500, 20000}, {1, 10, 100, 500}});

// As many bytes read one behind the other: the speed of memory.
void BM_Stream(benchmark::State& state) {
  const auto items = static_cast<size_t>(state.range(0));
  const auto rows = static_cast<size_t>(state.range(1));
  constexpr size_t kDim = 600;
  const auto& table = Once<std::vector<float>>(
      items, [&] { return RandomFloats(items * kDim, 1); });
  size_t next = 0;
  for (auto _ : state) {
    if (next + rows > items) next = 0;
    const float* const from = table.data() + next * kDim;
    benchmark::DoNotOptimize(model::Dot(from, from, rows * kDim));
    next += rows;
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_Stream)
    ->ArgNames({"items", "rows"})
    ->ArgsProduct({{3500, 20000}, {1, 10, 100, 500}});

// A user gathered, folded in by least squares or by the logistic loss, from as
// many items as a user of MovieLens 1M has.
void BM_Encode(benchmark::State& state) {
  constexpr int kFactors = 192, kHistory = 165;
  auto values = RandomFloats(size_t(kItems) * kFactors, 1);
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
  const model::History history = SomeHistory(kHistory, 20);
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
    return model::ItemTable(RandomFloats(size_t(kItems) * dim, seed), dim);
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
  const model::History history = SomeHistory(kHistory, 30);
  std::vector<model::ScoredRow> shortlist;
  for (model::Row row = 0; row < kCandidates; ++row) {
    shortlist.push_back({0.0f, row * 17 % kItems});
  }
  const auto query = RandomFloats(712, 11);
  std::vector<float> user(ranker.user_dim()), scores;
  ranker.ReadUser(history, nullptr, user.data());
  for (auto _ : state) {
    if (!ranker.Score(history, query.data(), user.data(), shortlist, &scores)
             .ok()) {
      std::abort();
    }
    benchmark::DoNotOptimize(scores.data());
  }
  ByQuery(state, 1);
}
BENCHMARK(BM_Rank)->ArgName("head")->Arg(0)->Arg(1);

}  // namespace
}  // namespace nearline
