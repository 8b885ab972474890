#include "model/factors.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/random.h"

namespace nearline::model {
namespace {

torch::Tensor View(const Factors& factors) {
  return torch::from_blob(
      const_cast<float*>(factors.values.data()),
      {static_cast<int64_t>(factors.rows()), static_cast<int64_t>(factors.dim)},
      torch::kFloat32);
}

// The whole histories of a batch.
features::Interactions HistoriesOf(const Bags& bags) {
  const torch::Tensor users = bags.target_users.to(torch::kCPU);
  const torch::Tensor items = bags.target_items.to(torch::kCPU);
  features::Interactions out;
  out.weights = ToPlain(bags.target_weights).values;
  for (int64_t at = 0; at < items.size(0); ++at) {
    while (out.users() < users.data_ptr<int64_t>()[at]) out.EndUser();
    out.items.push_back(static_cast<uint32_t>(items.data_ptr<int64_t>()[at]));
  }
  while (out.users() < bags.offsets.size(0)) out.EndUser();
  return out;
}

}  // namespace

features::Interactions Transposed(const features::Interactions& data,
                                  int64_t items) {
  features::Interactions out;
  out.offsets.assign(static_cast<size_t>(items) + 1, 0);
  for (const uint32_t item : data.items) ++out.offsets[item + 1];
  std::partial_sum(out.offsets.begin(), out.offsets.end(), out.offsets.begin());
  out.items.resize(data.items.size());
  out.weights.resize(data.items.size());
  std::vector<int64_t> next(out.offsets.begin(), out.offsets.end() - 1);
  for (int64_t user = 0; user < data.users(); ++user) {
    const auto of_user = data.ItemsOf(user);
    for (size_t i = 0; i < of_user.size(); ++i) {
      const auto to = static_cast<size_t>(next[of_user[i]]++);
      out.items[to] = static_cast<uint32_t>(user);
      out.weights[to] = data.WeightsOf(user)[i];
    }
  }
  return out;
}

Factors RandomFactors(size_t rows, int dim, double length, uint64_t seed) {
  Random random(seed);
  Factors out{std::vector<float>(rows * static_cast<size_t>(dim)),
              static_cast<size_t>(dim)};
  for (float& value : out.values) {
    value = static_cast<float>(random.Normal() * length / std::sqrt(dim));
  }
  return out;
}

Factors StartItems(const std::string& model, const TrainingSet& set,
                   const Parameters& parameters, const TrainOptions& options) {
  Factors items =
      RandomFactors(static_cast<size_t>(set.items), parameters.Int("factors"),
                    parameters["spread"], options.seed);
  if (options.warm_start != nullptr) {
    const auto warm = options.warm_start->Get(
        model + ".item.decoder", {set.items, static_cast<int64_t>(items.dim)});
    if (warm.ok()) items.values = (*warm)->values;
  }
  return items;
}

std::unique_ptr<const Folding> WarmFolding(const std::string& model,
                                           int64_t dim,
                                           const TrainOptions& options) {
  if (options.warm_start == nullptr) return nullptr;
  auto folding = LoadFolding(model, dim, *options.warm_start);
  return folding.ok() ? *std::move(folding) : nullptr;
}

std::vector<float> FoldInRule::Gram(const Factors& rows) const {
  return ScaledGram(rows.values, static_cast<int>(rows.dim), unobserved_weight);
}

std::vector<float> FoldInRule::Pull(const Factors& rows) const {
  std::vector<double> sum(rows.dim, 0.0);
  for (size_t row = 0; row < rows.rows(); ++row) {
    for (size_t i = 0; i < rows.dim; ++i) sum[i] += rows[row][i];
  }
  std::vector<float> out;
  for (const double x : sum) {
    out.push_back(
        static_cast<float>(unobserved_weight * unobserved_target * x));
  }
  return out;
}

FoldInRule IalsRule(const TrainingSet& set, const Parameters& p) {
  FoldInRule rule{.unobserved_weight = p["unobserved_weight"],
                  .ridge = p["regularization"]};
  // Relative, so that what is right for dense data is for sparse data, too.
  double events = 0;
  for (const float weight : set.train.weights) events += weight;
  if (rule.ridge == 0) {
    // Beside few events of a user, the prior counts for more.
    constexpr double kEvents = 0.45;
    const double of_a_user =
        events / std::max(1.0, static_cast<double>(set.train.users()));
    rule.ridge = std::clamp(kEvents / of_a_user, 0.007, 0.025);
  }
  if (rule.unobserved_weight > 0) return rule;
  rule.unobserved_weight =
      p["unobserved_share"] * events /
      (static_cast<double>(set.train.users()) * static_cast<double>(set.items));
  return rule;
}

namespace {

// solve(rows, weights, vector) for each user of `data`.
template <typename Solve>
void ForEachUser(const features::Interactions& data, const Factors& rows,
                 Factors* out, const Solve& solve) {
  constexpr int64_t kGrain = 16;  // users a thread takes at least
  out->dim = rows.dim;
  out->values.resize(static_cast<size_t>(data.users()) * rows.dim);
  at::parallel_for(0, data.users(), kGrain, [&](int64_t begin, int64_t end) {
    std::vector<const float*> some;
    for (int64_t user = begin; user < end; ++user) {
      some.clear();
      for (const uint32_t row : data.ItemsOf(user)) some.push_back(rows[row]);
      solve(some, data.WeightsOf(user), (*out)[static_cast<size_t>(user)]);
    }
  });
}

// What a scan needs.
Tensors ItemTensors(const std::string& model, const Factors& items) {
  const auto n = static_cast<int64_t>(items.rows());
  Tensors out;
  out.Add(model + ".item.decoder", {n, static_cast<int64_t>(items.dim)},
          items.values);
  out.Add(model + ".item.bias", {n, 1}, std::vector<float>(items.rows(), 0.0f));
  return out;
}

}  // namespace

void FoldInAll(const FoldIn& fold_in, const features::Interactions& data,
               const Factors& rows, int steps, Factors* out) {
  if (steps == 0) return FoldInAll(fold_in, data, rows, out);
  ForEachUser(
      data, rows, out,
      [&](absl::Span<const float* const> some, absl::Span<const float> weights,
          float* vector) { fold_in.Approach(some, weights, steps, vector); });
}

void FoldInAll(const Folding& folding, const features::Interactions& data,
               const Factors& rows, Factors* out) {
  ForEachUser(
      data, rows, out,
      [&](absl::Span<const float* const> some, absl::Span<const float> weights,
          float* vector) { folding.Solve(some, weights, vector); });
}

torch::Tensor FoldedLogits(const Bags& bags, const Factors& items,
                           const Folding& folding) {
  Factors users;
  FoldInAll(folding, HistoriesOf(bags), items, &users);
  return View(users).matmul(View(items).t()).to(bags.items.device());
}

Tensors ExportFactors(const std::string& model, const Factors& items,
                      const FoldInRule& rule) {
  const auto dim = static_cast<int64_t>(items.dim);
  Tensors out = ItemTensors(model, items);
  out.Add(model + ".fold_in.gram", {dim, dim}, rule.Gram(items));
  out.Add(model + ".fold_in.pull", {dim}, rule.Pull(items));
  out.Add(model + ".fold_in.ridge", {2},
          {static_cast<float>(rule.ridge),
           static_cast<float>(rule.Base(items.rows()))});
  return out;
}

Tensors ExportFactors(const std::string& model, const Factors& items,
                      const std::vector<float>& drawn, double negatives,
                      double ridge) {
  const auto dim = static_cast<int64_t>(items.dim);
  Tensors out = ItemTensors(model, items);
  out.Add(model + ".fold_in.drawn",
          {static_cast<int64_t>(drawn.size()) / dim, dim}, drawn);
  out.Add(model + ".fold_in.logistic", {2},
          {static_cast<float>(negatives), static_cast<float>(ridge)});
  return out;
}

}  // namespace nearline::model
