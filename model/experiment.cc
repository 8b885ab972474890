#include "model/experiment.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/version.h"
#include "model/bundle.h"
#include "model/checkpoint.h"
#include "model/epochs.h"
#include "model/head.h"
#include "model/product.h"
#include "model/score_meter.h"
#include "model/tower.h"
#include "model/tuner.h"
#include "model/user_tower.h"

namespace nearline::model {
namespace {

// What the server does with its defaults.
const int kServedHistory = features::ProfileOptions().max_history;
const int kServedShortlist = RecommendOptions().shortlist;

// Of the users of training data ("strong"), to fit meters of scores to.
constexpr double kFittedUsers = 0.2;

double SecondsSince(absl::Time start) {
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// Raised when trainers come to something else than before.
constexpr int kTrainers = 5;

// What the experiment's files hold and how they are read, in one word.
absl::StatusOr<std::string> DataOf(const ProtocolFiles& files) {
  std::string all = absl::StrCat(
      files.protocol, " ", files.format, " ", files.min_value,
      files.in_order ? " in order " : " ", files.history_limit.value_or(-1));
  for (const std::string& file :
       {files.train, files.validation_input, files.validation_target,
        files.test_input, files.test_target, files.test, files.negatives,
        files.item_attributes, files.user_attributes}) {
    absl::StrAppend(&all, " ");
    if (file.empty()) continue;
    ASSIGN_OR_RETURN(const std::string digest, Sha256OfFile(file));
    absl::StrAppend(&all, digest);
  }
  return HexDigest(Sha256(all));
}

class Laboratory {
 public:
  Laboratory(const Experiment& experiment, const Parameters& parameters,
             const std::function<void(const ExperimentProgress&)>& on_progress)
      : e_(experiment),
        on_progress_(on_progress),
        workers_(experiment.threads),
        result_{parameters} {}

  absl::StatusOr<ExperimentResult> Run() {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(data_, ProtocolData::Read(e_.files));
    if (!e_.checkpoint_folder.empty()) {
      ASSIGN_OR_RETURN(files_, DataOf(e_.files));
    }
    result_.read_seconds = SecondsSince(start);
    result_.train_users = data_.set.train.users();
    result_.train_events = data_.set.train.size();
    result_.items = data_.set.items;
    result_.users = data_.users;
    for (const Case& c : data_.cases) {
      result_.history_lengths.push_back(
          static_cast<int>(c.history.rows.size()));
    }
    result_.test_digest = data_.test_digest;
    result_.remarks = data_.remarks;
    RETURN_IF_ERROR(PrepareMeter());
    if (e_.tune > 0) RETURN_IF_ERROR(Tune());
    for (const uint64_t seed : e_.seeds) RETURN_IF_ERROR(RunSeed(seed));
    for (const Checkpoints& done : checkpoints_) {
      RETURN_IF_ERROR(done.Remove(/*all=*/true));
    }
    return std::move(result_);
  }

 private:
  // Tells of a training, one of `all`, `done` of which were done before.
  OnEpoch Listen(int trial, uint64_t seed, size_t done,
                 std::vector<EpochReport>* epochs) {
    const auto all =
        static_cast<double>(e_.tune) + static_cast<double>(e_.seeds.size());
    return [=, this](const EpochReport& report) {
      if (epochs != nullptr) epochs->push_back(report);
      if (!on_progress_) return;
      on_progress_({.trial = trial,
                    .seed = seed,
                    .epoch = report,
                    .share = (static_cast<double>(done) + report.share) / all});
    };
  }

  // Of a training, and of what is asked of it; null where none are kept.
  Checkpoints* CheckpointsOf(const Parameters& parameters, uint64_t seed,
                             const std::string& asked) {
    if (e_.checkpoint_folder.empty()) return nullptr;
    const std::string all = absl::StrCat(
        kVersion, " ", kTrainers, HasFastBfloat16() ? " bfloat16 " : " ",
        parameters.ToJson().dump(), seed, e_.device, " ", files_, asked);
    checkpoints_.emplace_back(
        e_.checkpoint_folder,
        absl::StrCat(e_.model, "-", HexDigest(Sha256(all)).substr(0, 16)));
    return &checkpoints_.back();
  }

  absl::StatusOr<Bundle> TrainOn(const ProtocolData& data,
                                 const Parameters& parameters, uint64_t seed,
                                 Checkpoints* checkpoints, OnEpoch on_epoch) {
    Bundle bundle;
    bundle.items.assign(data.items.begin(),
                        data.items.begin() + data.set.items);
    TrainOptions options{.seed = seed,
                         .threads = e_.threads,
                         .device = e_.device,
                         .on_epoch = PartOf(on_epoch, 0, 0.95),
                         .checkpoints = checkpoints};
    ASSIGN_OR_RETURN(bundle.tensors,
                     Train(e_.model, data.set, parameters, options));
    Manifest& m = bundle.manifest;
    m.created_micros = absl::ToUnixMicros(absl::Now());
    m.id = NewGenerationId(m.created_micros);
    m.retriever = e_.model;
    if (e_.model == "neumf" || e_.model == "mlp") m.ranker = e_.model;
    if (HasHead(bundle.tensors)) m.ranker = kHead;
    m.users = data.set.train.users();
    m.items = data.set.items;
    m.events = data.set.train.size();
    m.parameters[e_.model] = parameters.ToJson();
    m.parameters["seed"] = seed;
    auto attributes = data.set.attributes;
    attributes.resize(bundle.items.size(), nullptr);
    m.parameters["item_features"] =
        ItemFeatureMap::Fit(attributes, {}, &bundle.tensors);
    options.on_epoch = PartOf(on_epoch, 0.95, 0.975);
    RETURN_IF_ERROR(FitTower(data.set, options, &bundle));
    options.on_epoch = PartOf(on_epoch, 0.975, 1);
    RETURN_IF_ERROR(FitUsers(data.set, options, &bundle));
    return bundle;
  }

  // The generation, with rows for the items that have but attributes.
  static absl::StatusOr<std::shared_ptr<Generation>> Load(
      const ProtocolData& data, Bundle bundle) {
    ASSIGN_OR_RETURN(auto generation, Generation::Create(std::move(bundle)));
    features::Catalogue catalogue(0);
    for (size_t row = static_cast<size_t>(data.set.items);
         row < data.items.size(); ++row) {
      catalogue.Put(catalogue.size(), {.id = data.items[row],
                                       .attributes = data.attributes[row],
                                       .listed = true});
    }
    generation->BindAll(catalogue);
    return generation;
  }

  // The pure model's order: all that is eligible is ranked, but what the head
  // of a model orders is by its nature a shortlist.
  RecommendOptions Pure(const Generation& generation) const {
    const bool head = generation.manifest().ranker == kHead;
    return {.shortlist =
                head ? kServedShortlist : static_cast<int>(data_.items.size())};
  }
  int Depth(const std::vector<MetricSpec>& metrics) const {
    return data_.protocol == "sampled" ? 0 : DepthOf(metrics);
  }

  // The tuning metric of what was trained with `parameters`, by case.
  absl::StatusOr<std::vector<double>> ValuesOf(const ProtocolData& carved,
                                               const Parameters& parameters,
                                               Checkpoints* checkpoints,
                                               OnEpoch on_epoch) {
    ASSIGN_OR_RETURN(Bundle bundle, TrainOn(carved, parameters, e_.seeds[0],
                                            checkpoints, std::move(on_epoch)));
    ASSIGN_OR_RETURN(const auto generation, Load(carved, std::move(bundle)));
    ASSIGN_OR_RETURN(
        const std::vector<RankedCase> ranked,
        RankCases(*generation, carved.cases, Depth({e_.tune_metric}),
                  Pure(*generation), {}, &workers_));
    std::vector<double> values;
    for (size_t c = 0; c < ranked.size(); ++c) {
      values.push_back(
          e_.tune_metric.Of(ranked[c].hits, carved.cases[c].positives));
    }
    return values;
  }

  // The i-th trial, unless it is known what it came to.
  absl::Status Try(const ProtocolData& carved, int i, Trial* trial) {
    Checkpoints* const checkpoints = CheckpointsOf(
        trial->parameters, e_.seeds[0],
        absl::StrCat(e_.tune_metric.Name(), " ", e_.validation_fraction));
    if (checkpoints != nullptr &&
        checkpoints->ReadValues(&trial->by_case, &trial->seconds) &&
        trial->by_case.size() == carved.cases.size()) {
      trial->value = MeanOf(trial->by_case).mean;
      return absl::OkStatus();
    }
    const absl::Time start = absl::Now();
    absl::StatusOr<std::vector<double>> values =
        ValuesOf(carved, trial->parameters, checkpoints,
                 Listen(i + 1, e_.seeds[0], static_cast<size_t>(i), nullptr));
    // A trial that diverged is worth nothing, but others may not.
    if (!values.ok() && !absl::IsOutOfRange(values.status())) {
      return values.status();
    }
    trial->by_case = values.ok()
                         ? *std::move(values)
                         : std::vector<double>(carved.cases.size(), 0.0);
    trial->value = MeanOf(trial->by_case).mean;
    trial->seconds = SecondsSince(start);
    if (checkpoints == nullptr) return absl::OkStatus();
    RETURN_IF_ERROR(checkpoints->WriteValues(trial->by_case, trial->seconds));
    return checkpoints->Remove(/*all=*/false);
  }

  absl::Status Tune() {
    const absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(const ProtocolData carved,
                     data_.Carve(e_.validation_fraction, e_.seeds[0]));
    ASSIGN_OR_RETURN(Tuner tuner, Tuner::Create(result_.parameters, e_.fixed,
                                                e_.tune, e_.seeds[0]));
    for (int i = 0; i < e_.tune; ++i) {
      Trial trial{tuner.Next()};
      RETURN_IF_ERROR(Try(carved, i, &trial));
      tuner.Tell(trial.value);
      result_.trials.push_back(std::move(trial));
    }
    const Trial& given = result_.trials[0];
    const Trial& best = *std::max_element(
        result_.trials.begin(), result_.trials.end(),
        [](const Trial& a, const Trial& b) { return a.value < b.value; });
    std::vector<double> gains;
    for (size_t c = 0; c < best.by_case.size(); ++c) {
      gains.push_back(best.by_case[c] - given.by_case[c]);
    }
    const auto gain = MeanOf(gains);
    if (gains.size() > 1 && gain.mean > gain.stderr_) {
      result_.parameters = best.parameters;
    } else if (&best != &given) {
      result_.remarks.push_back(
          "the best trial is not better than what it was given by more than "
          "the difference's standard error: what was given counts");
    }
    result_.tune_seconds = SecondsSince(start);
    return absl::OkStatus();
  }

  absl::Status RunSeed(uint64_t seed) {
    const bool first = result_.seeds.empty();
    SeedResult out{.seed = seed};
    absl::Time start = absl::Now();
    ASSIGN_OR_RETURN(
        Bundle bundle,
        TrainOn(
            data_, result_.parameters, seed,
            CheckpointsOf(result_.parameters, seed, ""),
            Listen(0, seed, static_cast<size_t>(e_.tune) + result_.seeds.size(),
                   &out.epochs)));
    out.train_seconds = SecondsSince(start);
    start = absl::Now();
    if (first && !e_.save_folder.empty()) {
      LocalGenerationStore generations(e_.save_folder);
      result_.written = generations.Write(bundle);
    }
    ASSIGN_OR_RETURN(const auto generation, Load(data_, std::move(bundle)));
    ASSIGN_OR_RETURN(std::vector<RankedCase> ranked,
                     RankCases(*generation, data_.cases, Depth(e_.metrics),
                               Pure(*generation), {}, &workers_));
    const std::vector<bool> popular = ListPopular(*generation, &ranked);
    Measure(ranked, &out.by_user, &out.means);
    RETURN_IF_ERROR(MeasureScores(ranked, &out));
    out.served = out.means;
    RETURN_IF_ERROR(MeasureServed(*generation, popular, &ranked, &out.served));
    out.evaluate_seconds = SecondsSince(start);
    if (first) CountByTenth(ranked);
    if (first && !e_.run_file.empty()) result_.written.Update(WriteRun(ranked));
    result_.seeds.push_back(std::move(out));
    return absl::OkStatus();
  }

  // As a server does, for users of whom nothing is known: to a model all items
  // are the same to them. Returns whose they are.
  std::vector<bool> ListPopular(const Generation& generation,
                                std::vector<RankedCase>* ranked) const {
    std::vector<bool> popular(ranked->size(), false);
    if (e_.model == "popularity") return popular;
    std::vector<float> counts;
    for (size_t i = 0; i < data_.cases.size(); ++i) {
      const Case& c = data_.cases[i];
      History known = c.history;
      if (c.attributes != nullptr) generation.AddTraits(c.attributes, &known);
      if (!known.empty()) continue;
      if (counts.empty()) {
        counts.resize(data_.items.size());
        for (const uint32_t item : data_.set.train.items) ++counts[item];
      }
      (*ranked)[i] = RankByScores(counts, c, Depth(e_.metrics));
      popular[i] = true;
    }
    return popular;
  }

  // Errors: INVALID_ARGUMENT for a metric that the data cannot tell.
  absl::Status PrepareMeter() {
    meter_.emplace(data_.set.train, static_cast<int64_t>(data_.items.size()),
                   data_.attributes);
    for (const MetricSpec& metric : e_.metrics) {
      if (metric.OfRatings() && data_.ratings.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("metric ", metric.Name(),
                         " needs a value in every line of the training and "
                         "test files: user, item, value"));
      }
      if (metric.kind != MetricSpec::Kind::kCalibration ||
          meter_->KnowsGenres()) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat(
          "metric ", metric.Name(),
          " needs --items FILE in which items have the attribute \"genres\""));
    }
    return absl::OkStatus();
  }

