// Experiments on files: protocols, tuning, reports.
#include "model/experiment.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "model/report.h"
#include "model/report_page.h"
#include "tests/model/two_tastes.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

auto Refusal(const char* text) {
  return IsError(absl::StatusCode::kInvalidArgument, text);
}

class ExperimentTest : public testing::Test {
 protected:
  std::string Write(const char* name, const char* text) {
    EXPECT_THAT(WriteFileAtomic(dir_ / name, text), IsOk());
    return dir_ / name;
  }
  absl::StatusOr<ExperimentResult> Run() {
    return RunExperiment(e_, *ParametersOf(e_.model), {});
  }

  const TempDir dir_;
  Experiment e_{.model = "popularity"};
};

// Of a, 1 and 2 are no candidates, so 3 comes first; of b, 2 comes before 4.
TEST_F(ExperimentTest, RanksEveryItemThatIsNotInTrainingWhateverTheFormat) {
  e_.files.protocol = "full";
  e_.metrics = *MetricSpec::ParseList("hr@1,ndcg@10");
  e_.files.train = Write("adjacency.txt", "a 1 2\nb 1 3\nc 1 2 4\n");
  e_.files.test = Write("adjacency-test.txt", "a 3\nb 4\n");
  const auto spaces = Run();
  ASSERT_THAT(spaces, IsOk());
  e_.files.train = Write("tabs.txt", "a\t1 2\nb\t1 3\nc\t1 2 4\n");
  e_.files.test = Write("tabs-test.txt", "a\t3\nb\t4\n");
  e_.files.format = "adjacency";  // else items with spaces in their names
  const auto tabs = Run();
  ASSERT_THAT(tabs, IsOk());
  EXPECT_EQ(tabs->seeds[0].by_user, spaces->seeds[0].by_user);
  e_.files.format = "";
  EXPECT_EQ(spaces->seeds[0].means.at("hr@1"), 0.5);
  EXPECT_NEAR(spaces->seeds[0].means.at("ndcg@10"), (1 + 1 / std::log2(3)) / 2,
              1e-6);
  e_.files.train =
      Write("pairs.csv", "user,item\na,1\na,2\nb,1\nb,3\nc,1\nc,2\nc,4\n");
  e_.files.test = Write("pairs-test.csv", "user,item\na,3\nb,4\n");
  const auto pairs = Run();
  ASSERT_THAT(pairs, IsOk());
  EXPECT_EQ(pairs->seeds[0].by_user, spaces->seeds[0].by_user);
  e_.files.train = Write("columns.txt",
                         "a 1 5 9\na 2 5 9\nb 1 5 9\nb 3 5 9\n"
                         "c 1 5 9\nc 2 5 9\nc 4 5 9\n");
  e_.files.test = Write("columns-test.txt", "a 3 5 9\nb 4 5 9\n");
  const auto columns = Run();
  ASSERT_THAT(columns, IsOk());
  EXPECT_EQ(columns->seeds[0].by_user, spaces->seeds[0].by_user);
  e_.files.format = "xml";
  EXPECT_THAT(Run(), IsError(absl::StatusCode::kInvalidArgument, "adjacency"));
}

TEST_F(ExperimentTest, LinesWithTimesAreTakenInTheirOrder) {
  const auto items = [&](const char* text) {
    const auto read = ReadUserItems(Write("lines.tsv", text), "tsv", -1);
    EXPECT_THAT(read, IsOk());
    EXPECT_TRUE(read->rated);
    return read->lines[0].items;
  };
  using Ids = std::vector<std::string>;
  EXPECT_EQ(items("a\t1\t5\t30\na\t2\t4\t10\na\t3\t5\t10\n"),
            Ids({"2", "3", "1"}));
  EXPECT_EQ(items("a\t1\t5\t30\na\t2\t4\t10\na\t3\t5\n"), Ids({"1", "2", "3"}));
}

