// nearline-train: trains and evaluates models, by hand or as the server's
// child.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/version.h"
#include "features/generator.h"
#include "model/learn.h"
#include "model/protocols.h"

namespace nearline::model {
namespace {

int Fail(const absl::Status& status) {
  std::cerr << "nearline-train: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

// The server reads one JSON object a line from standard output.
int RunJob(const std::string& path) {
  const auto text = ReadFile(path);
  if (!text.ok()) return Fail(text.status());
  const auto json = ParseJson(*text);
  if (!json.ok()) return Fail(json.status());
  const auto job = LearnJob::FromJson(*json);
  if (!job.ok()) return Fail(job.status());
  const auto say = [](const Json& line) {
    std::cout << line.dump() << std::endl;
  };
  const auto manifest = Learn(*job, [&](const LearnProgress& p) {
    say({{"phase", p.phase},
         {"epoch", p.epoch},
         {"epochs", p.epochs},
         {"loss", p.loss},
         {"share", p.share_done}});
  });
  if (!manifest.ok()) {
    say({{"error", std::string(manifest.status().message())}});
    return 1;
  }
  say({{"done", manifest->id}});
  return 0;
}

void PrintModels() {
  for (const std::string& name : ModelNames()) {
    std::cout << name << ": " << DescribeModel(name) << "\n";
    const Parameters parameters = *ParametersOf(name);
    for (const ParameterSpec& p : parameters.specs()) {
      std::cout << absl::StrFormat("  %-20s %10g  in [%g, %g]%s  %s\n", p.name,
                                   p.value, p.low, p.high,
                                   p.whole ? ", whole" : "", p.what);
    }
  }
}

struct EvaluateFlags {
  Experiment experiment;
  std::string metrics;
  std::vector<std::string> settings;
};

int RunEvaluate(EvaluateFlags flags) {
  Experiment& e = flags.experiment;
  auto parameters = ParametersOf(e.model);
  if (!parameters.ok()) return Fail(parameters.status());
  for (const std::string& setting : flags.settings) {
    const absl::Status status = parameters->SetText(setting);
    if (!status.ok()) return Fail(status);
  }
  if (flags.metrics.empty()) {
    flags.metrics = e.protocol == "sampled" ? "hr@10,ndcg@10"
                    : e.protocol == "full"  ? "ndcg@20,recall@20"
                                            : "ndcg@100,recall@20,recall@50";
  }
  auto metrics = MetricSpec::ParseList(flags.metrics);
  if (!metrics.ok()) return Fail(metrics.status());
  e.metrics = *std::move(metrics);
  ProgressBar bar("Training");
  const auto result = RunExperiment(e, *parameters, [&](const EpochReport& r) {
    bar.Update(r.share,
               absl::StrFormat("%s, epoch %d, loss %.3f, NDCG@100 %.4f",
                               r.phase, r.epoch, r.loss, r.metric));
  });
  if (!result.ok()) return Fail(result.status());
  bar.Finish(absl::StrFormat("%d users tested, %d items", result->users,
                             result->items));
  std::string row = e.model;
  for (const MetricSpec& metric : e.metrics) {
    const auto& values = result->per_seed.at(metric.Name());
    absl::StrAppendFormat(&row, "  %s %.4f", metric.Name(),
                          MeanOf(values).mean);
    if (values.size() > 1) {
      absl::StrAppend(&row, " (",
                      absl::StrJoin(values, " ",
                                    [](std::string* out, double v) {
                                      absl::StrAppendFormat(out, "%.4f", v);
                                    }),
                      ")");
    }
  }
  absl::StrAppendFormat(&row, "  %.0f s", result->train_seconds);
  std::cout << row << "\n";
  return 0;
}

void AddEvaluate(CLI::App* app, EvaluateFlags* flags) {
  Experiment& e = flags->experiment;
  app->add_option("model", e.model, "one of `nearline-train models`")
      ->required();
  app->add_option("--protocol", e.protocol,
                  "strong: held-out users (Liang 2018); full: every item that "
                  "is not in the user's training lines; sampled: one item "
                  "against listed negatives (He 2017)")
      ->required()
      ->check(CLI::IsMember({"strong", "full", "sampled"}));
  app->add_option("--format", e.format,
                  "of all files: tsv, csv, dat (::), spaces, or adjacency "
                  "(user item item ...); default: by content")
      ->check(CLI::IsMember({"tsv", "csv", "dat", "spaces", "adjacency"}));
  app->add_option("--train", e.train, "training lines: user item [value]")
      ->required();
  app->add_option("--validation-input", e.validation_input);
  app->add_option("--validation-target", e.validation_target);
  app->add_option("--test-input", e.test_input);
  app->add_option("--test-target", e.test_target);
  app->add_option("--test", e.test,
                  "full: what is to be found; sampled: one item a user");
  app->add_option("--negatives", e.negatives,
                  "sampled: (user,item) negative negative ...");
  app->add_option("--min-value", e.min_value, "leave out lines below it");
  app->add_option("--metrics", flags->metrics, "ndcg@10,recall@20,hr@10,...");
  app->add_option("--seed", e.seeds, "one or more; default 1");
  app->add_option("--set", flags->settings, "parameter=value");
  app->add_option("--threads", e.threads)->check(CLI::Range(1, 256));
  app->add_option("--device", e.device, "cpu or cuda:N");
  app->add_option("--run", e.run_file,
                  "write the first seed's ranked lists: user item rank score");
}

int Main(int argc, char** argv) {
  CLI::App app("Trains and evaluates Nearline's models.", "nearline-train");
  app.require_subcommand(1);
  app.set_version_flag("--version", kVersion);

  std::string job;
  CLI::App* run = app.add_subcommand(
      "run", "one training run as the server orders it, from a job file");
  run->add_option("--job", job, "JSON, as written by the server")->required();

  app.add_subcommand("models", "every model with its parameters");

  EvaluateFlags flags;
  AddEvaluate(app.add_subcommand("evaluate",
                                 "train on files and measure on held-out data"),
              &flags);

  features::GeneratorOptions demo;
  std::string folder;
  CLI::App* generate = app.add_subcommand(
      "generate", "write made-up but plausible data: items, users, events");
  generate->add_option("folder", folder, "where to")->required();
  generate->add_option("--users", demo.users)->check(CLI::Range(10, 1000000));
  generate->add_option("--items", demo.items)->check(CLI::Range(20, 90000));
  generate->add_option("--events-a-user", demo.events_a_user)
      ->check(CLI::Range(3, 500));
  generate->add_option("--seed", demo.seed);
  generate
      ->add_option("--end", demo.end_seconds,
                   "of the year the events cover, in Unix seconds")
      ->check(CLI::Range(int64_t{100'000'000}, int64_t{10'000'000'000}))
      ->capture_default_str();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;  // --help, or wrong words
  }
  if (run->parsed()) return RunJob(job);
  if (app.got_subcommand("models")) {
    PrintModels();
    return 0;
  }
  if (generate->parsed()) {
    const absl::Status status = features::GenerateDemoData(demo, folder);
    return status.ok() ? 0 : Fail(status);
  }
  return RunEvaluate(std::move(flags));
}

}  // namespace
}  // namespace nearline::model

int main(int argc, char** argv) { return nearline::model::Main(argc, argv); }
