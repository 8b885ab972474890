#include "model/protocols.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/delimited.h"
#include "base/file.h"
#include "base/text.h"

namespace nearline::model {
namespace {

using features::Interactions;

// user -> items in order of the file, each once.
struct UserItems {
  std::vector<std::string> users;
  std::vector<std::vector<std::string>> items;
};

// How a file is to be read.
struct Layout {
  std::string separator;   // empty: guessed
  bool adjacency = false;  // "user item item ..." lines; else one event a line
};

// Lines of spaces, and of nothing else that separates, are adjacency, unless
// all have three fields or all have four: user, item, value, time.
absl::StatusOr<Layout> GuessLayout(const std::string& path) {
  constexpr int kLines = 1000;
  // A separator that no file holds: the whole line is one field.
  ASSIGN_OR_RETURN(DelimitedReader reader,
                   DelimitedReader::Open(path, std::string(1, '\x01')));
  std::set<int64_t> lengths;
  std::vector<std::string> line;
  for (int i = 0; i < kLines && reader.Next(&line); ++i) {
    const bool spaces = absl::StrContains(line[0], ' ') &&
                        line[0].find_first_of("\t,;|") == std::string::npos &&
                        !absl::StrContains(line[0], "::");
    if (!spaces && i == 0) return Layout();
    lengths.insert(std::count(line[0].begin(), line[0].end(), ' ') + 1);
  }
  const bool columns =
      lengths == std::set<int64_t>{3} || lengths == std::set<int64_t>{4};
  return Layout{.separator = " ", .adjacency = !columns};
}

absl::StatusOr<Layout> LayoutOf(const std::string& format,
                                const std::string& path) {
  if (format.empty()) return GuessLayout(path);
  if (format == "tsv") return Layout{.separator = "\t"};
  if (format == "csv") return Layout{.separator = ","};
  if (format == "dat") return Layout{.separator = "::"};
  if (format == "spaces") return Layout{.separator = " "};
  if (format == "adjacency") return Layout{.separator = " ", .adjacency = true};
  return absl::InvalidArgumentError(
      absl::StrCat("format ", Quoted(format),
                   ": expected tsv, csv, dat, spaces or adjacency"));
}

bool IsHeader(const std::string& first_field) {
  const std::string name = absl::AsciiStrToLower(first_field);
  return name == "user" || name == "userid" || name == "user_id";
}

class UserItemsBuilder {
 public:
  void Add(const std::string& user, const std::string& item) {
    const auto [it, added] = index_.try_emplace(user, out_.users.size());
    if (added) {
      out_.users.push_back(user);
      out_.items.emplace_back();
      seen_.emplace_back();
    }
    if (seen_[it->second].insert(item).second) {
      out_.items[it->second].push_back(item);
    }
  }
  UserItems Take() { return std::move(out_); }

 private:
  UserItems out_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::vector<absl::flat_hash_set<std::string>> seen_;
};

absl::StatusOr<UserItems> ReadUserItems(const std::string& path,
                                        const std::string& format,
                                        double min_value) {
  ASSIGN_OR_RETURN(const Layout layout, LayoutOf(format, path));
  ASSIGN_OR_RETURN(DelimitedReader reader,
                   DelimitedReader::Open(path, layout.separator));
  UserItemsBuilder builder;
  std::vector<std::string> fields;
  while (reader.Next(&fields)) {
    if (reader.line() == 1 && IsHeader(fields[0])) continue;
    if (layout.adjacency) {
      for (size_t i = 1; i < fields.size(); ++i) {
        if (!fields[i].empty()) builder.Add(fields[0], fields[i]);
      }
      continue;
    }
    if (fields.size() < 2) {
      return reader.Error("expected user, item [, value [, time]]");
    }
    double value = 0;
    if (fields.size() > 2 && !absl::SimpleAtod(fields[2], &value)) {
      if (reader.line() == 1) continue;  // a header
      return reader.Error(
          absl::StrCat("value ", Quoted(fields[2]), " is no number"));
    }
    if (fields.size() > 2 && value < min_value) continue;
    builder.Add(fields[0], fields[1]);
  }
  RETURN_IF_ERROR(reader.status());
  return builder.Take();
}

// "(user,item)<tab>negative<tab>..." a line.
absl::StatusOr<absl::flat_hash_map<std::string, std::vector<std::string>>>
ReadNegatives(const std::string& path) {
  ASSIGN_OR_RETURN(DelimitedReader reader, DelimitedReader::Open(path, "\t"));
  absl::flat_hash_map<std::string, std::vector<std::string>> out;
  std::vector<std::string> fields;
  while (reader.Next(&fields)) {
    const std::vector<std::string> pair =
        absl::StrSplit(fields[0], absl::ByAnyChar("(),"), absl::SkipEmpty());
    if (pair.size() != 2 || fields.size() < 2) {
      return reader.Error("expected (user,item), negative, negative, ...");
    }
    out[pair[0]].assign(fields.begin() + 1, fields.end());
  }
  RETURN_IF_ERROR(reader.status());
  return out;
}

class Laboratory {
 public:
  Laboratory(const Experiment& experiment, const Parameters& parameters,
             const OnEpoch& on_epoch)
      : e_(experiment), parameters_(parameters), on_epoch_(on_epoch) {}

