#include "model/tower.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "model/epochs.h"
#include "model/generation.h"
#include "model/item_features.h"
#include "model/torch_guard.h"

namespace nearline::model {
namespace {

constexpr int kEpochs = 5;
constexpr int kStepsAnEpoch = 20;
constexpr size_t kUsers = 256;           // a step
constexpr int64_t kItems = 4096;         // a step, at most
constexpr double kUntouchedShare = 0.3;  // of them
constexpr double kShown = 0.5;           // of a history
constexpr double kRate = 0.02;           // in spreads of a table

class TowerTraining {
 public:
  TowerTraining(const TrainingSet& set, const TrainOptions& options,
                const Generation& generation, const SparseRows& features,
                Bundle* bundle)
      : set_(set),
        generation_(generation),
        features_(features),
        random_(options.seed),
        rows_(ScannedTable(bundle->manifest.retriever), *bundle),
        biases_(BiasTable(bundle->manifest.retriever), *bundle),
        scale_(torch::zeros({1}).set_requires_grad(true)),
        adam_({rows_.map, biases_.map, scale_}, kRate) {
    for (int64_t u = 0; u < set.train.users(); ++u) {
      if (set.train.ItemsOf(u).size() > 1) users_.push_back(u);
    }
  }

  absl::Status Run(const OnEpoch& on_epoch) {
    for (int epoch = 1; epoch <= kEpochs && !users_.empty(); ++epoch) {
      double loss = 0;
      for (int i = 0; i < kStepsAnEpoch; ++i) {
        ASSIGN_OR_RETURN(const double of_step, Step());
        loss += of_step / kStepsAnEpoch;
      }
      if (!std::isfinite(loss)) return Diverged("item tower");
      if (on_epoch) {
        on_epoch({.phase = "item tower",
                  .epoch = epoch,
                  .epochs = kEpochs,
                  .loss = loss,
                  .share = static_cast<double>(epoch) / kEpochs});
      }
    }
    return absl::OkStatus();
  }

  void Export(Tensors* out) {
    LowerBiases();
    rows_.Export(out);
    biases_.Export(out);
  }

 private:
  // Steps make untouched items as wanted as others, one by one, which new ones
  // are. Others are untouched because hardly anybody wants them; content does
  // not know of its other items either how wanted they are.
  void LowerBiases() {
    const torch::NoGradGuard no_grad;
    const double demand = DemandForUntouched(set_);
    if (demand >= 1 || step_ == 0) return;
    if (generation_.manifest().retriever == "content") return;
    biases_.map[-1] +=
        std::log(demand) / (scale_.exp().item<double>() * biases_.spread);
  }

  // A table that the scan reads, and the map that makes rows of it, in the
  // table's spread: so much of it can be learned at the same rate.
  struct Table {
    Table(std::string of, const Bundle& bundle)
        : name(std::move(of)),
          values(FromPlain(bundle.tensors.all().at(name))),
          spread(std::max(1e-12, values.std().item<double>())),
          map((FromPlain(bundle.tensors.all().at(ItemFeatureMap::MapOf(name))) /
               spread)
                  .set_requires_grad(true)) {}
    void Export(Tensors* out) const {
      AddTensor(out, ItemFeatureMap::MapOf(name), map * spread);
    }
    const std::string name;
    const torch::Tensor values;
    const double spread;
    const torch::Tensor map;
  };

  // The items of a step; untouched ones first.
  void DrawItems() {
    const auto n = static_cast<size_t>(set_.items);
    const auto count = static_cast<size_t>(std::min(kItems, set_.items));
    items_.resize(n);
    for (size_t i = 0; i < n; ++i) items_[i] = static_cast<int64_t>(i);
    for (size_t i = 0; i < count; ++i) {
      std::swap(items_[i], items_[i + random_.Below(n - i)]);
    }
    items_.resize(count);
    untouched_ = std::max<size_t>(
        1, static_cast<size_t>(kUntouchedShare * static_cast<double>(count)));
    place_.assign(n, -1);
    for (size_t i = 0; i < count; ++i) {
      place_[static_cast<size_t>(items_[i])] = static_cast<int64_t>(i);
    }
  }

  // Draws what some users show and what they hide, and sets [users, items of
  // the step]: `wanted` the weights of what they hide, `out` -infinity for the
  // rest of theirs. Untouched items are as often hidden as others, lest they
  // seem more wanted, but never in a history.
  void DrawUsers(std::vector<History>* histories, torch::Tensor* wanted,
                 torch::Tensor* out) {
    const auto width = static_cast<int64_t>(items_.size());
    *wanted = torch::zeros({static_cast<int64_t>(kUsers), width});
    *out = torch::zeros_like(*wanted);
    histories->assign(kUsers, {});
    for (size_t k = 0; k < kUsers; ++k) {
      const int64_t user = users_[random_.Below(users_.size())];
      const auto items = set_.train.ItemsOf(user);
      const auto weights = set_.train.WeightsOf(user);
      const auto row = static_cast<int64_t>(k) * width;
      for (size_t i = 0; i < items.size(); ++i) {
        const int64_t place = place_[items[i]];
        const bool untouched =
            place >= 0 && place < static_cast<int64_t>(untouched_);
        const bool hidden = random_.Uniform() >= kShown;
        if (!untouched && !hidden) {
          (*histories)[k].rows.push_back(items[i]);
          (*histories)[k].weights.push_back(weights[i]);
        }
        if (place < 0) continue;
        if (hidden) {
          wanted->data_ptr<float>()[row + place] = weights[i];
        } else {
          out->data_ptr<float>()[row + place] =
              -std::numeric_limits<float>::infinity();
        }
      }
    }
  }

