#include "model/train.h"

#include <set>

#include "base/text.h"
#include "model/torch_guard.h"

namespace nearline::model {

absl::StatusOr<Tensors> TrainPopularity(const TrainingSet& set) {
  std::vector<float> counts(static_cast<size_t>(set.items), 0.0f);
  for (int64_t i = 0; i < set.train.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    counts[set.train.items[at]] += set.train.weights[at];
  }
  Tensors out;
  out.Add("popularity.item.zero", {set.items, 1},
          std::vector<float>(counts.size(), 0.0f));
  out.Add("popularity.item.bias", {set.items, 1}, std::move(counts));
  return out;
}

absl::StatusOr<Tensors> Train(absl::string_view model, const TrainingSet& set,
                              const Parameters& parameters,
                              const TrainOptions& options) {
  if (set.items == 0 || set.train.size() == 0) {
    return absl::FailedPreconditionError(
        "there is nothing to learn from: no user has an event that counts");
  }
  RETURN_IF_ERROR(CheckDevice(options.device));
  if (model == "popularity") return TrainPopularity(set);
  if (model == "mult-dae" || model == "mult-vae") {
    return TrainAutoencoder(std::string(model), set, parameters, options);
  }
  if (model == "ease" || model == "item-knn" || model == "user-knn") {
    return TrainLinear(std::string(model), set, parameters, options);
  }
  if (model == "content") return TrainContent(set, parameters, options);
  if (model == "hybrid") return TrainHybrid(set, parameters, options);
  if (model == "elsa") return TrainElsa(set, parameters, options);
  if (model == "ials") return TrainIals(set, parameters, options);
  if (model == "mf" || model == "bpr-mf") {
    return TrainMf(std::string(model), set, parameters, options);
  }
  if (model == "joint") return TrainJoint(set, parameters, options);
  if (model == "neumf" || model == "gmf" || model == "mlp") {
    return TrainNeuMf(std::string(model), set, parameters, options);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no trainer for model ", Quoted(model)));
}

bool StartsWarm(absl::string_view model) {
  static const auto* const closed = new std::set<absl::string_view>{
      "popularity", "ease", "item-knn", "user-knn", "content", "hybrid"};
  return !closed->contains(model);
}

absl::Status CheckDevice(const std::string& device) {
  return TorchGuard([&]() -> absl::Status {
    const torch::Device parsed(device);
    if (!parsed.is_cuda()) return absl::OkStatus();
    const int64_t count = static_cast<int64_t>(torch::cuda::device_count());
    const int64_t index = parsed.has_index() ? parsed.index() : 0;
    if (index < count) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", device, " is not there: this machine has ", count,
        " CUDA device(s) that LibTorch can use. Set the device to cpu or auto, "
        "or install a CUDA build of LibTorch and the driver"));
  });
}

}  // namespace nearline::model
