#include "model/torch_training.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

#include "model/metrics.h"

namespace nearline::model {
namespace {

// Sum over the users of NDCG@100 of the target items in `logits` [users,
// items], in which the inputs are masked already.
double SumOfNdcg(const torch::Tensor& logits,
                 const features::Interactions& target,
                 const std::vector<int64_t>& users) {
  constexpr int64_t kCutoff = 100;
  const int64_t k = std::min(kCutoff, logits.size(1));
  const torch::Tensor top =
      std::get<1>(logits.topk(k)).to(torch::kCPU).contiguous();
  const int64_t* rows = top.data_ptr<int64_t>();
  double sum = 0;
  for (size_t i = 0; i < users.size(); ++i) {
    const auto truth = target.ItemsOf(users[i]);
    std::vector<uint32_t> sorted(truth.begin(), truth.end());
    std::sort(sorted.begin(), sorted.end());
    std::vector<bool> hits;
    for (int64_t r = 0; r < k; ++r) {
      const auto item =
          static_cast<uint32_t>(rows[static_cast<int64_t>(i) * k + r]);
      hits.push_back(std::binary_search(sorted.begin(), sorted.end(), item));
    }
    sum += Ndcg(hits, static_cast<int>(truth.size()), kCutoff);
  }
  return sum;
}

uint64_t SeedFrom(torch::Generator* generator) {
  return static_cast<uint64_t>(
      torch::randint(std::numeric_limits<int64_t>::max(), {1}, *generator,
                     torch::kInt64)
          .item<int64_t>());
}

torch::Tensor KeptSum(const Bags& bags, const torch::Tensor& rows) {
  return std::get<0>(torch::embedding_bag(rows, bags.items, bags.offsets,
                                          /*scale_grad_by_freq=*/false,
                                          /*mode=*/0, /*sparse=*/false,
                                          bags.weights));
}

}  // namespace

Histories MakeHistories(const features::Interactions& data,
                        const std::vector<int64_t>& users,
                        const Corruption& corruption,
                        torch::Generator* generator) {
  Histories out;
  Corruptor corruptor(corruption, corruption.draws() ? SeedFrom(generator) : 0);
  for (const int64_t user : users) {
    const auto items = data.ItemsOf(user);
    const auto weights = data.WeightsOf(user);
    const std::vector<float>& kept = corruptor.Normalized(weights);
    out.items.insert(out.items.end(), items.begin(), items.end());
    out.weights.insert(out.weights.end(), kept.begin(), kept.end());
    out.targets.insert(out.targets.end(), weights.begin(), weights.end());
    out.offsets.push_back(static_cast<int64_t>(out.items.size()));
  }
  return out;
}

Bags MakeBags(const features::Interactions& data,
              const std::vector<int64_t>& users, const Corruption& corruption,
              torch::Generator* generator, torch::Device device) {
  const Histories all = MakeHistories(data, users, corruption, generator);
  std::vector<int64_t> items, offsets, target_users;
  std::vector<float> weights;
  for (size_t u = 0; u < users.size(); ++u) {
    offsets.push_back(static_cast<int64_t>(items.size()));
    for (auto i = static_cast<size_t>(all.offsets[u]);
         i < static_cast<size_t>(all.offsets[u + 1]); ++i) {
      target_users.push_back(static_cast<int64_t>(u));
      if (all.weights[i] == 0) continue;
      items.push_back(all.items[i]);
      weights.push_back(all.weights[i]);
    }
  }
  const auto ints = [&](const std::vector<int64_t>& v) {
    return torch::tensor(v, torch::kInt64).to(device);
  };
  const auto floats = [&](const std::vector<float>& v) {
    return torch::tensor(v, torch::kFloat32).to(device);
  };
  return {ints(items),        ints(offsets),   floats(weights),
          ints(target_users), ints(all.items), floats(all.targets)};
}

torch::Tensor HiddenOf(const Bags& bags, const torch::Tensor& rows,
                       const torch::Tensor& bias) {
  return torch::tanh(KeptSum(bags, rows) + bias);
}

torch::Tensor DirectionOf(const Bags& bags, const torch::Tensor& rows,
                          double length) {
  return UnitRows(KeptSum(bags, rows)) * length;
}

torch::Tensor UnitRows(const torch::Tensor& rows) {
  return rows / rows.norm(2, -1, /*keepdim=*/true).clamp_min(1e-12);
}

torch::Tensor Rotation(int64_t n, torch::Generator* generator) {
  return std::get<0>(torch::linalg_qr(torch::randn({n, n}, *generator)));
}

torch::Tensor SumOf(const Bags& bags, const torch::Tensor& rows) {
  return std::get<0>(torch::embedding_bag(rows, bags.target_items, bags.offsets,
                                          /*scale_grad_by_freq=*/false,
                                          /*mode=*/0, /*sparse=*/false,
                                          bags.target_weights));
}

bool IsSparse(const TrainingSet& set) {
  constexpr size_t kFew = 40;
  return set.train.items.size() < kFew * static_cast<size_t>(set.items);
}

TrainingSet SetApart(const TrainingSet& set) {
  constexpr int64_t kMostUsers = 500;
  constexpr size_t kFifth = 5;
  TrainingSet out;
  out.items = set.items;
  out.in_order = set.in_order;
  const int64_t users = set.train.users();
  const int64_t stride = std::max<int64_t>(2, users / kMostUsers);
  for (int64_t u = 0; u < users; ++u) {
    const auto items = set.train.ItemsOf(u);
    const auto weights = set.train.WeightsOf(u);
    const bool asked = u % stride == 0 && items.size() >= kFifth;
    for (size_t i = 0; i < items.size(); ++i) {
      const bool target = asked && IsToBeFound(set, i, items.size(),
                                               static_cast<size_t>(u / stride));
      features::Interactions& to = target ? out.validation_target : out.train;
      to.items.push_back(items[i]);
      to.weights.push_back(weights[i]);
      if (!asked || target) continue;
      out.validation_input.items.push_back(items[i]);
      out.validation_input.weights.push_back(weights[i]);
    }
    out.train.EndUser();
    if (!asked) continue;
    out.validation_input.EndUser();
    out.validation_target.EndUser();
  }
  return out;
}

std::vector<std::vector<int64_t>> ShuffledBatches(int64_t n, int64_t size,
                                                  torch::Generator* generator) {
  const torch::Tensor order = torch::randperm(n, *generator, torch::kInt64);
  const int64_t* const users = order.data_ptr<int64_t>();
  std::vector<std::vector<int64_t>> out;
  for (int64_t first = 0; first < n; first += size) {
    out.emplace_back(users + first, users + std::min(n, first + size));
  }
  return out;
}

double ValidationNdcg(const TrainingSet& set, int64_t batch,
                      torch::Device device,
                      const std::function<torch::Tensor(const Bags&)>& logits) {
  const int64_t users = set.validation_target.users();
  if (users == 0) return 0;
  const torch::NoGradGuard no_grad;
  double sum = 0;
  for (int64_t first = 0; first < users; first += batch) {
    std::vector<int64_t> some(
        static_cast<size_t>(std::min(batch, users - first)));
    std::iota(some.begin(), some.end(), first);
    const Bags bags =
        MakeBags(set.validation_input, some, {}, /*generator=*/nullptr, device);
    torch::Tensor scores = logits(bags);
    scores.index_put_({bags.target_users, bags.target_items},
                      torch::full({}, -1e30f, scores.options()));
    sum += SumOfNdcg(scores, set.validation_target, some);
  }
  return sum / static_cast<double>(users);
}

void SetRate(torch::optim::Adam* adam, double rate) {
  for (auto& group : adam->param_groups()) {
    static_cast<torch::optim::AdamOptions&>(group.options()).lr(rate);
  }
}

torch::Tensor WarmOr(const Tensors* warm, const std::string& name,
                     torch::Tensor fresh) {
  if (warm == nullptr) return fresh;
  const auto found = warm->Get(name, fresh.sizes().vec());
  return found.ok() ? FromPlain(**found) : fresh;
}

std::function<double()> Validation(
    const TrainingSet& set, const TrainOptions& options,
    std::function<torch::Tensor(const Bags&)> logits) {
  if (set.validation_target.users() == 0) return {};
  return [&set, &options, logits = std::move(logits)] {
    return ValidationNdcg(set, 500, options.device, logits);
  };
}

void KeepTensor(const std::string& name, torch::Tensor tensor,
                TrainingState* state) {
  const torch::NoGradGuard no_grad;
  torch::Tensor plain = tensor.detach().cpu().contiguous();
  state->Values(name, static_cast<char*>(plain.data_ptr()), plain.nbytes());
  if (state->restores()) tensor.copy_(plain);
}

void KeepGenerator(torch::Generator* generator, TrainingState* state) {
  torch::Tensor numbers = generator->get_state();
  KeepTensor("generator", numbers, state);
  if (state->restores()) generator->set_state(numbers);
}

void KeepAdam(torch::optim::Adam* adam, TrainingState* state) {
  std::ostringstream out;
  if (!state->restores()) torch::save(*adam, out);
  std::string text = out.str();
  state->Text("adam", &text);
  if (!state->restores() || text.empty()) return;
  std::istringstream in(text);
  torch::load(*adam, in);
}

}  // namespace nearline::model