  absl::StatusOr<torch::Tensor> Queries(const std::vector<History>& histories) {
    std::vector<const History*> pointers;
    for (const History& history : histories) pointers.push_back(&history);
    std::vector<float> queries;
    RETURN_IF_ERROR(generation_.encoder().Encode(pointers, &queries));
    return torch::tensor(queries).reshape(
        {static_cast<int64_t>(histories.size()), -1});
  }

  // Features [untouched, width] of the untouched items.
  torch::Tensor Features() const {
    const int64_t width = rows_.map.size(0);
    torch::Tensor out = torch::zeros({static_cast<int64_t>(untouched_), width});
    for (size_t i = 0; i < untouched_; ++i) {
      const auto item = static_cast<size_t>(items_[i]);
      float* const row = out.data_ptr<float>() + i * static_cast<size_t>(width);
      for (size_t at = features_.offsets[item];
           at < features_.offsets[item + 1]; ++at) {
        row[features_.columns[at]] = features_.values[at];
      }
    }
    return out;
  }

  absl::StatusOr<double> Step() {
    DrawItems();
    std::vector<History> histories;
    torch::Tensor wanted, out;
    DrawUsers(&histories, &wanted, &out);
    ASSIGN_OR_RETURN(const torch::Tensor queries, Queries(histories));
    const torch::Tensor touched = torch::tensor(std::vector<int64_t>(
        items_.begin() + static_cast<std::ptrdiff_t>(untouched_),
        items_.end()));
    const torch::Tensor known =
        torch::linear(queries, rows_.values.index_select(0, touched),
                      biases_.values.index_select(0, touched).squeeze(1));
    if (step_ == 0) StartScale(known);
    const torch::Tensor features = Features();
    const torch::Tensor made =
        torch::linear(queries, features.matmul(rows_.map) * rows_.spread,
                      features.matmul(biases_.map).squeeze(1) * biases_.spread);
    const torch::Tensor logits =
        torch::cat({made, known}, 1) * scale_.exp() + out;
    // No product of 0 and -infinity.
    const torch::Tensor log_p =
        torch::log_softmax(logits, 1).masked_fill(out.lt(0), 0);
    const torch::Tensor loss =
        -(log_p * wanted).sum() / static_cast<double>(kUsers);
    const double left =
        1 - static_cast<double>(step_++) / (kEpochs * kStepsAnEpoch);
    for (auto& group : adam_.param_groups()) {
      static_cast<torch::optim::AdamOptions&>(group.options()).lr(kRate * left);
    }
    adam_.zero_grad();
    loss.backward();
    adam_.step();
    return loss.item<double>();
  }

  // So that scores spread as logits mostly do.
  void StartScale(const torch::Tensor& scores) {
    const torch::NoGradGuard no_grad;
    scale_.fill_(-std::log(std::max(1e-12, scores.std().item<double>())));
  }

  const TrainingSet& set_;
  const Generation& generation_;
  const SparseRows& features_;
  Random random_;
  const Table rows_, biases_;
  torch::Tensor scale_;
  torch::optim::Adam adam_;
  int step_ = 0;
  std::vector<int64_t> users_;  // with something to show and to hide
  // Of the step under way.
  std::vector<int64_t> items_, place_;  // place_: in items_, by item; or -1
  size_t untouched_ = 0;
};

}  // namespace

double DemandForUntouched(const TrainingSet& set) {
  std::vector<int64_t> counts(static_cast<size_t>(set.items), 0);
  for (const uint32_t item : set.train.items) ++counts[item];
  const auto once =
      static_cast<double>(std::count(counts.begin(), counts.end(), int64_t{1}));
  const auto twice =
      static_cast<double>(std::count(counts.begin(), counts.end(), int64_t{2}));
  const auto untouched = static_cast<double>(set.untouched);
  if (once == 0 || untouched == 0) return 1;
  const double overlooked = std::max(1.0, once * once / (2 * (twice + 1)));
  const double share = std::min(1.0, overlooked / untouched);
  const double events_an_item =
      static_cast<double>(set.train.size()) / static_cast<double>(set.items);
  const double of_overlooked =
      std::min(1.0, once / overlooked / events_an_item);
  return share * of_overlooked + (1 - share);
}

absl::Status FitTower(const TrainingSet& set, const TrainOptions& options,
                      Bundle* bundle) {
  const AttributeFeatures chosen(set.attributes, {});
  if (chosen.width() == 1) return absl::OkStatus();
  const SparseRows features = chosen.Rows(set.attributes);
  return TorchGuard([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto generation, Generation::Create(*bundle));
    torch::set_num_threads(options.threads);  // which loading has changed
    TowerTraining training(set, options, *generation, features, bundle);
    RETURN_IF_ERROR(training.Run(options.on_epoch));
    training.Export(&bundle->tensors);
    return absl::OkStatus();
  });
}

}  // namespace nearline::model
