#include "model/folding.h"

#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "model/fold_in.h"
#include "model/logistic_fold_in.h"

namespace nearline::model {
namespace {

absl::StatusOr<std::unique_ptr<const Folding>> LoadLeastSquares(
    const std::string& name, int64_t dim, const Tensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor* gram, tensors.Get(name + "gram", {dim, dim}));
  ASSIGN_OR_RETURN(const Tensor* pull, tensors.Get(name + "pull", {dim}));
  ASSIGN_OR_RETURN(const Tensor* ridge, tensors.Get(name + "ridge", {2}));
  bool sound = ridge->values[0] > 0 && ridge->values[1] >= 0;
  for (int64_t i = 0; i < dim; ++i) {
    sound = sound && gram->values[static_cast<size_t>(i * (dim + 1))] >= 0;
  }
  if (!sound) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensors ", Quoted(name + "gram"), " and ",
                     Quoted(name + "ridge"), " are of no least squares"));
  }
  return std::make_unique<FoldIn>(gram->values, pull->values, ridge->values[0],
                                  ridge->values[1]);
}

absl::StatusOr<std::unique_ptr<const Folding>> LoadLogistic(
    const std::string& name, int64_t dim, const Tensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor* drawn, tensors.Get(name + "drawn", {-1, dim}));
  ASSIGN_OR_RETURN(const Tensor* scalars, tensors.Get(name + "logistic", {2}));
  const float negatives = scalars->values[0], ridge = scalars->values[1];
  if (!(negatives >= 0) || !(ridge > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(name + "logistic"),
                     ": expected negatives >= 0 and a ridge > 0, got ",
                     negatives, " and ", ridge));
  }
  return std::make_unique<LogisticFoldIn>(drawn->values, static_cast<int>(dim),
                                          negatives, ridge);
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Folding>> LoadFolding(
    const std::string& model, int64_t dim, const Tensors& tensors) {
  const std::string name = model + ".fold_in.";
  if (tensors.Has(name + "logistic")) {
    return LoadLogistic(name, dim, tensors);
  }
  return LoadLeastSquares(name, dim, tensors);
}

absl::Status FoldInEncoder::EncodeFrom(
    absl::Span<const float* const> /*sums*/,
    absl::Span<const History* const> histories,
    std::vector<float>* queries) const {
  const auto d = static_cast<size_t>(dim());
  queries->resize(histories.size() * d);
  thread_local std::vector<const float*> rows;
  for (size_t i = 0; i < histories.size(); ++i) {
    rows.clear();
    for (const Row row : histories[i]->rows) rows.push_back(rows_[row]);
    folding_->Solve(rows, histories[i]->weights, queries->data() + i * d);
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
