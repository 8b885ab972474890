// The weighted hybrid: a user's own interest, which is what the history says of
// items by itself (EASE, truncated), beside what neighbours of the user like
// (user-kNN, truncated), beside content where items have attributes. Each part
// is x L R^T; parts lie side by side, their weights within L.
#include <algorithm>

#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

struct Part {
  std::string parameter;  // that weighs it; empty: 1
  double fallback = 0;    // its weight without validation data
  torch::Tensor left, right;
  double weight = 1;
};

// With scores of a standard deviation of 1 over some training users; nothing
// when all their scores are alike.
Part MakePart(const TrainingSet& set, const std::string& model,
              const Tensors& tensors, const std::string& parameter,
              double fallback) {
  Part part{parameter, fallback,
            FromPlain(tensors.all().at(model + ".item.linear")),
            FromPlain(tensors.all().at(model + ".item.decoder"))};
  std::vector<int64_t> some;
  const int64_t stride = std::max<int64_t>(1, set.train.users() / 200);
  for (int64_t u = 0; u < set.train.users(); u += stride) some.push_back(u);
  const Bags bags = MakeBags(set.train, some, {}, nullptr, torch::kCPU);
  const double spread =
      SumOf(bags, part.left).matmul(part.right.t()).std().item<double>();
  part.left = spread > 1e-6 ? part.left / spread : torch::zeros_like(part.left);
  return part;
}

double Ndcg(const TrainingSet& set, const std::vector<Part>& parts) {
  return ValidationNdcg(set, 500, torch::kCPU, [&](const Bags& bags) {
    torch::Tensor sum;
    for (const Part& part : parts) {
      const torch::Tensor scores =
          part.weight * SumOf(bags, part.left).matmul(part.right.t());
      sum = sum.defined() ? sum + scores : scores;
    }
    return sum;
  });
}

// One weight after the other, twice.
void ChooseWeights(const TrainingSet& set, const Parameters& parameters,
                   std::vector<Part>* parts) {
  const auto is_free = [&](const Part& part) {
    return !part.parameter.empty() && parameters[part.parameter] < 0;
  };
  for (Part& part : *parts) {
    if (part.parameter.empty()) continue;
    part.weight = is_free(part) ? part.fallback : parameters[part.parameter];
  }
  if (set.validation_target.users() == 0) return;
  for (int round = 0; round < 2; ++round) {
    for (Part& part : *parts) {
      if (!is_free(part)) continue;
      double best = part.weight, best_ndcg = Ndcg(set, *parts);
      for (const double weight : {0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6}) {
        part.weight = weight;
        const double ndcg = Ndcg(set, *parts);
        if (ndcg <= best_ndcg) continue;
        best = weight;
        best_ndcg = ndcg;
      }
      part.weight = best;
    }
  }
}

absl::StatusOr<Tensors> TrainNeighbours(const TrainingSet& set,
                                        const Parameters& parameters,
                                        const TrainOptions& options) {
  ASSIGN_OR_RETURN(Parameters p, ParametersOf("user-knn"));
  RETURN_IF_ERROR(p.Set("rank", parameters["neighbour_rank"]));
  return TrainLinear("user-knn", set, p, options);
}

}  // namespace

absl::StatusOr<Tensors> TrainHybrid(const std::string& /*model*/,
                                    const TrainingSet& set,
                                    const Parameters& parameters,
                                    const TrainOptions& options) {
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0, 0.5);
  ASSIGN_OR_RETURN(const Tensors own,
                   TrainLinear("ease", set, parameters, part));
  part.on_epoch = PartOf(options.on_epoch, 0.5, 0.9);
  ASSIGN_OR_RETURN(const Tensors neighbours,
                   TrainNeighbours(set, parameters, part));
  part.on_epoch = PartOf(options.on_epoch, 0.9, 1);
  const absl::StatusOr<Tensors> content =
      TrainContent("content", set, parameters, part);
  if (!content.ok() && !absl::IsFailedPrecondition(content.status())) {
    return content.status();
  }
  const torch::NoGradGuard no_grad;
  std::vector<Part> parts = {
      MakePart(set, "ease", own, "", 1),
      MakePart(set, "user-knn", neighbours, "neighbour_weight", 0.1)};
  if (content.ok()) {
    parts.push_back(MakePart(set, "content", *content, "content_weight", 0.05));
  }
  ChooseWeights(set, parameters, &parts);
  std::vector<torch::Tensor> left, right;
  for (const Part& p : parts) {
    left.push_back(p.weight * p.left);
    right.push_back(p.right);
  }
  Tensors out;
  AddTensor(&out, "hybrid.item.linear", torch::cat(left, 1));
  AddTensor(&out, "hybrid.item.decoder", torch::cat(right, 1));
  AddTensor(&out, "hybrid.item.bias", torch::zeros({set.items, 1}));
  return out;
}

}  // namespace nearline::model
