#include "server/config_fields.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "model/evaluate.h"
#include "model/parameters.h"

namespace nearline::server {
namespace {

absl::Status Bad(const std::string& text, const std::string& range) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not allowed; expected ", range));
}

std::string DurationText(absl::Duration d) { return absl::FormatDuration(d); }

// `scale` of what is kept make one of the file's units.
template <typename T>
ConfigField Scaled(std::string path, T* value, int64_t scale, int64_t low,
                   int64_t high, const std::string& unit, std::string what) {
  std::string range = absl::StrCat(unit, ", ", low, " to ", high);
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            int64_t n = 0;
            if (!absl::SimpleAtoi(text, &n) || n < low || n > high) {
              return Bad(text, range);
            }
            *value = static_cast<T>(n * scale);
            return absl::OkStatus();
          },
          [=] { return absl::StrCat(*value / scale); }};
}

template <typename T>
ConfigField Whole(std::string path, T* value, int64_t low, int64_t high,
                  std::string what) {
  return Scaled(std::move(path), value, 1, low, high, "a whole number",
                std::move(what));
}

ConfigField Mebibytes(std::string path, int64_t* bytes, int64_t low,
                      int64_t high, std::string what) {
  return Scaled(std::move(path), bytes, 1 << 20, low, high, "MiB",
                std::move(what));
}

ConfigField Duration(std::string path, absl::Duration* value,
                     absl::Duration low, absl::Duration high,
                     std::string what) {
  std::string range =
      absl::StrCat("a duration such as 90s, 5m or 1h30m, ", DurationText(low),
                   " to ", DurationText(high));
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            absl::Duration d;
            if (!absl::ParseDuration(text, &d) || d < low || d > high) {
              return Bad(text, range);
            }
            *value = d;
            return absl::OkStatus();
          },
          [=] { return DurationText(*value); }};
}

// host:port, port 0 to 65535; with `optional` also nothing.
ConfigField Address(std::string path, std::string* value, bool optional,
                    std::string what) {
  const std::string range = absl::StrCat("host:port with a port of 0 to 65535",
                                         optional ? ", or empty" : "");
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            const size_t colon = text.rfind(':');
            int port = -1;
            const bool good = colon != std::string::npos && colon > 0 &&
                              absl::SimpleAtoi(text.substr(colon + 1), &port) &&
                              port >= 0 && port <= 65535;
            if (!good && !(optional && text.empty())) return Bad(text, range);
            *value = text;
            return absl::OkStatus();
          },
          [=] { return *value; }};
}

ConfigField Metric(std::string path, std::string* value, std::string what) {
  const std::string range =
      "ndcg@K, recall@K, plain_recall@K, precision@K, f1@K, hr@K, map@K or "
      "mrr@K, K in [1, 1000]";
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            const auto metric = model::MetricSpec::Parse(text);
            if (!metric.ok() || !metric->OfHits() || metric->k == 0) {
              return Bad(text, range);
            }
            *value = text;
            return absl::OkStatus();
          },
          [=] { return *value; }};
}

ConfigField Device(Config* c) {
  const std::string range = "cpu, auto, or cuda:N";
  return {"device", range,
          "where models compute; auto takes cuda:0 when it is there",
          [=](const std::string& text) {
            int64_t n = 0;
            const bool cuda = text.rfind("cuda:", 0) == 0 &&
                              absl::SimpleAtoi(text.substr(5), &n) && n >= 0;
            if (text != "cpu" && text != "auto" && !cuda) {
              return Bad(text, range);
            }
            c->device = text;
            return absl::OkStatus();
          },
          [=] { return c->device; }};
}

}  // namespace

ConfigField Real(std::string path, double* value, double low, double high,
                 std::string what) {
  std::string range = absl::StrFormat("a number, %g to %g", low, high);
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            double x = 0;
            if (!absl::SimpleAtod(text, &x) || !(x >= low && x <= high)) {
              return Bad(text, range);
            }
            *value = x;
            return absl::OkStatus();
          },
          [=] { return absl::StrFormat("%g", *value); }};
}

ConfigField Whole(std::string path, int64_t* value, int64_t low, int64_t high,
                  std::string what) {
  return Scaled(std::move(path), value, 1, low, high, "a whole number",
                std::move(what));
}

