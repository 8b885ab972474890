#include "model/user_tower.h"

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "model/evaluate.h"
#include "model/generation.h"
#include "model/ridge.h"
#include "model/user_features.h"

namespace nearline::model {
namespace {

// What few share tells more of these few than of others who share it.
constexpr AttributeFeatures::Options kChosen{.min_count = 10};
constexpr double kRidge = 10;
constexpr size_t kMostQueries = 50'000;  // to regress
constexpr size_t kFewestJudges = 20;
constexpr size_t kMostJudges = 500;
constexpr float kGains[] = {0.01f, 0.03f, 0.1f, 0.2f, 0.35f, 0.6f, 1.0f};

using Gains = UserFeatures::Gains;

class UserTraining {
 public:
  UserTraining(const TrainingSet& set, const TrainOptions& options,
               const AttributeFeatures& features, Bundle* bundle)
      : set_(set),
        options_(options),
        features_(features),
        random_(options.seed),
        bundle_(*bundle) {}

  absl::Status Run() {
    DrawJudges();
    if (judges_ < kFewestJudges) return absl::OkStatus();
    ASSIGN_OR_RETURN(generation_, Generation::Create(bundle_));
    Report(0);
    ASSIGN_OR_RETURN(const std::vector<float> map, Fit(judges_));
    ASSIGN_OR_RETURN(const Gains gains, Judge(map));
    if (gains == Gains{}) return absl::OkStatus();
    ASSIGN_OR_RETURN(std::vector<float> whole, Fit(0));
    Save(std::move(whole), gains, &bundle_);
    return absl::OkStatus();
  }

 private:
  void Report(double share) const {
    if (!options_.on_epoch) return;
    options_.on_epoch({.phase = "user attributes", .share = share});
  }

  absl::Span<const uint32_t> ItemsOf(size_t i) const {
    return set_.train.ItemsOf(static_cast<int64_t>(users_[i]));
  }

  // Users of whom something is known, in random order, judges first.
  void DrawJudges() {
    for (size_t u = 0; u < set_.user_attributes.size(); ++u) {
      const features::Attributes* const attributes = set_.user_attributes[u];
      if (attributes == nullptr || features_.Of(*attributes).empty()) continue;
      if (set_.train.ItemsOf(static_cast<int64_t>(u)).empty()) continue;
      users_.push_back(u);
      std::swap(users_.back(), users_[random_.Below(users_.size())]);
    }
    judges_ = std::min(kMostJudges, users_.size() / 10);
    users_.resize(std::min(users_.size(), judges_ + kMostQueries));
  }

  absl::Status AppendQueries(const std::vector<History>& histories,
                             std::vector<float>* queries) const {
    std::vector<const History*> pointers;
    for (const History& history : histories) pointers.push_back(&history);
    std::vector<float> some;
    RETURN_IF_ERROR(generation_->encoder().Encode(pointers, &some));
    queries->insert(queries->end(), some.begin(), some.end());
    return absl::OkStatus();
  }

  // The map [width + 1, dim] of UserFeatures, of the users from `first` on. The
  // average user has the average query, so that only differences count.
  absl::StatusOr<std::vector<float>> Fit(size_t first) const {
    constexpr size_t kBatch = 1024;
    std::vector<const features::Attributes*> attributes;
    std::vector<float> queries;
    std::vector<History> batch;
    for (size_t i = first; i < users_.size(); ++i) {
      const auto items = ItemsOf(i);
      const auto weights =
          set_.train.WeightsOf(static_cast<int64_t>(users_[i]));
      batch.push_back(
          {{items.begin(), items.end()}, {weights.begin(), weights.end()}});
      attributes.push_back(set_.user_attributes[users_[i]]);
      if (batch.size() < kBatch && i + 1 < users_.size()) continue;
      RETURN_IF_ERROR(AppendQueries(batch, &queries));
      batch.clear();
    }
    std::vector<float> of_nobody;
    RETURN_IF_ERROR(AppendQueries({History()}, &of_nobody));
    const size_t dim = of_nobody.size();
    const auto n = static_cast<double>(attributes.size());
    std::vector<double> mean(dim, 0.0);
    for (size_t i = 0; i < queries.size(); ++i) {
      mean[i % dim] += queries[i] / n;
    }
    for (size_t i = 0; i < queries.size(); ++i) {
      queries[i] -= static_cast<float>(mean[i % dim]);
    }
    const SparseRows rows = features_.Rows(attributes);
    const auto width = static_cast<size_t>(features_.width());
    std::vector<float> map = RidgeMap(rows, width, queries, dim, kRidge);
    for (size_t c = 0; c < dim; ++c) {
      map.push_back(static_cast<float>(mean[c]) - of_nobody[c]);
    }
    return map;
  }

  void Save(std::vector<float> map, const Gains& gains, Bundle* bundle) const {
    const auto dim = static_cast<size_t>(generation_->encoder().dim());
    bundle->manifest.parameters["user_features"] =
        UserFeatures(features_, dim, std::move(map), gains)
            .Save(&bundle->tensors);
  }

