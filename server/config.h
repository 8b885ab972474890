#ifndef NEARLINE_SERVER_CONFIG_H_
#define NEARLINE_SERVER_CONFIG_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "features/store.h"
#include "model/evaluate.h"
#include "server/certificates.h"

namespace nearline::server {

// Everything an operator can set: one YAML file, every key overridable by an
// environment variable (serving.shortlist is NEARLINE_SERVING_SHORTLIST).
struct Config {
  std::string listen = "127.0.0.1:50051";
  bool allow_plaintext = false;
  std::string health_listen;                      // empty: with the rest only
  std::string metrics_listen = "127.0.0.1:9464";  // empty: no metrics
  std::string data_dir = "./nearline-data";
  std::string device = "cpu";
  absl::Duration reload_interval = absl::Seconds(10);

  struct Tls {
    TlsFiles files;
    std::string client_certificates = "required";
  } tls;

  struct {
    std::string file;  // empty: everyone may do everything
  } access;

  struct Log {
    std::string level = "info";
    std::string format = "text";
    std::string audit;  // empty: with the rest
    absl::Duration slow_calls = absl::ZeroDuration();
  } log;

  features::StoreOptions store;

  struct Limits {
    absl::Duration max_future = absl::Minutes(5);
    int64_t max_message_mb = 16;
    int64_t messages_mb = 512;
    int64_t max_metadata_kb = 8;
    int max_calls_per_connection = 1000;
    int max_connections = 10'000;
    absl::Duration idle_connection = absl::Minutes(30);
    absl::Duration connection_age = absl::Hours(24);
  } limits;

  struct Serving {
    int shortlist = 200;
    bool rank = true;
    int max_queued = 1000;
    absl::Duration max_wait = absl::Seconds(1);
    int max_batch = 32;
    int leaders = 0;  // 0: half of the processors
    int64_t query_cache_mb = 16;
    int64_t encoder_states_mb = 16;
    int64_t index_items = 100'000;
    double index_recall = 0.97;
    absl::Duration page_ttl = absl::Hours(1);
    absl::Duration drain = absl::Seconds(20);
  } serving;

  struct Backup {
    std::string dir;  // empty: none are made
    int keep = 7;
    int64_t mb_per_second = 0;  // 0: as fast as it goes
  } backup;

  struct Training {
    std::string first = "auto";  // ease or paths; empty: none
    std::string retriever = "joint";
    std::string ranker;  // empty: none
    std::map<std::string, std::map<std::string, double>> parameters;
    std::string program;  // empty: nearline-train beside the server
    std::string socket;   // empty: the trainer is a child of the server
    std::string device;   // `device` as configured, before the server chose
    absl::Duration interval = absl::ZeroDuration();  // zero: never
    int64_t every_events = 0;                        // 0: never
    std::string second_request = "join";
    bool warm_start = true;
    int keep_generations = 5;
    int64_t memory_mb = 4096;
    int threads = 1;
    int seed = 1;
    absl::Duration hang_cpu = absl::Minutes(10);
    features::SplitOptions split;
    model::GateOptions gate;
  } training;
};

// One key of the file.
struct ConfigField {
  std::string path;   // "serving.shortlist"
  std::string range;  // "1 to 10000"
  std::string what;
  std::function<absl::Status(const std::string&)> set;
  std::function<std::string()> get;
};
// The scalar keys of `config`, which outlives them.
std::vector<ConfigField> FieldsOf(Config* config);

// Reads the text of a file. Errors: INVALID_ARGUMENT "name:line: key: what was
// there, what is allowed".
absl::StatusOr<Config> ParseConfig(const std::string& yaml,
                                   const std::string& name);
// The file (empty path: defaults), then the environment, then checks across
// keys.
absl::StatusOr<Config> LoadConfig(const std::string& path);

// Variables of the environment that look like keys and are none, such as
// misspelt ones. Those that Kubernetes sets for a service named "nearline" are
// not among them.
std::vector<std::string> UnknownVariables();

// Whether only this machine reaches "host:port".
bool IsLoopback(absl::string_view address);

// A YAML file with every key, its default, range and meaning.
std::string DescribeConfig();

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CONFIG_H_
