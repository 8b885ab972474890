#include "server/config.h"

#include <cstdlib>

#include "tests/testing.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

TEST(Config, ItsOwnDescriptionIsTheDefaults) {
  const auto config = ParseConfig(DescribeConfig(), "described");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->serving.shortlist, Config().serving.shortlist);
  EXPECT_EQ(config->store.event_types.size(),
            Config().store.event_types.size());
}

TEST(Config, ReadsEveryKindOfValue) {
  const auto config = ParseConfig(R"(
serving: {shortlist: 50, rank: false, page_ttl: 90s}
store: {hot_profiles_mb: 3}
training:
  gate_tolerance: 0.5
  parameters:
    mult-vae: {epochs: 3}
event_types:
  - {name: play, weight: 2, value: multiplies}
)",
                                  "f");
  ASSERT_THAT(config, IsOk());
  EXPECT_EQ(config->serving.shortlist, 50);
  EXPECT_FALSE(config->serving.rank);
  EXPECT_EQ(config->serving.page_ttl, absl::Seconds(90));
  EXPECT_EQ(config->store.hot_profile_bytes, 3 << 20);
  EXPECT_EQ(config->training.parameters.at("mult-vae").at("epochs"), 3);
  EXPECT_EQ(config->store.event_types[0].name, "play");
}

TEST(Config, NamesLineKeyValueAndRange) {
  const std::pair<const char*, const char*> cases[] = {
      {"serving:\n  shortlist: 5\n", "f:2: serving.shortlist: \"5\""},
      {"serving:\n  shortlist: many\n", "10 to 10000"},
      {"\nsevring: {}\n", "f:2: sevring: no such key"},
      {"serving:\n  short: 5\n", "f:2: serving.short: no such key"},
      {"listen: [1]\n", "f:1: listen"},
      {"serving: 5\n", "f:1: serving: expected keys"},
      {"device: gpu\n", "cpu, auto, or cuda:N"},
      {"training:\n  parameters:\n    mult-vae: {depth: 3}\n", "f:3:"},
      {"training:\n  parameters:\n    oracle: {depth: 3}\n", "oracle"},
      {"event_types:\n  - {name: a}\n  - {name: a}\n", "twice"},
      {"event_types:\n  - {nmae: a}\n", "f:2: event_types.nmae"},
      {"a: b: c\n", "not YAML"},
      {"listen: nonsense\n", "f:1: listen: \"nonsense\""},
      {"metrics_listen: x:99999\n", "0 to 65535"},
      {"training:\n  gate_metric: foo@10\n", "f:2: training.gate_metric"},
      {"event_types:\n  - {name: a, name: b}\n", "twice"},
      {"training:\n  parameters:\n    neumf: {batch: 2, batch: 3}\n", "twice"},
      {"log: {level: info}\nlog: {level: info}\n", "twice"},
  };
  for (const auto& [yaml, text] : cases) {
    EXPECT_THAT(ParseConfig(yaml, "f"),
                IsError(StatusCode::kInvalidArgument, text))
        << yaml;
  }
}

TEST(Config, TheEnvironmentOverrides) {
  setenv("NEARLINE_SERVING_SHORTLIST", "33", 1);
  EXPECT_EQ(LoadConfig("")->serving.shortlist, 33);
  setenv("NEARLINE_SERVING_SHORTLIST", "0", 1);
  EXPECT_THAT(LoadConfig(""), IsError(StatusCode::kInvalidArgument,
                                      "NEARLINE_SERVING_SHORTLIST"));
  unsetenv("NEARLINE_SERVING_SHORTLIST");
}

TEST(Config, WhatWouldThrowTooMuchAwayIsRefused) {
  const TempDir dir;
  const auto load = [&](const std::string& retention) {
    const std::string path = dir / "nearline.yaml";
    EXPECT_THAT(WriteFileAtomic(path, "retention: {" + retention + "}\n"),
                IsOk());
    return LoadConfig(path);
  };
  EXPECT_THAT(load("max_age: 1h"),
              IsError(StatusCode::kInvalidArgument,
                      "retention.max_age: 1h is neither 0 nor at least 24h"));
  EXPECT_THAT(
      load("max_events_per_user: 499"),
      IsError(StatusCode::kInvalidArgument, "profile.max_history, 500"));
  const auto good = load("max_age: 24h, max_events_per_user: 500");
  ASSERT_THAT(good, IsOk());
  EXPECT_TRUE(good->store.retention.enabled());
  EXPECT_FALSE(LoadConfig("")->store.retention.enabled());
}

}  // namespace
}  // namespace nearline::server