TEST_F(ExperimentTest, RatingsNeedValues) {
  e_.files.protocol = "full";
  e_.metrics = *MetricSpec::ParseList("rmse,mse,mae,log_loss");
  e_.files.train = Write("train.tsv",
                         "a\t1\t5\na\t2\t1\na\t4\t2\nb\t1\t4\nb\t3\t2\n"
                         "c\t1\t5\nc\t2\t2\nc\t3\t1\n");
  e_.files.test = Write("test.tsv", "a\t3\t1\nb\t2\t2\n");
  const auto rated = Run();
  ASSERT_THAT(rated, IsOk());
  const auto& means = rated->seeds[0].means;
  EXPECT_NEAR(means.at("rmse") * means.at("rmse"), means.at("mse"), 1e-9);
  EXPECT_GT(means.at("mae"), 0);
  EXPECT_LT(means.at("mae"), 4);
  EXPECT_GT(means.at("log_loss"), 0);
  EXPECT_EQ(rated->seeds[0].by_user.at("log_loss").size(), 2u);
  e_.files.test = Write("unrated.tsv", "a\t3\nb\t2\n");
  EXPECT_THAT(Run(), Refusal("metric rmse needs a value"));
}

// Popularity: 1 before 2 before 3 and 4, which tie.
TEST_F(ExperimentTest, ListedNegativesCountAsOftenAsTheyAreListed) {
  e_.files.protocol = "sampled";
  e_.files.train = Write("train", "a\t1\na\t2\nb\t1\nb\t2\nc\t1\nc\t3\nd\t4\n");
  e_.files.test = Write("test", "a\t3\n");
  const auto rank = [&](const char* negatives) {
    e_.files.negatives = Write("negatives", negatives);
    for (const int k : {1, 2, 3, 4}) {
      e_.metrics = *MetricSpec::ParseList(absl::StrCat("hr@", k));
      const auto result = Run();
      EXPECT_THAT(result, IsOk());
      if (result->seeds[0].means.begin()->second == 1) return k;
    }
    return 5;
  };
  EXPECT_EQ(rank("(a,3)\t2\n"), 2);
  EXPECT_EQ(rank("(a,3)\t2\t2\n"), 3);
  EXPECT_EQ(rank("(a,3)\t2\t4\n"), 3);
  EXPECT_EQ(rank("(a,3)\t2\t2\t3\n"), 4);
  EXPECT_EQ(rank("(a,3)\t2\t9\n"), 2);  // of which 9 is not known
}

TEST_F(ExperimentTest, NegativesMustBeThoseOfTheTest) {
  e_.files.protocol = "sampled";
  e_.metrics = *MetricSpec::ParseList("hr@1");
  e_.files.train = Write("train", "a\t1\na\t2\nb\t1\nb\t2\nc\t1\nc\t3\n");
  e_.files.test = Write("test", "a\t3\nb\t3\n");
  const auto run = [&](const char* negatives) {
    e_.files.negatives = Write("negatives", negatives);
    return Run();
  };
  const auto good = run("(a,3)\t2\n(b,3)\t2\t8\t9\n");
  ASSERT_THAT(good, IsOk());
  EXPECT_THAT(good->remarks, testing::ElementsAre(testing::HasSubstr(
                                 "2 listed negatives are of items without")));
  EXPECT_THAT(run("(a,3)\t2\n"), Refusal("no line of user \"b\""));
  EXPECT_THAT(run("(a,3)\t2\n(b,2)\t1\n"), Refusal("negatives:2: item \"2\""));
  EXPECT_THAT(run("(a,3)\t2\n(b,3)\t8\t9\n"),
              Refusal("negatives:2: none of the items"));
  e_.files.test = Write("test", "a\t3\na\t1\n");
  EXPECT_THAT(run("(a,3)\t2\n"), Refusal("user \"a\" has 2 items"));
}

TEST_F(ExperimentTest, WhatCannotBeFoundIsCounted) {
  e_.files.protocol = "full";
  e_.metrics = *MetricSpec::ParseList("hr@1");
  e_.files.train = Write("train", "a\t1\na\t2\nb\t1\nb\t3\n");
  e_.files.test = Write("test", "a\t1\na\t3\na\t9\nb\t2\n");
  const auto result = Run();
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(
      result->remarks,
      testing::ElementsAre(
          testing::HasSubstr("1 of 4 wanted lines are of items without"),
          testing::HasSubstr("1 of 4 wanted lines are in the user's history")));
}

