// ELSA (Vancura et al., RecSys 2022): a linear autoencoder B = A A^T - I with
// rows of A of length 1, which has a zero diagonal and low rank. Trained so
// that relu(x B), normalized, comes close to x, normalized. Minus x in x B
// concerns items of the history alone; it is left out of what is served.
#include <algorithm>

#include "model/torch_training.h"

namespace nearline::model {
namespace {

torch::Tensor Unit(const torch::Tensor& rows) {
  return rows / rows.norm(2, -1, /*keepdim=*/true).clamp_min(1e-12);
}

class Elsa {
 public:
  Elsa(const TrainingSet& set, const Parameters& p, const TrainOptions& options)
      : set_(set),
        p_(p),
        options_(options),
        device_(options.device),
        generator_(at::detail::createCPUGenerator(options.seed)),
        rows_(WarmOr(options.warm_start, "elsa.item.linear",
                     torch::randn({set.items, p.Int("rank")}, generator_))
                  .to(device_)
                  .set_requires_grad(true)) {}

  Tensors Run() {
    torch::optim::Adam adam({rows_},
                            torch::optim::AdamOptions(p_["learning_rate"]));
    const bool warm = options_.warm_start != nullptr;
    const int epochs =
        warm ? std::max(1, p_.Int("epochs") / 3) : p_.Int("epochs");
    const double rate = (warm ? 0.25 : 1.0) * p_["learning_rate"];
    Tensors best;
    double best_metric = -1;
    int best_epoch = 0;
    for (int epoch = 1; epoch <= epochs; ++epoch) {
      SetRate(&adam, rate * std::max(0.02, 1 - (epoch - 1.0) / epochs));
      EpochReport report{.phase = "elsa",
                         .epoch = epoch,
                         .epochs = epochs,
                         .share = static_cast<double>(epoch) / epochs};
      report.loss = RunEpoch(&adam);
      report.metric = ValidationNdcg(set_, 500, device_, [&](const Bags& bags) {
        const torch::Tensor a = Unit(rows_);
        return Dense(bags).matmul(a).matmul(a.t());
      });
      if (options_.on_epoch) options_.on_epoch(report);
      if (set_.validation_target.users() == 0) continue;
      if (report.metric > best_metric) {
        best_metric = report.metric;
        best_epoch = epoch;
        best = Export();
      } else if (epoch - best_epoch >= p_.Int("patience")) {
        break;
      }
    }
    return best_epoch > 0 ? std::move(best) : Export();
  }

 private:
  // Whole histories [users, items], weights as they are.
  torch::Tensor Dense(const Bags& bags) const {
    torch::Tensor x = torch::zeros({bags.offsets.size(0), set_.items},
                                   bags.target_weights.options());
    x.index_put_({bags.target_users, bags.target_items}, bags.target_weights);
    return x;
  }

  double RunEpoch(torch::optim::Adam* adam) {
    double total = 0;
    for (const std::vector<int64_t>& users :
         ShuffledBatches(set_.train.users(), p_.Int("batch"), &generator_)) {
      const torch::Tensor x =
          Dense(MakeBags(set_.train, users, 0, &generator_, device_));
      const torch::Tensor a = Unit(rows_);
      const torch::Tensor rebuilt = torch::relu(x.matmul(a).matmul(a.t()) - x);
      const torch::Tensor loss = (Unit(rebuilt) - Unit(x)).pow(2).sum() /
                                 static_cast<double>(users.size());
      adam->zero_grad();
      loss.backward();
      adam->step();
      total += loss.item<double>() * static_cast<double>(users.size());
    }
    return total / static_cast<double>(set_.train.users());
  }

  Tensors Export() const {
    const torch::NoGradGuard no_grad;
    Tensors out;
    AddTensor(&out, "elsa.item.linear", Unit(rows_));
    AddTensor(&out, "elsa.item.decoder", Unit(rows_));
    AddTensor(&out, "elsa.item.bias", torch::zeros({set_.items, 1}));
    return out;
  }

  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions& options_;
  const torch::Device device_;
  torch::Generator generator_;
  torch::Tensor rows_;  // of A, of any length
};

}  // namespace

absl::StatusOr<Tensors> TrainElsa(const TrainingSet& set,
                                  const Parameters& parameters,
                                  const TrainOptions& options) {
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    torch::set_num_threads(options.threads);
    return Elsa(set, parameters, options).Run();
  });
}

}  // namespace nearline::model
