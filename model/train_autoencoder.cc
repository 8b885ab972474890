// Mult-VAE after Liang et al. 2018: L2-normalized input with dropout, tanh,
// multinomial likelihood, KL annealed linearly to beta. The first layer is a
// weighted sum of embedding rows, so it costs what the histories hold and not
// what the catalogue does.
#include <algorithm>
#include <cmath>

#include "model/torch_guard.h"
#include "model/train.h"

namespace nearline::model {
namespace {

struct MultVae : torch::nn::Module {
  MultVae(int64_t items, int64_t hidden, int64_t latent, const Tensors* warm,
          torch::Generator* generator) {
    // Xavier for weights, a thousandth for biases, as the authors' code.
    const auto xavier = [&](int64_t out, int64_t in) {
      return torch::randn({out, in}, *generator) *
             std::sqrt(2.0 / static_cast<double>(in + out));
    };
    const auto small = [&](int64_t n) {
      return torch::randn({n}, *generator) * 1e-3;
    };
    const auto add = [&](const char* name, const std::string& tensor,
                         torch::Tensor fresh) {
      return register_parameter(name, WarmOr(warm, tensor, std::move(fresh)));
    };
    encoder = add("encoder", "mult-vae.item.encoder", xavier(items, hidden));
    encoder_bias = add("encoder_bias", "mult-vae.encoder.bias", small(hidden));
    mean = add("mean", "mult-vae.mean.weight", xavier(latent, hidden));
    mean_bias = add("mean_bias", "mult-vae.mean.bias", small(latent));
    log_variance = add("log_variance", "mult-vae.train.log_variance.weight",
                       xavier(latent, hidden));
    log_variance_bias = add("log_variance_bias",
                            "mult-vae.train.log_variance.bias", small(latent));
    hidden_weight =
        add("hidden", "mult-vae.hidden.weight", xavier(hidden, latent));
    hidden_bias = add("hidden_bias", "mult-vae.hidden.bias", small(hidden));
    decoder = add("decoder", "mult-vae.item.decoder", xavier(items, hidden));
    decoder_bias = register_parameter(
        "decoder_bias",
        WarmOr(warm, "mult-vae.item.bias", small(items).unsqueeze(1))
            .squeeze(1)
            .clone());
  }

  // Logits [users, items]; `kl` [users] is set in training.
  torch::Tensor Forward(const Bags& bags, torch::Generator* generator,
                        torch::Tensor* kl) {
    const torch::Tensor h = torch::tanh(
        std::get<0>(torch::embedding_bag(
            encoder, bags.items, bags.offsets, /*scale_grad_by_freq=*/false,
            /*mode=*/0, /*sparse=*/false, bags.weights)) +
        encoder_bias);
    const torch::Tensor mu = torch::linear(h, mean, mean_bias);
    torch::Tensor z = mu;
    if (kl != nullptr) {
      const torch::Tensor lv =
          torch::linear(h, log_variance, log_variance_bias);
      const torch::Tensor noise =
          torch::randn(mu.sizes(), *generator).to(mu.device());
      z = mu + noise * torch::exp(0.5 * lv);
      *kl = 0.5 * (lv.exp() + mu * mu - 1 - lv).sum(1);
    }
    const torch::Tensor last =
        torch::tanh(torch::linear(z, hidden_weight, hidden_bias));
    return torch::linear(last, decoder, decoder_bias);
  }

  Tensors Export() const {
    Tensors out;
    AddTensor(&out, "mult-vae.item.encoder", encoder);
    AddTensor(&out, "mult-vae.encoder.bias", encoder_bias);
    AddTensor(&out, "mult-vae.mean.weight", mean);
    AddTensor(&out, "mult-vae.mean.bias", mean_bias);
    AddTensor(&out, "mult-vae.train.log_variance.weight", log_variance);
    AddTensor(&out, "mult-vae.train.log_variance.bias", log_variance_bias);
    AddTensor(&out, "mult-vae.hidden.weight", hidden_weight);
    AddTensor(&out, "mult-vae.hidden.bias", hidden_bias);
    AddTensor(&out, "mult-vae.item.decoder", decoder);
    AddTensor(&out, "mult-vae.item.bias", decoder_bias.unsqueeze(1));
    return out;
  }

  torch::Tensor encoder, encoder_bias, mean, mean_bias, log_variance,
      log_variance_bias, hidden_weight, hidden_bias, decoder, decoder_bias;
};

class Trainer {
 public:
  Trainer(const TrainingSet& set, const Parameters& p,
          const TrainOptions& options)
      : set_(set),
        p_(p),
        options_(options),
        device_(options.device),
        generator_(at::detail::createCPUGenerator(options.seed)),
        model_(set.items, p.Int("hidden"), p.Int("latent"), options.warm_start,
               &generator_) {
    model_.to(device_);
  }

