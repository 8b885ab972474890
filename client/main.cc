// nearline: the command line. It speaks gRPC only.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/text.h"
#include "base/version.h"
#include "client/commands.h"

namespace nearline::client {
namespace {

class CommandLine {
 public:
  CommandLine();
  CommandLine(const CommandLine&) = delete;
  int Run(int argc, char** argv);

 private:
  CLI::App* Add(const std::string& name, const std::string& what,
                std::function<int()> run);
  void AddAsking();
  void AddTelling();
  void AddFiles();
  void AddRecords();
  void AddModels();
  void AddBench();
  void AddTls();
  void AddLocal();
  absl::Status ReadTls();

  CLI::App app_;
  Session session_;
  double timeout_ = 30;
  bool patient_ = false;
  std::map<const CLI::App*, std::function<int()>> commands_;

  struct TlsFlags {
    std::string ca, certificate, key, token_file;
  } tls_;
  RecommendFlags recommend_;
  FeedbackFlags feedback_;
  ImportOptions import_;
  BenchOptions bench_;
  std::string columns_, export_path_, similar_, generation_;
  std::string get_, history_, erase_, health_;
  std::vector<std::string> remove_;
  int similar_count_ = 10, list_count_ = 20, frames_ = 0;
  double every_ = 1;
  bool cold_ = false, detach_ = false, verify_ = false, list_ = false;
};

// gRPC would look for a host of any name, and then nobody answers.
absl::Status CheckAddress(const std::string& address) {
  const bool web = absl::StartsWith(address, "http://") ||
                   absl::StartsWith(address, "https://");
  if (!web && absl::StrContains(address, ':')) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--server ", Quoted(address),
                   ": expected host:port, such as localhost:50051"));
}

CommandLine::CommandLine()
    : app_(
          "Talks to a Nearline server.\n\n"
          "  nearline import ml-1m/            fill it\n"
          "  nearline retrain                  teach it\n"
          "  nearline recommend 42             ask it\n"
          "  nearline feedback 42 item-7       tell it\n"
          "Exit codes: 0 done, 1 failed, 2 wrong words, 3 no server, 4 the "
          "gate kept a\nnew generation out.",
          "nearline") {
  app_.require_subcommand(1);
  app_.set_version_flag("--version", kVersion);
  app_.fallthrough();
  app_.option_defaults()->always_capture_default();
  app_.add_option("--server", session_.options.address, "host:port")
      ->envname("NEARLINE_SERVER");
  app_.add_flag("--json", session_.json, "print JSON, for machines");
  app_.add_option("--timeout", timeout_, "seconds a call may take with retries")
      ->check(CLI::Range(0.01, 86400.0));
  app_.add_flag("--patient", patient_,
                "try until --timeout, also while nobody is there");
  AddTls();
  AddAsking();
  AddTelling();
  AddModels();
  AddFiles();
  AddRecords();
  AddBench();
  Add("status", "how the server is", [this] { return ShowStatus(session_); });
  CLI::App* const top =
      Add("top",
          "watch it live: calls, times, queues, model, training; with --json "
          "its status, a line a frame",
          [this] { return TopCommand(session_, every_, frames_); });
  top->add_option("--every", every_, "seconds between frames")
      ->check(CLI::Range(0.1, 3600.0));
  top->add_option("--frames", frames_, "then stop; 0: until Ctrl-C")
      ->check(CLI::Range(0, 1000000));
  Add("health", "whether it serves: the exit code is 0 only then", [this] {
    return ShowHealth(session_, health_);
  })->add_option("service", health_, "one of the API, or live");
  AddLocal();
}

void CommandLine::AddTls() {
  TlsFlags& flags = tls_;
  app_.add_flag("--tls", session_.options.tls.on,
                "with the system's certificate authorities");
  app_.add_option("--ca", flags.ca,
                  "TLS, believing these authorities; a PEM file")
      ->envname("NEARLINE_CA");
  app_.add_option("--certificate", flags.certificate,
                  "TLS, showing this certificate; a PEM file")
      ->envname("NEARLINE_CERTIFICATE");
  app_.add_option("--key", flags.key, "the certificate's; a PEM file")
      ->envname("NEARLINE_KEY");
  app_.add_option("--server-name", session_.options.tls.server_name,
                  "the name in the server's certificate, if not its host")
      ->envname("NEARLINE_SERVER_NAME");
  app_.add_option("--token-file", flags.token_file,
                  "holds the caller's token; else the variable NEARLINE_TOKEN")
      ->envname("NEARLINE_TOKEN_FILE");
  app_.add_flag("--allow-plaintext", session_.options.plaintext_token,
                "send the token to other machines without TLS");
}

