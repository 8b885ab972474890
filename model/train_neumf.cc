// NeuMF over a user that is built from the history (docs/decisions/0003):
//   h = tanh(sum_i x_i E_i + b)
//   logit_i = h . v_i + c_i + w . relu(W3 relu(W2 relu(U h + b1 + a_i) + b2) + b3)
// Pre-training fits the first two terms, the GMF branch, with a softmax over all
// items; joint training fits everything over the items of a sample.
#include <algorithm>
#include <cmath>

#include "model/torch_guard.h"
#include "model/train.h"

namespace nearline::model {
namespace {

struct NeuMf : torch::nn::Module {
  NeuMf(int64_t items, const Parameters& p, const Tensors* warm,
        torch::Generator* generator) {
    const int64_t d = p.Int("factors");
    const int64_t h1 = p.Int("layer1"), h2 = p.Int("layer2"),
                  h3 = p.Int("layer3");
    const auto normal = [&](std::vector<int64_t> shape, double std) {
      return torch::randn(shape, *generator) * std;
    };
    const auto he = [](int64_t in) {
      return std::sqrt(2.0 / static_cast<double>(in));
    };
    const auto add = [&](const char* name, const std::string& tensor,
                         torch::Tensor fresh) {
      return register_parameter(name, WarmOr(warm, tensor, std::move(fresh)));
    };
    const double xavier = std::sqrt(2.0 / static_cast<double>(items + d));
    history = add("history", "neumf.item.history", normal({items, d}, xavier));
    history_bias = add("history_bias", "neumf.history.bias", normal({d}, 1e-3));
    gmf = add("gmf", "neumf.item.gmf", normal({items, d}, xavier));
    bias = register_parameter(
        "bias", WarmOr(warm, "neumf.item.bias", normal({items, 1}, 1e-3))
                    .squeeze(1)
                    .clone());
    user = add("user", "neumf.mlp.user.weight",
               normal({h1, d}, 1 / std::sqrt(static_cast<double>(d))));
    user_bias = add("user_bias", "neumf.mlp.user.bias", torch::zeros({h1}));
    mlp = add("mlp", "neumf.item.mlp", normal({items, h1}, 0.1));
    weight2 = add("weight2", "neumf.mlp.2.weight", normal({h2, h1}, he(h1)));
    bias2 = add("bias2", "neumf.mlp.2.bias", torch::zeros({h2}));
    weight3 = add("weight3", "neumf.mlp.3.weight", normal({h3, h2}, he(h2)));
    bias3 = add("bias3", "neumf.mlp.3.bias", torch::zeros({h3}));
    last = add("last", "neumf.mlp.last", normal({h3}, he(h3) / 2));
  }

  torch::Tensor User(const Bags& bags) {
    return torch::tanh(std::get<0>(torch::embedding_bag(
                           history, bags.items, bags.offsets,
                           /*scale_grad_by_freq=*/false, /*mode=*/0,
                           /*sparse=*/false, bags.weights)) +
                       history_bias);
  }
  // Logits [users, items] of the GMF branch over all items.
  torch::Tensor Gmf(const torch::Tensor& h) {
    return torch::linear(h, gmf, bias);
  }
  // Logits [users, |items|] of both branches.
  torch::Tensor Both(const torch::Tensor& h, const torch::Tensor& items) {
    const int64_t users = h.size(0), n = items.size(0);
    const torch::Tensor a = torch::linear(h, user, user_bias).unsqueeze(1);
    torch::Tensor z =
        torch::relu(a + mlp.index_select(0, items).unsqueeze(0))
            .reshape({users * n, -1});
    z = torch::relu(torch::linear(z, weight2, bias2));
    z = torch::relu(torch::linear(z, weight3, bias3));
    return torch::linear(h, gmf.index_select(0, items),
                         bias.index_select(0, items)) +
           torch::mv(z, last).reshape({users, n});
  }

  Tensors Export() const {
    Tensors out;
    AddTensor(&out, "neumf.item.history", history);
    AddTensor(&out, "neumf.history.bias", history_bias);
    AddTensor(&out, "neumf.item.gmf", gmf);
    AddTensor(&out, "neumf.item.bias", bias.unsqueeze(1));
    AddTensor(&out, "neumf.mlp.user.weight", user);
    AddTensor(&out, "neumf.mlp.user.bias", user_bias);
    AddTensor(&out, "neumf.item.mlp", mlp);
    AddTensor(&out, "neumf.mlp.2.weight", weight2);
    AddTensor(&out, "neumf.mlp.2.bias", bias2);
    AddTensor(&out, "neumf.mlp.3.weight", weight3);
    AddTensor(&out, "neumf.mlp.3.bias", bias3);
    AddTensor(&out, "neumf.mlp.last", last);
    return out;
  }

  torch::Tensor history, history_bias, gmf, bias, user, user_bias, mlp,
      weight2, bias2, weight3, bias3, last;
};

class Trainer {
 public:
  Trainer(const TrainingSet& set, const Parameters& p,
          const TrainOptions& options)
      : set_(set), p_(p), options_(options), device_(options.device),
        generator_(at::detail::createCPUGenerator(options.seed)),
        model_(set.items, p, options.warm_start, &generator_) {
    model_.to(device_);
  }

