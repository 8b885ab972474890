#include "model/train.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "base/text.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

struct Entry {
  Trainer* train = nullptr;
  bool starts_warm = true;
};

const std::map<absl::string_view, Entry>& Trainers() {
  static const auto* const trainers = new std::map<absl::string_view, Entry>{
      {"popularity", {TrainPopularity, false}},
      {"mult-vae", {TrainAutoencoder}},
      {"mult-dae", {TrainAutoencoder}},
      {"ease", {TrainLinear, false}},
      {"item-knn", {TrainLinear, false}},
      {"user-knn", {TrainLinear, false}},
      {"content", {TrainContent, false}},
      {"hybrid", {TrainHybrid, false}},
      {"paths", {TrainPaths, false}},
      {"recent", {TrainRecent, true}},
      {"elsa", {TrainElsa}},
      {"ials", {TrainIals}},
      {"mf", {TrainMf}},
      {"bpr-mf", {TrainMf}},
      {"joint", {TrainJoint}},
      {"gmf", {TrainNeuMf}},
      {"mlp", {TrainNeuMf}},
      {"neumf", {TrainNeuMf}}};
  return *trainers;
}

}  // namespace

absl::StatusOr<Tensors> TrainPopularity(const std::string& model,
                                        const TrainingSet& set,
                                        const Parameters& parameters,
                                        const TrainOptions&) {
  constexpr char kHalfLife[] = "half_life_days";
  constexpr double kDay = 24 * 60 * 60;
  const double half_life =
      parameters.Has(kHalfLife) ? parameters[kHalfLife] * kDay : 0;
  if (half_life > 0 && set.times.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "popularity with ", kHalfLife, " needs a time in every training line"));
  }
  const double last =
      half_life > 0 ? *std::max_element(set.times.begin(), set.times.end()) : 0;
  std::vector<float> counts(static_cast<size_t>(set.items), 0.0f);
  for (size_t at = 0; at < set.train.items.size(); ++at) {
    const double share =
        half_life > 0 ? std::exp2((set.times[at] - last) / half_life) : 1;
    counts[set.train.items[at]] +=
        set.train.weights[at] * static_cast<float>(share);
  }
  Tensors out;
  out.Add(model + ".item.zero", {set.items, 1},
          std::vector<float>(counts.size(), 0.0f));
  out.Add(model + ".item.bias", {set.items, 1}, std::move(counts));
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
  const auto found = Trainers().find(model);
  if (found == Trainers().end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no trainer for model ", Quoted(model)));
  }
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    torch::set_num_threads(options.threads);
    ASSIGN_OR_RETURN(
        Tensors tensors,
        found->second.train(std::string(model), set, parameters, options));
    if (!AllFinite(tensors)) return Diverged(std::string(model));
    return tensors;
  });
}

bool StartsWarm(absl::string_view model) {
  const auto found = Trainers().find(model);
  return found != Trainers().end() && found->second.starts_warm;
}

absl::Status CheckDevice(const std::string& device) {
  int number = 0;
  absl::string_view rest = device;
  if (device != "cpu" && device != "cuda" &&
      !(absl::ConsumePrefix(&rest, "cuda:") &&
        absl::SimpleAtoi(rest, &number) && number >= 0 && number < 128)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device ", Quoted(device), ": expected cpu, cuda or cuda:N"));
  }
  return TorchGuard([&]() -> absl::Status {
    const torch::Device parsed(device);
    if (!parsed.is_cuda()) return absl::OkStatus();
    const int64_t count = static_cast<int64_t>(torch::cuda::device_count());
    const int64_t index = parsed.has_index() ? parsed.index() : 0;
    if (index < count) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", device, " is not there: this machine has ", count,
        " CUDA device(s) that LibTorch can use. Set the device to cpu "
        "(a server's may be auto), or install a CUDA build of LibTorch and the "
        "driver"));
  });
}

}  // namespace nearline::model