// Files into what they hold.
absl::Status CommandLine::ReadTls() {
  ClientOptions& options = session_.options;
  if (tls_.certificate.empty() != tls_.key.empty()) {
    return absl::InvalidArgumentError(
        "--certificate and --key: give both, or neither");
  }
  for (const auto& [path, text] :
       {std::pair(&tls_.ca, &options.tls.ca),
        std::pair(&tls_.certificate, &options.tls.certificate),
        std::pair(&tls_.key, &options.tls.key),
        std::pair(&tls_.token_file, &options.token)}) {
    if (path->empty()) continue;
    ASSIGN_OR_RETURN(*text, ReadFile(*path));
  }
  if (tls_.token_file.empty()) {
    const char* const token = std::getenv("NEARLINE_TOKEN");
    if (token != nullptr) options.token = token;
  }
  absl::StripAsciiWhitespace(&options.token);
  return absl::OkStatus();
}

void CommandLine::AddLocal() {
  commands_[app_.add_subcommand(
      "token", "make a token for a caller, and its hash")] = [this] {
    return NewToken(session_);
  };
  commands_[app_.add_subcommand(
      "completion", "for bash: source <(nearline completion)")] = [] {
    PrintCompletion();
    return 0;
  };
}

CLI::App* CommandLine::Add(const std::string& name, const std::string& what,
                           std::function<int()> run) {
  CLI::App* const command = app_.add_subcommand(name, what);
  commands_[command] = [this, run = std::move(run)] {
    session_.options.timeout = absl::Seconds(timeout_);
    // One who waits at a terminal wants to know that nobody is there.
    session_.options.attempts = patient_ ? 0 : 5;
    absl::Status ready = CheckAddress(session_.options.address);
    ready.Update(ReadTls());
    if (!ready.ok()) {
      std::cerr << "nearline: " << ready.message() << "\n";
      return 2;
    }
    session_.client = std::make_unique<Client>(session_.options);
    return run();
  };
  return command;
}

void CommandLine::AddAsking() {
  RecommendFlags& flags = recommend_;
  CLI::App* c = Add("recommend", "what suits a user best",
                    [this] { return Recommend(session_, recommend_); });
  c->add_option("user", flags.user, "a user's id");
  c->add_option("--history", flags.history,
                "items instead of a user: answers and stores nothing")
      ->default_str("");
  c->add_option("-n,--count", flags.count, "1 to 1000");
  c->add_option("--filter", flags.filters,
                "attribute=value, attribute=a|b (texts or numbers), "
                "attribute=low..high; ! before it: not; several must all hold")
      ->default_str("");
  c->add_option("--candidates", flags.candidates, "rank only these")
      ->default_str("");
  c->add_option("--exclude", flags.exclude, "never these")->default_str("");
  c->add_flag("--include-seen", flags.include_seen,
              "also what the user has seen");
  c->add_option("--page", flags.page,
                "next_page_token of the answer before, which --json shows");

  c = Add("similar", "items like an item",
          [this] { return Similar(session_, similar_, similar_count_); });
  c->add_option("item", similar_, "an item's id")->required();
  c->add_option("-n,--count", similar_count_, "1 to 1000");
}

void CommandLine::AddTelling() {
  FeedbackFlags& flags = feedback_;
  CLI::App* const c = Add("feedback", "tell what a user did to items",
                          [this] { return Feedback(session_, feedback_); });
  c->add_option("user", flags.user, "a user's id")->required();
  c->add_option("items", flags.items, "one event each")->default_str("");
  c->add_option("--type", flags.type, "view, click, like, rating, ...");
  c->add_option("--value", flags.value, "of a rating, say");
  c->add_option("--event-id", flags.event_id, "made up when not given");
  c->add_flag("--retract", flags.retract, "take back the event --event-id");
}

void CommandLine::AddModels() {
  CLI::App* c = Add("retrain", "train a new generation and watch it",
                    [this] { return Retrain(session_, cold_, detach_); });
  c->add_flag("--cold", cold_, "from random weights");
  c->add_flag("--detach", detach_, "print the run's id and do not wait");

  Add("models", "the generations and which one serves",
      [this] { return Models(session_); });

  c = Add("rollback", "put an earlier generation into service",
          [this] { return Rollback(session_, generation_); });
  c->add_option("generation", generation_, "default: the one before");
}

void CommandLine::AddFiles() {
  CLI::App* c = Add("import", "items, users and events from files", [this] {
    return ImportCommand(session_, import_, columns_);
  });
  c->add_option("path", import_.path,
                "a file (TSV, CSV, ::, JSON lines) or a folder (MovieLens, "
                "generated data)")
      ->required();
  c->add_option("--kind", import_.kind,
                "of a file of JSON lines, or of CSV or TSV with a header")
      ->check(CLI::IsMember({"events", "items", "users"}));
  c->add_option("--columns", columns_,
                "user=1,item=movieId,value=3,time=4: numbers from 1, names of "
                "the header, or keys of JSON lines; 0: none");
  c->add_flag("--skip-bad-lines", import_.skip_bad_lines,
              "leave out lines that cannot be read, or that the server "
              "refuses, and say which");
  c->add_option("--type", import_.type, "of events without a column for it");
  c->add_flag("--quiet", import_.quiet, "no progress bar");

  c = Add("export", "everything, as JSON lines that import reads",
          [this] { return ExportCommand(session_, export_path_); });
  c->add_option("file", export_path_, "is overwritten; - is standard output")
      ->required();

  c = Add("backup",
          "a backup in the server's backup.dir, while it serves; `nearline-"
          "server restore` puts one back",
          [this] { return BackupCommand(session_, verify_, list_); });
  c->add_flag("--verify", verify_,
              "read all of it again, not only what is new");
  c->add_flag("--list", list_, "show the backups there are");
}

