// NeuMF over a user that is built from the history (docs/decisions/0003):
//   h = tanh(sum_i x_i E_i + b)
//   logit_i = h . v_i + c_i + w . relu(W2 relu(U h + b1 + a_i) + b2)
// The GMF branch is fitted first, with a softmax over all items; then the MLP
// branch alone, on the frozen h, over items of a sample; then both together.
// "gmf" stops after the first step; "mlp" after the second, and keeps the GMF
// branch for the shortlist alone. "neumf" then gets another half of the GMF
// branch, which is pre-trained as matrix factorization (iALS), and whose users
// are sums of rows:
//   + (sum_i y_i L_i) . q_i
// where y is the history as it is, and x of length 1.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "model/autoencoder_step.h"
#include "model/factors.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

struct NeuMf : torch::nn::Module {
  // `name` begins the names of the tensors; gmf has no MLP branch.
  NeuMf(std::string name, int64_t items, const Parameters& p,
        const Tensors* warm, torch::Generator* generator)
      : prefix(name + "."), has_mlp(name != "gmf") {
    const int64_t d = p.Int("factors");
    const auto normal = [&](std::vector<int64_t> shape, double std) {
      return torch::randn(shape, *generator) * std;
    };
    const auto he = [](int64_t in) {
      return std::sqrt(2.0 / static_cast<double>(in));
    };
    const auto add = [&](const char* name, const std::string& tensor,
                         torch::Tensor fresh) {
      return register_parameter(
          name, WarmOr(warm, prefix + tensor, std::move(fresh)));
    };
    const double xavier = std::sqrt(2.0 / static_cast<double>(items + d));
    history = add("history", "item.history", normal({items, d}, xavier));
    history_bias = add("history_bias", "history.bias", normal({d}, 1e-3));
    gmf = add("gmf", "item.gmf", normal({items, d}, xavier));
    bias = register_parameter(
        "bias", WarmOr(warm, prefix + "item.bias", normal({items, 1}, 1e-3))
                    .squeeze(1)
                    .clone());
    if (!has_mlp) return;
    const int64_t h1 = p.Int("layer1"), h2 = p.Int("layer2");
    user = add("user", "mlp.user.weight",
               normal({h1, d}, 1 / std::sqrt(static_cast<double>(d))));
    user_bias = add("user_bias", "mlp.user.bias", torch::zeros({h1}));
    mlp = add("mlp", "item.mlp", normal({items, h1}, 0.1));
    weight2 = add("weight2", "mlp.2.weight", normal({h2, h1}, he(h1)));
    bias2 = add("bias2", "mlp.2.bias", torch::zeros({h2}));
    last = add("last", "mlp.last", normal({h2}, he(2 * h2)));
  }

  // Starts the MLP branch from what the GMF branch has learned: a random
  // projection of both its sides.
  void ProjectGmf(torch::Generator* generator) {
    const torch::NoGradGuard no_grad;
    const torch::Tensor r =
        torch::randn({user.size(0), user.size(1)}, *generator)
            .to(user.device()) /
        std::sqrt(static_cast<double>(user.size(1)));
    user.copy_(r);
    const torch::Tensor rows = torch::mm(gmf, r.t());
    mlp.copy_(rows * (0.5 / rows.std().clamp_min(1e-6)));
  }

  torch::Tensor User(const Bags& bags) {
    return HiddenOf(bags, history, history_bias);
  }
  // Logits [users, |items|] of either branch.
  torch::Tensor Gmf(const torch::Tensor& h, const torch::Tensor& items) {
    return torch::linear(h, gmf.index_select(0, items),
                         bias.index_select(0, items));
  }
  torch::Tensor GmfOfAll(const torch::Tensor& h) {
    return torch::linear(h, gmf, bias);
  }
  torch::Tensor Mlp(const torch::Tensor& h, const torch::Tensor& items) {
    const int64_t users = h.size(0), n = items.size(0);
    const torch::Tensor a = torch::linear(h, user, user_bias).unsqueeze(1);
    torch::Tensor z = torch::relu(a + mlp.index_select(0, items).unsqueeze(0))
                          .reshape({users * n, -1});
    z = torch::relu(torch::linear(z, weight2, bias2));
    return torch::mv(z, last).reshape({users, n});
  }

