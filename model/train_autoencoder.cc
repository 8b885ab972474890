// Mult-VAE and Mult-DAE after Liang et al. 2018: L2-normalized input with
// dropout, tanh, multinomial likelihood; the variational one has a latent layer
// whose KL term is annealed linearly to beta. The first layer is a weighted sum
// of embedding rows, so it costs what the histories hold and not what the
// catalogue does. With a temperature, Mult-DAE's logits are cosines over it
// instead (docs/decisions/0015): two towers under one softmax.
#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "model/autoencoder_step.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

// encoder -> tanh -> [mean + noise -> hidden -> tanh] -> decoder; the middle is
// there when `latent` > 0. Or, when `temperature` > 0, encoder -> unit vector /
// temperature -> decoder of unit rows. Tensors are named "<name>.mean.weight"
// and so on.
struct Autoencoder : torch::nn::Module {
  Autoencoder(std::string model, int64_t items, int64_t width, int64_t latent,
              double temperature_or_0, const Tensors* warm,
              torch::Generator* generator)
      : name(std::move(model)),
        variational(latent > 0),
        temperature(temperature_or_0) {
    // Xavier for weights, a thousandth for biases, as the authors' code; of
    // unit vectors a length that Adam turns in some tens of steps.
    const auto xavier = [&](int64_t out, int64_t in) {
      const double spread =
          temperature > 0 ? 0.04
                          : std::sqrt(2.0 / static_cast<double>(in + out));
      return torch::randn({out, in}, *generator) * spread;
    };
    const auto small = [&](int64_t n) {
      return torch::randn({n}, *generator) * 1e-3;
    };
    const auto add = [&](const char* member, const std::string& tensor,
                         torch::Tensor fresh) {
      return register_parameter(
          member, WarmOr(warm, name + "." + tensor, std::move(fresh)));
    };
    encoder = add("encoder", "item.encoder", xavier(items, width));
    if (temperature == 0) {
      encoder_bias = add("encoder_bias", "encoder.bias", small(width));
    }
    if (variational) {
      mean = add("mean", "mean.weight", xavier(latent, width));
      mean_bias = add("mean_bias", "mean.bias", small(latent));
      log_variance = add("log_variance", "train.log_variance.weight",
                         xavier(latent, width));
      log_variance_bias =
          add("log_variance_bias", "train.log_variance.bias", small(latent));
      hidden = add("hidden", "hidden.weight", xavier(width, latent));
      hidden_bias = add("hidden_bias", "hidden.bias", small(width));
    }
    decoder = add("decoder", "item.decoder", xavier(items, width));
    decoder_bias = register_parameter(
        "decoder_bias",
        WarmOr(warm, name + ".item.bias", small(items).unsqueeze(1))
            .squeeze(1)
            .clone());
  }

  // Logits [users, items]; `kl` [users] is set in training.
  torch::Tensor Forward(const Bags& bags, torch::Generator* generator,
                        torch::Tensor* kl) {
    if (temperature > 0) {
      return torch::linear(DirectionOf(bags, encoder, 1 / temperature),
                           UnitRows(decoder), decoder_bias);
    }
    torch::Tensor h = HiddenOf(bags, encoder, encoder_bias);
    if (variational) {
      torch::Tensor z = torch::linear(h, mean, mean_bias);
      if (kl != nullptr) {
        const torch::Tensor lv =
            torch::linear(h, log_variance, log_variance_bias);
        *kl = 0.5 * (lv.exp() + z * z - 1 - lv).sum(1);
        const torch::Tensor noise =
            torch::randn(z.sizes(), *generator).to(z.device());
        z = z + noise * torch::exp(0.5 * lv);
      }
      h = torch::tanh(torch::linear(z, hidden, hidden_bias));
    }
    return torch::linear(h, decoder, decoder_bias);
  }

  Tensors Export() const {
    Tensors out;
    const auto add = [&](const char* tensor, const torch::Tensor& value) {
      AddTensor(&out, name + "." + tensor, value);
    };
    add("item.encoder", encoder);
    if (temperature > 0) {
      add("encoder.length", torch::full({1}, 1 / temperature));
    } else {
      add("encoder.bias", encoder_bias);
    }
    if (variational) {
      add("mean.weight", mean);
      add("mean.bias", mean_bias);
      add("train.log_variance.weight", log_variance);
      add("train.log_variance.bias", log_variance_bias);
      add("hidden.weight", hidden);
      add("hidden.bias", hidden_bias);
    }
    add("item.decoder", temperature > 0 ? UnitRows(decoder) : decoder);
    add("item.bias", decoder_bias.unsqueeze(1));
    return out;
  }

