#include "model/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/version.h"
#include "model/metrics.h"
#include "model/product.h"

namespace nearline::model {
namespace {

double Rounded(double x) { return std::round(x * 1e6) / 1e6; }

Json Rounded(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double x : values) out.push_back(Rounded(x));
  return out;
}

// In words that a shell takes as they are.
std::string ShellWord(const std::string& word) {
  const bool plain = !word.empty() &&
                     word.find_first_not_of(
                         "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                         "0123456789_-+=./,:@") == std::string::npos;
  if (plain) return word;
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

// What runs the experiment again, with the parameters that were found.
std::string CommandOf(const Experiment& e, const ExperimentResult& result) {
  std::vector<std::string> words = {"nearline-train", "evaluate", e.model};
  const auto add = [&](const char* option, const std::string& value) {
    if (value.empty()) return;
    words.push_back(option);
    words.push_back(ShellWord(value));
  };
  const ProtocolFiles& f = e.files;
  add("--protocol", f.protocol);
  add("--format", f.format);
  add("--train", f.train);
  add("--validation-input", f.validation_input);
  add("--validation-target", f.validation_target);
  add("--test-input", f.test_input);
  add("--test-target", f.test_target);
  add("--test", f.test);
  add("--negatives", f.negatives);
  add("--items", f.item_attributes);
  add("--users", f.user_attributes);
  if (f.min_value > -1e300) add("--min-value", absl::StrCat(f.min_value));
  if (f.in_order) words.push_back("--in-order");
  if (f.history_limit.has_value()) {
    add("--history-limit", absl::StrCat(*f.history_limit));
  }
  add("--metrics",
      absl::StrJoin(e.metrics, ",", [](std::string* out, const MetricSpec& m) {
        *out += m.Name();
      }));
  words.push_back("--seed");
  for (const uint64_t seed : e.seeds) words.push_back(absl::StrCat(seed));
  add("--threads", absl::StrCat(e.threads));
  add("--device", e.device);
  for (const ParameterSpec& spec : result.parameters.specs()) {
    add("--set",
        absl::StrFormat("%s=%.17g", spec.name, result.parameters[spec.name]));
  }
  return absl::StrJoin(words, " ");
}

// Of each user, the mean over seeds.
std::vector<double> ByUser(const ExperimentResult& result,
                           const std::string& metric) {
  std::vector<double> out(result.users.size(), 0.0);
  for (const SeedResult& seed : result.seeds) {
    const std::vector<double>& values = seed.by_user.at(metric);
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] += values[i] / static_cast<double>(result.seeds.size());
    }
  }
  return out;
}

Json MetricsOf(const Experiment& e, const ExperimentResult& result) {
  Json out = Json::object();
  for (const MetricSpec& metric : e.metrics) {
    const std::string name = metric.Name();
    std::vector<double> means;
    for (const SeedResult& seed : result.seeds) {
      means.push_back(seed.means.at(name));
    }
    Json& one = out[name];
    one["mean"] = MeanOf(means).mean;
    // Over users; one number for all lists has none.
    one["stderr"] = nullptr;
    if (metric.OfUsers()) {
      one["stderr"] = MeanOf(ByUser(result, name)).stderr_;
    }
    one["per_seed"] = means;
  }
  return out;
}

Json ServedOf(const Experiment& e, const ExperimentResult& result) {
  Json out = Json::object();
  for (const MetricSpec& metric : e.metrics) {
    std::vector<double> means;
    for (const SeedResult& seed : result.seeds) {
      means.push_back(seed.served.at(metric.Name()));
    }
    out[metric.Name()] = {{"mean", MeanOf(means).mean}, {"per_seed", means}};
  }
  return out;
}

Json TuningOf(const Experiment& e, const ExperimentResult& result) {
  Json trials = Json::array();
  for (const Trial& trial : result.trials) {
    trials.push_back({{"parameters", trial.parameters.ToJson()},
                      {"value", trial.value},
                      {"seconds", Rounded(trial.seconds)}});
  }
  return {{"metric", e.tune_metric.Name()},
          {"validation_fraction", e.validation_fraction},
          {"trials", std::move(trials)}};
}

Json SecondsOf(const ExperimentResult& result) {
  std::vector<double> train, evaluate;
  for (const SeedResult& seed : result.seeds) {
    train.push_back(seed.train_seconds);
    evaluate.push_back(seed.evaluate_seconds);
  }
  return {{"read", Rounded(result.read_seconds)},
          {"tune", Rounded(result.tune_seconds)},
          {"train", Rounded(train)},
          {"evaluate", Rounded(evaluate)}};
}

Json EpochsOf(const ExperimentResult& result) {
  Json out = Json::array();
  for (const SeedResult& seed : result.seeds) {
    for (const EpochReport& r : seed.epochs) {
      out.push_back({{"seed", seed.seed},
                     {"phase", r.phase},
                     {"epoch", r.epoch},
                     {"loss", r.loss},
                     {"validation_ndcg@100", r.metric}});
      if (!r.note.empty()) out.back()["note"] = r.note;
    }
  }
  return out;
}

int64_t PeakMemoryBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace

Json ReportOf(const Experiment& e, const ExperimentResult& result) {
  Json by_user = Json::object();
  for (const auto& [name, unused] : result.seeds[0].by_user) {
    by_user[name] = Rounded(ByUser(result, name));
  }
  Json report = {
      {"model", e.model},
      {"description", DescribeModel(e.model)},
      {"protocol", e.files.protocol},
      {"parameters", result.parameters.ToJson()},
      {"seeds", e.seeds},
      {"command", CommandOf(e, result)},
      {"version", kVersion},
      {"device", e.device},
      {"bfloat16", HasFastBfloat16()},
      {"threads", e.threads},
      {"test_digest", absl::StrCat(absl::Hex(result.test_digest))},
      {"remarks", result.remarks},
      {"counts",
       {{"train_users", result.train_users},
        {"train_events", result.train_events},
        {"items", result.items},
        {"test_users", result.users.size()}}},
      {"metrics", MetricsOf(e, result)},
      {"served", ServedOf(e, result)},
      {"seconds", SecondsOf(result)},
      {"epochs", EpochsOf(result)},
      {"peak_memory_bytes", PeakMemoryBytes()},
      {"wanted_by_tenth", result.wanted_by_tenth},
      {"found_by_tenth", result.found_by_tenth},
      {"users",
       {{"ids", result.users},
        {"history", result.history_lengths},
        {"metrics", std::move(by_user)}}},
  };
  if (!result.trials.empty()) report["tuning"] = TuningOf(e, result);
  return report;
}

std::string RowOf(const Experiment& e, const ExperimentResult& result) {
  std::string row = e.model;
  double seconds = 0;
  for (const SeedResult& seed : result.seeds) seconds += seed.train_seconds;
  for (const MetricSpec& metric : e.metrics) {
    const std::string name = metric.Name();
    std::vector<double> means;
    for (const SeedResult& seed : result.seeds) {
      means.push_back(seed.means.at(name));
    }
    absl::StrAppendFormat(&row, "  %s %.4f", name, MeanOf(means).mean);
    if (means.size() == 1) continue;
    absl::StrAppend(&row, " (",
                    absl::StrJoin(means, " ",
                                  [](std::string* out, double v) {
                                    absl::StrAppendFormat(out, "%.4f", v);
                                  }),
                    ")");
  }
  absl::StrAppendFormat(&row, "  %.0f s", seconds);
  return row;
}

namespace {

// "better", "worse", or "" where the interval has zero in it.
std::string VerdictOf(const std::string& metric, const Interval& interval) {
  if (interval.low <= 0 && interval.high >= 0) return "";
  const auto spec = MetricSpec::Parse(metric);
  const bool smaller = spec.ok() && spec->SmallerIsBetter();
  return (interval.low > 0) != smaller ? "better" : "worse";
}

bool AreNumbers(const Json& array) {
  return array.is_array() &&
         std::all_of(array.begin(), array.end(),
                     [](const Json& x) { return x.is_number(); });
}

// All that is read of a report later. Errors: INVALID_ARGUMENT.
absl::Status CheckReport(const Json& json, const std::string& path) {
  JsonReader in(json, path);
  in.String("model");
  in.String("protocol");
  in.String("command");
  JsonReader counts(in.Object("counts"), path + ": counts");
  for (const char* key : {"test_users", "items", "train_events"}) {
    counts.Int(key);
  }
  JsonReader users(in.Object("users"), path + ": users");
  const size_t size = users.Array("ids").size();
  bool good = AreNumbers(users.Array("history")) &&
              users.Array("history").size() == size;
  for (const auto& [name, values] : users.Object("metrics").items()) {
    good = good && AreNumbers(values) && values.size() == size;
  }
  for (const auto& [name, value] : in.Object("metrics").items()) {
    good = good && value.is_object() && value.contains("mean") &&
           value.at("mean").is_number() && value.contains("stderr");
  }
  for (const char* key : {"wanted_by_tenth", "found_by_tenth"}) {
    good = good && AreNumbers(in.Array(key));
  }
  for (const Json& epoch : in.Array("epochs")) {
    JsonReader one(epoch, path + ": epochs");
    one.String("phase");
    one.Int("seed");
    one.Int("epoch");
    one.Double("validation_ndcg@100");
    RETURN_IF_ERROR(one.status());
  }
  RETURN_IF_ERROR(in.status());
  RETURN_IF_ERROR(counts.status());
  RETURN_IF_ERROR(users.status());
  return good
             ? absl::OkStatus()
             : absl::InvalidArgumentError(absl::StrCat(
                   path, ": no report of evaluate --report, or a damaged one"));
}

}  // namespace

absl::StatusOr<std::vector<Report>> ReadReports(
    const std::vector<std::string>& paths) {
  std::vector<Report> reports;
  std::set<std::string> models;
  bool repeated = false;
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    auto json = ParseJson(text);
    if (!json.ok()) return Annotate(json.status(), path);
    RETURN_IF_ERROR(CheckReport(*json, path));
    Report report{.name = json->at("model")};
    repeated = repeated || !models.insert(report.name).second;
    report.json = *std::move(json);
    const auto& first = (reports.empty() ? report : reports[0]).json;
    // Reports of old have none.
    const char* const digest = "test_digest";
    const bool other_items = report.json.contains(digest) &&
                             first.contains(digest) &&
                             report.json[digest] != first[digest];
    if (other_items || report.json["users"]["ids"] != first["users"]["ids"] ||
        report.json["protocol"] != first["protocol"]) {
      return absl::InvalidArgumentError(absl::StrCat(
          path,
          ": asked other users, for other items, or by another protocol "
          "than ",
          paths[0], "; only reports on the same test data can be compared"));
    }
    reports.push_back(std::move(report));
  }
  bool common = false;
  for (const auto& [name, unused] : reports[0].json["metrics"].items()) {
    common =
        common || std::all_of(reports.begin(), reports.end(),
                              [name = name](const Report& report) {
                                return report.json["metrics"].contains(name);
                              });
  }
  if (!common) {
    return absl::InvalidArgumentError(
        "the reports have no metric in common; give evaluate the same "
        "--metrics");
  }
  for (size_t i = 0; repeated && i < paths.size(); ++i) {
    absl::StrAppend(&reports[i].name, " (",
                    std::filesystem::path(paths[i]).stem().string(), ")");
  }
  return reports;
}

