// A denoising autoencoder with a linear path beside it, added in the logits:
// truncated EASE, or in a large or sparse catalogue paths through users; and
// where events have an order, a path from the newest items. One encoder a path,
// and one scan over rows that hold their decoders side by side; what the
// truncation leaves out is served by neighbours where that helps. The paths are
// trained one after the other; their weights are chosen on validation data,
// which are set apart from the training data when none are given. Then a head
// is trained that orders what they hand to it.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "model/neighbours.h"
#include "model/torch_training.h"
#include "model/train_head.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

using features::Interactions;

// Neural and linear part, what the linear one's truncation leaves out, and the
// part of the newest items, if there is one.
class Joint {
 public:
  struct Weights {
    double linear = 0;
    double neighbours = 0;  // beside 1 for the truncated part
    double recent = 0;
    double ndcg = 0;  // @100 of all on validation data
  };

  Joint(const Tensors& neural, const Tensors& linear, const Tensors& recent)
      : encoder_(Get(neural, "joint.item.encoder")),
        cosine_(neural.Has(kLength)),
        encoder_end_(Get(neural, cosine_ ? kLength : kBias)),
        decoder_(Get(neural, "joint.item.decoder")),
        bias_(Get(neural, "joint.item.bias")),
        left_(Get(linear, "joint.item.linear")),
        right_(Get(linear, "joint.item.decoder")) {
    if (recent.Has(kRecent)) {
      recent_ = Get(recent, kRecent);
      positions_ = Get(recent, kPositions);
      next_ = Get(recent, "joint.item.decoder");
    }
    const auto rows = linear.Get(kRows, {-1, -1});
    const auto weights = linear.Get(kWeights, {-1, -1});
    if (!rows.ok() || !weights.ok()) return;
    neighbour_rows_ = **rows;
    neighbour_weights_ = **weights;
    auto neighbours = Neighbours::Create(neighbour_rows_, neighbour_weights_);
    if (neighbours.ok()) neighbours_.emplace(*std::move(neighbours));
  }

  bool HasNeighbours() const { return neighbours_.has_value(); }
  bool HasRecent() const { return recent_.defined(); }

  // Logits [users, items] of histories, part by part.
  torch::Tensor Neural(const Bags& bags) const {
    return torch::linear(
        cosine_ ? DirectionOf(bags, encoder_, encoder_end_.item<double>())
                : HiddenOf(bags, encoder_, encoder_end_),
        decoder_, bias_.squeeze(1));
  }
  torch::Tensor Linear(const Bags& bags) const {
    return SumOf(bags, left_).matmul(right_.t());
  }
  torch::Tensor Recent(const Bags& bags) const {
    if (!HasRecent()) return torch::zeros({1, 1});
    return RecentOf(bags, recent_, positions_).matmul(next_.t());
  }
  torch::Tensor Rest(const Interactions& histories) const {
    torch::Tensor out = torch::zeros({histories.users(), decoder_.size(0)});
    std::vector<ScoredRow> sums;
    for (int64_t u = 0; u < histories.users() && HasNeighbours(); ++u) {
      const auto items = histories.ItemsOf(u);
      const auto weights = histories.WeightsOf(u);
      neighbours_->Gather(
          {{items.begin(), items.end()}, {weights.begin(), weights.end()}},
          &sums);
      float* const row = out[u].data_ptr<float>();
      for (const ScoredRow& sum : sums) row[sum.row] = sum.score;
    }
    return out;
  }

  // All parts of a row alike in length, so that rounding takes from them alike.
  Tensors Export(const Weights& weights) const {
    const double length = decoder_.norm().item<double>();
    const auto balance = [&](const torch::Tensor& part) {
      return length / std::max(1e-12, part.norm().item<double>());
    };
    Tensors out;
    AddTensor(&out, "joint.item.encoder", encoder_);
    AddTensor(&out, cosine_ ? kLength : kBias, encoder_end_);
    AddTensor(&out, "joint.item.linear",
              left_ * (weights.linear / balance(right_)));
    std::vector<torch::Tensor> parts = {decoder_, right_ * balance(right_)};
    if (weights.recent > 0) {
      AddTensor(&out, kRecent, recent_ * (weights.recent / balance(next_)));
      AddTensor(&out, kPositions, positions_);
      parts.push_back(next_ * balance(next_));
    }
    AddTensor(&out, "joint.item.decoder", torch::cat(parts, 1));
    AddTensor(&out, "joint.item.bias", bias_);
    const auto scale = static_cast<float>(weights.linear * weights.neighbours);
    if (!HasNeighbours() || scale == 0) return out;
    Tensor scaled = neighbour_weights_;
    for (float& weight : scaled.values) weight *= scale;
    out.Add(kRows, neighbour_rows_.shape, neighbour_rows_.values);
    out.Add(kWeights, scaled.shape, std::move(scaled.values));
    return out;
  }