// "recent" needs an order.
TEST_F(ExperimentTest, LinesDividedByChanceHaveNoOrder) {
  e_.files.protocol = "full";
  e_.metrics = *MetricSpec::ParseList("hr@1");
  e_.files.train = Write("train",
                         "a\t1\t1\t10\na\t2\t1\t30\nb\t1\t1\t10\n"
                         "b\t3\t1\t30\nc\t2\t1\t5\nc\t3\t1\t9\n");
  e_.files.test = Write("test", "a\t3\t1\t20\nb\t2\t1\t40\n");
  const auto by_chance = ProtocolData::Read(e_.files);
  ASSERT_THAT(by_chance, IsOk());
  EXPECT_FALSE(by_chance->set.in_order);
  EXPECT_THAT(by_chance->remarks,
              testing::ElementsAre(testing::HasSubstr("of 1 of 2 users")));
  e_.files.in_order = true;
  EXPECT_TRUE(ProtocolData::Read(e_.files)->set.in_order);
  e_.files.in_order = false;
  e_.files.test = Write("test", "a\t3\t1\t30\nb\t2\t1\t40\n");
  const auto by_time = ProtocolData::Read(e_.files);
  EXPECT_TRUE(by_time->set.in_order);
  EXPECT_THAT(by_time->remarks, testing::IsEmpty());
}

TEST_F(ExperimentTest, UsersWithoutHistoryGetWhatIsPopular) {
  e_.files.protocol = "full";
  e_.metrics = *MetricSpec::ParseList("hr@1,auc");
  e_.files.train =
      Write("train", "a\t1\na\t2\nb\t3\nb\t2\nc\t3\nc\t2\nd\t3\nd\t1\ne\t3\n");
  e_.files.test = Write("test", "new\t3\nother\t2\n");
  for (const char* model : {"popularity", "item-knn", "ials"}) {
    e_.model = model;
    const auto result = Run();
    ASSERT_THAT(result, IsOk()) << model;
    EXPECT_EQ(result->seeds[0].means.at("hr@1"), 0.5) << model;
    EXPECT_EQ(result->seeds[0].served.at("hr@1"), 0.5) << model;
  }
}

TEST_F(ExperimentTest, HeadersAndIdsAreToldApart) {
  const auto users = [&](const char* text) {
    const auto read = ReadUserItems(Write("lines.tsv", text), "", -1);
    EXPECT_THAT(read, IsOk());
    return read->users;
  };
  using Ids = std::vector<std::string>;
  EXPECT_EQ(users("user:17\titem:1\nuser:18\titem:2\n"),
            Ids({"user:17", "user:18"}));
  EXPECT_EQ(users("session\t1\nmember\t2\n"), Ids({"session", "member"}));
  for (const char* header :
       {"user_id:token\titem_id:token", "uid\tiid", "customer_id\tproduct_id",
        "visitorid\titemid", "User ID\tItem", "\nuserId\tmovieId"}) {
    EXPECT_EQ(users(absl::StrCat(header, "\na\t1\n").c_str()), Ids({"a"}))
        << header;
  }
  EXPECT_EQ(users("\nuser\titem\trating\na\t1\t3\n"), Ids({"a"}));
}

TEST_F(ExperimentTest, SpacesDivideColumnsHoweverManyTheyAre) {
  const auto read =
      ReadUserItems(Write("lines", "a  1 5  10 \nb 2 4 20\n"), "", -1);
  ASSERT_THAT(read, IsOk());
  EXPECT_TRUE(read->timed);
  EXPECT_EQ(read->lines[0].items, std::vector<std::string>({"1"}));
  EXPECT_EQ(read->lines[0].values, std::vector<float>({5}));
  EXPECT_THAT(
      ReadUserItems(Write("lines", "# my data\na\t1\t5\nb\t2\t4\n"), "", -1),
      Refusal("lines:1: expected user, item"));
}

TEST_F(ExperimentTest, TimesMayBeDates) {
  const auto read = ReadUserItems(
      Write("lines.csv",
            "a,1,5,2020-11-22T10:00:00Z\na,2,5,2020-11-21 10:00:00\n"
            "a,3,5,2020-11-20\n"),
      "", -1);
  ASSERT_THAT(read, IsOk());
  EXPECT_TRUE(read->timed);
  EXPECT_EQ(read->lines[0].items, std::vector<std::string>({"3", "2", "1"}));
}

