#include "model/factors.h"

#include <cmath>
#include <thread>

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
Links LinksOf(const Bags& bags) {
  const torch::Tensor users = bags.target_users.to(torch::kCPU);
  const torch::Tensor items = bags.target_items.to(torch::kCPU);
  const torch::Tensor weights = bags.target_weights.to(torch::kCPU);
  Links links;
  links.begins.assign(static_cast<size_t>(bags.offsets.size(0)) + 1, 0);
  for (int64_t at = 0; at < items.size(0); ++at) {
    ++links.begins[static_cast<size_t>(users.data_ptr<int64_t>()[at]) + 1];
    links.others.push_back(
        static_cast<uint32_t>(items.data_ptr<int64_t>()[at]));
    links.weights.push_back(weights.data_ptr<float>()[at]);
  }
  for (size_t i = 0; i < links.size(); ++i) {
    links.begins[i + 1] += links.begins[i];
  }
  return links;
}

}  // namespace

Links LinksOf(const features::Interactions& users) {
  Links links;
  for (int64_t u = 0; u < users.users(); ++u) {
    const auto items = users.ItemsOf(u);
    const auto weights = users.WeightsOf(u);
    links.others.insert(links.others.end(), items.begin(), items.end());
    links.weights.insert(links.weights.end(), weights.begin(), weights.end());
    links.begins.push_back(links.others.size());
  }
  return links;
}

Links Transposed(const Links& links, size_t others) {
  Links out;
  out.begins.assign(others + 1, 0);
  for (const uint32_t other : links.others) ++out.begins[other + 1];
  for (size_t i = 0; i < others; ++i) out.begins[i + 1] += out.begins[i];
  out.others.resize(links.others.size());
  out.weights.resize(links.others.size());
  std::vector<size_t> next(out.begins.begin(), out.begins.end() - 1);
  for (size_t row = 0; row < links.size(); ++row) {
    for (size_t at = links.begins[row]; at < links.begins[row + 1]; ++at) {
      const size_t to = next[links.others[at]]++;
      out.others[to] = static_cast<uint32_t>(row);
      out.weights[to] = links.weights[at];
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

std::optional<FoldIn> WarmFoldIn(const std::string& model, int64_t dim,
                                 const TrainOptions& options) {
  if (options.warm_start == nullptr) return std::nullopt;
  const auto get = [&](const char* name, std::vector<int64_t> shape) {
    return options.warm_start->Get(model + name, std::move(shape));
  };
  const auto gram = get(".fold_in.gram", {dim, dim});
  const auto pull = get(".fold_in.pull", {dim});
  const auto ridge = get(".fold_in.ridge", {2});
  if (!gram.ok() || !pull.ok() || !ridge.ok()) return std::nullopt;
  return FoldIn((*gram)->values, (*pull)->values, (*ridge)->values[0],
                (*ridge)->values[1]);
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

void FoldInAll(const FoldIn& fold_in, const Links& links, const Factors& rows,
               int threads, Factors* out) {
  out->dim = rows.dim;
  out->values.resize(links.size() * rows.dim);
  const auto count = static_cast<size_t>(threads);
  const auto solve_some = [&](size_t first) {
    std::vector<const float*> some;
    for (size_t i = first; i < links.size(); i += count) {
      some.clear();
      for (const uint32_t other : links.OthersOf(i)) {
        some.push_back(rows[other]);
      }
      fold_in.Solve(some, links.WeightsOf(i), (*out)[i]);
    }
  };
  std::vector<std::thread> workers;
  for (size_t t = 1; t < count; ++t) workers.emplace_back(solve_some, t);
  solve_some(0);
  for (std::thread& worker : workers) worker.join();
}

torch::Tensor FoldedLogits(const Bags& bags, const Factors& items,
                           const FoldInRule& rule, int threads) {
  Factors users;
  FoldInAll(rule.Over(items), LinksOf(bags), items, threads, &users);
  return View(users).matmul(View(items).t()).to(bags.items.device());
}

Tensors ExportFactors(const std::string& model, const Factors& items,
                      const FoldInRule& rule) {
  const auto n = static_cast<int64_t>(items.rows());
  const auto dim = static_cast<int64_t>(items.dim);
  Tensors out;
  out.Add(model + ".item.decoder", {n, dim}, items.values);
  out.Add(model + ".item.bias", {n, 1}, std::vector<float>(items.rows(), 0.0f));
  out.Add(model + ".fold_in.gram", {dim, dim}, rule.Gram(items));
  out.Add(model + ".fold_in.pull", {dim}, rule.Pull(items));
  out.Add(model + ".fold_in.ridge", {2},
          {static_cast<float>(rule.ridge),
           static_cast<float>(rule.Base(items.rows()))});
  return out;
}

}  // namespace nearline::model
