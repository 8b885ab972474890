// Paths of two steps between items through users: B = Z^T Z with
//   Z_ui = x_ui / (d_u^(g/2) d_i^a), d_u and d_i the sums of x,
// as LinkProp (Fu et al., WWW 2022) and GF-CF (Shen et al., CIKM 2021) weigh
// them, for catalogues that are too large for EASE. The leading eigenvalues s
// of B are what everybody has in common; they are bent down to s / (1 + s / t),
// as EASE does to all of them. That part is of low rank, and is scanned; of the
// rest each item keeps its nearest neighbours.
#include <algorithm>
#include <cmath>
#include <utility>

#include "model/kernels.h"
#include "model/neighbours.h"
#include "model/sparse_rows.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

// m `dense`: [m.rows(), dense.size(1)].
torch::Tensor Times(const SparseRows& m, const torch::Tensor& dense) {
  const auto width = static_cast<size_t>(dense.size(1));
  torch::Tensor out = torch::empty({m.rows(), dense.size(1)});
  const float* const in = dense.data_ptr<float>();
  float* const sums = out.data_ptr<float>();
  at::parallel_for(0, m.rows(), 64, [&](int64_t begin, int64_t end) {
    std::vector<const float*> some;
    for (int64_t r = begin; r < end; ++r) {
      const size_t first = m.offsets[static_cast<size_t>(r)];
      const size_t last = m.offsets[static_cast<size_t>(r) + 1];
      some.clear();
      for (size_t i = first; i < last; ++i) {
        some.push_back(in + m.columns[i] * width);
      }
      SumScaled(some.data(), m.values.data() + first, some.size(), width,
                sums + static_cast<size_t>(r) * width);
    }
  });
  return out;
}

// Z. Of very long histories, which would cost the square of their length and
// say little, the latest items.
SparseRows Normalized(const TrainingSet& set, double item_exponent,
                      double user_exponent) {
  constexpr size_t kLongest = 2000;
  std::vector<double> degrees(static_cast<size_t>(set.items), 0);
  for (size_t i = 0; i < set.train.items.size(); ++i) {
    degrees[set.train.items[i]] += set.train.weights[i];
  }
  SparseRows z;
  for (int64_t u = 0; u < set.train.users(); ++u) {
    auto items = set.train.ItemsOf(u);
    auto weights = set.train.WeightsOf(u);
    if (items.size() > kLongest) {
      items.remove_prefix(items.size() - kLongest);
      weights.remove_prefix(weights.size() - kLongest);
    }
    double degree = 0;
    for (const float weight : weights) degree += weight;
    const double of_user = std::pow(degree, -user_exponent / 2);
    for (size_t i = 0; i < items.size(); ++i) {
      z.columns.push_back(items[i]);
      z.values.push_back(static_cast<float>(
          weights[i] * of_user * std::pow(degrees[items[i]], -item_exponent)));
    }
    z.EndRow();
  }
  return z;
}

// The leading eigenvalues [rank], largest first, and eigenvectors [n, rank] of
// Z^T Z, by subspace iteration.
void Eigen(const SparseRows& z, const SparseRows& by_item, int64_t rank,
           torch::Generator* generator, torch::Tensor* values,
           torch::Tensor* vectors) {
  constexpr int kRounds = 5;
  const int64_t n = by_item.rows();
  const int64_t width = std::min(n, rank + 32);
  torch::Tensor q = torch::randn({n, width}, *generator);
  for (int round = 0; round < kRounds; ++round) {
    q = std::get<0>(torch::linalg_qr(Times(by_item, Times(z, q)))).contiguous();
  }
  const torch::Tensor image = Times(z, q);
  const auto [ascending, turn] = torch::linalg_eigh(image.t().matmul(image));
  *values = ascending.flip(0).narrow(0, 0, rank).clamp_min(0);
  *vectors = q.matmul(turn.flip(1).narrow(1, 0, rank)).contiguous();
}