  Tensors Run() {
    torch::optim::Adam adam(model_.parameters(),
                            torch::optim::AdamOptions(p_["learning_rate"])
                                .weight_decay(p_["weight_decay"]));
    // A warm start knows its way; a third of the epochs keep it fresh.
    const bool warm = options_.warm_start != nullptr;
    const int epochs =
        warm ? std::max(1, p_.Int("epochs") / 3) : p_.Int("epochs");
    rate_ = (warm ? 0.25 : 1.0) * p_["learning_rate"];
    steps_ = epochs * StepsAnEpoch();
    Tensors best;
    double best_metric = -1;
    int best_epoch = 0;
    for (int epoch = 1; epoch <= epochs; ++epoch) {
      EpochReport report{.phase = "mult-vae", .epoch = epoch, .epochs = epochs};
      report.loss = RunEpoch(&adam);
      report.metric = Validate();
      if (options_.on_epoch) options_.on_epoch(report);
      if (set_.validation_target.users() == 0) continue;
      if (report.metric > best_metric) {
        best_metric = report.metric;
        best_epoch = epoch;
        best = model_.Export();
      } else if (epoch - best_epoch >= p_.Int("patience")) {
        break;
      }
    }
    return best_epoch > 0 ? std::move(best) : model_.Export();
  }

 private:
  double StepsAnEpoch() const {
    return std::ceil(static_cast<double>(set_.train.users()) / p_["batch"]);
  }

  double Beta() const {
    const double anneal = p_["anneal_epochs"] * StepsAnEpoch();
    // A warm start has been annealed already.
    if (anneal <= 0 || options_.warm_start != nullptr) return p_["beta"];
    return p_["beta"] * std::min(1.0, static_cast<double>(step_) / anneal);
  }

  double RunEpoch(torch::optim::Adam* adam) {
    const std::vector<int64_t> order =
        Shuffled(set_.train.users(), &generator_);
    const auto batch = static_cast<size_t>(p_.Int("batch"));
    double total = 0;
    for (size_t first = 0; first < order.size(); first += batch) {
      const size_t count = std::min(batch, order.size() - first);
      const std::vector<int64_t> users(
          order.begin() + static_cast<std::ptrdiff_t>(first),
          order.begin() + static_cast<std::ptrdiff_t>(first + count));
      SetRate(adam,
              rate_ * std::max(0.02, 1 - static_cast<double>(step_) / steps_));
      const Bags bags =
          MakeBags(set_.train, users, p_["dropout"], &generator_, device_);
      torch::Tensor kl;
      const torch::Tensor log_p =
          torch::log_softmax(model_.Forward(bags, &generator_, &kl), 1);
      const torch::Tensor hits =
          log_p.index({bags.target_users, bags.target_items});
      const torch::Tensor loss =
          (Beta() * kl.sum() - (hits * bags.target_weights).sum()) /
          static_cast<double>(count);
      adam->zero_grad();
      loss.backward();
      adam->step();
      ++step_;
      total += loss.item<double>() * static_cast<double>(count);
    }
    return total / static_cast<double>(order.size());
  }

  double Validate() {
    const int64_t users = set_.validation_target.users();
    if (users == 0) return 0;
    const torch::NoGradGuard no_grad;
    double sum = 0;
    for (int64_t first = 0; first < users; first += 500) {
      const std::vector<int64_t> batch =
          Range(first, std::min<int64_t>(500, users - first));
      const Bags bags =
          MakeBags(set_.validation_input, batch, 0, &generator_, device_);
      torch::Tensor logits = model_.Forward(bags, &generator_, nullptr);
      MaskInputs(bags, &logits);
      sum += BatchNdcg(logits, set_.validation_target, batch);
    }
    return sum / static_cast<double>(users);
  }

  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions& options_;
  const torch::Device device_;
  torch::Generator generator_;
  MultVae model_;
  int64_t step_ = 0;
  double steps_ = 1;  // in all
  double rate_ = 0;   // of learning, at the start
};

}  // namespace

absl::StatusOr<Tensors> TrainMultVae(const TrainingSet& set,
                                     const Parameters& parameters,
                                     const TrainOptions& options) {
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    torch::set_num_threads(options.threads);
    return Trainer(set, parameters, options).Run();
  });
}

}  // namespace nearline::model