  // The same weights, for the step by hand. On the CPU.
  AutoencoderWeights Weights() {
    const auto at = [](torch::Tensor& t) {
      return t.defined() ? t.data_ptr<float>() : nullptr;
    };
    return {.items = encoder.size(0),
            .width = encoder.size(1),
            .latent = variational ? mean.size(0) : 0,
            .temperature = temperature,
            .encoder = at(encoder),
            .encoder_bias = at(encoder_bias),
            .mean = at(mean),
            .mean_bias = at(mean_bias),
            .log_variance = at(log_variance),
            .log_variance_bias = at(log_variance_bias),
            .hidden = at(hidden),
            .hidden_bias = at(hidden_bias),
            .decoder = at(decoder),
            .decoder_bias = at(decoder_bias)};
  }

  const std::string name;
  const bool variational;
  const double temperature;
  torch::Tensor encoder, encoder_bias, mean, mean_bias, log_variance,
      log_variance_bias, hidden, hidden_bias, decoder, decoder_bias;
};

// Without a warm start that has learned other logits.
TrainOptions Suited(TrainOptions options, const std::string& model,
                    double temperature) {
  if (options.warm_start != nullptr &&
      options.warm_start->Has(model + ".encoder.length") != (temperature > 0)) {
    options.warm_start = nullptr;
  }
  return options;
}

class Autoencoding {
 public:
  Autoencoding(const std::string& name, const TrainingSet& set,
               const Parameters& p, double temperature,
               const TrainOptions& options)
      : set_(set),
        p_(p),
        options_(Suited(options, name, temperature)),
        device_(options.device),
        generator_(at::detail::createCPUGenerator(options.seed)),
        corruption_{.dropout = p["dropout"], .cold_share = p["cold_share"]},
        model_(name, set.items, p.Int("hidden"),
               p.Has("latent") ? p.Int("latent") : 0, temperature,
               options_.warm_start, &generator_) {
    model_.to(device_);
    if (device_.is_cpu() && options.by_hand) {
      by_hand_.emplace(model_.Weights(), options.threads,
                       options.bfloat16.value_or(HasFastBfloat16()));
    }
  }

  absl::StatusOr<Tensors> Run() {
    torch::optim::Adam adam(model_.parameters(),
                            torch::optim::AdamOptions(p_["learning_rate"])
                                .weight_decay(p_["weight_decay"]));
    const int epochs = EpochsFor(options_, p_.Int("epochs"));
    rate_ = RateFor(options_, p_["learning_rate"]);
    steps_ = epochs * StepsAnEpoch();
    return RunEpochs(
        {.phase = model_.name,
         .epochs = epochs,
         .patience = p_.Int("patience"),
         .train = [&](int) { return RunEpoch(&adam); },
         .validate = Validation(set_, options_,
                                [&](const Bags& bags) {
                                  return model_.Forward(bags, &generator_,
                                                        nullptr);
                                }),
         .save = [&] { return model_.Export(); },
         .state = [&](TrainingState* state) { Keep(&adam, state); }},
        options_);
  }

 private:
  void Keep(torch::optim::Adam* adam, TrainingState* state) {
    state->Value("step", &step_);
    KeepGenerator(&generator_, state);
    for (const auto& parameter : model_.named_parameters()) {
      KeepTensor(parameter.key(), parameter.value(), state);
    }
    if (by_hand_.has_value()) {
      by_hand_->Keep(state);
    } else {
      KeepAdam(adam, state);
    }
  }

  double StepsAnEpoch() const {
    return std::ceil(static_cast<double>(set_.train.users()) / p_["batch"]);
  }

  double Beta() const {
    if (!model_.variational) return 0;
    const double anneal = p_["anneal_epochs"] * StepsAnEpoch();
    // A warm start has been annealed already.
    if (anneal <= 0 || options_.warm_start != nullptr) return p_["beta"];
    return p_["beta"] * std::min(1.0, static_cast<double>(step_) / anneal);
  }

  double RunEpoch(torch::optim::Adam* adam) {
    double total = 0;
    for (const std::vector<int64_t>& users :
         ShuffledBatches(set_.train.users(), p_.Int("batch"), &generator_)) {
      const double rate =
          rate_ * std::max(0.02, 1 - static_cast<double>(step_) / steps_);
      const double loss = by_hand_.has_value() ? StepByHand(users, rate)
                                               : Step(users, rate, adam);
      ++step_;
      total += loss * static_cast<double>(users.size());
    }
    return total / static_cast<double>(set_.train.users());
  }

  double Step(const std::vector<int64_t>& users, double rate,
              torch::optim::Adam* adam) {
    SetRate(adam, rate);
    const Bags bags =
        MakeBags(set_.train, users, corruption_, &generator_, device_);
    torch::Tensor kl = torch::zeros({1});
    const torch::Tensor log_p =
        torch::log_softmax(model_.Forward(bags, &generator_, &kl), 1);
    const torch::Tensor hits =
        log_p.index({bags.target_users, bags.target_items});
    const torch::Tensor loss =
        (Beta() * kl.sum() - (hits * bags.target_weights).sum()) /
        static_cast<double>(users.size());
    adam->zero_grad();
    loss.backward();
    adam->step();
    return loss.item<double>();
  }