 private:
  static constexpr char kBias[] = "joint.encoder.bias";
  static constexpr char kLength[] = "joint.encoder.length";
  static constexpr char kRows[] = "joint.neighbours.rows";
  static constexpr char kWeights[] = "joint.neighbours.weights";
  static constexpr char kRecent[] = "joint.item.recent";
  static constexpr char kPositions[] = "joint.recent.positions";

  static torch::Tensor Get(const Tensors& tensors, const std::string& name) {
    return FromPlain(tensors.all().at(name));
  }

  const torch::Tensor encoder_;
  const bool cosine_;
  const torch::Tensor encoder_end_;  // its bias; or its length
  const torch::Tensor decoder_, bias_, left_, right_;
  torch::Tensor recent_, positions_, next_;
  Tensor neighbour_rows_, neighbour_weights_;
  std::optional<Neighbours> neighbours_;
};

// The first `users`.
Interactions FirstOf(const Interactions& all, int64_t users) {
  Interactions out;
  const auto end = all.offsets.begin() + users + 1;
  out.offsets.assign(all.offsets.begin(), end);
  out.items.assign(all.items.begin(), all.items.begin() + out.offsets.back());
  out.weights.assign(all.weights.begin(),
                     all.weights.begin() + out.offsets.back());
  return out;
}

// The weights that are not given (below 0), by NDCG@100 on validation data, or
// without any by the spread of the logits of some training users.
class WeightSearch {
 public:
  WeightSearch(const Joint& joint, const TrainingSet& set)
      : has_validation_(set.validation_target.users() > 0),
        has_neighbours_(joint.HasNeighbours()),
        has_recent_(joint.HasRecent()) {
    const Interactions& from =
        has_validation_ ? set.validation_input : set.train;
    const int64_t users = std::clamp<int64_t>(
        kMostLogits / set.items, 1, std::min<int64_t>(1000, from.users()));
    some_.items = set.items;
    some_.validation_input = FirstOf(from, users);
    if (has_validation_) {
      some_.validation_target = FirstOf(set.validation_target, users);
    }
    std::vector<int64_t> all(static_cast<size_t>(users));
    std::iota(all.begin(), all.end(), 0);
    const Bags bags =
        MakeBags(some_.validation_input, all, {}, nullptr, torch::kCPU);
    neural_ = joint.Neural(bags);
    linear_ = joint.Linear(bags);
    rest_ = joint.Rest(some_.validation_input);
    recent_ = joint.Recent(bags);
    // Logits that are all alike have no spread to go by.
    constexpr double kAlike = 1e-6;
    const double neural = neural_.std().item<double>();
    const double linear = linear_.std().item<double>();
    unit_ = neural > kAlike && linear > kAlike ? neural / linear : 1;
  }

  Joint::Weights Choose(const Joint::Weights& given) const {
    if (!has_validation_) {
      return {.linear = given.linear >= 0 ? given.linear : kUsual * unit_,
              .neighbours = std::max(0.0, given.neighbours),
              .recent = has_recent_ ? std::max(0.0, given.recent) : 0};
    }
    Joint::Weights fixed = given;
    if (!has_neighbours_) fixed.neighbours = 0;
    if (!has_recent_) fixed.recent = 0;
    Joint::Weights best = ChooseLinear(fixed, std::max(0.0, fixed.recent));
    if (fixed.recent >= 0) return best;
    // One after the other, and again.
    best.recent = ChooseRecent(&best);
    if (best.recent > 0) {
      best = ChooseLinear(fixed, best.recent);
      best.recent = ChooseRecent(&best);
    }
    return best;
  }

 private:
  static constexpr int64_t kMostLogits = 25'000'000;
  static constexpr double kUsual = 0.35;  // of logits alike in spread
  static constexpr double kWorth = 0.005;