  absl::StatusOr<ExperimentResult> Run() {
    ASSIGN_OR_RETURN(train_, Read(e_.train));
    NumberItems();
    for (const auto& items : train_.items) Append(items, &set_.train);
    set_.items = static_cast<int64_t>(items_.size());
    if (e_.protocol == "strong") {
      RETURN_IF_ERROR(PrepareStrong());
    } else if (e_.protocol == "full") {
      RETURN_IF_ERROR(PrepareRanking(e_.train, e_.test));
    } else if (e_.protocol == "sampled") {
      RETURN_IF_ERROR(PrepareSampled());
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("protocol ", Quoted(e_.protocol),
                       ": expected strong, full or sampled"));
    }
    result_.users = static_cast<int64_t>(cases_.size());
    result_.items = set_.items;
    for (const uint64_t seed : e_.seeds) RETURN_IF_ERROR(RunSeed(seed));
    return std::move(result_);
  }

 private:
  absl::StatusOr<UserItems> Read(const std::string& path) const {
    return ReadUserItems(path, e_.format, e_.min_value);
  }

  void NumberItems() {
    std::set<std::string> ids;
    for (const auto& list : train_.items) ids.insert(list.begin(), list.end());
    items_.assign(ids.begin(), ids.end());
    for (size_t row = 0; row < items_.size(); ++row) {
      row_of_[items_[row]] = static_cast<Row>(row);
    }
  }

  Row RowOf(const std::string& item) const {
    const auto it = row_of_.find(item);
    return it == row_of_.end() ? kNoRow : it->second;
  }

  void Append(const std::vector<std::string>& items, Interactions* to) const {
    for (const std::string& item : items) {
      const Row row = RowOf(item);
      if (row == kNoRow) continue;
      to->items.push_back(row);
      to->weights.push_back(1.0f);
    }
    to->EndUser();
  }

  History HistoryFrom(const std::vector<std::string>& items) const {
    History history;
    for (const std::string& item : items) {
      const Row row = RowOf(item);
      if (row == kNoRow) continue;
      history.rows.push_back(row);
      history.weights.push_back(1.0f);
    }
    return history;
  }

  // Pairs the users of two files; those without a target are left out.
  absl::Status ForEachPair(
      const std::string& input_path, const std::string& target_path,
      const std::function<void(const std::string& user,
                               const std::vector<std::string>&,
                               const std::vector<std::string>&)>& visit) {
    ASSIGN_OR_RETURN(const UserItems input, Read(input_path));
    ASSIGN_OR_RETURN(const UserItems target, Read(target_path));
    absl::flat_hash_map<std::string, size_t> inputs;
    for (size_t i = 0; i < input.users.size(); ++i) inputs[input.users[i]] = i;
    static const std::vector<std::string> nothing;
    for (size_t i = 0; i < target.users.size(); ++i) {
      const auto it = inputs.find(target.users[i]);
      visit(target.users[i],
            it == inputs.end() ? nothing : input.items[it->second],
            target.items[i]);
    }
    return absl::OkStatus();
  }

  absl::Status PrepareStrong() {
    if (!e_.validation_input.empty()) {
      RETURN_IF_ERROR(
          ForEachPair(e_.validation_input, e_.validation_target,
                      [&](const auto&, const auto& input, const auto& target) {
                        Append(input, &set_.validation_input);
                        Append(target, &set_.validation_target);
                      }));
    }
    return PrepareRanking(e_.test_input, e_.test_target);
  }

  // Every item but those of the input is a candidate.
  absl::Status PrepareRanking(const std::string& input_path,
                              const std::string& target_path) {
    return ForEachPair(
        input_path, target_path,
        [&](const auto& user, const auto& input, const auto& target) {
          Case c{.history = HistoryFrom(input),
                 .mask = RowMask(items_.size(), true)};
          for (const Row row : c.history.rows) c.mask.Clear(row);
          AddCase(user, std::move(c), target);
        });
  }