  Tensors Run() {
    // A warm start has its GMF branch; a third of the epochs keep it fresh.
    const int pretrain = options_.warm_start == nullptr
                             ? p_.Int("pretrain_epochs")
                             : p_.Int("pretrain_epochs") / 3;
    RunPhase("neumf (pre-training)", pretrain, p_["learning_rate"],
             {model_.history, model_.history_bias, model_.gmf, model_.bias},
             /*joint=*/false);
    RunPhase("neumf", p_.Int("epochs"), p_["joint_learning_rate"],
             model_.parameters(), /*joint=*/true);
    return model_.Export();
  }

 private:
  void RunPhase(const std::string& name, int epochs, double learning_rate,
                std::vector<torch::Tensor> parameters, bool joint) {
    torch::optim::Adam adam(
        std::move(parameters),
        torch::optim::AdamOptions(learning_rate)
            .weight_decay(p_["weight_decay"]));
    const double steps =
        epochs *
        std::ceil(static_cast<double>(set_.train.users()) / p_["batch"]);
    int64_t step = 0;
    for (int epoch = 1; epoch <= epochs; ++epoch) {
      const std::vector<int64_t> order =
          Shuffled(set_.train.users(), &generator_);
      const auto batch = static_cast<size_t>(p_.Int("batch"));
      double total = 0;
      for (size_t first = 0; first < order.size(); first += batch) {
        const size_t count = std::min(batch, order.size() - first);
        // The learning rate falls linearly to a fiftieth.
        const double rate =
            learning_rate *
            std::max(0.02, 1 - static_cast<double>(step++) / steps);
        for (auto& group : adam.param_groups()) {
          static_cast<torch::optim::AdamOptions&>(group.options()).lr(rate);
        }
        const std::vector<int64_t> users(
            order.begin() + static_cast<std::ptrdiff_t>(first),
            order.begin() + static_cast<std::ptrdiff_t>(first + count));
        const torch::Tensor loss = joint ? JointLoss(users) : GmfLoss(users);
        adam.zero_grad();
        loss.backward();
        adam.step();
        total += loss.item<double>() * static_cast<double>(count);
      }
      if (options_.on_epoch) {
        options_.on_epoch({.phase = name,
                           .epoch = epoch,
                           .epochs = epochs,
                           .loss = total / static_cast<double>(order.size()),
                           .metric = Validate(joint)});
      }
    }
  }

  // Weights of the users' items, so that a long history does not drown short
  // ones.
  torch::Tensor TargetWeights(const Bags& bags, int64_t users) {
    const torch::Tensor sums =
        torch::zeros({users}, bags.target_weights.options())
            .index_add(0, bags.target_users, bags.target_weights);
    return bags.target_weights /
           sums.pow(p_["user_norm"]).index_select(0, bags.target_users);
  }

  torch::Tensor GmfLoss(const std::vector<int64_t>& users) {
    const Bags bags =
        MakeBags(set_.train, users, p_["dropout"], &generator_, device_);
    const auto count = static_cast<int64_t>(users.size());
    const torch::Tensor log_p =
        torch::log_softmax(model_.Gmf(model_.User(bags)), 1);
    return -(log_p.index({bags.target_users, bags.target_items}) *
             TargetWeights(bags, count))
                .sum() /
           static_cast<double>(count);
  }

  torch::Tensor JointLoss(const std::vector<int64_t>& users) {
    const Bags bags =
        MakeBags(set_.train, users, p_["dropout"], &generator_, device_);
    const auto count = static_cast<int64_t>(users.size());
    const int64_t sample =
        std::min<int64_t>(p_.Int("negatives"), set_.items);
    const torch::Tensor items =
        torch::randperm(set_.items, generator_, torch::kInt64)
            .slice(0, 0, sample)
            .to(device_);
    torch::Tensor targets =
        torch::zeros({count, set_.items}, bags.target_weights.options());
    targets.index_put_({bags.target_users, bags.target_items},
                       TargetWeights(bags, count));
    const torch::Tensor log_p =
        torch::log_softmax(model_.Both(model_.User(bags), items), 1);
    const double share =
        static_cast<double>(sample) / static_cast<double>(set_.items);
    return -(log_p * targets.index_select(1, items)).sum() /
           (static_cast<double>(count) * share);
  }

  double Validate(bool joint) {
    const int64_t users = set_.validation_target.users();
    if (users == 0) return 0;
    const torch::NoGradGuard no_grad;
    const torch::Tensor all =
        torch::arange(set_.items, torch::kInt64).to(device_);
    double sum = 0;
    for (int64_t first = 0; first < users; first += 50) {
      const std::vector<int64_t> batch =
          Range(first, std::min<int64_t>(50, users - first));
      const Bags bags =
          MakeBags(set_.validation_input, batch, 0, &generator_, device_);
      const torch::Tensor h = model_.User(bags);
      torch::Tensor logits = joint ? model_.Both(h, all) : model_.Gmf(h);
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
  NeuMf model_;
};

}  // namespace

absl::StatusOr<Tensors> TrainNeuMf(const TrainingSet& set,
                                   const Parameters& parameters,
                                   const TrainOptions& options) {
  return TorchGuard([&]() -> absl::StatusOr<Tensors> {
    torch::set_num_threads(options.threads);
    return Trainer(set, parameters, options).Run();
  });
}

}  // namespace nearline::model
