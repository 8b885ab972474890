#include "model/learn_job.h"

namespace nearline::model {
namespace {

const char* ValueName(features::EventType::Value value) {
  const char* const names[] = {"ignored", "multiplies", "threshold"};
  return names[static_cast<int>(value)];
}

}  // namespace

Json LearnJob::ToJson() const {
  Json types = Json::array();
  for (const features::EventType& type : event_types) {
    types.push_back({{"name", type.name},
                     {"weight", type.weight},
                     {"seen", type.seen},
                     {"negative", type.negative},
                     {"value", ValueName(type.value)},
                     {"positive_from", type.positive_from}});
  }
  return {{"checkpoint", checkpoint},
          {"generations", generations},
          {"incumbent", incumbent},
          {"warm_start", warm_start},
          {"retriever", retriever},
          {"ranker", ranker},
          {"parameters", parameters},
          {"event_types", types},
          {"max_history", profile.max_history},
          {"max_weight", profile.max_weight},
          {"established_after", established_after},
          {"holdout_share", split.holdout_share},
          {"min_holdout_users", split.min_holdout_users},
          {"max_holdout_users", split.max_holdout_users},
          {"gate_metric", gate.metric},
          {"gate_tolerance", gate.tolerance},
          {"gate_confidence", gate.confidence},
          {"shortlist", shortlist},
          {"index_items", index_items},
          {"seed", seed},
          {"threads", threads},
          {"device", device}};
}

absl::StatusOr<LearnJob> LearnJob::FromJson(const Json& json) {
  JsonReader in(json, "job");
  LearnJob job;
  job.checkpoint = in.String("checkpoint");
  job.generations = in.String("generations");
  job.incumbent = in.String("incumbent");
  job.warm_start = in.Bool("warm_start");
  job.retriever = in.String("retriever");
  job.ranker = in.String("ranker");
  for (const auto& [model, values] : in.Object("parameters").items()) {
    for (const auto& [name, value] : values.items()) {
      if (value.is_number()) {
        job.parameters[model][name] = value.get<double>();
      }
    }
  }
  for (const Json& entry : in.Array("event_types")) {
    JsonReader type(entry, "event_types");
    const std::string value = type.String("value");
    using enum features::EventType::Value;
    job.event_types.push_back({.name = type.String("name"),
                               .weight = type.Double("weight"),
                               .seen = type.Bool("seen"),
                               .negative = type.Bool("negative"),
                               .value = value == "threshold"    ? kThreshold
                                        : value == "multiplies" ? kMultiplies
                                                                : kIgnored,
                               .positive_from = type.Double("positive_from")});
    RETURN_IF_ERROR(type.status());
  }
  job.profile.max_history = static_cast<int>(in.Int("max_history"));
  job.profile.max_weight = in.Double("max_weight");
  job.established_after = static_cast<int>(in.Int("established_after"));
  job.split.holdout_share = in.Double("holdout_share");
  job.split.min_holdout_users = static_cast<int>(in.Int("min_holdout_users"));
  job.split.max_holdout_users = static_cast<int>(in.Int("max_holdout_users"));
  job.gate.metric = in.String("gate_metric");
  job.gate.tolerance = in.Double("gate_tolerance");
  job.gate.confidence = in.Double("gate_confidence");
  job.gate.min_users = job.split.min_holdout_users;
  job.shortlist = static_cast<int>(in.Int("shortlist"));
  job.index_items = in.Int("index_items");
  job.seed = static_cast<uint64_t>(in.Int("seed"));
  job.threads = static_cast<int>(in.Int("threads"));
  job.device = in.String("device");
  RETURN_IF_ERROR(in.status());
  return job;
}

}  // namespace nearline::model