// Two tastes in files: training users, and test users with one item to find.
class TasteTest : public ExperimentTest {
 protected:
  void SetUp() override {
    const TrainingSet set = TwoTastes();
    const auto lines = [](const features::Interactions& data) {
      std::string out = "user,item\n";
      for (int64_t u = 0; u < data.users(); ++u) {
        for (const uint32_t item : data.ItemsOf(u)) {
          absl::StrAppend(&out, u, ",", item, "\n");
        }
      }
      return out;
    };
    e_.files = {
        .protocol = "strong",
        .train = Write("train", lines(set.train).c_str()),
        .test_input = Write("input", lines(set.validation_input).c_str()),
        .test_target = Write("target", lines(set.validation_target).c_str())};
    e_.model = "ease";
    e_.metrics = *MetricSpec::ParseList("ndcg@10,auc,coverage@10");
  }
};

TEST_F(TasteTest, ColdUsersAreKnownByTheirLastItems) {
  const auto whole = Run();
  ASSERT_THAT(whole, IsOk());
  EXPECT_EQ(whole->history_lengths[0], 9);
  EXPECT_GT(whole->seeds[0].means.at("auc"), 0.7);
  e_.files.history_limit = 1;
  const auto cold = Run();
  ASSERT_THAT(cold, IsOk());
  EXPECT_EQ(cold->history_lengths[0], 1);
  EXPECT_GT(cold->seeds[0].means.at("ndcg@10"), 0.1);
}

TEST_F(TasteTest, TuningNeverLosesToWhatItWasGiven) {
  e_.tune = 6;
  e_.tune_metric = *MetricSpec::Parse("ndcg@10");
  Parameters given = *ParametersOf("ease");
  ASSERT_THAT(given.SetText("lambda=100000"), IsOk());
  ASSERT_THAT(given.SetText("rank=16"), IsOk());
  e_.fixed = {"rank"};
  const auto tuned = RunExperiment(e_, given, {});
  ASSERT_THAT(tuned, IsOk());
  ASSERT_EQ(tuned->trials.size(), 6u);
  double best = 0;
  for (const Trial& trial : tuned->trials) {
    EXPECT_EQ(trial.parameters["rank"], 16);
    best = std::max(best, trial.value);
  }
  EXPECT_GE(best, tuned->trials[0].value);
  e_.model = "popularity";
  EXPECT_THAT(Run(), IsError(absl::StatusCode::kInvalidArgument, "--tune"));
}

// Nothing that can be searched tells items apart that are all alike.
TEST_F(TasteTest, TuningKeepsWhatNothingSurpassesByMoreThanNoise) {
  Random random(2);
  std::string lines = "user,item\n";
  for (int i = 0; i < 3000; ++i) {
    absl::StrAppend(&lines, random.Below(300), ",", random.Below(60), "\n");
  }
  e_.files.train = Write("noise", lines.c_str());
  e_.tune = 8;
  e_.tune_metric = *MetricSpec::Parse("ndcg@10");
  const auto tuned = Run();
  ASSERT_THAT(tuned, IsOk());
  for (const Trial& trial : tuned->trials) {
    EXPECT_NEAR(MeanOf(trial.by_case).mean, trial.value, 1e-12);
  }
  const Trial* best = &tuned->trials[0];
  for (const Trial& trial : tuned->trials) {
    if (trial.value > best->value) best = &trial;
  }
  ASSERT_NE(best, &tuned->trials[0]);  // by chance
  std::vector<double> gains;
  for (size_t c = 0; c < best->by_case.size(); ++c) {
    gains.push_back(best->by_case[c] - tuned->trials[0].by_case[c]);
  }
  const bool noise = MeanOf(gains).mean <= MeanOf(gains).stderr_;
  EXPECT_EQ(tuned->parameters.ToJson() == tuned->trials[0].parameters.ToJson(),
            noise);
  const bool said =
      std::any_of(tuned->remarks.begin(), tuned->remarks.end(),
                  [](const std::string& remark) {
                    return absl::StrContains(remark, "standard error");
                  });
  EXPECT_EQ(said, noise);
}

