// Models that are a matrix B of items by items, x B the scores of a history x:
// - EASE (Steck, WWW 2019): the B with a zero diagonal that best rebuilds
//   histories X under a ridge, in closed form: P = (X^T X + lambda I)^-1,
//   B_ij = -P_ij / P_jj;
// - item-kNN: the cosine of items i and j as sets of users, of each i's
// nearest;
// - user-kNN over all users: sum_v cos(x, v) v, which is X^T D X with D the
//   users' inverse lengths; the length of x changes no order.
// Of B + shift I the leading singular vectors are kept (Halko et al. 2011), so
// that it serves as encode and scan; on dense data EASE also scores better than
// with all of B. Of what they leave out each item may keep its nearest
// neighbours (neighbour_width), which sparse data want.
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "model/neighbours.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

// Copies what is above the diagonal of m [n, n] below it, square by square.
void Mirror(int64_t n, float* m) {
  constexpr int64_t kSquare = 64;
  for (int64_t top = 0; top < n; top += kSquare) {
    for (int64_t left = 0; left <= top; left += kSquare) {
      for (int64_t i = top; i < std::min(n, top + kSquare); ++i) {
        for (int64_t j = left; j < std::min(i, left + kSquare); ++j) {
          m[i * n + j] = m[j * n + i];
        }
      }
    }
  }
}

// X^T D X [n, n], summed pair by pair: costs what histories hold. D is the
// identity, or the inverse of each user's length + shrinkage.
torch::Tensor Gram(const TrainingSet& set, bool by_length = false,
                   double shrinkage = 0) {
  const int64_t n = set.items;
  torch::Tensor gram = torch::zeros({n, n});
  float* const out = gram.data_ptr<float>();
  std::vector<std::pair<uint32_t, float>> history;
  for (int64_t u = 0; u < set.train.users(); ++u) {
    const auto items = set.train.ItemsOf(u);
    const auto weights = set.train.WeightsOf(u);
    history.clear();
    for (size_t i = 0; i < items.size(); ++i) {
      history.emplace_back(items[i], weights[i]);
    }
    std::sort(history.begin(), history.end());
    double squares = 0;
    for (const auto& [item, weight] : history) {
      squares += static_cast<double>(weight) * weight;
    }
    const auto share = static_cast<float>(
        by_length ? 1 / (std::sqrt(squares) + shrinkage) : 1.0);
    for (size_t i = 0; i < history.size(); ++i) {
      float* const row = out + static_cast<int64_t>(history[i].first) * n;
      const float weight = share * history[i].second;
      for (size_t j = i; j < history.size(); ++j) {
        row[history[j].first] += weight * history[j].second;
      }
    }
  }
  Mirror(n, out);
  return gram;
}

// NaN when the weights are no numbers that can be computed with.
torch::Tensor Ease(const TrainingSet& set, const Parameters& p,
                   torch::Device device) {
  torch::Tensor gram = Gram(set).to(device);
  double lambda = p["lambda"];
  if (lambda == 0) {
    lambda = p["lambda_share"] * gram.diagonal().mean().item<double>();
  }
  gram.diagonal().add_(lambda);
  // Two matrices at a time.
  const auto [factor, info] = torch::linalg_cholesky_ex(gram);
  if (info.item<int>() != 0) return torch::full({1}, NAN);
  gram.reset();
  torch::Tensor inverse = torch::cholesky_inverse(factor);
  return inverse.div_(-inverse.diagonal().clone());
}

torch::Tensor ItemKnn(const TrainingSet& set, const Parameters& p) {
  torch::Tensor gram = Gram(set);
  const torch::Tensor length = gram.diagonal().sqrt();
  const torch::Tensor cosine = gram.div_(
      torch::outer(length, length).add_(p["shrinkage"]).clamp_min_(1e-6));
  const int64_t neighbours = p.Int("neighbours");
  if (neighbours == 0 || neighbours >= set.items) return cosine;
  cosine.fill_diagonal_(0);
  const auto nearest = cosine.topk(neighbours, 1);
  return torch::zeros_like(cosine).scatter_(1, std::get<1>(nearest),
                                            std::get<0>(nearest));
}

torch::Tensor Orthonormal(const torch::Tensor& m) {
  return std::get<0>(torch::linalg_qr(m));
}