  // The GMF branch, for the step by hand. On the CPU.
  AutoencoderWeights GmfWeights() {
    return {.items = gmf.size(0),
            .width = gmf.size(1),
            .encoder = history.data_ptr<float>(),
            .encoder_bias = history_bias.data_ptr<float>(),
            .decoder = gmf.data_ptr<float>(),
            .decoder_bias = bias.data_ptr<float>()};
  }

  // What is saved, by name: views of the weights.
  std::vector<std::pair<std::string, torch::Tensor>> Named() const {
    std::vector<std::pair<std::string, torch::Tensor>> out = {
        {"item.history", history},
        {"history.bias", history_bias},
        {"item.gmf", gmf},
        {"item.bias", bias.unsqueeze(1)}};
    if (!has_mlp) return out;
    out.insert(out.end(), {{"mlp.user.weight", user},
                           {"mlp.user.bias", user_bias},
                           {"item.mlp", mlp},
                           {"mlp.2.weight", weight2},
                           {"mlp.2.bias", bias2},
                           {"mlp.last", last}});
    return out;
  }
  Tensors Export() const {
    Tensors out;
    for (const auto& [name, tensor] : Named()) {
      AddTensor(&out, prefix + name, tensor);
    }
    return out;
  }
  // Of an Export.
  void Load(const Tensors& saved) {
    const torch::NoGradGuard no_grad;
    for (auto& [name, tensor] : Named()) {
      tensor.copy_(FromPlain(saved.all().at(prefix + name)));
    }
  }

  const std::string prefix;
  const bool has_mlp;
  torch::Tensor history, history_bias, gmf, bias, user, user_bias, mlp, weight2,
      bias2, last;
};

class Phases {
 public:
  Phases(const std::string& name, const TrainingSet& set, const Parameters& p,
         const TrainOptions& options)
      : name_(name),
        set_(set),
        p_(p),
        options_(options),
        device_(options.device),
        generator_(at::detail::createCPUGenerator(options.seed)),
        model_(name, set.items, p, options.warm_start, &generator_) {
    model_.to(device_);
  }

  absl::StatusOr<Tensors> Run() {
    const bool warm = options_.warm_start != nullptr;
    const auto epochs = [&](const char* name) {
      return EpochsFor(options_, p_.Int(name));
    };
    const int64_t batch = p_.Int("batch");
    NeuMf& m = model_;
    RETURN_IF_ERROR(
        RunPhase({.name = name_ + " GMF",
                  .epochs = epochs("gmf_epochs"),
                  .rate = RateFor(options_, p_["gmf_learning_rate"]),
                  .batch = batch,
                  .begin = 0,
                  .end = name_ == "gmf" ? 1.0 : 0.4,
                  .gmf = true,
                  .parameters = {m.history, m.history_bias, m.gmf, m.bias}}));
    if (name_ == "gmf") return m.Export();
    if (!warm) m.ProjectGmf(&generator_);
    RETURN_IF_ERROR(
        RunPhase({.name = name_ + " MLP",
                  .epochs = epochs("mlp_epochs"),
                  .rate = RateFor(options_, p_["mlp_learning_rate"]),
                  .batch = std::max<int64_t>(1, batch / 2),
                  .begin = 0.4,
                  .end = name_ == "mlp" ? 1.0 : 0.9,
                  .items = p_.Int("mlp_items"),
                  .mlp = true,
                  .parameters = {m.user, m.user_bias, m.mlp, m.weight2, m.bias2,
                                 m.last}}));
    if (name_ == "mlp") return m.Export();
    {
      const torch::NoGradGuard no_grad;
      m.gmf.mul_(1 - p_["mlp_share"]);
      m.bias.mul_(1 - p_["mlp_share"]);
      m.last.mul_(p_["mlp_share"]);
    }
    RETURN_IF_ERROR(RunPhase({.name = "neumf",
                              .epochs = epochs("joint_epochs"),
                              .rate = p_["joint_learning_rate"],
                              .batch = batch,
                              .begin = 0.9,
                              .end = 1,
                              .items = p_.Int("joint_items"),
                              .gmf = true,
                              .mlp = true,
                              .parameters = m.parameters()}));
    return m.Export();
  }