// The entries of row j of B, by the paths that lead there. `sums` [n] is 0
// before and after.
void PathsFrom(size_t j, const SparseRows& z, const SparseRows& by_item,
               std::vector<float>* sums, std::vector<ScoredRow>* entries) {
  entries->clear();
  for (size_t i = by_item.offsets[j]; i < by_item.offsets[j + 1]; ++i) {
    const size_t u = by_item.columns[i];
    for (size_t k = z.offsets[u]; k < z.offsets[u + 1]; ++k) {
      const float path = by_item.values[i] * z.values[k];
      if (path == 0) continue;  // too small; all others are > 0
      float& sum = (*sums)[z.columns[k]];
      if (sum == 0) entries->push_back({0, z.columns[k]});
      sum += path;
    }
  }
  for (ScoredRow& entry : *entries) {
    entry.score = std::exchange((*sums)[entry.row], 0.0f);
  }
}

// Of each row of B the largest entries beside the diagonal, less what the
// eigenvectors say of them, among those that a path reaches.
NeighbourTable Rest(const SparseRows& z, const SparseRows& by_item,
                    const torch::Tensor& values, const torch::Tensor& vectors,
                    int64_t width) {
  const int64_t n = by_item.rows();
  NeighbourTable table(n, width);
  const auto rank = static_cast<size_t>(vectors.size(1));
  const torch::Tensor weighed = (vectors * values).contiguous();
  const float* const left = weighed.data_ptr<float>();
  const float* const right = vectors.data_ptr<float>();
  at::parallel_for(0, n, 16, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(static_cast<size_t>(n), 0.0f);
    std::vector<ScoredRow> entries;
    for (auto j = static_cast<size_t>(begin); j < static_cast<size_t>(end);
         ++j) {
      PathsFrom(j, z, by_item, &sums, &entries);
      std::erase_if(entries, [&](const ScoredRow& e) { return e.row == j; });
      for (ScoredRow& entry : entries) {
        entry.score -= Dot(left + j * rank, right + entry.row * rank, rank);
      }
      table.Set(static_cast<int64_t>(j), entries);
    }
  });
  return table;
}

}  // namespace

absl::StatusOr<Tensors> TrainPaths(const std::string& model,
                                   const TrainingSet& set,
                                   const Parameters& parameters,
                                   const TrainOptions& options) {
  const torch::NoGradGuard no_grad;
  torch::Generator generator = at::detail::createCPUGenerator(options.seed);
  const auto report = [&](int step) {
    if (options.on_epoch) {
      options.on_epoch(
          {.phase = model, .epoch = step, .epochs = 2, .share = step / 2.0});
    }
  };
  const SparseRows z =
      Normalized(set, parameters["item_exponent"], parameters["user_exponent"]);
  const SparseRows by_item = z.Transposed(set.items);
  const int64_t rank = std::min<int64_t>(parameters.Int("rank"), set.items);
  torch::Tensor values, vectors;
  Eigen(z, by_item, rank, &generator, &values, &vectors);
  if (!std::isfinite(values.sum().item<double>())) return Diverged(model);
  report(1);
  Tensors out;
  if (const int neighbours = parameters.Int("neighbour_width");
      neighbours > 0 && set.items <= NeighbourTable::kMostRows) {
    Rest(z, by_item, values, vectors, neighbours).Export(model, &out);
  }
  const torch::Tensor limit =
      (parameters["saturation"] * values[0]).clamp_min(1e-30);
  const torch::Tensor rows = (vectors * (values / (1 + values / limit)).sqrt())
                                 .matmul(Rotation(rank, &generator));
  AddTensor(&out, model + ".item.linear", rows);
  AddTensor(&out, model + ".item.decoder", rows);
  AddTensor(&out, model + ".item.bias", torch::zeros({set.items, 1}));
  report(2);
  return out;
}

}  // namespace nearline::model