void CommandLine::AddRecords() {
  CLI::App* c = Add("items", "list, show or delete items", [this] {
    return Items(session_, get_, remove_, list_count_);
  });
  CLI::Option* const get = c->add_option("--get", get_, "show this item");
  c->add_option("--delete", remove_, "never recommend these again")
      ->default_str("")
      ->excludes(get);
  c->add_option("-n,--count", list_count_, "of the list, 1 to 1000");

  c = Add("users", "list, show or erase users", [this] {
    return Users(session_, get_, history_, erase_, list_count_);
  });
  CLI::Option* const user = c->add_option("--get", get_, "show this user");
  CLI::Option* const history = c->add_option(
      "--history", history_, "the user's events, the last to arrive first");
  c->add_option("--delete", erase_, "erase the user, on disk too")
      ->excludes(user, history);
  c->add_option("-n,--count", list_count_, "of the list, 1 to 1000");
}

void CommandLine::AddBench() {
  BenchOptions& options = bench_;
  CLI::App* const c =
      Add("bench",
          "load the server, in turn with calls that do nothing; feedback is "
          "recorded for real\n\n"
          "  nearline bench                          as fast as answers come\n"
          "  nearline bench --load 0.5               at half of that, by the "
          "clock\n"
          "  nearline bench mixed --rate 2000        so many calls a second\n"
          "  nearline bench feedback --events 1000   batches of events\n"
          "By the clock, a call's time counts from when it should have begun.",
          [this] { return BenchCommand(session_, bench_); });
  c->add_option("what", options.what,
                "the call; mixed: recommend and feedback; batched: an empty "
                "call through the queue of recommend")
      ->check(CLI::IsMember(
          {"recommend", "feedback", "mixed", "empty", "batched"}));
  c->add_option("--baseline", options.baseline, "what to compare with")
      ->check(CLI::IsMember({"empty", "batched", "none"}));
  c->add_option("--connections", options.connections, "gRPC channels")
      ->check(CLI::Range(1, 1000));
  c->add_option("--in-flight", options.in_flight,
                "calls, over all connections; 0: 128, or by the clock up to "
                "10,000")
      ->check(CLI::Range(0, 100000));
  auto* const rate =
      c->add_option("--rate", options.rate,
                    "calls a second by the clock; 0: the next when the one "
                    "before is answered")
          ->check(CLI::Range(0.0, 1e6));
  c->add_option("--load", options.load,
                "the same, as a share of what is reached without a clock")
      ->check(CLI::Range(0.0, 100.0))
      ->excludes(rate);
  c->add_option("--arrivals", options.arrivals, "by the clock")
      ->check(CLI::IsMember({"poisson", "constant"}));
  c->add_option("--deadline", options.deadline,
                "seconds a call may take; 0: any")
      ->check(CLI::Range(0.0, 3600.0));
  c->add_option("--seconds", options.seconds, "of each repetition")
      ->check(CLI::Range(0.1, 3600.0));
  c->add_option("--warm-up", options.warm_up, "seconds before the first")
      ->check(CLI::Range(0.0, 3600.0));
  c->add_option("--repetitions", options.repetitions, "of call and baseline")
      ->check(CLI::Range(1, 100));
  c->add_option("-n,--count", options.count, "items a recommend call")
      ->check(CLI::Range(1, 1000));
  c->add_option("--users", options.users, "to choose from")
      ->check(CLI::Range(1, 10000000));
  c->add_option("--skew", options.skew,
                "of users and items: the n-th is chosen by 1 / n^skew")
      ->check(CLI::Range(0.0, 10.0));
  c->add_option("--events", options.events, "a feedback call")
      ->check(CLI::Range(1, 10000));
  c->add_option("--writes", options.writes, "share of mixed calls")
      ->check(CLI::Range(0.0, 1.0));
  c->add_option("--seed", options.seed, "of what is chosen, and when");
}

int CommandLine::Run(int argc, char** argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const bool no_command = e.get_name() == "RequiredError" &&
                            app_.get_subcommands().empty() && argc > 1;
    if (no_command) {
      std::cerr << "nearline: no command in " << Quoted(argv[1])
                << "; nearline --help lists them\n";
      return 2;
    }
    return app_.exit(e) == 0 ? 0 : 2;  // --help, or wrong words
  }
  const int code = commands_.at(app_.get_subcommands()[0])();
  std::cout.flush();
  if (std::cout) return code;
  std::cerr << "nearline: cannot write standard output: "
            << std::strerror(errno) << "\n";
  return 1;
}

}  // namespace
}  // namespace nearline::client

int main(int argc, char** argv) {
  return nearline::client::CommandLine().Run(argc, argv);
}
