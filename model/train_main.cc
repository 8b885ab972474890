// nearline-train: trains and evaluates models, by hand or as the server's
// child.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/text.h"
#include "base/version.h"
#include "features/generator.h"
#include "model/blas.h"
#include "model/evaluate_command.h"
#include "model/learn.h"
#include "model/synthesize.h"

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
         {"loss", std::isfinite(p.loss) ? p.loss : 0},
         {"share", p.share_done}});
    if (!p.note.empty()) std::cerr << p.phase << ": " << p.note << std::endl;
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
      std::cout << absl::StrFormat("  %-20s %10g  in [%g, %g]%s  %s", p.name,
                                   p.value, p.low, p.high,
                                   p.whole ? ", whole" : "", p.what);
      if (p.search.low < p.search.high) {
        std::cout << absl::StrFormat("; --tune looks in [%g, %g]", p.search.low,
                                     p.search.high);
      }
      std::cout << "\n";
    }
  }
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
  CompareFlags compare;
  AddCompare(app.add_subcommand(
                 "compare", "a table of reports, the first one the baseline"),
             &compare);

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

  SynthesizeOptions synthetic;
  CLI::App* synthesize = app.add_subcommand(
      "synthesize",
      "write a model of any size that nobody trained, and data for it, to "
      "measure serving: start nearline-server on the folder, then import "
      "FOLDER/import");
  synthesize->add_option("folder", folder, "where to")->required();
  synthesize->option_defaults()->always_capture_default();
  synthesize->add_option("--retriever", synthetic.retriever, "what scans")
      ->check(CLI::IsMember({"mult-vae", "elsa"}));
  synthesize
      ->add_option("--ranker", synthetic.ranker, "what ranks, if anything")
      ->check(CLI::IsMember({"neumf"}));
  synthesize->add_option("--items", synthetic.items, "of the catalogue")
      ->check(CLI::Range(20, 9'999'999));
  synthesize->add_option("--dim", synthetic.dim, "numbers an item")
      ->check(CLI::Range(2, 4096));
  synthesize
      ->add_option("--latent", synthetic.latent, "numbers a user, of mult-vae")
      ->check(CLI::Range(2, 4096));
  synthesize->add_option("--users", synthetic.users, "with a history")
      ->check(CLI::Range(1, 9'999'999));
  synthesize
      ->add_option("--history", synthetic.history, "events a user, distinct")
      ->check(CLI::Range(1, 10'000));
  synthesize->add_option("--seed", synthetic.seed, "the same, the same data");

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
  if (synthesize->parsed()) {
    const absl::Status status = Synthesize(synthetic, folder);
    return status.ok() ? 0 : Fail(status);
  }
  const absl::Status status = app.got_subcommand("compare")
                                  ? Compare(compare)
                                  : Evaluate(std::move(flags));
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace nearline::model

int main(int argc, char** argv) {
  nearline::model::StartWithFastBlas(argv);
  return nearline::model::Main(argc, argv);
}