TEST_F(TasteTest, PopularityDecaysWithTime) {
  // Item 1 was liked by five long ago, item 2 by three of late.
  std::string lines;
  for (int u = 0; u < 8; ++u) {
    absl::StrAppend(&lines, u, "\t", u < 5 ? 1 : 2, "\t5\t",
                    86400 * (u < 5 ? 10 : 20), "\n");
  }
  e_.files = {.protocol = "full",
              .train = Write("train.tsv", lines.c_str()),
              .test = Write("test.tsv", "9\t2\t5\t1800000\n")};
  e_.model = "popularity";
  e_.metrics = *MetricSpec::ParseList("ndcg@1");
  Parameters parameters = *ParametersOf("popularity");
  EXPECT_EQ(Run()->seeds[0].means.at("ndcg@1"), 0);
  ASSERT_THAT(parameters.SetText("half_life_days=30"), IsOk());
  EXPECT_EQ(RunExperiment(e_, parameters, {})->seeds[0].means.at("ndcg@1"), 0);
  ASSERT_THAT(parameters.SetText("half_life_days=10"), IsOk());
  EXPECT_EQ(RunExperiment(e_, parameters, {})->seeds[0].means.at("ndcg@1"), 1);
  e_.files.train = Write("train.tsv", "1\t1\t5\n2\t2\t5\n");
  EXPECT_THAT(RunExperiment(e_, parameters, {}).status(),
              IsError(absl::StatusCode::kFailedPrecondition, "half_life_days"));
}

TEST_F(TasteTest, TuningThatWasInterruptedGoesOn) {
  e_.model = "mult-dae";
  e_.tune = 4;
  e_.tune_metric = *MetricSpec::Parse("ndcg@10");
  e_.seeds = {1, 2};
  Parameters given = *ParametersOf("mult-dae");
  ASSERT_THAT(given.SetText("epochs=2"), IsOk());
  e_.fixed = {"epochs"};
  const auto whole = RunExperiment(e_, given, {});
  ASSERT_THAT(whole, IsOk());
  e_.checkpoint_folder = dir_ / "checkpoints";
  for (const auto& [trial, seed] : {std::pair{3, 1}, std::pair{0, 2}}) {
    const auto killed = RunExperiment(e_, given, [&](const auto& progress) {
      if (progress.trial != trial) return;
      if (progress.seed == static_cast<uint64_t>(seed))
        throw std::bad_exception();
    });
    EXPECT_THAT(killed, IsError(absl::StatusCode::kInternal, "exception"));
  }
  const auto pieces = RunExperiment(e_, given, [](const auto& progress) {
    EXPECT_EQ(progress.trial, 0);  // what they came to is known
  });
  ASSERT_THAT(pieces, IsOk());
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(pieces->trials[i].value, whole->trials[i].value);
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(pieces->seeds[i].means, whole->seeds[i].means);
  }
  EXPECT_THAT(*ListDir(e_.checkpoint_folder), testing::IsEmpty());
}

TEST_F(TasteTest, ReportsCompareAndRepeat) {
  const auto report = [&](const char* file) {
    const auto result = Run();
    EXPECT_THAT(result, IsOk());
    return Write(file, ReportOf(e_, *result).dump().c_str());
  };
  e_.metrics.push_back(*MetricSpec::Parse("log_loss"));
  e_.model = "popularity";
  const std::string popularity = report("popularity.json");
  e_.model = "ease";
  const std::string ease = report("ease.json");
  const auto reports = ReadReports({popularity, ease});
  ASSERT_THAT(reports, IsOk());
  const Json comparison = CompareReports(*reports);
  EXPECT_GT(comparison["metrics"]["ndcg@10"][1]["low"], 0);
  EXPECT_EQ(comparison["metrics"]["ndcg@10"][1]["verdict"], "better");
  // The smaller the better.
  EXPECT_LT(comparison["metrics"]["log_loss"][1]["high"], 0);
  EXPECT_EQ(comparison["metrics"]["log_loss"][1]["verdict"], "better");
  EXPECT_TRUE(comparison["metrics"]["coverage@10"][1]["stderr"].is_null());
  EXPECT_THAT(ComparisonText(comparison), testing::HasSubstr("better"));
  const std::string page = ComparisonPage(comparison, *reports);
  EXPECT_THAT(page, testing::HasSubstr("<svg"));
  EXPECT_THAT(page, testing::HasSubstr("nearline-train evaluate ease"));
  EXPECT_EQ((*reports)[1].json["served"]["ndcg@10"]["mean"],
            (*reports)[1].json["metrics"]["ndcg@10"]["mean"]);
  e_.files.test_input = e_.files.test_target;
  e_.files.test_target = Write("few", "user,item\n1,2\n");
  EXPECT_THAT(ReadReports({ease, report("other.json")}),
              IsError(absl::StatusCode::kInvalidArgument, "other users"));
  // The same users are to find other items.
  e_.files.test_target = Write("one", "user,item\n1,2\n");
  const std::string one = report("one.json");
  e_.files.test_target = Write("another", "user,item\n1,3\n");
  EXPECT_THAT(ReadReports({one, report("another.json")}),
              IsError(absl::StatusCode::kInvalidArgument, "other items"));
  EXPECT_THAT(ReadReports({Write("no", "{}")}),
              IsError(absl::StatusCode::kInvalidArgument, "model"));
}

