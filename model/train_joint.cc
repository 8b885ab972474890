// A denoising autoencoder with a linear path of low rank beside it (truncated
// EASE), added in the logits: two encoders, and one scan over rows that hold
// both decoders side by side. The paths are trained one after the other; the
// linear one's weight is chosen on validation data.
#include <algorithm>

#include "model/torch_guard.h"
#include "model/train.h"

namespace nearline::model {
namespace {

// For users of the set: unnormalized weights, as the linear path wants them.
torch::Tensor Dense(const features::Interactions& data,
                    const std::vector<int64_t>& users, int64_t items) {
  torch::Tensor x = torch::zeros({static_cast<int64_t>(users.size()), items});
  float* row = x.data_ptr<float>();
  for (const int64_t u : users) {
    const auto of_user = data.ItemsOf(u);
    const auto weights = data.WeightsOf(u);
    for (size_t i = 0; i < of_user.size(); ++i) row[of_user[i]] = weights[i];
    row += items;
  }
  return x;
}

class Joint {
 public:
  Joint(const TrainingSet& set, const TrainOptions& options,
        const Tensors& neural, const Tensors& linear)
      : set_(set),
        generator_(at::detail::createCPUGenerator(options.seed)),
        encoder_(Get(neural, "joint.item.encoder")),
        encoder_bias_(Get(neural, "joint.encoder.bias")),
        decoder_(Get(neural, "joint.item.decoder")),
        bias_(Get(neural, "joint.item.bias")),
        left_(Get(linear, "ease.item.encoder")),
        right_(Get(linear, "ease.item.decoder")) {}

  // The best on validation data, or `fallback` without any.
  double ChooseWeight(double fallback) {
    const int64_t users = set_.validation_target.users();
    if (users == 0) return fallback;
    constexpr double kWeights[] = {0, 1, 2, 4, 7, 10, 15, 25, 50, 100};
    std::vector<double> ndcg(std::size(kWeights), 0.0);
    for (int64_t first = 0; first < users; first += 500) {
      const std::vector<int64_t> batch =
          Range(first, std::min<int64_t>(500, users - first));
      const Bags bags =
          MakeBags(set_.validation_input, batch, 0, &generator_, torch::kCPU);
      const torch::Tensor neural = Neural(bags);
      const torch::Tensor linear =
          Dense(set_.validation_input, batch, set_.items)
              .matmul(left_)
              .matmul(right_.t());
      for (size_t i = 0; i < ndcg.size(); ++i) {
        torch::Tensor logits = neural + kWeights[i] * linear;
        MaskInputs(bags, &logits);
        ndcg[i] += BatchNdcg(logits, set_.validation_target, batch);
      }
    }
    const auto best = std::max_element(ndcg.begin(), ndcg.end());
    return kWeights[best - ndcg.begin()];
  }

  // Both halves of a row alike in length, so that rounding takes from them
  // alike.
  Tensors Export(double weight) const {
    const double balance = decoder_.norm().item<double>() /
                           std::max(1e-12, right_.norm().item<double>());
    Tensors out;
    AddTensor(&out, "joint.item.encoder", encoder_);
    AddTensor(&out, "joint.encoder.bias", encoder_bias_);
    AddTensor(&out, "joint.item.linear", left_ * (weight / balance));
    AddTensor(&out, "joint.item.decoder",
              torch::cat({decoder_, right_ * balance}, 1));
    AddTensor(&out, "joint.item.bias", bias_);
    return out;
  }

 private:
  static torch::Tensor Get(const Tensors& tensors, const std::string& name) {
    return FromPlain(tensors.all().at(name));
  }

  torch::Tensor Neural(const Bags& bags) const {
    const torch::Tensor h = torch::tanh(
        std::get<0>(torch::embedding_bag(encoder_, bags.items, bags.offsets,
                                         false, 0, false, bags.weights)) +
        encoder_bias_);
    return torch::linear(h, decoder_, bias_.squeeze(1));
  }

  const TrainingSet& set_;
  torch::Generator generator_;
  const torch::Tensor encoder_, encoder_bias_, decoder_, bias_, left_, right_;
};

// Of an earlier joint model, what the autoencoder may start from.
absl::StatusOr<Tensors> NeuralPart(const Tensors& joint, int64_t hidden) {
  Tensors out = joint;
  ASSIGN_OR_RETURN(const Tensor both, out.Take("joint.item.decoder", {-1, -1}));
  if (both.shape[1] < hidden) return Tensors();
  AddTensor(&out, "joint.item.decoder", FromPlain(both).narrow(1, 0, hidden));
  return out;
}

}  // namespace

absl::StatusOr<Tensors> TrainJoint(const TrainingSet& set,
                                   const Parameters& parameters,
                                   const TrainOptions& options) {
  ASSIGN_OR_RETURN(const Tensors linear, TrainEase(set, parameters, options));
  TrainOptions of_neural = options;
  Tensors warm;
  if (options.warm_start != nullptr) {
    ASSIGN_OR_RETURN(warm,
                     NeuralPart(*options.warm_start, parameters.Int("hidden")));
    of_neural.warm_start = &warm;
  }
  ASSIGN_OR_RETURN(const Tensors neural,
                   TrainAutoencoder("joint", set, parameters, of_neural));
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    const torch::NoGradGuard no_grad;
    Joint joint(set, options, neural, linear);
    double weight = parameters["linear_weight"];
    if (weight < 0) weight = joint.ChooseWeight(10);
    return joint.Export(weight);
  });
}

}  // namespace nearline::model
