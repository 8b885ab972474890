#include "server/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/text.h"
#include "model/parameters.h"

namespace nearline::server {
namespace {

absl::Status Bad(const std::string& text, const std::string& range) {
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(text), " is not allowed; expected ", range));
}

std::string DurationText(absl::Duration d) { return absl::FormatDuration(d); }

template <typename T>
ConfigField Whole(std::string path, T* value, int64_t low, int64_t high,
                  std::string what) {
  std::string range = absl::StrCat("a whole number, ", low, " to ", high);
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            int64_t n = 0;
            if (!absl::SimpleAtoi(text, &n) || n < low || n > high) {
              return Bad(text, range);
            }
            *value = static_cast<T>(n);
            return absl::OkStatus();
          },
          [=] { return absl::StrCat(*value); }};
}

// A number of MiB kept as bytes.
ConfigField Mebibytes(std::string path, int64_t* bytes, int64_t low,
                      int64_t high, std::string what) {
  std::string range = absl::StrCat("MiB, ", low, " to ", high);
  return {std::move(path), range, std::move(what),
          [=](const std::string& text) {
            int64_t n = 0;
            if (!absl::SimpleAtoi(text, &n) || n < low || n > high) {
              return Bad(text, range);
            }
            *bytes = n << 20;
            return absl::OkStatus();
          },
          [=] { return absl::StrCat(*bytes >> 20); }};
}

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

ConfigField Text(std::string path, std::string* value, std::string range,
                 std::string what) {
  return {std::move(path), std::move(range), std::move(what),
          [=](const std::string& text) {
            *value = text;
            return absl::OkStatus();
          },
          [=] { return *value; }};
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
  return {std::move(path), "ndcg@K, recall@K or hr@K", std::move(what),
          [=](const std::string& text) {
            RETURN_IF_ERROR(model::MetricSpec::Parse(text).status());
            *value = text;
            return absl::OkStatus();
          },
          [=] { return *value; }};
}