  // Judges who show `bucket` of their items, drawn at random, and want the
  // others; those who have no more than they would show are left out.
  std::vector<Case> CasesOf(size_t bucket) {
    std::vector<Case> cases;
    for (size_t i = 0; i < judges_; ++i) {
      const auto items = ItemsOf(i);
      if (UserFeatures::BucketOf(items.size() - 1) < bucket) continue;
      size_t left = 0;
      if (bucket > 0) {
        const size_t least = size_t{1} << (bucket - 1);
        left = least + random_.Below(std::min(2 * least, items.size()) - least);
      }
      Case c{.attributes = set_.user_attributes[users_[i]],
             .mask = RowMask(static_cast<size_t>(set_.items), true)};
      const auto weights =
          set_.train.WeightsOf(static_cast<int64_t>(users_[i]));
      for (size_t j = 0; j < items.size(); ++j) {
        if (random_.Below(items.size() - j) >= left) {
          c.truth.push_back(items[j]);
          continue;
        }
        --left;
        c.history.rows.push_back(items[j]);
        c.history.weights.push_back(weights[j]);
        c.mask.Clear(items[j]);
      }
      std::sort(c.truth.begin(), c.truth.end());
      c.positives = static_cast<int>(c.truth.size());
      cases.push_back(std::move(c));
    }
    return cases;
  }

  // NDCG@100 by case.
  static absl::StatusOr<std::vector<double>> Measure(
      const Generation& generation, const std::vector<Case>& cases) {
    const MetricSpec metric{.kind = MetricSpec::Kind::kNdcg, .k = 100};
    ASSIGN_OR_RETURN(CaseMetrics metrics,
                     Evaluate(generation, cases, {metric}, {.rank = false}));
    return std::move(metrics[metric.Name()]);
  }

  // Whether a is above b by more than chance.
  static bool Beats(const std::vector<double>& a,
                    const std::vector<double>& b) {
    std::vector<double> differences;
    for (size_t i = 0; i < a.size(); ++i) differences.push_back(a[i] - b[i]);
    const Estimate d = MeanOf(differences);
    return d.mean > 2 * d.stderr_;
  }

  absl::StatusOr<std::vector<double>> OfPopularity(
      const std::vector<Case>& cases) const {
    Bundle popularity;
    popularity.manifest.retriever = "popularity";
    popularity.items = bundle_.items;
    ASSIGN_OR_RETURN(popularity.tensors,
                     Train("popularity", set_, Parameters({}), {}));
    popularity.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
        std::vector<const features::Attributes*>(bundle_.items.size(), nullptr),
        {}, &popularity.tensors);
    ASSIGN_OR_RETURN(const auto generation,
                     Generation::Create(std::move(popularity)));
    return Measure(*generation, cases);
  }

  // The best gain of each bucket, 0 where none is worth it.
  absl::StatusOr<Gains> Judge(const std::vector<float>& map) {
    Gains whole;
    whole.fill(1);
    Bundle bundle = bundle_;
    Save(map, whole, &bundle);
    ASSIGN_OR_RETURN(const auto with_map,
                     Generation::Create(std::move(bundle)));
    Gains gains{};
    for (size_t bucket = 0; bucket < gains.size(); ++bucket) {
      std::vector<Case> cases = CasesOf(bucket);
      if (cases.size() < kFewestJudges) break;
      std::vector<std::vector<double>> rivals(1);
      ASSIGN_OR_RETURN(rivals[0], Measure(*generation_, cases));
      if (bucket == 0) {
        ASSIGN_OR_RETURN(rivals.emplace_back(), OfPopularity(cases));
      }
      ASSIGN_OR_RETURN(gains[bucket], BestGain(*with_map, rivals, &cases));
      Report(static_cast<double>(bucket + 1) /
             static_cast<double>(gains.size()));
    }
    return gains;
  }

  // By traits that are so many times as strong.
  static absl::StatusOr<float> BestGain(
      const Generation& with_map,
      const std::vector<std::vector<double>>& rivals,
      std::vector<Case>* cases) {
    std::vector<FeatureValues> traits;
    for (Case& c : *cases) {
      with_map.AddTraits(std::exchange(c.attributes, nullptr), &c.history);
      traits.push_back(c.history.traits);
    }
    float best = 0;
    double best_mean = 0;
    for (const float gain : kGains) {
      for (size_t i = 0; i < cases->size(); ++i) {
        for (size_t t = 0; t < traits[i].size(); ++t) {
          (*cases)[i].history.traits[t].second = gain * traits[i][t].second;
        }
      }
      ASSIGN_OR_RETURN(const std::vector<double> values,
                       Measure(with_map, *cases));
      const double mean = MeanOf(values).mean;
      const bool worth =
          std::all_of(rivals.begin(), rivals.end(),
                      [&](const auto& rival) { return Beats(values, rival); });
      if (worth && mean > best_mean) {
        best = gain;
        best_mean = mean;
      }
    }
    return best;
  }

  const TrainingSet& set_;
  const TrainOptions& options_;
  const AttributeFeatures& features_;
  Random random_;
  Bundle& bundle_;
  std::vector<size_t> users_;  // that have attributes; judges first
  size_t judges_ = 0;
  std::shared_ptr<Generation> generation_;  // of the bundle as it came
};

}  // namespace

absl::Status FitUsers(const TrainingSet& set, const TrainOptions& options,
                      Bundle* bundle) {
  if (KindOf(bundle->manifest.retriever) == RetrieverKind::kConstant) {
    return absl::OkStatus();
  }
  const AttributeFeatures features(set.user_attributes, kChosen);
  if (features.width() == 1) return absl::OkStatus();
  return UserTraining(set, options, features, bundle).Run();
}

}  // namespace nearline::model