// Means, and differences between them, are of all seeds.
TEST_F(TasteTest, ComparesMeansOverSeeds) {
  e_.model = "elsa";
  e_.metrics = *MetricSpec::ParseList("ndcg@10");
  e_.seeds = {1, 2, 3};
  const auto report = [&](const char* file) {
    const auto result = Run();
    EXPECT_THAT(result, IsOk());
    return Write(file, ReportOf(e_, *result).dump().c_str());
  };
  const std::string first = report("first.json");
  e_.seeds = {4, 5, 6};
  const auto reports = ReadReports({first, report("second.json")});
  ASSERT_THAT(reports, IsOk());
  const Json rows = CompareReports(*reports)["metrics"]["ndcg@10"];
  EXPECT_NEAR(rows[1]["difference"].get<double>(),
              rows[1]["mean"].get<double>() - rows[0]["mean"].get<double>(),
              1e-6);
}

// Item 999 is in no training line; odd users find it by its kind.
TEST_F(TasteTest, ItemsOutsideTrainingAreFoundByTheirAttributes) {
  std::string lines;
  for (int i = 0; i < 60; ++i) {
    absl::StrAppend(&lines, R"({"id": )", i, R"(, "attributes": {"kind": ")",
                    i % 2 == 0 ? "even" : "odd", "\"}}\n");
  }
  // As an export has it.
  lines += R"({"item": {"id": "999", "attributes": {"kind": "odd"}}})"
           "\n"
           R"({"user": {"id": "1"}})"
           "\n"
           R"({"deleted_item": "5"})";
  e_.files.item_attributes = Write("items.jsonl", lines.c_str());
  e_.files.test_input = Write("cold-input", "user,item\n1,1\n1,3\n2,2\n2,4\n");
  e_.files.test_target = Write("cold-target", "user,item\n1,999\n2,999\n");
  e_.metrics = *MetricSpec::ParseList("auc");
  for (const char* model : {"content", "ease", "mult-dae"}) {
    e_.model = model;
    const auto result = Run();
    ASSERT_THAT(result, IsOk()) << model;
    EXPECT_EQ(result->items, 60);
    const auto& auc = result->seeds[0].by_user.at("auc");
    ASSERT_EQ(auc.size(), 2u);
    // Above all of the other kind; its own kind has learned rows, too.
    EXPECT_GT(auc[0], 0.5) << model;
    EXPECT_LE(auc[1], auc[0]) << model;
  }
}

TEST_F(TasteTest, AttributesTellTheTasteOfUsersWithoutEvents) {
  std::string lines;
  for (int u = 0; u < 400; ++u) {
    absl::StrAppend(&lines, R"({"id": )", u, R"(, "attributes": {"likes": ")",
                    u % 2 == 0 ? "even" : "odd", "\"}}\n");
  }
  e_.metrics = *MetricSpec::ParseList("ndcg@10");
  e_.files.history_limit = 0;
  for (const char* model : {"ease", "mult-dae"}) {
    e_.model = model;
    e_.files.user_attributes.clear();
    const auto without = Run();
    e_.files.user_attributes = Write("users.jsonl", lines.c_str());
    const auto with = Run();
    ASSERT_THAT(without, IsOk());
    ASSERT_THAT(with, IsOk());
    EXPECT_EQ(with->history_lengths[0], 0);
    EXPECT_GT(with->seeds[0].means.at("ndcg@10"),
              without->seeds[0].means.at("ndcg@10") + 0.05)
        << model;
  }
}