ConfigField Flag(std::string path, bool* value, std::string what) {
  return {std::move(path), "true or false", std::move(what),
          [=](const std::string& text) {
            if (text != "true" && text != "false") {
              return Bad(text, "true or false");
            }
            *value = text == "true";
            return absl::OkStatus();
          },
          [=] { return std::string(*value ? "true" : "false"); }};
}

ConfigField Text(std::string path, std::string* value, std::string range,
                 std::string what) {
  return {std::move(path), std::move(range), std::move(what),
          [=](const std::string& text) {
            *value = text;
            return absl::OkStatus();
          },
          [=] { return *value; }};
}

// An empty choice comes last.
ConfigField Choice(std::string path, std::string* value,
                   std::vector<std::string> choices, std::string what) {
  const bool may_be_empty = choices.back().empty();
  const absl::Span<const std::string> named(
      choices.data(), choices.size() - (may_be_empty ? 1 : 0));
  std::string range = absl::StrCat("one of ", absl::StrJoin(named, ", "),
                                   may_be_empty ? ", or empty" : "");
  return {
      std::move(path), range, std::move(what),
      [=](const std::string& text) {
        if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
          return Bad(text, range);
        }
        *value = text;
        return absl::OkStatus();
      },
      [=] { return *value; }};
}

std::vector<std::string> OrNone(std::vector<std::string> choices) {
  choices.emplace_back();
  return choices;
}

std::vector<std::string> AutoOr(std::vector<std::string> choices) {
  choices.insert(choices.begin(), "auto");
  return choices;
}

