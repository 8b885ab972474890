// nearline: the command line. It speaks gRPC only.
#include <CLI/CLI.hpp>

#include "client/commands.h"

namespace nearline::client {
namespace {

int Main(int argc, char** argv) {
  Session session;
  CLI::App app(
      "Talks to a Nearline server.\n\n"
      "  nearline import ml-1m/            fill it\n"
      "  nearline retrain                  teach it\n"
      "  nearline recommend 42             ask it\n"
      "  nearline feedback 42 item-7       tell it\n"
      "Exit codes: 0 done, 1 failed, 2 wrong words, 3 no server, 4 the gate "
      "kept a\nnew generation out.",
      "nearline");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--server", session.options.address, "host:port")
      ->envname("NEARLINE_SERVER")
      ->capture_default_str();
  app.add_flag("--json", session.json, "print JSON, for machines");
  double timeout = 30;
  app.add_option("--timeout", timeout, "seconds a call may take with retries")
      ->check(CLI::Range(0.01, 86400.0));

  RecommendFlags recommend;
  CLI::App* c = app.add_subcommand("recommend", "what suits a user best");
  c->add_option("user", recommend.user, "a user's id");
  c->add_option("--history", recommend.history,
                "items instead of a user: answers and stores nothing");
  c->add_option("-n,--count", recommend.count, "1 to 1000");
  c->add_option("--filter", recommend.filters,
                "attribute=value, attribute=a|b, attribute=low..high; ! before "
                "it: not; several must all hold");
  c->add_option("--candidates", recommend.candidates, "rank only these");
  c->add_option("--exclude", recommend.exclude, "never these");
  c->add_flag("--include-seen", recommend.include_seen);
  c->add_option("--page", recommend.page,
                "next_page_token of the answer before");

  std::string similar_item;
  int similar_count = 10;
  c = app.add_subcommand("similar", "items like an item");
  c->add_option("item", similar_item)->required();
  c->add_option("-n,--count", similar_count);

  FeedbackFlags feedback;
  c = app.add_subcommand("feedback", "tell what a user did to items");
  c->add_option("user", feedback.user)->required();
  c->add_option("items", feedback.items);
  c->add_option("--type", feedback.type, "view, click, like, rating, ...");
  c->add_option("--value", feedback.value, "of a rating, say");
  c->add_option("--event-id", feedback.event_id, "made up when not given");
  c->add_flag("--retract", feedback.retract, "take back the event --event-id");

  bool cold = false, detach = false;
  c = app.add_subcommand("retrain", "train a new generation and watch it");
  c->add_flag("--cold", cold, "from random weights");
  c->add_flag("--detach", detach, "print the run's id and do not wait");

  ImportOptions import;
  std::string columns;
  c = app.add_subcommand("import", "items, users and events from files");
  c->add_option("path", import.path,
                "a file (TSV, CSV, ::, JSON lines) or a folder (MovieLens 1M, "
                "100K, generated data)")
      ->required();
  c->add_option("--kind", import.kind, "of a JSON lines file")
      ->check(CLI::IsMember({"events", "items", "users"}));
  c->add_option("--columns", columns, "user=1,item=movieId,value=3,time=4");
  c->add_option("--type", import.type, "of events without a column for it");
  c->add_flag("--quiet", import.quiet, "no progress bar");

  std::string export_path;
  c = app.add_subcommand("export",
                         "everything, as JSON lines that import reads");
  c->add_option("file", export_path)->required();

  std::string get_item;
  std::vector<std::string> delete_items;
  int list_count = 20;
  c = app.add_subcommand("items", "list, show or delete items");
  c->add_option("--get", get_item);
  c->add_option("--delete", delete_items);
  c->add_option("-n,--count", list_count);

  std::string get_user, history_user, delete_user;
  c = app.add_subcommand("users", "list, show or erase users");
  c->add_option("--get", get_user);
  c->add_option("--history", history_user,
                "the user's events, the last to arrive first");
  c->add_option("--delete", delete_user, "erase the user, on disk too");
  c->add_option("-n,--count", list_count);

  app.add_subcommand("models", "the generations and which one serves");
  std::string rollback;
  c = app.add_subcommand("rollback", "put an earlier generation into service");
  c->add_option("generation", rollback, "default: the one before");

  BenchOptions bench;
  c = app.add_subcommand(
      "bench",
      "load the server, in turn with empty calls; feedback is "
      "recorded for real");
  c->add_option("what", bench.what)
      ->check(CLI::IsMember({"recommend", "feedback"}));
  c->add_option("--connections", bench.connections)->check(CLI::Range(1, 1000));
  c->add_option("--in-flight", bench.in_flight)->check(CLI::Range(1, 100000));
  c->add_option("--seconds", bench.seconds)->check(CLI::Range(0.1, 3600.0));
  c->add_option("--repetitions", bench.repetitions)->check(CLI::Range(1, 100));
  c->add_option("-n,--count", bench.count)->check(CLI::Range(1, 1000));
  c->add_option("--users", bench.users)->check(CLI::Range(1, 10000000));
  c->add_option("--events", bench.events, "a feedback call")
      ->check(CLI::Range(1, 10000));

  app.add_subcommand("status", "how the server is");
  app.add_subcommand("completion", "for bash: source <(nearline completion)");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;  // --help, or wrong words
  }
  session.options.timeout = absl::Seconds(timeout);
  const std::string command = app.get_subcommands()[0]->get_name();
  if (command == "completion") {
    PrintCompletion();
    return 0;
  }
  session.client = std::make_unique<Client>(session.options);
  if (command == "recommend") return Recommend(session, recommend);
  if (command == "similar")
    return Similar(session, similar_item, similar_count);
  if (command == "feedback") return Feedback(session, feedback);
  if (command == "retrain") return Retrain(session, cold, detach);
  if (command == "import") return ImportCommand(session, import, columns);
  if (command == "items") {
    return Items(session, get_item, delete_items, list_count);
  }
  if (command == "users") {
    return Users(session, get_user, history_user, delete_user, list_count);
  }
  if (command == "models") return Models(session);
  if (command == "bench") return BenchCommand(session, bench);
  if (command == "status") return ShowStatus(session);
  if (command == "export") return ExportCommand(session, export_path);
  return Rollback(session, rollback);
}

}  // namespace
}  // namespace nearline::client

int main(int argc, char** argv) { return nearline::client::Main(argc, argv); }