 private:
  struct Phase {
    std::string name;
    int epochs = 0;
    double rate = 0;    // of learning, at the start
    int64_t batch = 0;  // users
    double begin = 0;   // shares of the whole training, about
    double end = 1;
    int64_t items = 0;  // drawn a step; 0: all
    bool gmf = false;   // which branches are in the sum
    bool mlp = false;
    std::vector<torch::Tensor> parameters;
  };

  // Leaves the weights of the phase's best epoch. Errors: as RunEpochs.
  absl::Status RunPhase(const Phase& phase) {
    torch::optim::Adam adam(
        phase.parameters,
        torch::optim::AdamOptions(phase.rate).weight_decay(p_["weight_decay"]));
    std::optional<AutoencoderTrainer> by_hand;
    const bool whole_gmf = !phase.mlp && phase.items == 0;
    if (whole_gmf && device_.is_cpu() && options_.by_hand) {
      by_hand.emplace(model_.GmfWeights(), options_.threads,
                      options_.bfloat16.value_or(HasFastBfloat16()));
    }
    const int64_t users = set_.train.users();
    const auto steps = static_cast<double>(
        phase.epochs * ((users + phase.batch - 1) / phase.batch));
    int64_t step = 0;
    const auto train = [&](int) {
      double total = 0;
      for (const std::vector<int64_t>& batch :
           ShuffledBatches(users, phase.batch, &generator_)) {
        const double rate =
            phase.rate *
            std::max(0.02, 1 - static_cast<double>(step++) / steps);
        const double loss = by_hand.has_value()
                                ? StepByHand(&*by_hand, batch, rate)
                                : Step(phase, batch, rate, &adam);
        total += loss * static_cast<double>(batch.size());
      }
      return total / static_cast<double>(users);
    };
    TrainOptions part = options_;
    part.on_epoch = PartOf(options_.on_epoch, phase.begin, phase.end);
    ASSIGN_OR_RETURN(
        const Tensors best,
        RunEpochs({.phase = phase.name,
                   .epochs = phase.epochs,
                   .patience = p_.Int("patience"),
                   .train = train,
                   .validate = Validation(phase),
                   .save = [&] { return model_.Export(); },
                   .state =
                       [&](TrainingState* state) {
                         state->Value("step", &step);
                         KeepGenerator(&generator_, state);
                         for (const auto& [name, tensor] : model_.Named()) {
                           KeepTensor(name, tensor, state);
                         }
                         if (by_hand.has_value()) {
                           by_hand->Keep(state);
                         } else {
                           KeepAdam(&adam, state);
                         }
                       }},
                  part));
    model_.Load(best);
    return absl::OkStatus();
  }

  double Step(const Phase& phase, const std::vector<int64_t>& users,
              double rate, torch::optim::Adam* adam) {
    SetRate(adam, rate);
    const torch::Tensor loss = Loss(phase, users);
    adam->zero_grad();
    loss.backward();
    adam->step();
    return loss.item<double>();
  }

  // The same for the GMF branch over all items.
  double StepByHand(AutoencoderTrainer* trainer,
                    const std::vector<int64_t>& users, double rate) {
    Histories all = MakeHistories(set_.train, users, {.dropout = p_["dropout"]},
                                  &generator_);
    for (size_t u = 0; u < users.size(); ++u) {
      float* const begin = all.targets.data() + all.offsets[u];
      float* const end = all.targets.data() + all.offsets[u + 1];
      const float sum = std::accumulate(begin, end, 0.0f);
      const double weight = std::pow(std::max(1.0f, sum), -p_["user_norm"]);
      for (float* y = begin; y != end; ++y) *y *= static_cast<float>(weight);
    }
    return trainer->Step({.offsets = all.offsets,
                          .items = all.items,
                          .weights = all.weights,
                          .targets = all.targets},
                         {.learning = rate, .decay = p_["weight_decay"]});
  }

