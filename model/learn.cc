#include "model/learn.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/hash.h"
#include "model/head.h"
#include "model/index_scanner.h"
#include "model/tower.h"
#include "model/train.h"
#include "model/user_tower.h"

namespace nearline::model {
namespace {

using features::Interactions;
using features::Ordinal;

// The items of the training set in byte order of id, and the set in their rows.
struct Vocabulary {
  std::vector<Ordinal> items;                           // by row
  std::vector<std::string> ids;                         // by row
  std::vector<const features::Attributes*> attributes;  // by row
  std::vector<uint32_t> row_of;                         // by ordinal; kNoRow
  int64_t untouched = 0;  // other items with attributes
};

Vocabulary MakeVocabulary(const Interactions& train,
                          const features::Catalogue& catalogue) {
  Vocabulary v;
  std::vector<bool> used(catalogue.size(), false);
  for (const uint32_t item : train.items) used[item] = true;
  for (Ordinal item = 0; item < catalogue.size(); ++item) {
    if (catalogue[item].deleted) continue;
    if (used[item]) {
      v.items.push_back(item);
    } else {
      v.untouched += !catalogue[item].attributes.empty();
    }
  }
  std::sort(v.items.begin(), v.items.end(), [&](Ordinal a, Ordinal b) {
    return catalogue[a].id < catalogue[b].id;
  });
  v.row_of.assign(catalogue.size(), kNoRow);
  for (size_t row = 0; row < v.items.size(); ++row) {
    const Ordinal item = v.items[row];
    v.row_of[item] = static_cast<uint32_t>(row);
    v.ids.push_back(catalogue[item].id);
    v.attributes.push_back(&catalogue[item].attributes);
  }
  return v;
}

// In rows; and a seeded twentieth of the users, at most 500, set apart for
// early stopping, a fifth of their items to be found: the last ones, if there
// is an order.
TrainingSet MakeTrainingSet(const features::Split& split, const Vocabulary& v,
                            uint64_t seed) {
  const Interactions& train = split.train;
  TrainingSet set;
  set.items = static_cast<int64_t>(v.items.size());
  set.in_order = split.kind == features::Split::Kind::kByTime;
  const bool enough = train.users() >= 200;
  for (int64_t u = 0; u < train.users(); ++u) {
    const auto items = train.ItemsOf(u);
    const auto weights = train.WeightsOf(u);
    const bool apart = enough && items.size() >= 5 &&
                       set.validation_input.users() < 500 &&
                       StableHash(absl::StrCat(u), seed) % 20 == 0;
    for (size_t i = 0; i < items.size(); ++i) {
      const uint32_t row = v.row_of[items[i]];
      if (row == kNoRow) continue;
      Interactions& to =
          !apart ? set.train
          : IsToBeFound(set, i, items.size(), static_cast<size_t>(u))
              ? set.validation_target
              : set.validation_input;
      to.items.push_back(row);
      to.weights.push_back(weights[i]);
    }
    if (apart) {
      set.validation_input.EndUser();
      set.validation_target.EndUser();
    } else if (set.train.size() > set.train.offsets.back()) {
      set.train.EndUser();
      set.user_attributes.push_back(
          split.attributes[static_cast<size_t>(u)].get());
    }
  }
  return set;
}

// The incumbent's tensors with the rows of the new vocabulary; an item it does
// not have gets the row that its attributes would give it there.
absl::StatusOr<Tensors> MapRows(const Bundle& incumbent, const Vocabulary& v) {
  std::map<std::string, int64_t> widths;
  for (const auto& [name, tensor] : incumbent.tensors.all()) {
    if (ItemFeatureMap::IsTable(name) && tensor.shape.size() == 2) {
      widths[name] = tensor.shape[1];
    }
  }
  Tensors rest = incumbent.tensors;
  ASSIGN_OR_RETURN(const ItemFeatureMap features,
                   ItemFeatureMap::Load(incumbent.manifest.parameters.value(
                                            "item_features", Json::array()),
                                        widths, &rest));
  for (const auto& [name, width] : widths) {
    ASSIGN_OR_RETURN(const Tensor old, rest.Take(name, {-1, -1}));
    const auto dim = static_cast<size_t>(old.shape[1]);
    std::vector<float> values;
    values.reserve(v.ids.size() * dim);
    for (size_t row = 0; row < v.ids.size(); ++row) {
      const auto it = std::lower_bound(incumbent.items.begin(),
                                       incumbent.items.end(), v.ids[row]);
      if (it != incumbent.items.end() && *it == v.ids[row]) {
        const float* from =
            old.values.data() +
            static_cast<size_t>(it - incumbent.items.begin()) * dim;
        values.insert(values.end(), from, from + dim);
      } else {
        const std::vector<float> fresh = features.Row(name, *v.attributes[row]);
        values.insert(values.end(), fresh.begin(), fresh.end());
      }
    }
    rest.Add(name, {static_cast<int64_t>(v.ids.size()), old.shape[1]},
             std::move(values));
  }
  return rest;
}

class Run {
 public:
  Run(const LearnJob& job,
      const std::function<void(const LearnProgress&)>& on_progress)
      : job_(job), on_progress_(on_progress) {}

