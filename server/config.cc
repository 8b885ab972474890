#include "server/config.h"

#include <arpa/inet.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "model/parameters.h"
#include "server/config_fields.h"

namespace nearline::server {
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

bool IsOfKubernetes(absl::string_view name) {
  return absl::StartsWith(name, "NEARLINE_SERVICE_") ||
         absl::StartsWith(name, "NEARLINE_PORT");
}

absl::Status CheckAcross(const Config& config) {
  constexpr int64_t kFewest = 10'000;  // that lists are worth
  if (config.serving.index_items > 0 && config.serving.index_items < kFewest) {
    return absl::InvalidArgumentError(
        absl::StrCat("serving.index_items: ", config.serving.index_items,
                     " is neither 0 nor at least ", kFewest));
  }
  constexpr size_t kLongestSocket = 107;  // unix(7)
  if (config.training.socket.size() > kLongestSocket) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.socket: ", Quoted(config.training.socket),
                     " has more than ", kLongestSocket, " bytes"));
  }
  const features::RetentionOptions& retention = config.store.retention;
  if (retention.max_age > absl::ZeroDuration() &&
      retention.max_age < absl::Hours(24)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "retention.max_age: ", absl::FormatDuration(retention.max_age),
        " is neither 0 nor at least 24h"));
  }
  if (retention.max_events_per_user > 0 &&
      retention.max_events_per_user < config.store.profile.max_history) {
    return absl::InvalidArgumentError(absl::StrCat(
        "retention.max_events_per_user: ", retention.max_events_per_user,
        " is neither 0 nor at least profile.max_history, ",
        config.store.profile.max_history, ": models would see less"));
  }
  const bool tls = !config.tls.files.certificate.empty();
  if (tls != !config.tls.files.key.empty()) {
    return absl::InvalidArgumentError(
        "tls.certificate and tls.key: set both, or neither");
  }
  if (!tls && !config.tls.files.client_ca.empty()) {
    return absl::InvalidArgumentError(
        "tls.client_ca: set tls.certificate and tls.key as well");
  }
  if (!tls && !config.allow_plaintext && !IsLoopback(config.listen)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen: other machines reach ", config.listen,
        ", and without TLS whoever does can read along",
        config.access.file.empty() ? " and change everything" : "",
        ". Set tls.certificate and tls.key, or, where only the trusted can "
        "reach it, allow_plaintext: true"));
  }
  if (config.data_dir.empty()) {
    return absl::InvalidArgumentError("data_dir is empty; expected a folder");
  }
  if (config.backup.dir == config.data_dir) {
    return absl::InvalidArgumentError(absl::StrCat(
        "backup.dir ", Quoted(config.backup.dir),
        ": expected another folder than data_dir, best on another disk"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& yaml,
                                   const std::string& name) {
  Config config;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(yaml);
    if (documents.size() > 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": ", documents.size(), " documents (---): expected one"));
    }
    if (!documents.empty()) {
      RETURN_IF_ERROR(YamlReader(&config, name).Read(documents[0], ""));
    }
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

std::vector<std::string> UnknownVariables() {
  Config config;
  std::set<std::string> known = {// the client's
                                 "NEARLINE_SERVER",      "NEARLINE_CA",
                                 "NEARLINE_CERTIFICATE", "NEARLINE_KEY",
                                 "NEARLINE_TOKEN",       "NEARLINE_TOKEN_FILE",
                                 "NEARLINE_SERVER_NAME"};
  for (const ConfigField& field : FieldsOf(&config)) {
    known.insert(EnvironmentName(field.path));
  }
  std::vector<std::string> unknown;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string name = std::string(*variable).substr(
        0, absl::string_view(*variable).find('='));
    if (absl::StartsWith(name, "NEARLINE_") && !known.contains(name) &&
        !IsOfKubernetes(name)) {
      unknown.push_back(name);
    }
  }
  return unknown;
}

bool IsLoopback(absl::string_view address) {
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  in_addr ip;
  return inet_pton(AF_INET, std::string(host).c_str(), &ip) == 1 &&
         ntohl(ip.s_addr) >> 24 == 127;
}

std::string DescribeConfig() {
  Config config;
  std::string out =
      "# Every key with its default. All but lists and tables can be "
      "overridden by an\n"
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
