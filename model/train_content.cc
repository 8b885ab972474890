// Content: items as features F [N, f] of their attributes, with a constant.
// What a user likes is x F; which features go with which is W [f, f], learned
// from everybody's histories X so that x F W F^T rebuilds x, in closed form:
//   W = (A + ridge I)^-1 (A - F^T diag(X^T X) F) (F^T F + 10 I)^-1,
// A = (X F)^T (X F). What is taken off A is what items say of themselves, as
// the zero diagonal of EASE does.
#include <numeric>

#include "model/item_features.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

torch::Tensor FeatureMatrix(const TrainingSet& set) {
  const AttributeFeatures features(set.attributes, {});
  const SparseRows rows = features.Rows(set.attributes);
  const int64_t width = features.width();
  torch::Tensor out = torch::zeros({set.items, width});
  for (int64_t row = 0; row < rows.rows(); ++row) {
    float* const to = out.data_ptr<float>() + row * width;
    for (size_t i = rows.offsets[static_cast<size_t>(row)];
         i < rows.offsets[static_cast<size_t>(row) + 1]; ++i) {
      to[rows.columns[i]] = rows.values[i];
    }
  }
  return out;
}

torch::Tensor Inverse(const torch::Tensor& m, double ridge) {
  return torch::cholesky_inverse(
      torch::linalg_cholesky(m + ridge * torch::eye(m.size(0), m.options())));
}

}  // namespace

absl::StatusOr<Tensors> TrainContent(const std::string& /*model*/,
                                     const TrainingSet& set,
                                     const Parameters& parameters,
                                     const TrainOptions& options) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor features = FeatureMatrix(set).to(torch::kFloat64);
  if (features.size(1) == 1) {
    return absl::FailedPreconditionError(
        "no three items share an attribute, which is all that content goes "
        "by: give evaluate --items FILE, or import items with attributes");
  }
  std::vector<int64_t> users(static_cast<size_t>(set.train.users()));
  std::iota(users.begin(), users.end(), 0);
  const Bags bags = MakeBags(set.train, users, {}, nullptr, torch::kCPU);
  const torch::Tensor profiles =
      SumOf(bags, features.to(torch::kFloat32)).to(torch::kFloat64);
  std::vector<double> squares(static_cast<size_t>(set.items), 0.0);
  for (int64_t i = 0; i < set.train.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    const double w = set.train.weights[at];
    squares[set.train.items[at]] += w * w;
  }
  const torch::Tensor a = profiles.t().matmul(profiles);
  const torch::Tensor own = features.t().matmul(
      torch::tensor(squares, torch::kFloat64).unsqueeze(1) * features);
  const double ridge =
      parameters["ridge_share"] * a.diagonal().mean().item<double>();
  const torch::Tensor map = Inverse(a, ridge).matmul(a - own).matmul(
      Inverse(features.t().matmul(features), 10));
  if (options.on_epoch) {
    options.on_epoch({.phase = "content", .epoch = 1, .epochs = 1, .share = 1});
  }
  Tensors out;
  AddTensor(&out, "content.item.linear",
            features.matmul(map).to(torch::kFloat32));
  AddTensor(&out, "content.item.decoder", features.to(torch::kFloat32));
  AddTensor(&out, "content.item.bias", torch::zeros({set.items, 1}));
  return out;
}

}  // namespace nearline::model