ConfigField Choice(std::string path, std::string* value,
                   std::vector<std::string> choices, std::string what) {
  std::string range = absl::StrCat("one of ", absl::StrJoin(choices, ", "));
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

std::vector<ConfigField> FieldsOf(Config* c) {
  features::StoreOptions& s = c->store;
  Config::Training& t = c->training;
  const absl::Duration kYear = absl::Hours(24 * 365);
  return {
      Address(
          "listen", &c->listen, false,
          "where gRPC is served, without TLS; keep it on a trusted network"),
      Address("metrics_listen", &c->metrics_listen, true,
              "where Prometheus scrapes /metrics"),
      Text("data_dir", &c->data_dir, "a folder",
           "holds the store and the generations; made if absent"),
      Device(c),
      Choice("log.level", &c->log.level, {"debug", "info", "warning", "error"},
             "what is logged"),
      Choice("log.format", &c->log.format, {"text", "json"},
             "a line for people, or an object for machines"),
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
               absl::Hours(1), 10 * kYear, "after which an event counts half"),
      Whole("profile.max_history", &s.profile.max_history, 1, 10'000,
            "newest distinct items that models see of a user"),
      Real("profile.max_weight", &s.profile.max_weight, 0.001, 1000,
           "most that repeated events on one item add up to"),
      Duration("limits.max_future", &c->limits.max_future, absl::ZeroDuration(),
               absl::Hours(24), "how far an event's time may lie ahead"),
      Whole("limits.max_message_mb", &c->limits.max_message_mb, 1, 256,
            "largest request, MiB"),
      Whole("serving.shortlist", &c->serving.shortlist, 10, 10'000,
            "items that the ranker orders anew"),
      Flag("serving.rank", &c->serving.rank,
           "use the ranker; false serves the scan's order"),
      Whole("serving.max_queued", &c->serving.max_queued, 1, 1'000'000,
            "requests waiting; beyond, they are refused at once"),
      Whole("serving.max_batch", &c->serving.max_batch, 1, 256,
            "requests computed together"),
      Whole("serving.leaders", &c->serving.leaders, 0, 256,
            "batches computed at a time; 0: half of the processors"),
      Whole("serving.query_cache_mb", &c->serving.query_cache_mb, 0, 1 << 20,
            "memory a generation for what it computed of unchanged users; 0: "
            "none. MiB"),
      Duration("serving.page_ttl", &c->serving.page_ttl, absl::Seconds(10),
               absl::Hours(24), "how long a list can be continued"),
      Duration("serving.drain", &c->serving.drain, absl::ZeroDuration(),
               absl::Hours(1), "for calls under way after SIGTERM"),
      Choice("training.retriever", &t.retriever,
             {"mult-vae", "neumf", "popularity"}, "the model that shortlists"),
      Choice("training.ranker", &t.ranker, {"neumf", ""},
             "the model that orders the shortlist; empty: none"),
      Text("training.program", &t.program, "a path",
           "the trainer; empty: nearline-train beside the server"),
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

namespace {

absl::Status At(const std::string& name, const YAML::Node& node,
                const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ":", node.Mark().line + 1, ": ", path, ": ", what));
}

class YamlReader {
 public:
  YamlReader(Config* config, std::string name)
      : config_(*config), name_(std::move(name)) {
    for (ConfigField& field : FieldsOf(config)) {
      fields_[field.path] = std::move(field);
    }
  }

  absl::Status Read(const YAML::Node& node, const std::string& path) {
    if (path == "event_types") return ReadEventTypes(node);
    if (path == "training.parameters") return ReadParameters(node);
    const auto field = fields_.find(path);
    if (field != fields_.end()) {
      if (!node.IsScalar() && !node.IsNull()) {
        return At(name_, node, path,
                  absl::StrCat("expected ", field->second.range));
      }
      const absl::Status status =
          field->second.set(node.IsNull() ? "" : node.Scalar());
      return status.ok() ? status : At(name_, node, path, status.message());
    }
    if (!path.empty() && !IsSection(path)) {
      return At(name_, node, path, "no such key; see --describe-config");
    }
    if (node.IsNull()) return absl::OkStatus();
    if (!node.IsMap()) {
      return At(name_, node, path.empty() ? "the file" : path,
                "expected keys with values");
    }
    for (const auto& child : node) {
      const std::string key = child.first.Scalar();
      if (!seen_.insert(path + "." + key).second) {
        return At(name_, child.first, key, "stands twice");
      }
      RETURN_IF_ERROR(
          Read(child.second, path.empty() ? key : path + "." + key));
    }
    return absl::OkStatus();
  }

 private:
  bool IsSection(const std::string& path) const {
    const auto next = fields_.lower_bound(path + ".");
    return next != fields_.end() && next->first.rfind(path + ".", 0) == 0;
  }

  absl::Status ReadEventTypes(const YAML::Node& node) {
    if (!node.IsSequence()) {
      return At(name_, node, "event_types", "expected a list of types");
    }
    config_.store.event_types.clear();
    for (const auto& entry : node) {
      features::EventType type;
      std::string value = "ignored";
      const std::vector<ConfigField> keys = {
          Text("name", &type.name, "a name", ""),
          Real("weight", &type.weight, 0, 1000, ""),
          Flag("seen", &type.seen, ""),
          Flag("negative", &type.negative, ""),
          Choice("value", &value, {"ignored", "multiplies", "threshold"}, ""),
          Real("positive_from", &type.positive_from, -1e9, 1e9, "")};
      if (!entry.IsMap()) {
        return At(name_, entry, "event_types", "expected name, weight, ...");
      }
      std::set<std::string> seen;
      for (const auto& child : entry) {
        const std::string key = child.first.Scalar();
        if (!seen.insert(key).second) {
          return At(name_, child.first, "event_types." + key, "stands twice");
        }
        const auto field =
            std::find_if(keys.begin(), keys.end(),
                         [&](const ConfigField& f) { return f.path == key; });
        const std::string path = "event_types." + key;
        if (field == keys.end()) {
          return At(name_, child.first, path,
                    "no such key; there are name, weight, seen, negative, "
                    "value, positive_from");
        }
        const absl::Status status =
            field->set(child.second.IsScalar() ? child.second.Scalar() : "");
        if (!status.ok()) {
          return At(name_, child.second, path, status.message());
        }
      }
      using enum features::EventType::Value;
      type.value = value == "threshold"    ? kThreshold
                   : value == "multiplies" ? kMultiplies
                                           : kIgnored;
      config_.store.event_types.push_back(std::move(type));
    }
    const auto types = features::EventTypes::Create(config_.store.event_types);
    if (!types.ok()) {
      return At(name_, node, "event_types", types.status().message());
    }
    return absl::OkStatus();
  }

  absl::Status ReadParameters(const YAML::Node& node) {
    if (!node.IsMap()) {
      return At(name_, node, "training.parameters", "expected models");
    }
    for (const auto& model : node) {
      const std::string name = model.first.Scalar();
      const std::string path = "training.parameters." + name;
      if (!seen_.insert(path).second) {
        return At(name_, model.first, path, "stands twice");
      }
      auto parameters = model::ParametersOf(name);
      if (!parameters.ok()) {
        return At(name_, model.first, path, parameters.status().message());
      }
      if (!model.second.IsMap()) {
        return At(name_, model.second, path, "expected parameter: number");
      }
      for (const auto& entry : model.second) {
        const std::string key = entry.first.Scalar();
        if (!seen_.insert(path + "." + key).second) {
          return At(name_, entry.first, path + "." + key, "stands twice");
        }
        const absl::Status status = parameters->SetText(absl::StrCat(
            key, "=", entry.second.IsScalar() ? entry.second.Scalar() : ""));
        if (!status.ok()) {
          return At(name_, entry.first, path, status.message());
        }
        config_.training.parameters[name][key] = (*parameters)[key];
      }
    }
    return absl::OkStatus();
  }

  Config& config_;
  const std::string name_;
  std::map<std::string, ConfigField> fields_;
  std::set<std::string> seen_;
};

std::string EnvironmentName(const std::string& path) {
  return "NEARLINE_" +
         absl::AsciiStrToUpper(absl::StrReplaceAll(path, {{".", "_"}}));
}

absl::Status ApplyEnvironment(Config* config) {
  for (const ConfigField& field : FieldsOf(config)) {
    const std::string name = EnvironmentName(field.path);
    const char* const value = std::getenv(name.c_str());
    if (value == nullptr) continue;
    RETURN_IF_ERROR(Annotate(field.set(value), name));
  }
  return absl::OkStatus();
}

absl::Status CheckAcross(const Config& config) {
  if (config.data_dir.empty()) {
    return absl::InvalidArgumentError("data_dir is empty; expected a folder");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& yaml,
                                   const std::string& name) {
  Config config;
  try {
    const YAML::Node root = YAML::Load(yaml);
    RETURN_IF_ERROR(YamlReader(&config, name).Read(root, ""));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", e.mark.line + 1, ": not YAML: ", e.msg));
  }
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  Config config;
  if (!path.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
    ASSIGN_OR_RETURN(config, ParseConfig(text, path));
  }
  RETURN_IF_ERROR(ApplyEnvironment(&config));
  RETURN_IF_ERROR(CheckAcross(config));
  config.training.gate.min_users = config.training.split.min_holdout_users;
  config.training.split.seed = 1;
  return config;
}

std::string DescribeConfig() {
  Config config;
  std::string out =
      "# Every key with its default. Any of them can be overridden by an\n"
      "# environment variable: serving.shortlist by "
      "NEARLINE_SERVING_SHORTLIST.\n";
  std::string section;
  for (const ConfigField& field : FieldsOf(&config)) {
    const std::vector<std::string> parts = absl::StrSplit(field.path, '.');
    if (parts.size() == 2 && parts[0] != section) {
      section = parts[0];
      out += absl::StrCat("\n", section, ":\n");
    }
    const std::string indent = parts.size() == 2 ? "  " : "";
    const std::string value = field.get();
    out +=
        absl::StrCat(indent, "# ", field.what, ". ", field.range, ".\n", indent,
                     parts.back(), ": ", value.empty() ? "\"\"" : value, "\n");
  }
  out +=
      "  # Of models, as `nearline-train models` lists them.\n"
      "  # parameters:\n"
      "  #   mult-vae: {epochs: 40}\n"
      "\n# What users do. weight: what an event adds to its item in the "
      "profile.\n"
      "# seen: the item is not recommended again. negative: hides the item.\n"
      "# value: ignored, multiplies (the weight), or threshold (counts from\n"
      "# positive_from on).\n"
      "event_types:\n";
  for (const features::EventType& type : config.store.event_types) {
    const char* const values[] = {"ignored", "multiplies", "threshold"};
    out += absl::StrFormat(
        "  - {name: %s, weight: %g, seen: %s, negative: %s, value: %s, "
        "positive_from: %g}\n",
        type.name, type.weight, type.seen ? "true" : "false",
        type.negative ? "true" : "false", values[static_cast<int>(type.value)],
        type.positive_from);
  }
  return out;
}

}  // namespace nearline::server