  // Linear weight and neighbours beside that weight of the newest items.
  Joint::Weights ChooseLinear(const Joint::Weights& given,
                              double recent) const {
    std::vector<double> shares = {std::max(0.0, given.neighbours)};
    if (given.neighbours < 0) shares = {0, 0.5, 1};
    std::vector<double> weights = {given.linear};
    if (given.linear < 0) {
      weights = {0};
      for (int half = -10; half <= 6; ++half) {
        weights.push_back(unit_ * std::exp2(half / 2.0));
      }
    }
    Joint::Weights best{weights[0], shares[0], recent, -1};
    for (const double share : shares) {
      // Neighbours cost time in each answer.
      const double least = best.ndcg * (share > 0 ? 1 + kWorth : 1);
      for (const double weight : weights) {
        const Joint::Weights one{weight, share, recent};
        const double ndcg = Ndcg(one);
        if (ndcg > std::max(least, best.ndcg)) {
          best = one;
          best.ndcg = ndcg;
        }
      }
    }
    return best;
  }

  // The weight of the newest items beside the others, which also cost time.
  double ChooseRecent(Joint::Weights* others) const {
    Joint::Weights one = *others;
    one.recent = 0;
    double best = 0, least = Ndcg(one) * (1 + kWorth);
    for (int half = -4; half <= 6; ++half) {
      one.recent = std::exp2(half / 2.0);
      const double ndcg = Ndcg(one);
      if (ndcg <= least) continue;
      best = one.recent;
      least = others->ndcg = ndcg;
    }
    return best;
  }

  double Ndcg(const Joint::Weights& weights) const {
    return ValidationNdcg(
        some_, some_.validation_input.users(), torch::kCPU, [&](const Bags&) {
          torch::Tensor sum = neural_ + weights.linear * linear_;
          if (weights.neighbours != 0) {
            sum.add_(rest_, weights.linear * weights.neighbours);
          }
          if (weights.recent != 0) sum.add_(recent_, weights.recent);
          return sum;
        });
  }

  const bool has_validation_, has_neighbours_, has_recent_;
  TrainingSet some_;
  torch::Tensor neural_, linear_, rest_, recent_;  // logits [users, items]
  double unit_ = 1;
};

// Of an earlier joint model, what the autoencoder may start from: nothing when
// it was of another width.
absl::StatusOr<Tensors> NeuralPart(const Tensors& joint, int64_t hidden) {
  Tensors out = joint;
  if (!out.Get("joint.item.encoder", {-1, hidden}).ok()) return Tensors();
  ASSIGN_OR_RETURN(const Tensor both, out.Take("joint.item.decoder", {-1, -1}));
  AddTensor(&out, "joint.item.decoder", FromPlain(both).narrow(1, 0, hidden));
  return out;
}

// The path of the newest items, for a weight that is to be chosen when it is
// below 0; nothing where there is no order, or nothing to learn from, or
// nothing came of it: joint does without.
absl::StatusOr<Tensors> TrainNewest(const TrainingSet& set, double weight,
                                    const TrainOptions& options) {
  if (weight == 0 || (weight < 0 && !set.in_order)) return Tensors();
  ASSIGN_OR_RETURN(const Parameters usual, ParametersOf("recent"));
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0.7, 0.95);
  // It learns quickly, and another scale of its logits would mislead the search
  // for weights.
  part.warm_start = nullptr;
  absl::StatusOr<Tensors> recent = TrainRecent("joint", set, usual, part);
  if (absl::IsFailedPrecondition(recent.status()) ||
      absl::IsOutOfRange(recent.status())) {
    return Tensors();
  }
  return recent;
}

// EASE is better where it is not too slow; on sparse data not by much.
Trainer* LinearTrainer(const Parameters& parameters, const TrainingSet& set) {
  double most = parameters["ease_items"];
  if (most < 0) most = IsSparse(set) ? 5000 : 25000;
  return set.items > most ? TrainPaths : TrainLinear;
}

// Reports whose phase ends in `name`.
OnEpoch Named(const std::string& name, OnEpoch whole) {
  if (!whole) return whole;
  return [name, whole = std::move(whole)](EpochReport report) {
    report.phase = absl::StrCat(report.phase, ", ", name);
    whole(report);
  };
}

// All paths of one set.
struct Paths {
  Tensors neural, linear, recent;
  Joint::Weights weights;

  Tensors Export() const {
    const torch::NoGradGuard no_grad;
    return Joint(neural, linear, recent).Export(weights);
  }
};

