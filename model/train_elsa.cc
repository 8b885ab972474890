// ELSA (Vancura et al., RecSys 2022): a linear autoencoder B = A A^T - I with
// rows of A of length 1, which has a zero diagonal and low rank. Trained so
// that relu(x B), normalized, comes close to x, normalized. Minus x in x B
// concerns items of the history alone; it is left out of what is served.
#include <algorithm>

#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

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

  absl::StatusOr<Tensors> Run() {
    torch::optim::Adam adam({rows_},
                            torch::optim::AdamOptions(p_["learning_rate"]));
    const int epochs = EpochsFor(options_, p_.Int("epochs"));
    const double rate = RateFor(options_, p_["learning_rate"]);
    return RunEpochs(
        {.phase = "elsa",
         .epochs = epochs,
         .patience = p_.Int("patience"),
         .train =
             [&](int epoch) {
               SetRate(&adam,
                       rate * std::max(0.02, 1 - (epoch - 1.0) / epochs));
               return RunEpoch(&adam);
             },
         .validate = Validation(set_, options_,
                                [&](const Bags& bags) {
                                  const torch::Tensor a = UnitRows(rows_);
                                  return Dense(bags).matmul(a).matmul(a.t());
                                }),
         .save = [&] { return Export(); },
         .state =
             [&](TrainingState* state) {
               KeepTensor("rows", rows_, state);
               KeepGenerator(&generator_, state);
               KeepAdam(&adam, state);
             }},
        options_);
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
          Dense(MakeBags(set_.train, users, {}, &generator_, device_));
      const torch::Tensor a = UnitRows(rows_);
      const torch::Tensor rebuilt = torch::relu(x.matmul(a).matmul(a.t()) - x);
      const torch::Tensor loss =
          (UnitRows(rebuilt) - UnitRows(x)).pow(2).sum() /
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
    AddTensor(&out, "elsa.item.linear", UnitRows(rows_));
    AddTensor(&out, "elsa.item.decoder", UnitRows(rows_));
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

absl::StatusOr<Tensors> TrainElsa(const std::string& /*model*/,
                                  const TrainingSet& set,
                                  const Parameters& parameters,
                                  const TrainOptions& options) {
  return Elsa(set, parameters, options).Run();
}

}  // namespace nearline::model
