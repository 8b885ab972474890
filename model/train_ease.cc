// EASE (Steck, WWW 2019): the linear item-to-item model B with a zero diagonal
// that best rebuilds histories X under a ridge, in closed form:
//   P = (X^T X + lambda I)^-1,  B_ij = -P_ij / P_jj.
// Of B + shift I the leading singular vectors are kept (Halko et al. 2011), so
// that it serves as encode and scan; that also scores better than all of B.
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "model/torch_training.h"

namespace nearline::model {
namespace {

// X^T X [n, n], summed pair by pair: costs what histories hold.
torch::Tensor Gram(const TrainingSet& set) {
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
    for (size_t i = 0; i < history.size(); ++i) {
      float* const row = out + static_cast<int64_t>(history[i].first) * n;
      for (size_t j = i; j < history.size(); ++j) {
        row[history[j].first] += history[i].second * history[j].second;
      }
    }
  }
  return gram + gram.triu(1).t();
}

// B [n, n].
torch::Tensor Solve(torch::Tensor gram, double lambda) {
  gram.diagonal().add_(lambda);
  const torch::Tensor p = torch::cholesky_inverse(torch::linalg_cholesky(gram));
  torch::Tensor b = p / -p.diagonal();
  b.fill_diagonal_(0);
  return b;
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
  const torch::Tensor root = s.narrow(0, 0, rank).sqrt();
  *left = q.matmul(u.narrow(1, 0, rank)) * root;
  *right = v.narrow(0, 0, rank).t() * root;
}

// Three matrices of n x n at the peak.
absl::Status CheckMemory(int64_t items) {
  const double needed = 12.0 * static_cast<double>(items) * items;
  const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                       static_cast<double>(sysconf(_SC_PAGESIZE));
  if (needed < 0.8 * there) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "EASE over %d items needs %.0f GiB of memory, and this machine has %.0f; "
      "take a model without a matrix of all pairs of items, such as mult-dae",
      items, needed / (1 << 30), there / (1 << 30)));
}

}  // namespace

absl::StatusOr<Tensors> TrainEase(const TrainingSet& set,
                                  const Parameters& parameters,
                                  const TrainOptions& options) {
  RETURN_IF_ERROR(CheckMemory(set.items));
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    const torch::NoGradGuard no_grad;
    torch::set_num_threads(options.threads);
    const torch::Device device(options.device);
    torch::Generator generator = at::detail::createCPUGenerator(options.seed);
    const auto report = [&](int step) {
      if (options.on_epoch) {
        options.on_epoch(
            {.phase = "ease", .epoch = step, .epochs = 3, .share = step / 3.0});
      }
    };
    torch::Tensor gram = Gram(set);
    report(1);
    double lambda = parameters["lambda"];
    if (lambda == 0) {
      lambda =
          parameters["lambda_share"] * gram.diagonal().mean().item<double>();
    }
    const torch::Tensor b = Solve(gram.to(device), lambda);
    report(2);
    const int64_t n = set.items;
    const int64_t rank = parameters.Int("rank");
    torch::Tensor left = b, right;
    if (rank == 0 || rank >= n) {
      right = torch::eye(n);
    } else {
      b.diagonal().fill_(parameters["shift"]);
      Truncate(b.to(torch::kCPU), rank, &generator, &left, &right);
    }
    report(3);
    Tensors out;
    AddTensor(&out, "ease.item.linear", left);
    AddTensor(&out, "ease.item.decoder", right);
    AddTensor(&out, "ease.item.bias", torch::zeros({n, 1}));
    return out;
  });
}

}  // namespace nearline::model
