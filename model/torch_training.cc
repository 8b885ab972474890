#include "model/torch_training.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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

}  // namespace

Bags MakeBags(const features::Interactions& data,
              const std::vector<int64_t>& users, const Corruption& corruption,
              torch::Generator* generator, torch::Device device) {
  std::vector<int64_t> items, offsets, target_users, target_items;
  std::vector<float> weights, target_weights;
  Corruptor corruptor(corruption, corruption.draws() ? SeedFrom(generator) : 0);
  for (size_t i = 0; i < users.size(); ++i) {
    const auto of_user = data.ItemsOf(users[i]);
    const auto w = data.WeightsOf(users[i]);
    offsets.push_back(static_cast<int64_t>(items.size()));
    const std::vector<float>& kept = corruptor.Normalized(w);
    for (size_t j = 0; j < of_user.size(); ++j) {
      target_users.push_back(static_cast<int64_t>(i));
      target_items.push_back(of_user[j]);
      target_weights.push_back(w[j]);
      if (kept[j] == 0) continue;
      items.push_back(of_user[j]);
      weights.push_back(kept[j]);
    }
  }
  const auto ints = [&](const std::vector<int64_t>& v) {
    return torch::tensor(v, torch::kInt64).to(device);
  };
  const auto floats = [&](const std::vector<float>& v) {
    return torch::tensor(v, torch::kFloat32).to(device);
  };
  return {ints(items),        ints(offsets),      floats(weights),
          ints(target_users), ints(target_items), floats(target_weights)};
}

torch::Tensor HiddenOf(const Bags& bags, const torch::Tensor& rows,
                       const torch::Tensor& bias) {
  return torch::tanh(
      std::get<0>(torch::embedding_bag(rows, bags.items, bags.offsets,
                                       /*scale_grad_by_freq=*/false, /*mode=*/0,
                                       /*sparse=*/false, bags.weights)) +
      bias);
}

torch::Tensor SumOf(const Bags& bags, const torch::Tensor& rows) {
  return std::get<0>(torch::embedding_bag(rows, bags.target_items, bags.offsets,
                                          /*scale_grad_by_freq=*/false,
                                          /*mode=*/0, /*sparse=*/false,
                                          bags.target_weights));
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

}  // namespace nearline::model