Json CompareReports(const std::vector<Report>& reports) {
  Json out = {{"models", Json::array()}, {"metrics", Json::object()}};
  for (const Report& report : reports) out["models"].push_back(report.name);
  for (const auto& [name, ignored] : reports[0].json["metrics"].items()) {
    Json rows = Json::array();
    for (const Report& report : reports) {
      const Json& metrics = report.json["metrics"];
      if (!metrics.contains(name)) break;
      Json row = {{"mean", metrics[name]["mean"]},
                  {"stderr", metrics[name]["stderr"]}};
      const Json& mine = report.json["users"]["metrics"];
      const Json& other = reports[0].json["users"]["metrics"];
      if (&report != &reports[0] && mine.contains(name) &&
          other.contains(name)) {
        const auto a = mine[name].get<std::vector<double>>();
        const auto b = other[name].get<std::vector<double>>();
        const Interval interval = PairedBootstrap(a, b, 0.95, 2000, 1);
        row["difference"] = MeanOf(a).mean - MeanOf(b).mean;
        row["low"] = interval.low;
        row["high"] = interval.high;
        row["verdict"] = VerdictOf(name, interval);
      }
      rows.push_back(std::move(row));
    }
    if (rows.size() == reports.size()) out["metrics"][name] = std::move(rows);
  }
  return out;
}

std::string ComparisonText(const Json& comparison) {
  std::string out;
  const Json& models = comparison["models"];
  size_t width = 5;
  for (const Json& model : models) {
    width = std::max(width, model.get<std::string>().size());
  }
  const auto wide = static_cast<int>(width);
  for (const auto& [name, rows] : comparison["metrics"].items()) {
    absl::StrAppendFormat(&out, "%-*s  %8s  %8s  against %s, 95 %%\n", wide,
                          name, "mean", "+-", models[0].get<std::string>());
    for (size_t i = 0; i < rows.size(); ++i) {
      const Json& row = rows[i];
      absl::StrAppendFormat(
          &out, "%-*s  %8.4f  %8s", wide, models[i].get<std::string>(),
          row["mean"].get<double>(),
          row["stderr"].is_null()
              ? ""
              : absl::StrFormat("%.4f", row["stderr"].get<double>()));
      if (row.contains("low")) {
        absl::StrAppendFormat(
            &out, "  %+.4f in [%+.4f, %+.4f]  %s",
            row["difference"].get<double>(), row["low"].get<double>(),
            row["high"].get<double>(), row["verdict"].get<std::string>());
      }
      out += "\n";
    }
    out += "\n";
  }
  return out;
}

}  // namespace nearline::model
