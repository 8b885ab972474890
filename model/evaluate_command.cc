#include "model/evaluate_command.h"

#include <unistd.h>

#include <iostream>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/progress.h"
#include "model/report.h"
#include "model/report_page.h"

namespace nearline::model {
namespace {

const char* DefaultMetrics(const std::string& protocol) {
  if (protocol == "sampled") return "hr@10,ndcg@10";
  if (protocol == "full") return "ndcg@20,recall@20,plain_recall@20";
  return "ndcg@100,recall@20,recall@50";
}

// The parameters as the flags have them; their names go into `fixed`.
absl::StatusOr<Parameters> ReadParameters(const EvaluateFlags& flags,
                                          std::set<std::string>* fixed) {
  ASSIGN_OR_RETURN(Parameters parameters, ParametersOf(flags.experiment.model));
  if (!flags.parameters.empty()) {
    RETURN_IF_ERROR(parameters.SetFile(flags.parameters, fixed));
  }
  for (const std::string& setting : flags.settings) {
    RETURN_IF_ERROR(parameters.SetText(setting));
    fixed->insert(setting.substr(0, setting.find('=')));
  }
  return parameters;
}

absl::StatusOr<MetricSpec> ChooseTuneMetric(const EvaluateFlags& flags) {
  MetricSpec metric = flags.experiment.metrics[0];
  if (!flags.tune_metric.empty()) {
    ASSIGN_OR_RETURN(metric, MetricSpec::Parse(flags.tune_metric));
  }
  if (metric.OfHits()) return metric;
  return absl::InvalidArgumentError(
      absl::StrCat("--tune-metric ", metric.Name(),
                   ": expected one that is told from hits, such as ndcg@10"));
}

// Paths need not be UTF-8.
std::string TextOf(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

// Errors: that of creating a file there, which is removed again.
absl::Status CheckWritable(const char* option, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  const std::string probe = absl::StrCat(path, ".probe-", getpid());
  RETURN_IF_ERROR(Annotate(WriteFileAtomic(probe, ""), option));
  unlink(probe.c_str());
  return absl::OkStatus();
}

std::string Describe(const ExperimentProgress& p) {
  std::string out = p.trial > 0 ? absl::StrFormat("trial %d, ", p.trial) : "";
  absl::StrAppendFormat(&out, "%s, epoch %d", p.epoch.phase, p.epoch.epoch);
  if (!p.epoch.note.empty()) absl::StrAppend(&out, " ", p.epoch.note);
  if (p.epoch.loss > 0)
    absl::StrAppendFormat(&out, ", loss %.3f", p.epoch.loss);
  if (p.epoch.metric > 0) {
    absl::StrAppendFormat(&out, ", NDCG@100 %.4f", p.epoch.metric);
  }
  return out;
}

}  // namespace

void AddEvaluate(CLI::App* app, EvaluateFlags* flags) {
  Experiment& e = flags->experiment;
  ProtocolFiles& f = e.files;
  app->add_option("model", e.model, "one of `nearline-train models`")
      ->required();
  app->add_option("--protocol", f.protocol,
                  "strong: held-out users (Liang 2018); full: every item that "
                  "is not in the user's training lines; sampled: one item "
                  "against listed negatives (He 2017)")
      ->required()
      ->check(CLI::IsMember({"strong", "full", "sampled"}));
  app->add_option("--format", f.format,
                  "of all files: tsv, csv, dat (::), spaces, or adjacency "
                  "(user item item ...); default: by content")
      ->check(CLI::IsMember({"tsv", "csv", "dat", "spaces", "adjacency"}));
  app->add_option("--train", f.train, "training lines: user item [value]")
      ->required();
  app->add_option("--validation-input", f.validation_input,
                  "strong: for early stopping");
  app->add_option("--validation-target", f.validation_target);
  app->add_option("--test-input", f.test_input, "strong: what is known");
  app->add_option("--test-target", f.test_target,
                  "strong: what is to be found");
  app->add_option("--test", f.test,
                  "full: what is to be found; sampled: one item a user");
  app->add_option("--negatives", f.negatives,
                  "sampled: (user,item) negative negative ...");
  app->add_option("--items", f.item_attributes,
                  "attributes, lines of {\"id\": ..., \"attributes\": {...}}; "
                  "items that are not in training are recommended by them")
      ->check(CLI::ExistingFile);
  app->add_option("--users", f.user_attributes,
                  "likewise of users; they say most of who shows few events")
      ->check(CLI::ExistingFile);
  app->add_option("--min-value", f.min_value, "leave out lines below it");
  app->add_flag("--in-order", f.in_order,
                "lines of a user are in order of time, though they have none");
  app->add_option("--history-limit", f.history_limit,
                  "test users are known by their last so many items; 0: by "
                  "their attributes alone")
      ->check(CLI::Range(0, 1'000'000));
  app->add_option("--metrics", flags->metrics,
                  "ndcg@10,recall@20,plain_recall@20,precision@10,f1@10,hr@10,"
                  "map@10,mrr@10,auc,novelty@10,diversity@10,"
                  "popularity_lift@10,calibration@10,coverage@10,gini@10,"
                  "log_loss,mae,mse,rmse");
  app->add_option("--seed", e.seeds, "one or more; default 1");
  app->add_option("--set", flags->settings, "parameter=value");
  app->add_option("--params", flags->parameters,
                  "a YAML file of \"parameter: value\" lines");
  app->add_option("--tune", e.tune,
                  "so many trials on data carved out of the training lines, "
                  "never the test's")
      ->check(CLI::Range(1, 10000));
  app->add_option("--validation-fraction", e.validation_fraction,
                  "of what --tune carves out")
      ->check(CLI::Range(0.01, 0.5))
      ->capture_default_str();
  app->add_option("--tune-metric", flags->tune_metric,
                  "default: the first of --metrics");
  app->add_option("--threads", e.threads)->check(CLI::Range(1, 256));
  app->add_option("--device", e.device, "cpu or cuda:N");
  app->add_option("--report", flags->report, "write all figures as JSON");
  app->add_option("--run", e.run_file,
                  "write the first seed's ranked lists: user item rank score");
  app->add_option("--checkpoint", e.checkpoint_folder,
                  "leave in this folder what training has come to, every ten "
                  "seconds; the same command goes on from there");
  app->add_option("--save", e.save_folder,
                  "write the first seed's generation into this folder");
}

absl::Status Evaluate(EvaluateFlags flags) {
  Experiment& e = flags.experiment;
  ASSIGN_OR_RETURN(const Parameters parameters,
                   ReadParameters(flags, &e.fixed));
  if (flags.metrics.empty()) flags.metrics = DefaultMetrics(e.files.protocol);
  ASSIGN_OR_RETURN(e.metrics, MetricSpec::ParseList(flags.metrics));
  if (e.tune > 0) {
    ASSIGN_OR_RETURN(e.tune_metric, ChooseTuneMetric(flags));
  }
  // Before hours of training.
  RETURN_IF_ERROR(CheckWritable("--report", flags.report));
  RETURN_IF_ERROR(CheckWritable("--run", e.run_file));
  if (!e.save_folder.empty()) {
    RETURN_IF_ERROR(Annotate(MakeDirs(e.save_folder), "--save"));
    RETURN_IF_ERROR(CheckWritable("--save", JoinPath(e.save_folder, "new")));
  }
  ProgressBar bar("Training");
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(
      const ExperimentResult result,
      RunExperiment(e, parameters, [&](const ExperimentProgress& progress) {
        bar.Update(progress.share, Describe(progress));
        if (!progress.epoch.note.empty()) notes.push_back(Describe(progress));
      }));
  bar.Finish(absl::StrFormat("%d users tested, %d items", result.users.size(),
                             result.items));
  for (const std::string& note : notes) std::cerr << note << "\n";
  for (const std::string& remark : result.remarks) std::cerr << remark << "\n";
  if (e.tune > 0) {
    std::cout << "chosen: " << result.parameters.ToJson().dump() << "\n";
  }
  std::cout << RowOf(e, result) << std::endl;
  if (!flags.report.empty()) {
    RETURN_IF_ERROR(WriteFileAtomic(flags.report, TextOf(ReportOf(e, result))));
  }
  return result.written;
}

void AddCompare(CLI::App* app, CompareFlags* flags) {
  app->add_option("reports", flags->reports,
                  "of evaluate --report, on the same test data")
      ->required();
  app->add_option("--json", flags->json, "write the comparison as JSON");
  app->add_option("--html", flags->html, "write one page with plots");
}

absl::Status Compare(const CompareFlags& flags) {
  ASSIGN_OR_RETURN(const std::vector<Report> reports,
                   ReadReports(flags.reports));
  const Json comparison = CompareReports(reports);
  if (!flags.json.empty()) {
    RETURN_IF_ERROR(WriteFileAtomic(flags.json, TextOf(comparison)));
  }
  if (!flags.html.empty()) {
    RETURN_IF_ERROR(
        WriteFileAtomic(flags.html, ComparisonPage(comparison, reports)));
  }
  std::cout << ComparisonText(comparison);
  return absl::OkStatus();
}

}  // namespace nearline::model