  absl::StatusOr<Manifest> Go() {
    if (device_ == "auto") {
      device_ = CheckDevice("cuda:0").ok() ? "cuda:0" : "cpu";
    }
    Report("load", 0.0);
    RETURN_IF_ERROR(Load());
    RETURN_IF_ERROR(TrainAll());
    RETURN_IF_ERROR(EvaluateAll());
    Report("save", 0.98);
    LocalGenerationStore generations(job_.generations);
    RETURN_IF_ERROR(generations.Write(bundle_));
    return bundle_.manifest;
  }

 private:
  void Report(const std::string& phase, double share) {
    if (on_progress_) on_progress_({.phase = phase, .share_done = share});
  }

  // Reads all that is needed and closes the store: whoever gave the checkpoint
  // may remove it from then on.
  absl::Status Load() {
    features::StoreOptions options;
    options.database.path = job_.checkpoint;
    options.database.read_only = true;
    options.event_types = job_.event_types;
    options.profile = job_.profile;
    options.established_after = job_.established_after;
    ASSIGN_OR_RETURN(const auto store,
                     features::Store::Open(std::move(options)));
    log_id_ = store->log_id();
    sequence_ = store->sequence();
    features::SplitOptions split = job_.split;
    if (!job_.incumbent.empty()) {
      // A damaged incumbent must not keep a better one from being made.
      auto incumbent =
          LocalGenerationStore(job_.generations).Read(job_.incumbent);
      if (incumbent.ok()) incumbent_ = *std::move(incumbent);
    }
    if (incumbent_.has_value() && incumbent_->manifest.log_id == log_id_) {
      split.not_before_micros = incumbent_->manifest.cutoff_micros;
    }
    ASSIGN_OR_RETURN(split_, features::SplitLog(*store, split));
    catalogue_.emplace(*store->ReadCatalogue());
    vocabulary_ = MakeVocabulary(split_.train, *catalogue_);
    set_ = MakeTrainingSet(split_, vocabulary_, job_.seed);
    set_.attributes = vocabulary_.attributes;
    set_.untouched = vocabulary_.untouched;
    return absl::OkStatus();
  }

  std::string KindOfSplit() const {
    return split_.kind == features::Split::Kind::kByTime ? "time" : "user";
  }

  // Whether the incumbent has seen nothing of the holdout, so that it can be
  // measured on it and started from. Of another log or kind of split nobody
  // knows.
  bool Comparable() const {
    if (!incumbent_.has_value() || split_.incumbent_saw_holdout) return false;
    const Manifest& m = incumbent_->manifest;
    return m.log_id == log_id_ &&
           m.parameters.value("split", Json()) == Json(KindOfSplit());
  }

  // Of a training between two shares of the run.
  TrainOptions Options(double from, double to) const {
    return {.seed = job_.seed,
            .threads = job_.threads,
            .device = device_,
            .on_epoch = [=, this](const EpochReport& report) {
              if (!on_progress_) return;
              on_progress_({.phase = "train " + report.phase,
                            .epoch = report.epoch,
                            .epochs = report.epochs,
                            .loss = report.loss,
                            .share_done = from + (to - from) * report.share,
                            .note = report.note});
            }};
  }