  // - mean over users of sum_i y_i log softmax_I(logits)_i / n^user_norm, n the
  // user's weight in the items I of the step.
  torch::Tensor Loss(const Phase& phase, const std::vector<int64_t>& users) {
    const Bags bags = MakeBags(set_.train, users, {.dropout = p_["dropout"]},
                               &generator_, device_);
    const auto count = static_cast<int64_t>(users.size());
    torch::Tensor targets =
        torch::zeros({count, set_.items}, bags.target_weights.options());
    targets.index_put_({bags.target_users, bags.target_items},
                       bags.target_weights);
    const torch::Tensor h = model_.User(bags);
    torch::Tensor logits;
    if (phase.items == 0) {
      logits = model_.GmfOfAll(h);
    } else {
      const torch::Tensor items =
          torch::randperm(set_.items, generator_, torch::kInt64)
              .slice(0, 0, std::min(phase.items, set_.items))
              .to(device_);
      targets = targets.index_select(1, items);
      logits = Logits(phase, h, items);
    }
    const torch::Tensor weight =
        targets.sum(1).clamp_min(1).pow(-p_["user_norm"]);
    return -((torch::log_softmax(logits, 1) * targets).sum(1) * weight).sum() /
           static_cast<double>(count);
  }

  torch::Tensor Logits(const Phase& phase, const torch::Tensor& h,
                       const torch::Tensor& items) {
    if (phase.gmf && phase.mlp) {
      return model_.Gmf(h, items) + model_.Mlp(h, items);
    }
    return phase.mlp ? model_.Mlp(h, items) : model_.Gmf(h, items);
  }

  std::function<double()> Validation(const Phase& phase) {
    if (set_.validation_target.users() == 0) return {};
    return [this, &phase] {
      const torch::Tensor all =
          torch::arange(set_.items, torch::kInt64).to(device_);
      return ValidationNdcg(set_, 50, device_, [&](const Bags& bags) {
        return Logits(phase, model_.User(bags), all);
      });
    };
  }

  const std::string name_;
  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions& options_;
  const torch::Device device_;
  torch::Generator generator_;
  NeuMf model_;
};

// The halves of the GMF branch: what is learned by a softmax, and matrix
// factorization, whose logits are brought to the same spread.
class Halves {
 public:
  // `left` [N, R] and `right` [N, R]: x left right^T are its logits.
  Halves(const TrainingSet& set, const Tensors& neumf, torch::Tensor left,
         torch::Tensor right)
      : set_(set),
        history_(Get(neumf, "neumf.item.history")),
        history_bias_(Get(neumf, "neumf.history.bias")),
        gmf_(Get(neumf, "neumf.item.gmf")),
        bias_(Get(neumf, "neumf.item.bias").squeeze(1)),
        left_(std::move(left)),
        right_(std::move(right)) {
    std::vector<int64_t> some;
    const int64_t stride = std::max<int64_t>(1, set.train.users() / 200);
    for (int64_t u = 0; u < set.train.users(); u += stride) some.push_back(u);
    const Bags bags = MakeBags(set.train, some, {}, nullptr, torch::kCPU);
    left_ *= OfSoftmax(bags).std(/*unbiased=*/false) /
             OfFactors(bags).std(/*unbiased=*/false).clamp_min(1e-12);
  }

  // Of both with that weight of the second, @100 on validation users.
  double Ndcg(double weight) const {
    return ValidationNdcg(set_, 100, torch::kCPU, [&](const Bags& bags) {
      return OfSoftmax(bags) + weight * OfFactors(bags);
    });
  }
  double ChooseWeight() const {
    double best = 0, most = -1;
    for (const double weight : {0.0, 0.125, 0.25, 0.5, 1.0, 2.0}) {
      const double ndcg = Ndcg(weight);
      if (ndcg <= most) continue;
      best = weight;
      most = ndcg;
    }
    return best;
  }

  // Both in one table of the scan, alike in length.
  void Export(double weight, Tensors* neumf) const {
    const double balance = std::max(1e-12, gmf_.norm().item<double>()) /
                           std::max(1e-12, right_.norm().item<double>());
    AddTensor(neumf, "neumf.item.linear", left_ * (weight / balance));
    AddTensor(neumf, "neumf.item.gmf", torch::cat({gmf_, right_ * balance}, 1));
  }