TEST_F(ExperimentTest, AnOrderIsOneOfAllHistories) {
  ProtocolFiles files{.protocol = "strong"};
  files.train = Write("train.tsv", "a\t1\t5\t10\na\t2\t5\t11\n");
  files.test_input = Write("input.tsv", "b\t2\t5\t10\nb\t1\t5\t12\n");
  files.test_target = Write("target.tsv", "b\t2\n");
  const auto in_order = [&] {
    const auto data = ProtocolData::Read(files);
    EXPECT_THAT(data, IsOk());
    return data->set.in_order;
  };
  EXPECT_TRUE(in_order());
  files.test_input = Write("input.tsv", "b\t2\nb\t1\n");
  EXPECT_FALSE(in_order());
  files.in_order = true;
  EXPECT_TRUE(in_order());
  files.in_order = false;
  files.test_input = Write("input.tsv", "b\t2\t5\t10\nb\t1\t5\t12\n");
  files.train = Write("train.tsv", "a\t1\t5\t0\na\t2\t5\t0\n");
  EXPECT_FALSE(in_order());
}

TEST_F(TasteTest, BadAttributesAreNamed) {
  const auto with_items = [&](const char* text) {
    e_.files.item_attributes = Write("items.jsonl", text);
    return Run().status();
  };
  EXPECT_THAT(with_items("{\"id\": 1}\n\n[1]\n"), Refusal("items.jsonl:3:"));
  EXPECT_THAT(with_items("{\"name\": 1}\n"), Refusal("\"id\""));
  EXPECT_THAT(with_items(R"({"id": "1", "attributes": {"a": [1, "b"]}})"),
              Refusal("attribute \"a\""));
  EXPECT_THAT(with_items(R"({"id": "1", "attributes": 3})"),
              Refusal("an object"));
  EXPECT_THAT(with_items("{\"id\": \"1\", \"attributes\": {\"a\": NaN}}"),
              Refusal("not JSON"));
  EXPECT_THAT(with_items(R"({"id": "1", "genre": "a"})"),
              Refusal("key \"genre\""));
  EXPECT_THAT(with_items("{\"id\": 1}\n{\"id\": \"1\"}\n"),
              Refusal("items.jsonl:2: id \"1\" is there twice"));
  EXPECT_THAT(with_items(R"({"id": "no-such", "attributes": {"a": "b"}})"),
              Refusal("none of the items"));
  e_.metrics = *MetricSpec::ParseList("auc");
  e_.files.item_attributes =
      Write("items.jsonl",
            R"({"id": "1", "attributes": {"a": null, "b": true, "c": 1}})");
  const auto some = Run();
  ASSERT_THAT(some, IsOk());
  EXPECT_THAT(
      some->remarks,
      testing::Contains(testing::HasSubstr("attributes of 1 of 60 items")));
  e_.metrics = *MetricSpec::ParseList("calibration@10");
  EXPECT_THAT(with_items(R"({"id": "1", "attributes": {"genre": "a"}})"),
              Refusal("\"genres\""));
  e_.files.item_attributes.clear();
  e_.model = "content";
  e_.metrics = *MetricSpec::ParseList("auc");
  EXPECT_THAT(Run().status(),
              IsError(absl::StatusCode::kFailedPrecondition, "--items"));
}

TEST_F(TasteTest, BadInputIsNamed) {
  const auto with_train = [&](const char* text) {
    e_.files.train = Write("bad", text);
    return Run().status();
  };
  EXPECT_THAT(with_train(""), Refusal("no line is left"));
  EXPECT_THAT(with_train("a,1,5\nb,2,nan\n"), Refusal("bad:2: value nan"));
  EXPECT_THAT(with_train("a,1,5\nb,2,inf\n"), Refusal("bad:2: value inf"));
  EXPECT_THAT(with_train("a,1\nb\xff,2\n"), Refusal("bad:2: user"));
  EXPECT_THAT(with_train("a,1\n,2\n"), Refusal("bad:2: user"));
  EXPECT_THAT(with_train("a,1,x\nb,2,y\n"), Refusal("bad:2: value \"y\""));
  EXPECT_THAT(with_train("a\nb\n"), Refusal("expected user, item"));
  // Odd, but nothing is wrong with them.
  EXPECT_THAT(with_train("a,1\n"), IsOk());
  EXPECT_THAT(with_train("a,1\na,1\nb,1\n1e9,007\n"), IsOk());
  EXPECT_THAT(with_train("a,1,-5\nb,2,-5\n"), IsOk());
  e_.files.test_target.clear();
  EXPECT_THAT(Run().status(), Refusal("--test-target"));
}

}  // namespace
}  // namespace nearline::model