  void Measure(const std::vector<RankedCase>& ranked, CaseMetrics* by_user,
               std::map<std::string, double>* means) {
    for (const MetricSpec& metric : e_.metrics) {
      if (metric.OfScores()) continue;
      if (!metric.OfUsers()) {
        (*means)[metric.Name()] = meter_->OfLists(metric, ranked);
        continue;
      }
      std::vector<double>& values = (*by_user)[metric.Name()];
      for (size_t i = 0; i < ranked.size(); ++i) {
        values.push_back(meter_->OfUser(metric, data_.cases[i], ranked[i]));
      }
      (*means)[metric.Name()] = MeanOf(values).mean;
    }
  }

  // What is hidden of users to fit meters to: as much as of those tested.
  double FittedShare() const {
    if (data_.protocol == "strong") return kFittedUsers;
    double known = 0, wanted = 0;
    for (const Case& c : data_.cases) {
      known += static_cast<double>(c.history.rows.size());
      wanted += c.positives;
    }
    return std::clamp(wanted / std::max(1.0, known + wanted), 0.01, 0.5);
  }

  // The metrics of scores, whose meter is fitted to cases that are cut out of
  // the training data, and to what a model makes of them that has not seen what
  // is to be found.
  absl::Status MeasureScores(const std::vector<RankedCase>& ranked,
                             SeedResult* out) {
    const auto asked =
        std::find_if(e_.metrics.begin(), e_.metrics.end(),
                     [](const MetricSpec& m) { return m.OfScores(); });
    if (asked == e_.metrics.end()) return absl::OkStatus();
    const auto carved = data_.Carve(FittedShare(), out->seed);
    RETURN_IF_ERROR(Annotate(carved.status(), "metric " + asked->Name()));
    ASSIGN_OR_RETURN(Bundle of_rest,
                     TrainOn(*carved, result_.parameters, out->seed,
                             /*checkpoints=*/nullptr, {}));
    ASSIGN_OR_RETURN(const auto unseeing, Load(*carved, std::move(of_rest)));
    ASSIGN_OR_RETURN(
        const std::vector<RankedCase> fitted,
        RankCases(*unseeing, carved->cases, 0, Pure(*unseeing), {}, &workers_));
    const ScoreMeter meter(carved->set.train, carved->train_ratings,
                           data_.set.items, carved->cases, fitted,
                           carved->ratings);
    ScoreMeter::Sums sums;
    for (size_t i = 0; i < data_.ratings.size(); ++i) {
      meter.AddErrors(data_.cases[i], ranked[i], data_.ratings[i], &sums);
    }
    const double n = std::max<double>(1, static_cast<double>(sums.ratings));
    out->means["mae"] = sums.absolute / n;
    out->means["mse"] = sums.squared / n;
    out->means["rmse"] = std::sqrt(sums.squared / n);
    std::vector<double> losses;
    for (size_t i = 0; i < ranked.size(); ++i) {
      losses.push_back(meter.LogLoss(data_.cases[i], ranked[i]));
    }
    out->means["log_loss"] = MeanOf(losses).mean;
    out->by_user["log_loss"] = std::move(losses);
    return absl::OkStatus();
  }