std::vector<ConfigField> FieldsOf(Config* c) {
  features::StoreOptions& s = c->store;
  Config::Training& t = c->training;
  const absl::Duration kYear = absl::Hours(24 * 365);
  return {
      Address("listen", &c->listen, false, "where gRPC is served"),
      Flag("allow_plaintext", &c->allow_plaintext,
           "serve without TLS where other machines reach it: whoever does can "
           "read along, and without access.file change everything"),
      Address("health_listen", &c->health_listen, true,
              "where grpc.health.v1 alone is served, without TLS and to "
              "everyone, for probes that speak neither"),
      Address("metrics_listen", &c->metrics_listen, true,
              "where Prometheus scrapes /metrics"),
      Text("data_dir", &c->data_dir, "a folder",
           "holds the store and the generations; made if absent"),
      Device(c),
      Duration("reload_interval", &c->reload_interval, absl::Seconds(1),
               absl::Hours(24),
               "how often certificates and callers are looked at for changes"),
      Text("tls.certificate", &c->tls.files.certificate, "a path, or empty",
           "PEM: the server's certificate, then what leads to its authority; "
           "empty: no TLS"),
      Text("tls.key", &c->tls.files.key, "a path, or empty",
           "PEM: the certificate's private key"),
      Text("tls.client_ca", &c->tls.files.client_ca, "a path, or empty",
           "PEM: who signs callers' certificates; empty: none are asked for"),
      Choice("tls.client_certificates", &c->tls.client_certificates,
             {"required", "optional"},
             "with client_ca: whether a caller without one is turned away"),
      Text("access.file", &c->access.file, "a path, or empty",
           "YAML: the callers, their roles and limits; empty: everyone may do "
           "everything"),
      Choice("log.level", &c->log.level, {"debug", "info", "warning", "error"},
             "what is logged"),
      Choice("log.format", &c->log.format, {"text", "json"},
             "a line for people, or an object for machines"),
      Text("log.audit", &c->log.audit, "a path, or empty",
           "where calls of management are recorded; empty: with the rest, if "
           "there is an access.file"),
      Duration("log.slow_calls", &c->log.slow_calls, absl::ZeroDuration(),
               absl::Hours(1), "calls that take longer are logged; 0: none"),
      Mebibytes("store.hot_profiles_mb", &s.hot_profile_bytes, 1, 1 << 20,
                "memory for the profiles of recent users"),
      Mebibytes("store.block_cache_mb", &s.database.block_cache_bytes, 1,
                1 << 20, "memory for blocks of the store's files"),
      Mebibytes("store.write_buffer_mb", &s.database.write_buffer_bytes, 4,
                1 << 14, "memory for what is not in files yet"),
      Mebibytes("store.free_space_reserve_mb", &s.database.free_space_reserve,
                0, 1 << 20, "writes are refused when the disk has less left"),
      Duration("store.event_id_window", &s.database.event_id_window,
               absl::Minutes(1), 10 * kYear,
               "how long a repeated event id is recognized; a live event must "
               "not be older"),
      Whole("store.max_queued_events", &s.max_queued_events, 1, 10'000'000,
            "events waiting for the disk; beyond, feedback is refused"),
      Flag("store.reject_unknown_items", &s.reject_unknown_items,
           "refuse events on items that are not in the catalogue"),
      Whole(
          "store.established_after", &s.established_after, 0, 100,
          "users after whose events an item nobody listed is shown; 0: never"),
      Duration("store.popularity_half_life", &s.popularity_half_life,
               absl::Hours(6), 10 * kYear, "after which an event counts half"),
      Choice("store.compression", &s.database.compression,
             {"lz4", "zstd", "none"},
             "of the store's files: zstd is smaller and slower"),
      Whole("store.compaction_threads", &s.database.compaction_threads, 1, 64,
            "that write and rewrite files in the background"),
      Whole("store.compaction_mb_per_second",
            &s.database.compaction_mb_per_second, 0, 1 << 20,
            "most that they take of the disk; 0: all they can. MiB"),
      Duration("store.rewrite_interval", &s.database.rewrite_interval,
               absl::Hours(1), 10 * kYear,
               "a file that was not rewritten for so long is: what was retired "
               "or replaced goes from the disk then, a level at a time"),
      Duration("retention.max_age", &s.retention.max_age, absl::ZeroDuration(),
               100 * kYear,
               "events older than this leave the log; 0: none do; else at "
               "least 24h"),
      Whole("retention.max_events_per_user", &s.retention.max_events_per_user,
            0, 1'000'000'000,
            "of a user the newest by time are kept; 0: all; else at least "
            "profile.max_history"),
      Duration("retention.sweep_interval", &s.retention.sweep_interval,
               absl::Minutes(1), kYear,
               "how often the log is swept for them, at a quarter of a "
               "processor"),
      Whole("profile.max_history", &s.profile.max_history, 1, 10'000,
            "newest distinct items that models see of a user"),
      Real("profile.max_weight", &s.profile.max_weight, 0.001, 1000,
           "most that repeated events on one item add up to"),
      Duration("limits.max_future", &c->limits.max_future, absl::ZeroDuration(),
               absl::Hours(24), "how far an event's time may lie ahead"),
      Whole("limits.max_message_mb", &c->limits.max_message_mb, 1, 256,
            "largest request, MiB"),
      Whole("limits.messages_mb", &c->limits.messages_mb, 32, 1 << 20,
            "memory for messages under way on all connections, MiB; beyond, "
            "calls are ended; never less than four of the largest"),
      Whole("limits.max_metadata_kb", &c->limits.max_metadata_kb, 1, 1024,
            "most metadata of a call, KiB"),
      Whole("limits.max_calls_per_connection",
            &c->limits.max_calls_per_connection, 1, 1'000'000,
            "calls under way on one connection; more wait at the caller"),
      Whole("limits.max_connections", &c->limits.max_connections, 1, 1'000'000,
            "connections; more are closed at once"),
      Duration("limits.idle_connection", &c->limits.idle_connection,
               absl::Seconds(1), absl::Hours(24 * 7),
               "after which a connection without calls is closed"),
      Duration("limits.connection_age", &c->limits.connection_age,
               absl::Seconds(1), absl::Hours(24 * 7),
               "after which a connection is closed, and callers make another: "
               "by the certificates of then"),
      Whole("serving.shortlist", &c->serving.shortlist, 10, 10'000,
            "items that the ranker orders anew"),
      Flag("serving.rank", &c->serving.rank,
           "use the ranker; false serves the scan's order"),
      Whole("serving.max_queued", &c->serving.max_queued, 1, 1'000'000,
            "requests waiting; beyond, they are refused at once, those of "
            "callers who have most of them first"),
      Duration("serving.max_wait", &c->serving.max_wait, absl::Milliseconds(1),
               absl::Hours(1),
               "requests that would wait longer, or for half of the time to "
               "their deadline, are refused at once"),
      Whole("serving.max_batch", &c->serving.max_batch, 1, 256,
            "requests computed together"),
      Whole("serving.leaders", &c->serving.leaders, 0, 256,
            "batches computed at a time; 0: half of the processors"),
      Whole("serving.query_cache_mb", &c->serving.query_cache_mb, 0, 1 << 20,
            "memory a generation for what it computed of unchanged users; 0: "
            "none. MiB"),
      Whole("serving.encoder_states_mb", &c->serving.encoder_states_mb, 0,
            1 << 20,
            "memory a generation for sums over the histories of users with 16 "
            "items or more, to which an event adds a row; 0: none. MiB"),
      Whole("serving.index_items", &c->serving.index_items, 0, 1'000'000'000,
            "catalogues of so many trained items or more are searched through "
            "an approximate index; 0: never; else at least 10000"),
      Real("serving.index_recall", &c->serving.index_recall, 0.5, 1,
           "share of the 100 best that the index is tuned to find"),
      Duration("serving.page_ttl", &c->serving.page_ttl, absl::Seconds(10),
               absl::Hours(24), "how long a list can be continued"),
      Duration("serving.drain", &c->serving.drain, absl::ZeroDuration(),
               absl::Hours(1), "for calls under way after SIGTERM"),
      Text("backup.dir", &c->backup.dir, "a folder, or empty",
           "where backups are made, on another disk if possible, and erasures "
           "are noted for when one is restored; empty: none"),
      Whole("backup.keep", &c->backup.keep, 1, 1000, "backups kept"),
      Whole("backup.mb_per_second", &c->backup.mb_per_second, 0, 1 << 20,
            "most that copying takes of the disks; 0: all it can. MiB"),
      Choice("training.first", &t.first, AutoOr(OrNone(model::ModelNames())),
             "where nothing serves yet, this model is trained and published "
             "by itself before the others; auto: ease, or paths in a catalogue "
             "of more than 15000 items; empty: none"),
      Choice("training.retriever", &t.retriever, model::ModelNames(),
             "the model that shortlists"),
      Choice("training.ranker", &t.ranker, {"neumf", "mlp", ""},
             "the model that orders the shortlist; empty: the head of a joint "
             "model (its parameter head_share), else none"),
      Text("training.program", &t.program, "a path",
           "the trainer; empty: nearline-train beside the server"),
      Text("training.socket", &t.socket, "a path, or empty",
           "where `nearline-server trainer` runs the trainer for this server, "
           "in a container of its own; empty: it is a child of the server"),
      Duration("training.interval", &t.interval, absl::ZeroDuration(), kYear,
               "retrain this often; 0: never"),
      Whole("training.every_events", &t.every_events, 0, 1'000'000'000'000,
            "retrain after so many new events; 0: never"),
      Choice("training.second_request", &t.second_request, {"join", "refuse"},
             "what a Retrain gets while a run is under way"),
      Flag("training.warm_start", &t.warm_start,
           "start from the generation in service"),
      Whole("training.keep_generations", &t.keep_generations, 1, 1000,
            "generations kept on disk"),
      Whole("training.memory_mb", &t.memory_mb, 256, 1 << 20,
            "the trainer's own limit, MiB"),
      Whole("training.threads", &t.threads, 1, 256, "of the trainer"),
      Whole("training.seed", &t.seed, 0, 1'000'000'000, "of all randomness"),
      Duration("training.hang_cpu", &t.hang_cpu, absl::Seconds(10),
               absl::Hours(24),
               "processor time without progress after which a run is stopped"),
      Real("training.holdout_share", &t.split.holdout_share, 0.01, 0.5,
           "newest share of events (or share of users) to evaluate on"),
      Whole("training.min_holdout_users", &t.split.min_holdout_users, 1,
            1'000'000, "fewer widen the window, then weaken the gate"),
      Whole("training.max_holdout_users", &t.split.max_holdout_users, 10,
            10'000'000, "more are sampled"),
      Metric("training.gate_metric", &t.gate.metric,
             "what decides whether a candidate is published"),
      Real("training.gate_tolerance", &t.gate.tolerance, 0, 1,
           "share of the incumbent's metric that may be lost"),
      Real("training.gate_confidence", &t.gate.confidence, 0.5, 0.999,
           "of the paired bootstrap"),
  };
}

}  // namespace nearline::server