// left [n, rank] and right [n, rank], left right^T close to the best
// approximation of m of that rank.
void Truncate(const torch::Tensor& m, int64_t rank, torch::Generator* generator,
              torch::Tensor* left, torch::Tensor* right) {
  constexpr int kRounds = 4;
  const int64_t width = std::min(m.size(0), rank + 32);
  torch::Tensor q =
      Orthonormal(m.matmul(torch::randn({m.size(1), width}, *generator)));
  for (int round = 0; round < kRounds; ++round) {
    q = Orthonormal(m.matmul(Orthonormal(m.t().matmul(q))));
  }
  const auto [u, s, v] = torch::linalg_svd(q.t().matmul(m), false);
  const torch::Tensor root =
      s.narrow(0, 0, rank).sqrt().unsqueeze(1) * Rotation(rank, generator);
  *left = q.matmul(u.narrow(1, 0, rank)).matmul(root);
  *right = v.narrow(0, 0, rank).t().matmul(root);
}

// What left right^T leaves out of `b` beside the diagonal.
NeighbourTable Rest(const torch::Tensor& b, const torch::Tensor& left,
                    const torch::Tensor& right, int64_t width) {
  constexpr int64_t kBlock = 256;
  const int64_t n = b.size(0);
  NeighbourTable table(n, width);
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t rows = std::min(kBlock, n - first);
    torch::Tensor rest = b.narrow(0, first, rows) -
                         left.narrow(0, first, rows).matmul(right.t());
    rest.diagonal(first).zero_();
    const torch::Tensor nearest =
        std::get<1>(rest.abs().topk(std::min(width, n), 1)).contiguous();
    const torch::Tensor kept = rest.gather(1, nearest).contiguous();
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t* const row = nearest[r].data_ptr<int64_t>();
      const float* const score = kept[r].data_ptr<float>();
      std::vector<ScoredRow> entries;
      for (int64_t k = 0; k < nearest.size(1); ++k) {
        entries.push_back({score[k], static_cast<Row>(row[k])});
      }
      table.Set(first + r, std::move(entries));
    }
  }
  return table;
}

// Two matrices of all pairs at the peak; at full rank, both sides and their
// copies.
absl::Status CheckMemory(int64_t items, bool truncated) {
  const double needed = (truncated ? 2.2 : 4) * sizeof(float) *
                        static_cast<double>(items) * static_cast<double>(items);
  const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                       static_cast<double>(sysconf(_SC_PAGESIZE));
  if (needed < 0.8 * there) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "a matrix of all pairs of %d items needs %.1f GiB of memory%s, and this "
      "machine has %.1f; take a model without a matrix of all pairs of items, "
      "such as mult-dae",
      items, needed / (1 << 30), truncated ? "" : " with rank=0",
      there / (1 << 30)));
}

}  // namespace

absl::StatusOr<Tensors> TrainLinear(const std::string& model,
                                    const TrainingSet& set,
                                    const Parameters& parameters,
                                    const TrainOptions& options) {
  const int64_t n = set.items;
  const int64_t rank = parameters.Int("rank");
  const bool truncated = rank > 0 && rank < n;
  RETURN_IF_ERROR(CheckMemory(n, truncated));
  const torch::NoGradGuard no_grad;
  torch::Generator generator = at::detail::createCPUGenerator(options.seed);
  const auto report = [&](int step) {
    if (options.on_epoch) {
      options.on_epoch(
          {.phase = model, .epoch = step, .epochs = 2, .share = step / 2.0});
    }
  };
  torch::Tensor b = model == "item-knn" ? ItemKnn(set, parameters)
                    : model == "user-knn"
                        ? Gram(set, true, parameters["shrinkage"])
                        : Ease(set, parameters, options.device);
  b = b.to(torch::kCPU);
  if (!std::isfinite(b.sum().item<double>())) return Diverged(model);
  b.fill_diagonal_(0);
  report(1);
  torch::Tensor left = b, right;
  if (!truncated) {
    right = torch::eye(n);
  } else {
    if (parameters.Has("shift")) b.diagonal().fill_(parameters["shift"]);
    Truncate(b, rank, &generator, &left, &right);
  }
  Tensors out;
  if (const int neighbours = parameters.Has("neighbour_width")
                                 ? parameters.Int("neighbour_width")
                                 : 0;
      truncated && neighbours > 0) {
    Rest(b, left, right, neighbours).Export(model, &out);
  }
  report(2);
  AddTensor(&out, model + ".item.linear", left);
  AddTensor(&out, model + ".item.decoder", right);
  AddTensor(&out, model + ".item.bias", torch::zeros({n, 1}));
  return out;
}

}  // namespace nearline::model