  absl::Status PrepareSampled() {
    ASSIGN_OR_RETURN(const auto negatives, ReadNegatives(e_.negatives));
    return ForEachPair(
        e_.train, e_.test,
        [&](const auto& user, const auto& input, const auto& target) {
          Case c{.history = HistoryFrom(input), .mask = RowMask(items_.size())};
          std::vector<std::string> candidates = target;
          if (const auto it = negatives.find(user); it != negatives.end()) {
            candidates.insert(candidates.end(), it->second.begin(),
                              it->second.end());
          }
          for (const std::string& item : candidates) {
            const Row row = RowOf(item);
            if (row == kNoRow) continue;
            if (c.mask[row]) c.repeats.push_back(row);
            c.mask.Set(row);
          }
          AddCase(user, std::move(c), target);
        });
  }

  void AddCase(const std::string& user, Case c,
               const std::vector<std::string>& target) {
    c.positives = static_cast<int>(target.size());
    for (const std::string& item : target) {
      const Row row = RowOf(item);
      if (row != kNoRow) c.truth.push_back(row);
    }
    std::sort(c.truth.begin(), c.truth.end());
    users_.push_back(user);
    cases_.push_back(std::move(c));
  }

  absl::StatusOr<std::shared_ptr<Generation>> TrainOne(uint64_t seed) {
    const absl::Time start = absl::Now();
    TrainOptions options{.seed = seed,
                         .threads = e_.threads,
                         .device = e_.device,
                         .on_epoch = on_epoch_};
    Bundle bundle;
    ASSIGN_OR_RETURN(bundle.tensors,
                     Train(e_.model, set_, parameters_, options));
    result_.train_seconds += absl::ToDoubleSeconds(absl::Now() - start);
    bundle.items = items_;
    bundle.manifest.id = "experiment";
    bundle.manifest.retriever = e_.model;
    if (e_.model == "neumf") bundle.manifest.ranker = "neumf";
    bundle.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
        std::vector<const features::Attributes*>(items_.size(), nullptr), {},
        &bundle.tensors);
    return Generation::Create(std::move(bundle));
  }

  absl::Status RunSeed(uint64_t seed) {
    ASSIGN_OR_RETURN(const auto generation, TrainOne(seed));
    CaseMetrics metrics;
    // The pure model's order: everything eligible is ranked.
    const RecommendOptions options{.shortlist =
                                       static_cast<int>(items_.size())};
    if (e_.protocol == "sampled") {
      ASSIGN_OR_RETURN(const std::vector<int> ranks,
                       RankOfTruth(*generation, cases_, options));
      for (const int rank : ranks) {
        std::vector<bool> hits(static_cast<size_t>(rank) + 1, false);
        hits.back() = true;
        for (const MetricSpec& metric : e_.metrics) {
          metrics[metric.Name()].push_back(metric.Of(hits, 1));
        }
      }
    } else {
      ASSIGN_OR_RETURN(metrics,
                       Evaluate(*generation, cases_, e_.metrics, options));
    }
    for (const auto& [name, values] : metrics) {
      const Estimate estimate = MeanOf(values);
      if (result_.per_seed[name].empty()) {
        result_.standard_error[name] = estimate.stderr_;
      }
      result_.per_seed[name].push_back(estimate.mean);
    }
    if (seed == e_.seeds[0] && !e_.run_file.empty()) {
      return WriteRun(*generation, options);
    }
    return absl::OkStatus();
  }

  absl::Status WriteRun(const Generation& generation,
                        const RecommendOptions& options) {
    int depth = 1;
    for (const MetricSpec& metric : e_.metrics) {
      depth = std::max(depth, metric.k);
    }
    std::string out;
    for (size_t i = 0; i < cases_.size(); ++i) {
      const Case& c = cases_[i];
      const int count =
          e_.protocol == "sampled" ? static_cast<int>(c.mask.Count()) : depth;
      const Query query{&c.history, &c.mask, count};
      std::vector<std::vector<ScoredRow>> lists;
      RETURN_IF_ERROR(Recommend(generation, {&query, 1}, options, &lists));
      for (size_t r = 0; r < lists[0].size(); ++r) {
        absl::StrAppend(&out, users_[i], "\t", items_[lists[0][r].row], "\t",
                        r + 1, "\t", lists[0][r].score, "\n");
      }
    }
    return WriteFileAtomic(e_.run_file, out);
  }

  const Experiment& e_;
  const Parameters& parameters_;
  const OnEpoch& on_epoch_;
  UserItems train_;
  std::vector<std::string> items_;
  absl::flat_hash_map<std::string, Row> row_of_;
  TrainingSet set_;
  std::vector<std::string> users_;  // of cases_
  std::vector<Case> cases_;
  ExperimentResult result_;
};

}  // namespace

absl::StatusOr<ExperimentResult> RunExperiment(const Experiment& experiment,
                                               const Parameters& parameters,
                                               const OnEpoch& on_epoch) {
  return Laboratory(experiment, parameters, on_epoch).Run();
}

}  // namespace nearline::model