  // Trains one slot's model between two shares of the run.
  absl::Status TrainOne(const std::string& name, double from, double to) {
    ASSIGN_OR_RETURN(Parameters parameters, ParametersOf(name));
    if (const auto set = job_.parameters.find(name);
        set != job_.parameters.end()) {
      for (const auto& [key, value] : set->second) {
        RETURN_IF_ERROR(Annotate(parameters.Set(key, value), name));
      }
    }
    const bool warm = job_.warm_start && StartsWarm(name) && Comparable() &&
                      (incumbent_->manifest.retriever == name ||
                       incumbent_->manifest.ranker == name);
    std::optional<Tensors> start;
    if (warm) {
      ASSIGN_OR_RETURN(start, MapRows(*incumbent_, vocabulary_));
      bundle_.manifest.parent = incumbent_->manifest.id;
    }
    // Another ranker takes the place of the model's own.
    if (name != job_.ranker && !job_.ranker.empty() &&
        parameters.Has("head_share")) {
      RETURN_IF_ERROR(parameters.Set("head_share", 0));
    }
    TrainOptions options = Options(from, to);
    options.warm_start = warm ? &*start : nullptr;
    Report("train " + name, from);
    ASSIGN_OR_RETURN(const Tensors tensors,
                     Train(name, set_, parameters, options));
    for (const auto& [tensor, plain] : tensors.all()) {
      bundle_.tensors.Add(tensor, plain.shape, plain.values);
    }
    bundle_.manifest.parameters[name] = parameters.ToJson();
    return absl::OkStatus();
  }

  absl::Status TrainAll() {
    const int64_t now = absl::ToUnixMicros(absl::Now());
    Manifest& m = bundle_.manifest;
    m.id = NewGenerationId(now);
    m.retriever = job_.retriever;
    m.ranker = job_.ranker;
    m.log_id = log_id_;
    m.sequence = sequence_;
    m.cutoff_micros = split_.cutoff_micros;
    m.created_micros = now;
    m.users = set_.train.users();
    m.items = set_.items;
    m.events = split_.events;
    for (const features::EventType& type : job_.event_types) {
      m.event_weights[type.name] = type.weight;
    }
    m.parameters["seed"] = job_.seed;
    m.parameters["split"] = KindOfSplit();
    bundle_.items = vocabulary_.ids;
    const bool two = !job_.ranker.empty() && job_.ranker != job_.retriever;
    RETURN_IF_ERROR(TrainOne(job_.retriever, 0.03, two ? 0.5 : 0.85));
    if (two) RETURN_IF_ERROR(TrainOne(job_.ranker, 0.5, 0.85));
    if (HasHead(bundle_.tensors)) m.ranker = kHead;
    m.parameters["item_features"] =
        ItemFeatureMap::Fit(vocabulary_.attributes, {}, &bundle_.tensors);
    RETURN_IF_ERROR(FitTower(set_, Options(0.85, 0.88), &bundle_));
    RETURN_IF_ERROR(FitUsers(set_, Options(0.88, 0.9), &bundle_));
    if (job_.index_items == 0 || set_.items < job_.index_items) {
      return absl::OkStatus();
    }
    Report("index", 0.9);
    return AddIndex(&bundle_);
  }

  // The holdout's metrics as the generation would serve it.
  absl::StatusOr<CaseMetrics> EvaluateOne(Bundle bundle,
                                          const std::string& phase, double from,
                                          double to, bool rank = true) {
    ASSIGN_OR_RETURN(const auto generation,
                     Generation::Create(std::move(bundle)));
    generation->BindAll(*catalogue_);
    const std::vector<Case> cases = CasesOf(
        *generation, split_.holdout, *catalogue_, job_.profile.max_weight);
    return Evaluate(
        *generation, cases, metrics_,
        {.shortlist = job_.shortlist, .rank = rank},
        [&](double share) { Report(phase, from + (to - from) * share); });
  }

