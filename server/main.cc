// nearline-server: serves; trains in a child process.
#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <signal.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <atomic>
#include <cstdlib>
#include <iostream>

#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/text.h"
#include "base/version.h"
#include "server/backups.h"
#include "server/config.h"
#include "server/doctor.h"
#include "server/server.h"
#include "server/trainer_host.h"

namespace nearline::server {
namespace {

// The message as a JSON string, whatever it holds.
class JsonMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& out) override {
    const std::string text =
        Json(std::string(message.payload.begin(), message.payload.end()))
            .dump(-1, ' ', false, Json::error_handler_t::replace);
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessage>();
  }
};

void SetUpLog(const Config::Log& log) {
  auto logger = spdlog::stderr_logger_mt("nearline");
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<JsonMessage>('*').set_pattern(
      log.format == "json"
          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","message":%*})"
          : "%Y-%m-%d %H:%M:%S.%e %^%-7l%$ %v");
  logger->set_formatter(std::move(formatter));
  logger->set_level(spdlog::level::from_str(log.level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// What libraries say goes where our own lines go. gRPC's errors are mostly
// strangers' doing: one a second is enough. The parser's are answered to the
// caller.
void SetUpLibraries() {
  google::protobuf::SetLogHandler([](google::protobuf::LogLevel level,
                                     const char*, int,
                                     const std::string& message) {
    if (level == google::protobuf::LOGLEVEL_FATAL) {
      spdlog::critical("protobuf: {}", message);
    } else {
      spdlog::debug("protobuf: {}", message);
    }
  });
  gpr_set_log_function([](gpr_log_func_args* line) {
    static std::atomic<int64_t> last_second{0};
    const int64_t second = absl::ToUnixSeconds(absl::Now());
    const bool warn = line->severity == GPR_LOG_SEVERITY_ERROR &&
                      last_second.exchange(second) != second;
    spdlog::log(warn ? spdlog::level::warn : spdlog::level::debug, "gRPC: {}",
                line->message);
  });
}

// Each connection and each file of the store takes one.
void RaiseOpenFiles() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

int Fail(const absl::Status& status) {
  std::cerr << "nearline-server: " << status.message() << "\n";
  return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
}

int RunDoctor(const Config& config) {
  int wrong = 0, doubts = 0;
  for (const Finding& finding : Examine(config)) {
    const char* const levels[] = {"good ", "doubt", "WRONG"};
    std::cout << levels[static_cast<int>(finding.level)] << "  "
              << absl::StrFormat("%-15s", finding.about) << " " << finding.what
              << "\n";
    wrong += finding.level == Finding::Level::kWrong ? 1 : 0;
    doubts += finding.level == Finding::Level::kDoubt ? 1 : 0;
  }
  std::cout << (wrong > 0 ? absl::StrCat(wrong, " things are wrong")
                          : "nothing is wrong")
            << (doubts > 0 ? absl::StrCat(", ", doubts, " doubtful") : "")
            << "\n";
  return wrong > 0 ? 1 : 0;
}

int RunRestore(const Config& config, uint32_t id, bool without_model) {
  const auto report = RestoreBackup(
      config, id, without_model,
      [](const std::string& phase) { std::cerr << phase << " ...\n"; });
  if (!report.ok()) return Fail(report.status());
  std::cout << "backup " << report->backup.id << " is in " << config.data_dir
            << ", to event " << report->backup.sequence;
  if (!report->backup.generation.empty()) {
    std::cout << ", with " << report->backup.generation;
  }
  std::cout << "; " << report->erased
            << " users were erased again. Start the server\n";
  return 0;
}

// Until one of the signals comes.
template <typename T>
int Serve(Config config, const sigset_t& signals) {
  auto served = T::Start(std::move(config));
  if (!served.ok()) return Fail(served.status());
  int signal = SIGHUP;
  while (signal == SIGHUP) {
    sigwait(&signals, &signal);
    if (signal != SIGHUP) continue;
    spdlog::info(
        "SIGHUP: files that change are taken anew by themselves; another "
        "configuration needs a restart");
  }
  spdlog::info("{}: draining", signal == SIGTERM ? "SIGTERM" : "SIGINT");
  served->reset();
  spdlog::info("stopped");
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Serves recommendations that learn while they are served.\n"
      "Clients speak gRPC (see `nearline --help`); Prometheus scrapes "
      "/metrics.",
      "nearline-server");
  std::string path;
  bool check = false, describe = false, allow_plaintext = false;
  app.add_option("--config", path, "a YAML file; without it, defaults");
  app.set_version_flag("--version", kVersion);
  app.add_flag(
      "--allow-plaintext", allow_plaintext,
      "listen beyond this machine without TLS: whoever reaches the "
      "port can read along, and without access.file change everything");
  app.add_flag("--check-config", check, "read the configuration and stop");
  app.add_flag("--describe-config", describe,
               "print every key with its default, range and meaning");
  app.fallthrough();
  app.require_subcommand(0, 1);
  const auto* const doctor = app.add_subcommand(
      "doctor",
      "look at all that the server needs and say what to do; changes nothing, "
      "and may run beside the server. Exit code 1: something is wrong");
  auto* const restore = app.add_subcommand(
      "restore",
      "put a backup from backup.dir into data_dir, where no store may be, and "
      "erase again who was erased since it was made");
  uint32_t backup_id = 0;
  bool without_model = false;
  restore->add_flag("--without-model", without_model,
                    "without the model, if that is damaged");
  restore->add_option("--backup", backup_id,
                      "its number, of `nearline backup --list`; default: the "
                      "newest");
  const auto* const trainer = app.add_subcommand(
      "trainer",
      "run trainings for the server with the same configuration, which asks by "
      "training.socket: for a container of its own beside the server's, that "
      "shares data_dir and the socket's folder");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;  // --help, or wrong words
  }
  if (describe) {
    std::cout << DescribeConfig();
    return 0;
  }
  if (allow_plaintext) setenv("NEARLINE_ALLOW_PLAINTEXT", "true", 1);
  auto config = LoadConfig(path);
  if (!config.ok()) return Fail(config.status());
  std::vector<std::string> remarks;
  for (const std::string& name : UnknownVariables()) {
    remarks.push_back(absl::StrCat(
        name, " is no key that the environment can set; it is ignored"));
  }
  if (check) {
    for (const std::string& remark : remarks) std::cerr << remark << "\n";
    std::cout << "the configuration is good\n";
    return 0;
  }
  SetUpLog(config->log);
  SetUpLibraries();
  RaiseOpenFiles();
  if (doctor->parsed()) return RunDoctor(*config);
  if (restore->parsed()) return RunRestore(*config, backup_id, without_model);
  for (const std::string& remark : remarks) spdlog::warn(remark);

  // Packaged Abseil looks for deadlocks at every lock, also gRPC's.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  // Signals are taken by this thread alone. A write past a file-size limit must
  // be an error, not the end.
  signal(SIGXFSZ, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  return trainer->parsed() ? Serve<TrainerHost>(*std::move(config), signals)
                           : Serve<Server>(*std::move(config), signals);
}

}  // namespace
}  // namespace nearline::server

int main(int argc, char** argv) { return nearline::server::Main(argc, argv); }