 private:
  static torch::Tensor Get(const Tensors& tensors, const std::string& name) {
    return FromPlain(tensors.all().at(name));
  }
  torch::Tensor OfSoftmax(const Bags& bags) const {
    return torch::linear(HiddenOf(bags, history_, history_bias_), gmf_, bias_);
  }
  torch::Tensor OfFactors(const Bags& bags) const {
    return SumOf(bags, left_).matmul(right_.t());
  }

  const TrainingSet& set_;
  const torch::Tensor history_, history_bias_, gmf_, bias_;
  torch::Tensor left_;
  const torch::Tensor right_;
};

// Trains the second half of the GMF branch and adds it, with a weight that is
// chosen when it is below 0.
absl::Status AddFactors(const TrainingSet& set, double weight,
                        const TrainOptions& options, Tensors* neumf) {
  constexpr double kUsual = 1, kExplained = 1.0 / 3;
  ASSIGN_OR_RETURN(const Parameters usual, ParametersOf("ials"));
  absl::StatusOr<Tensors> ials = TrainIals("ials", set, usual, options);
  if (absl::IsOutOfRange(ials.status())) return absl::OkStatus();  // diverged
  RETURN_IF_ERROR(ials.status());
  ASSIGN_OR_RETURN(Tensor rows, ials->Take("ials.item.decoder", {-1, -1}));
  const torch::NoGradGuard no_grad;
  const torch::Tensor right = FromPlain(rows);
  const Factors items{rows.values, static_cast<size_t>(rows.shape[1])};
  std::vector<float> counts(items.rows(), 0.0f);
  for (size_t i = 0; i < set.train.items.size(); ++i) {
    counts[set.train.items[i]] += set.train.weights[i];
  }
  const double mean =
      std::accumulate(counts.begin(), counts.end(), 0.0) /
      static_cast<double>(std::max<int64_t>(1, set.train.users()));
  const FoldIn fold_in = IalsRule(set, usual).Over(items);
  rows.values = fold_in.Gathered(rows.values, counts, kExplained * mean);
  const Halves halves(set, *neumf, FromPlain(rows), right);
  if (weight < 0) {
    weight = set.validation_target.users() > 0 ? halves.ChooseWeight() : kUsual;
  }
  if (weight > 0) halves.Export(weight, neumf);
  if (options.on_epoch) {
    options.on_epoch({.phase = "neumf factors",
                      .epoch = 1,
                      .epochs = 1,
                      .metric = halves.Ndcg(weight),
                      .share = 1,
                      .note = absl::StrFormat("mf_weight %.3g", weight)});
  }
  return absl::OkStatus();
}

// Of an earlier NeuMF, without the second half of its GMF branch.
absl::StatusOr<Tensors> WithoutFactors(Tensors neumf) {
  if (!neumf.Has("neumf.item.linear")) return neumf;
  ASSIGN_OR_RETURN(const Tensor linear,
                   neumf.Take("neumf.item.linear", {-1, -1}));
  ASSIGN_OR_RETURN(const Tensor gmf, neumf.Take("neumf.item.gmf", {-1, -1}));
  const int64_t width = gmf.shape[1] - linear.shape[1];
  if (width > 0) {
    AddTensor(&neumf, "neumf.item.gmf", FromPlain(gmf).narrow(1, 0, width));
  }
  return neumf;
}

}  // namespace

absl::StatusOr<Tensors> TrainNeuMf(const std::string& model,
                                   const TrainingSet& set,
                                   const Parameters& parameters,
                                   const TrainOptions& options) {
  if (model != "neumf") return Phases(model, set, parameters, options).Run();
  const double weight = parameters["mf_weight"];
  TrainOptions part = options;
  Tensors warm;
  if (options.warm_start != nullptr) {
    ASSIGN_OR_RETURN(warm, WithoutFactors(*options.warm_start));
    part.warm_start = &warm;
  }
  part.on_epoch = PartOf(options.on_epoch, 0, weight == 0 ? 1 : 0.8);
  ASSIGN_OR_RETURN(Tensors neumf, Phases(model, set, parameters, part).Run());
  if (weight == 0) return neumf;
  part.warm_start = nullptr;  // it learns quickly
  part.on_epoch = PartOf(options.on_epoch, 0.8, 1);
  RETURN_IF_ERROR(AddFactors(set, weight, part, &neumf));
  return neumf;
}

}  // namespace nearline::model