  absl::StatusOr<CaseMetrics> EvaluatePopularity() {
    Bundle bundle;
    bundle.manifest.retriever = "popularity";
    bundle.items = vocabulary_.ids;
    ASSIGN_OR_RETURN(bundle.tensors,
                     Train("popularity", set_, Parameters({}), {}));
    bundle.manifest.parameters["item_features"] =
        ItemFeatureMap::Fit(vocabulary_.attributes, {}, &bundle.tensors);
    return EvaluateOne(std::move(bundle), "evaluate popularity", 0.9, 0.92);
  }

  // With little data a ranker can lose against the order it is given.
  void LeaveOutRanker() {
    const std::string prefix = std::exchange(bundle_.manifest.ranker, "") + ".";
    Tensors kept;
    for (const auto& [name, tensor] : bundle_.tensors.all()) {
      const bool of_ranker =
          absl::StartsWith(ItemFeatureMap::TableOf(name), prefix);
      if (of_ranker && bundle_.manifest.retriever + "." != prefix) continue;
      kept.Add(name, tensor.shape, tensor.values);
    }
    bundle_.tensors = std::move(kept);
  }

  absl::Status EvaluateAll() {
    ASSIGN_OR_RETURN(const MetricSpec gate,
                     MetricSpec::Parse(job_.gate.metric));
    metrics_ = {gate};
    for (const char* name : {"ndcg@10", "recall@20", "ndcg@100"}) {
      if (name == gate.Name()) continue;
      metrics_.push_back(*MetricSpec::Parse(name));
    }
    ASSIGN_OR_RETURN(CaseMetrics popularity, EvaluatePopularity());
    ASSIGN_OR_RETURN(CaseMetrics candidate,
                     EvaluateOne(bundle_, "evaluate candidate", 0.92, 0.94));
    std::string without;
    if (!bundle_.manifest.ranker.empty()) {
      ASSIGN_OR_RETURN(CaseMetrics scanned,
                       EvaluateOne(bundle_, "evaluate without ranker", 0.94,
                                   0.95, /*rank=*/false));
      const double with = MeanOf(candidate[gate.Name()]).mean;
      const double alone = MeanOf(scanned[gate.Name()]).mean;
      if (with < alone * (1 - job_.gate.tolerance)) {
        without =
            absl::StrFormat("; without the ranker, which made it %.4f", with);
        LeaveOutRanker();
        candidate = std::move(scanned);
      }
    }
    CaseMetrics incumbent;
    if (Comparable()) {
      ASSIGN_OR_RETURN(incumbent, EvaluateOne(*incumbent_, "evaluate incumbent",
                                              0.95, 0.98));
    }
    Manifest& m = bundle_.manifest;
    for (const auto& [name, values] : candidate) {
      m.metrics[name] = MeanOf(values).mean;
    }
    for (const auto& [name, values] : popularity) {
      m.metrics["popularity_" + name] = MeanOf(values).mean;
    }
    for (const auto& [name, values] : incumbent) {
      m.incumbent_metrics[name] = MeanOf(values).mean;
    }
    m.metrics["holdout_users"] = static_cast<double>(split_.holdout.size());
    const std::string name = gate.Name();
    const GateDecision decision =
        Decide(candidate[name], incumbent[name], popularity[name], job_.gate,
               job_.incumbent.empty()
                   ? "nothing is in service"
                   : "what is in service has seen these users' later events or "
                     "does not load, and cannot be compared");
    m.accepted = decision.accepted;
    m.decision = decision.words + without;
    return absl::OkStatus();
  }

  const LearnJob& job_;
  std::string device_ = job_.device;
  const std::function<void(const LearnProgress&)>& on_progress_;
  std::string log_id_;
  features::Sequence sequence_ = 0;
  std::optional<features::Catalogue> catalogue_;
  std::optional<Bundle> incumbent_;
  features::Split split_;
  Vocabulary vocabulary_;
  TrainingSet set_;
  std::vector<MetricSpec> metrics_;
  Bundle bundle_;
};

}  // namespace

absl::StatusOr<Manifest> Learn(
    const LearnJob& job,
    const std::function<void(const LearnProgress&)>& on_progress) {
  return Run(job, on_progress).Go();
}

}  // namespace nearline::model