absl::StatusOr<Tensors> TrainNeural(const TrainingSet& set,
                                    const Parameters& parameters,
                                    const TrainOptions& options) {
  TrainOptions part = options;
  Tensors warm;
  if (options.warm_start != nullptr) {
    ASSIGN_OR_RETURN(warm,
                     NeuralPart(*options.warm_start, parameters.Int("hidden")));
    part.warm_start = warm.all().empty() ? nullptr : &warm;
  }
  return TrainAutoencoder("joint", set, parameters, part);
}

// One after the other, without weights. "temperature" is given.
absl::StatusOr<Paths> TrainEach(const TrainingSet& set,
                                const Parameters& parameters,
                                double recent_weight, Trainer* train_linear,
                                const TrainOptions& options) {
  Paths paths;
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0, 0.1);
  ASSIGN_OR_RETURN(paths.linear, train_linear("joint", set, parameters, part));
  part.on_epoch = PartOf(options.on_epoch, 0.1, 0.7);
  ASSIGN_OR_RETURN(paths.neural, TrainNeural(set, parameters, part));
  ASSIGN_OR_RETURN(paths.recent, TrainNewest(set, recent_weight, options));
  return paths;
}

Joint::Weights ChooseWeights(const Paths& paths, const TrainingSet& set,
                             const Parameters& parameters,
                             const OnEpoch& on_epoch) {
  const torch::NoGradGuard no_grad;
  const Joint joint(paths.neural, paths.linear, paths.recent);
  const Joint::Weights weights =
      WeightSearch(joint, set)
          .Choose({.linear = parameters["linear_weight"],
                   .neighbours = parameters["neighbour_share"],
                   .recent = parameters["recent_weight"]});
  if (!on_epoch) return weights;
  on_epoch({.phase = "joint weights",
            .epoch = 1,
            .epochs = 1,
            .metric = weights.ndcg,
            .share = 1,
            .note = absl::StrFormat(
                "linear_weight %.4g, neighbour_share %.2g, recent_weight %.3g",
                weights.linear, weights.neighbours, weights.recent)});
  return weights;
}

// All paths with their weights, and of `temperatures` the one with which they
// are the best on validation data; without any, the first. `parameters` get it.
absl::StatusOr<Paths> TrainBest(const TrainingSet& set,
                                const std::vector<double>& temperatures,
                                Trainer* train_linear,
                                const TrainOptions& options,
                                Parameters* parameters) {
  const bool several =
      temperatures.size() > 1 && set.validation_target.users() > 0;
  TrainOptions part = options;
  if (several) part.on_epoch = PartOf(options.on_epoch, 0, 0.6);
  RETURN_IF_ERROR(parameters->Set("temperature", temperatures[0]));
  absl::StatusOr<Paths> first = TrainEach(
      set, *parameters, (*parameters)["recent_weight"], train_linear, part);
  if (several && absl::IsOutOfRange(first.status())) {  // diverged
    return TrainBest(set, {temperatures.begin() + 1, temperatures.end()},
                     train_linear, options, parameters);
  }
  RETURN_IF_ERROR(first.status());
  Paths paths = *std::move(first);
  paths.weights = ChooseWeights(paths, set, *parameters, part.on_epoch);
  if (!several) return paths;
  for (size_t i = 1; i < temperatures.size(); ++i) {
    Parameters others = *parameters;
    RETURN_IF_ERROR(others.Set("temperature", temperatures[i]));
    const std::string name = absl::StrCat("temperature ", temperatures[i]);
    std::optional<Checkpoints> checkpoints;
    if (options.checkpoints != nullptr) {
      part.checkpoints =
          &checkpoints.emplace(options.checkpoints->PartOf(name));
    }
    part.on_epoch = Named(name, PartOf(options.on_epoch, 0.6, 1));
    absl::StatusOr<Tensors> neural = TrainNeural(set, others, part);
    if (absl::IsOutOfRange(neural.status())) continue;  // diverged
    RETURN_IF_ERROR(neural.status());
    Paths other = paths;
    other.neural = *std::move(neural);
    other.weights = ChooseWeights(other, set, others, part.on_epoch);
    if (other.weights.ndcg <= paths.weights.ndcg) continue;
    paths = std::move(other);
    *parameters = std::move(others);
  }
  return paths;
}

