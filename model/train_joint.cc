// A denoising autoencoder with a linear path of low rank beside it (truncated
// EASE), added in the logits: two encoders, and one scan over rows that hold
// both decoders side by side. The paths are trained one after the other; the
// linear one's weight is chosen on validation data.
#include <algorithm>

#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

class Joint {
 public:
  Joint(const TrainingSet& set, const Tensors& neural, const Tensors& linear)
      : set_(set),
        encoder_(Get(neural, "joint.item.encoder")),
        encoder_bias_(Get(neural, "joint.encoder.bias")),
        decoder_(Get(neural, "joint.item.decoder")),
        bias_(Get(neural, "joint.item.bias")),
        left_(Get(linear, "ease.item.linear")),
        right_(Get(linear, "ease.item.decoder")) {}

  // The best on validation data, or `fallback` without any.
  double ChooseWeight(double fallback) const {
    if (set_.validation_target.users() == 0) return fallback;
    double best = fallback, best_ndcg = -1;
    for (const double weight : {0, 1, 2, 4, 7, 10, 15, 25, 50, 100}) {
      const double ndcg =
          ValidationNdcg(set_, 500, torch::kCPU, [&](const Bags& bags) {
            return Neural(bags) + weight * Linear(bags);
          });
      if (ndcg <= best_ndcg) continue;
      best = weight;
      best_ndcg = ndcg;
    }
    return best;
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
    return torch::linear(HiddenOf(bags, encoder_, encoder_bias_), decoder_,
                         bias_.squeeze(1));
  }
  torch::Tensor Linear(const Bags& bags) const {
    return SumOf(bags, left_).matmul(right_.t());
  }

  const TrainingSet& set_;
  const torch::Tensor encoder_, encoder_bias_, decoder_, bias_, left_, right_;
};

// Of an earlier joint model, what the autoencoder may start from: nothing when
// it was of another width.
absl::StatusOr<Tensors> NeuralPart(const Tensors& joint, int64_t hidden) {
  Tensors out = joint;
  if (!out.Get("joint.encoder.bias", {hidden}).ok()) return Tensors();
  ASSIGN_OR_RETURN(const Tensor both, out.Take("joint.item.decoder", {-1, -1}));
  AddTensor(&out, "joint.item.decoder", FromPlain(both).narrow(1, 0, hidden));
  return out;
}

}  // namespace

absl::StatusOr<Tensors> TrainJoint(const std::string& /*model*/,
                                   const TrainingSet& set,
                                   const Parameters& parameters,
                                   const TrainOptions& options) {
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0, 0.1);
  ASSIGN_OR_RETURN(const Tensors linear,
                   TrainLinear("ease", set, parameters, part));
  Tensors warm;
  if (options.warm_start != nullptr) {
    ASSIGN_OR_RETURN(warm,
                     NeuralPart(*options.warm_start, parameters.Int("hidden")));
    part.warm_start = warm.all().empty() ? nullptr : &warm;
  }
  part.on_epoch = PartOf(options.on_epoch, 0.1, 1);
  ASSIGN_OR_RETURN(const Tensors neural,
                   TrainAutoencoder("joint", set, parameters, part));
  const torch::NoGradGuard no_grad;
  const Joint joint(set, neural, linear);
  double weight = parameters["linear_weight"];
  if (weight < 0) weight = joint.ChooseWeight(10);
  return joint.Export(weight);
}

}  // namespace nearline::model