  double StepByHand(const std::vector<int64_t>& users, double rate) {
    const Histories all =
        MakeHistories(set_.train, users, corruption_, &generator_);
    torch::Tensor noise;
    if (model_.variational) {
      noise = torch::randn(
          {static_cast<int64_t>(users.size()), p_.Int("latent")}, generator_);
    }
    return by_hand_->Step(
        {.offsets = all.offsets,
         .items = all.items,
         .weights = all.weights,
         .targets = all.targets,
         .noise = noise.defined() ? noise.data_ptr<float>() : nullptr},
        {.learning = rate, .decay = p_["weight_decay"], .beta = Beta()});
  }

  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions options_;
  const torch::Device device_;
  torch::Generator generator_;
  const Corruption corruption_;
  Autoencoder model_;
  std::optional<AutoencoderTrainer> by_hand_;  // else by LibTorch
  int64_t step_ = 0;
  double steps_ = 1;  // in all
  double rate_ = 0;   // of learning, at the start
};

// On the set's validation data.
double NdcgOf(const std::string& name, const TrainingSet& set,
              const Parameters& p, double temperature, const Tensors& tensors) {
  constexpr int64_t kBatch = 256;
  torch::Generator generator = at::detail::createCPUGenerator(0);
  const torch::NoGradGuard no_grad;
  Autoencoder model(name, set.items, p.Int("hidden"),
                    p.Has("latent") ? p.Int("latent") : 0, temperature,
                    &tensors, &generator);
  return ValidationNdcg(set, kBatch, torch::kCPU, [&](const Bags& bags) {
    return model.Forward(bags, &generator, nullptr);
  });
}

}  // namespace

std::vector<double> TemperaturesOf(const Parameters& parameters,
                                   const TrainingSet& set,
                                   const TrainOptions& options) {
  constexpr double kUsual = 0.1;
  constexpr int64_t kManyEvents = 500'000;  // there it was never worse
  if (!parameters.Has("temperature")) return {0};
  if (parameters["temperature"] >= 0) return {parameters["temperature"]};
  if (!IsSparse(set)) return {0};
  if (options.warm_start != nullptr) {  // of which it was chosen
    for (const auto& [name, tensor] : options.warm_start->all()) {
      if (absl::EndsWith(name, ".encoder.length")) return {kUsual};
      if (absl::EndsWith(name, ".encoder.bias")) return {0};
    }
  }
  if (set.train.size() > kManyEvents) return {kUsual};
  return {kUsual, 0};
}

absl::StatusOr<Tensors> TrainAutoencoder(const std::string& model,
                                         const TrainingSet& set,
                                         const Parameters& parameters,
                                         const TrainOptions& options) {
  constexpr int64_t kFewUsers = 100;
  const std::vector<double> temperatures =
      TemperaturesOf(parameters, set, options);
  const bool validates = set.validation_target.users() > 0;
  if (temperatures.size() == 1 ||
      (!validates && set.train.users() < kFewUsers)) {
    return Autoencoding(model, set, parameters, temperatures[0], options).Run();
  }
  std::optional<TrainingSet> apart;
  if (!validates) apart = SetApart(set);
  if (apart.has_value() && apart->validation_target.users() == 0) {
    return Autoencoding(model, set, parameters, temperatures[0], options).Run();
  }
  const TrainingSet& judged = validates ? set : *apart;
  const double parts =
      static_cast<double>(temperatures.size()) + (validates ? 0 : 1);
  Tensors best;
  double best_ndcg = -1, best_temperature = 0;
  for (size_t i = 0; i < temperatures.size(); ++i) {
    TrainOptions part = options;
    part.on_epoch = PartOf(options.on_epoch, static_cast<double>(i) / parts,
                           static_cast<double>(i + 1) / parts);
    std::optional<Checkpoints> checkpoints;
    if (options.checkpoints != nullptr) {
      part.checkpoints = &checkpoints.emplace(options.checkpoints->PartOf(
          absl::StrCat("temperature ", temperatures[i])));
    }
    absl::StatusOr<Tensors> tensors =
        Autoencoding(model, judged, parameters, temperatures[i], part).Run();
    // One may diverge where the other does not.
    const bool last = i + 1 == temperatures.size() && best_ndcg < 0;
    if (absl::IsOutOfRange(tensors.status()) && !last) continue;
    RETURN_IF_ERROR(tensors.status());
    const double ndcg =
        NdcgOf(model, judged, parameters, temperatures[i], *tensors);
    if (ndcg <= best_ndcg) continue;
    best = *std::move(tensors);
    best_ndcg = ndcg;
    best_temperature = temperatures[i];
  }
  if (validates) return best;
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 1 - 1 / parts, 1);
  return Autoencoding(model, set, parameters, best_temperature, part).Run();
}

}  // namespace nearline::model