// The set with half of the users alone, drawn by `seed`, or the other half; the
// others go to `rest`.
TrainingSet HalfOf(const TrainingSet& set, uint64_t half, uint64_t seed,
                   Interactions* rest) {
  Random random(seed);
  TrainingSet out{.items = set.items,
                  .in_order = set.in_order,
                  .validation_input = set.validation_input,
                  .validation_target = set.validation_target};
  for (int64_t u = 0; u < set.train.users(); ++u) {
    const auto items = set.train.ItemsOf(u);
    const auto weights = set.train.WeightsOf(u);
    Interactions* const to = random.Below(2) == half ? &out.train : rest;
    to->items.insert(to->items.end(), items.begin(), items.end());
    to->weights.insert(to->weights.end(), weights.begin(), weights.end());
    to->EndUser();
  }
  return out;
}

// The head over `paths`. For each half of the users, paths of the same weights
// are trained that have not seen them; where there are many users, for one half
// alone.
absl::StatusOr<Tensors> TrainHeadOver(const Paths& paths,
                                      const TrainingSet& set,
                                      const Parameters& parameters,
                                      Trainer* train_linear,
                                      const TrainOptions& options) {
  constexpr int64_t kFewUsers = 500, kFewest = 20, kManyUsers = 20'000;
  const double share = parameters["head_share"];
  int64_t users = 0;  // of whom something can be hidden
  for (int64_t u = 0; u < set.train.users(); ++u) {
    if (set.train.ItemsOf(u).size() >= 5) ++users;
  }
  if (share == 0 || users < (share < 0 ? kFewUsers : kFewest)) return Tensors();
  // There it brings nothing, or loses.
  if (share < 0 && IsSparse(set) && !set.in_order) return Tensors();
  const int halves = users >= kManyUsers ? 1 : 2;
  std::vector<HeadFold> folds;
  for (int half = 0; half < halves; ++half) {
    HeadFold fold;
    const TrainingSet others =
        HalfOf(set, static_cast<uint64_t>(half), options.seed, &fold.users);
    if (others.train.size() == 0) return Tensors();
    TrainOptions part = options;
    part.warm_start = nullptr;  // it has seen them
    const std::string name = absl::StrCat("half ", half + 1);
    std::optional<Checkpoints> checkpoints;
    if (options.checkpoints != nullptr) {
      part.checkpoints =
          &checkpoints.emplace(options.checkpoints->PartOf(name));
    }
    const double begin = 0.8 * half / halves, end = 0.8 * (half + 1) / halves;
    part.on_epoch = Named(name, PartOf(options.on_epoch, begin, end));
    absl::StatusOr<Paths> of_others =
        TrainEach(others, parameters, paths.weights.recent, train_linear, part);
    if (absl::IsOutOfRange(of_others.status())) return Tensors();  // diverged
    RETURN_IF_ERROR(of_others.status());
    of_others->weights = paths.weights;
    fold.paths = of_others->Export();
    folds.push_back(std::move(fold));
  }
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0.8, 1);
  return TrainHead(set, paths.Export(), folds, share, part);
}

}  // namespace

absl::StatusOr<Tensors> TrainJoint(const std::string& /*model*/,
                                   const TrainingSet& given,
                                   const Parameters& as_given,
                                   const TrainOptions& options) {
  constexpr int64_t kFewUsers = 100;
  std::optional<TrainingSet> apart;
  if (given.validation_target.users() == 0 &&
      given.train.users() >= kFewUsers) {
    apart = SetApart(given);
  }
  const TrainingSet& set = apart.has_value() ? *apart : given;
  Parameters parameters = as_given;
  Trainer* const train_linear = LinearTrainer(parameters, given);
  const double head_begins = parameters["head_share"] == 0 ? 0.95 : 0.35;
  TrainOptions part = options;
  part.on_epoch = PartOf(options.on_epoch, 0, head_begins);
  ASSIGN_OR_RETURN(Paths paths,
                   TrainBest(set, TemperaturesOf(parameters, given, options),
                             train_linear, part, &parameters));
  part.on_epoch = PartOf(options.on_epoch, head_begins, 0.95);
  ASSIGN_OR_RETURN(const Tensors head,
                   TrainHeadOver(paths, set, parameters, train_linear, part));
  if (apart.has_value()) {
    // A closed form takes in what was set apart.
    part.on_epoch = PartOf(options.on_epoch, 0.95, 1);
    ASSIGN_OR_RETURN(paths.linear,
                     train_linear("joint", given, parameters, part));
  }
  Tensors out = paths.Export();
  for (const auto& [name, tensor] : head.all()) {
    out.Add(name, tensor.shape, tensor.values);
  }
  return out;
}

}  // namespace nearline::model