  // Ranks once more the cases that a server would answer otherwise than the
  // model by itself, whose answers are `ranked`, and are so again in the end.
  absl::Status MeasureServed(const Generation& generation,
                             const std::vector<bool>& popular,
                             std::vector<RankedCase>* ranked,
                             std::map<std::string, double>* means) {
    const bool ranks_all =
        generation.ranker() != nullptr && generation.manifest().ranker != kHead;
    std::vector<Case> cases;
    std::vector<size_t> places;
    for (size_t i = 0; i < data_.cases.size(); ++i) {
      const auto length =
          static_cast<std::ptrdiff_t>(data_.cases[i].history.rows.size());
      const auto rest = std::max<std::ptrdiff_t>(0, length - kServedHistory);
      if (popular[i] || (!ranks_all && rest == 0)) continue;
      Case c = data_.cases[i];
      c.history.rows.erase(c.history.rows.begin(),
                           c.history.rows.begin() + rest);
      c.history.weights.erase(c.history.weights.begin(),
                              c.history.weights.begin() + rest);
      cases.push_back(std::move(c));
      places.push_back(i);
    }
    if (cases.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(std::vector<RankedCase> served,
                     RankCases(generation, cases, Depth(e_.metrics),
                               {.shortlist = kServedShortlist}, {}, &workers_));
    const auto exchange = [&] {
      for (size_t i = 0; i < places.size(); ++i) {
        std::swap((*ranked)[places[i]], served[i]);
      }
    };
    exchange();
    CaseMetrics by_user;
    Measure(*ranked, &by_user, means);
    exchange();
    return absl::OkStatus();
  }

  void CountByTenth(const std::vector<RankedCase>& ranked) {
    const std::vector<int> tenths = Tenths();
    result_.wanted_by_tenth.assign(10, 0);
    result_.found_by_tenth.assign(10, 0);
    size_t depth = 1;
    for (const MetricSpec& metric : e_.metrics) {
      depth = std::max(depth, static_cast<size_t>(metric.k));
    }
    for (size_t i = 0; i < ranked.size(); ++i) {
      const auto& truth = data_.cases[i].truth;
      for (const Row row : truth) {
        ++result_.wanted_by_tenth[static_cast<size_t>(tenths[row])];
      }
      for (size_t r = 0; r < std::min(depth, ranked[i].list.size()); ++r) {
        const Row row = ranked[i].list[r].row;
        if (!std::binary_search(truth.begin(), truth.end(), row)) continue;
        ++result_.found_by_tenth[static_cast<size_t>(tenths[row])];
      }
    }
  }

  // By row: the tenth of the items by popularity, the most popular ones 0.
  std::vector<int> Tenths() const {
    std::vector<int64_t> counts(data_.items.size(), 0);
    for (const uint32_t item : data_.set.train.items) ++counts[item];
    std::vector<Row> order(counts.size());
    std::iota(order.begin(), order.end(), Row{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Row a, Row b) { return counts[a] > counts[b]; });
    std::vector<int> tenths(counts.size());
    for (size_t i = 0; i < order.size(); ++i) {
      tenths[order[i]] = static_cast<int>(10 * i / order.size());
    }
    return tenths;
  }

  absl::Status WriteRun(const std::vector<RankedCase>& ranked) const {
    std::string out;
    for (size_t i = 0; i < ranked.size(); ++i) {
      for (size_t r = 0; r < ranked[i].list.size(); ++r) {
        const ScoredRow& scored = ranked[i].list[r];
        absl::StrAppend(&out, data_.users[i], "\t", data_.items[scored.row],
                        "\t", r + 1, "\t", scored.score, "\n");
      }
    }
    return WriteFileAtomic(e_.run_file, out);
  }

  const Experiment& e_;
  const std::function<void(const ExperimentProgress&)>& on_progress_;
  ProtocolData data_;
  std::string files_;  // DataOf, where checkpoints are kept
  std::deque<Checkpoints> checkpoints_;
  Workers workers_;
  std::optional<ListMeter> meter_;
  ExperimentResult result_;
};

}  // namespace

absl::StatusOr<ExperimentResult> RunExperiment(
    const Experiment& experiment, const Parameters& parameters,
    const std::function<void(const ExperimentProgress&)>& on_progress) {
  return Laboratory(experiment, parameters, on_progress).Run();
}

}  // namespace nearline::model
