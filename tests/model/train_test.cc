// Training with LibTorch: what is learned, and that it is served as trained.
#include "model/train.h"

#include "base/file.h"
#include "base/random.h"
#include "model/devices.h"
#include "model/evaluate.h"
#include "model/experiment.h"
#include "model/report.h"
#include "model/report_page.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

// Two tastes: even users like even items, odd users odd ones.
TrainingSet TwoTastes() {
  TrainingSet set;
  set.items = 60;
  Random random(1);
  for (int u = 0; u < 300; ++u) {
    auto* const to = u < 260 ? &set.train : &set.validation_input;
    std::vector<uint32_t> items;
    while (items.size() < 12) {
      const auto item = static_cast<uint32_t>(2 * random.Below(30) +
                                              static_cast<unsigned>(u % 2));
      if (std::find(items.begin(), items.end(), item) == items.end()) {
        items.push_back(item);
      }
    }
    for (size_t i = 0; i < items.size(); ++i) {
      auto* const target = u >= 260 && i >= 9 ? &set.validation_target : to;
      target->items.push_back(items[i]);
      target->weights.push_back(1);
    }
    to->EndUser();
    if (u >= 260) set.validation_target.EndUser();
  }
  return set;
}

absl::StatusOr<std::shared_ptr<Generation>> Serve(const std::string& model,
                                                  Tensors tensors,
                                                  const std::string& device) {
  Bundle bundle;
  bundle.manifest.id = "test";
  bundle.manifest.retriever = model;
  if (model == "neumf") bundle.manifest.ranker = "neumf";
  for (int i = 0; i < 60; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  bundle.tensors = std::move(tensors);
  bundle.manifest.parameters["item_features"] =
      ItemFeatureMap::Fit(std::vector<const features::Attributes*>(60, nullptr),
                          {}, &bundle.tensors);
  const auto opened = OpenDevice(device);
  if (!opened.ok()) return opened.status();
  return Generation::Create(std::move(bundle), opened->scoring);
}

class TrainTest : public testing::TestWithParam<const char*> {
 protected:
  Parameters Small() {
    Parameters p = *ParametersOf(GetParam());
    for (const char* setting :
         {"hidden=32", "latent=8", "factors=16", "layer1=16", "layer2=8",
          "batch=32", "epochs=12", "gmf_epochs=12", "mlp_epochs=6",
          "mlp_items=40", "joint_items=40", "rank=16", "lambda=10"}) {
      (void)p.SetText(setting);  // each model takes what it has
    }
    return p;
  }
};

TEST_P(TrainTest, LearnsTheTwoTastesAndServesThem) {
  const TrainingSet set = TwoTastes();
  double metric = 0;
  TrainOptions options{
      .on_epoch = [&](const EpochReport& r) { metric = r.metric; }};
  const auto tensors = Train(GetParam(), set, Small(), options);
  ASSERT_THAT(tensors, IsOk());
  if (StartsWarm(GetParam())) {
    EXPECT_GT(metric, 0.35);
  }
  const auto generation = Serve(GetParam(), *tensors, "cpu");
  ASSERT_THAT(generation, IsOk());
  const History history{.rows = {1, 3, 5}, .weights = {1, 1, 1}};
  const RowMask mask(60, true);
  const Query query{&history, &mask, 15};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
  for (const ScoredRow& s : lists[0]) EXPECT_EQ(s.row % 2, 1u);
}

TEST_P(TrainTest, TheSameSeedGivesTheSameWeights) {
  const TrainingSet set = TwoTastes();
  const auto a = Train(GetParam(), set, Small(), {.seed = 7});
  const auto b = Train(GetParam(), set, Small(), {.seed = 7});
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  for (const auto& [name, tensor] : a->all()) {
    EXPECT_EQ(tensor.values, b->all().at(name).values) << name;
  }
}

class WarmStartTest : public TrainTest {};

TEST_P(WarmStartTest, BeginsWhereTheOldWeightsWere) {
  const TrainingSet set = TwoTastes();
  const auto cold = Train(GetParam(), set, Small(), {});
  ASSERT_THAT(cold, IsOk());
  double first = 0;  // that is known
  TrainOptions options{.on_epoch =
                           [&](const EpochReport& r) {
                             if (first <= 0) first = r.metric;
                           },
                       .warm_start = &*cold};
  ASSERT_THAT(Train(GetParam(), set, Small(), options), IsOk());
  EXPECT_GT(first, 0.3);
}

// The device path, on LibTorch's CPU device.
TEST_P(TrainTest, DevicesAgree) {
  const auto tensors = Train(GetParam(), TwoTastes(), Small(), {});
  ASSERT_THAT(tensors, IsOk());
  const auto plain = Serve(GetParam(), *tensors, "cpu");
  const auto torch = Serve(GetParam(), *tensors, "torch:cpu");
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(torch, IsOk());
  features::Catalogue catalogue(0);
  catalogue.Put(0, {.id = "later", .listed = true});
  (*plain)->BindAll(catalogue);
  (*torch)->BindAll(catalogue);
  const History history{.rows = {2, 4, 60}, .weights = {1, 0.5f, 1}};
  RowMask mask(61, true);
  mask.Clear(2);
  const Query query{&history, &mask, 61};
  std::vector<std::vector<ScoredRow>> a, b;
  ASSERT_THAT(Recommend(**plain, {&query, 1}, {}, &a), IsOk());
  ASSERT_THAT(Recommend(**torch, {&query, 1}, {}, &b), IsOk());
  ASSERT_EQ(a[0].size(), 60u);
  ASSERT_EQ(b[0].size(), 60u);
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_NEAR(a[0][i].score, b[0][i].score, 1e-3);
  }
}

std::string NameOf(const testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, TrainTest,
                         testing::Values("mult-vae", "mult-dae", "ease",
                                         "item-knn", "user-knn", "elsa",
                                         "joint", "neumf"),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Models, WarmStartTest,
                         testing::Values("mult-vae", "mult-dae", "elsa",
                                         "joint", "neumf"),
                         NameOf);

TEST(WarmStart, OfAnotherWidthIsCold) {
  const TrainingSet set = TwoTastes();
  Parameters p = *ParametersOf("joint");
  for (const char* setting : {"hidden=16", "rank=16", "epochs=1"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto wide = Train("joint", set, p, {});
  ASSERT_THAT(wide, IsOk());
  ASSERT_THAT(p.Set("hidden", 8), IsOk());
  const auto cold = Train("joint", set, p, {});
  const auto warm = Train("joint", set, p, {.warm_start = &*wide});
  ASSERT_THAT(cold, IsOk());
  ASSERT_THAT(warm, IsOk());
  EXPECT_EQ(warm->all().at("joint.item.decoder").values,
            cold->all().at("joint.item.decoder").values);
}

// linear decoder^T [n, n] in double.
std::vector<double> Product(const Tensors& tensors, int64_t n,
                            const std::string& model = "ease") {
  const Tensor& left = tensors.all().at(model + ".item.linear");
  const Tensor& right = tensors.all().at(model + ".item.decoder");
  const int64_t rank = left.shape[1];
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < rank; ++r) {
        sum += static_cast<double>(
                   left.values[static_cast<size_t>(i * rank + r)]) *
               right.values[static_cast<size_t>(j * rank + r)];
      }
      out.push_back(sum);
    }
  }
  return out;
}

// EASE by the book, with an inverse by Gauss and Jordan.
std::vector<double> SlowEase(const TrainingSet& set, double lambda) {
  const auto n = static_cast<size_t>(set.items);
  std::vector<std::vector<double>> m(n, std::vector<double>(2 * n, 0.0));
  for (int64_t u = 0; u < set.train.users(); ++u) {
    for (const uint32_t a : set.train.ItemsOf(u)) {
      for (const uint32_t b : set.train.ItemsOf(u)) m[a][b] += 1;
    }
  }
  for (size_t i = 0; i < n; ++i) m[i][i] += lambda, m[i][n + i] = 1;
  for (size_t i = 0; i < n; ++i) {
    const double pivot = m[i][i];
    for (double& x : m[i]) x /= pivot;
    for (size_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double factor = m[k][i];
      for (size_t j = 0; j < 2 * n; ++j) m[k][j] -= factor * m[i][j];
    }
  }
  std::vector<double> b;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      b.push_back(i == j ? 0 : -m[i][n + j] / m[j][n + j]);
    }
  }
  return b;
}

TEST(Ease, IsTheClosedFormAndItsTruncation) {
  const TrainingSet set = TwoTastes();
  const std::vector<double> expected = SlowEase(set, 10);
  Parameters p = *ParametersOf("ease");
  ASSERT_THAT(p.Set("lambda", 10), IsOk());
  ASSERT_THAT(p.Set("rank", 0), IsOk());
  const auto full = Train("ease", set, p, {});
  ASSERT_THAT(full, IsOk());
  const std::vector<double> product = Product(*full, set.items);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(product[i], expected[i], 1e-5) << i;
  }
  // With every rank more, less is lost of B + shift I.
  double before = 1e9;
  for (const int rank : {4, 16, 59}) {
    ASSERT_THAT(p.Set("rank", rank), IsOk());
    const auto truncated = Train("ease", set, p, {});
    ASSERT_THAT(truncated, IsOk());
    const std::vector<double> approximate = Product(*truncated, set.items);
    double lost = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double shift = i % 61 == 0 ? p["shift"] : 0;
      lost += std::pow(approximate[i] - expected[i] - shift, 2);
    }
    EXPECT_LT(lost, before);
    before = lost;
  }
  EXPECT_LT(before, 0.01);
}

// By the book: cosines of columns, and a sum over users.
TEST(Neighbours, AreTheSlowOnes) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  std::vector<std::vector<double>> x;
  for (int64_t u = 0; u < set.train.users(); ++u) {
    x.emplace_back(n, 0.0);
    for (const uint32_t item : set.train.ItemsOf(u)) x.back()[item] = 1;
  }
  const auto dot = [&](size_t i, size_t j, bool by_length) {
    double sum = 0;
    for (const std::vector<double>& user : x) {
      double events = 0;
      for (const double weight : user) events += weight;
      sum += user[i] * user[j] / (by_length ? std::sqrt(events) + 2 : 1.0);
    }
    return sum;
  };
  Parameters p = *ParametersOf("item-knn");
  ASSERT_THAT(p.Set("shrinkage", 5), IsOk());
  const auto items = Train("item-knn", set, p, {});
  ASSERT_THAT(p.Set("neighbours", 3), IsOk());
  const auto nearest = Train("item-knn", set, p, {});
  Parameters q = *ParametersOf("user-knn");
  ASSERT_THAT(q.Set("shrinkage", 2), IsOk());
  const auto users = Train("user-knn", set, q, {});
  ASSERT_THAT(items, IsOk());
  ASSERT_THAT(nearest, IsOk());
  ASSERT_THAT(users, IsOk());
  const auto all = Product(*items, set.items, "item-knn");
  const auto few = Product(*nearest, set.items, "item-knn");
  const auto of_users = Product(*users, set.items, "user-knn");
  for (size_t i = 0; i < n; ++i) {
    std::vector<double> row(
        all.begin() + static_cast<std::ptrdiff_t>(i * n),
        all.begin() + static_cast<std::ptrdiff_t>(i * n + n));
    std::sort(row.rbegin(), row.rend());
    int kept = 0;
    for (size_t j = 0; j < n; ++j) {
      const double cosine =
          dot(i, j, false) /
          (std::sqrt(dot(i, i, false) * dot(j, j, false)) + 5);
      ASSERT_NEAR(all[i * n + j], i == j ? 0 : cosine, 1e-5);
      ASSERT_NEAR(of_users[i * n + j], i == j ? 0 : dot(i, j, true), 1e-4);
      if (few[i * n + j] == 0) continue;
      ++kept;
      EXPECT_GE(few[i * n + j], row[2] - 1e-6);
    }
    EXPECT_EQ(kept, 3);
  }
}

TEST(Ease, RefusesWhatDoesNotFitInMemory) {
  TrainingSet set;
  set.items = 10'000'000;
  set.train.items = {1};
  set.train.weights = {1};
  set.train.EndUser();
  EXPECT_THAT(Train("ease", set, *ParametersOf("ease"), {}),
              IsError(absl::StatusCode::kResourceExhausted, "mult-dae"));
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
  EXPECT_EQ(rank("(a,3)\t9\n"), 1);
  EXPECT_EQ(rank("(a,3)\t2\n"), 2);
  EXPECT_EQ(rank("(a,3)\t2\t2\n"), 3);
  EXPECT_EQ(rank("(a,3)\t2\t4\n"), 3);
  EXPECT_EQ(rank("(a,3)\t2\t2\t3\n"), 4);
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

TEST_F(TasteTest, ReportsCompareAndRepeat) {
  const auto report = [&](const char* file) {
    const auto result = Run();
    EXPECT_THAT(result, IsOk());
    return Write(file, ReportOf(e_, *result).dump().c_str());
  };
  e_.model = "popularity";
  const std::string popularity = report("popularity.json");
  e_.model = "ease";
  const std::string ease = report("ease.json");
  const auto reports = ReadReports({popularity, ease});
  ASSERT_THAT(reports, IsOk());
  const Json comparison = CompareReports(*reports);
  EXPECT_GT(comparison["metrics"]["ndcg@10"][1]["low"], 0);
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
  EXPECT_THAT(ReadReports({Write("no", "{}")}),
              IsError(absl::StatusCode::kInvalidArgument, "model"));
}

TEST_F(TasteTest, BadInputIsNamed) {
  const auto with_train = [&](const char* text) {
    e_.files.train = Write("bad", text);
    return Run().status();
  };
  const auto refusal = [](const char* text) {
    return IsError(absl::StatusCode::kInvalidArgument, text);
  };
  EXPECT_THAT(with_train(""), refusal("no line is left"));
  EXPECT_THAT(with_train("a,1,5\nb,2,nan\n"), refusal("bad:2: value nan"));
  EXPECT_THAT(with_train("a,1,5\nb,2,inf\n"), refusal("bad:2: value inf"));
  EXPECT_THAT(with_train("a,1\nb\xff,2\n"), refusal("bad:2: user"));
  EXPECT_THAT(with_train("a,1\n,2\n"), refusal("bad:2: user"));
  EXPECT_THAT(with_train("a,1,x\nb,2,y\n"), refusal("bad:2: value \"y\""));
  EXPECT_THAT(with_train("a\nb\n"), refusal("expected user, item"));
  // Odd, but nothing is wrong with them.
  EXPECT_THAT(with_train("a,1\n"), IsOk());
  EXPECT_THAT(with_train("a,1\na,1\nb,1\n1e9,007\n"), IsOk());
  EXPECT_THAT(with_train("a,1,-5\nb,2,-5\n"), IsOk());
  e_.files.test_target.clear();
  EXPECT_THAT(Run().status(), refusal("--test-target"));
}

TEST(Train, WithoutEventsItSaysSo) {
  TrainingSet set;
  set.items = 3;
  EXPECT_THAT(Train("mult-vae", set, *ParametersOf("mult-vae"), {}),
              IsError(absl::StatusCode::kFailedPrecondition, "learn from"));
}

TEST(Devices, CudaIsRefusedWhereThereIsNone) {
  EXPECT_THAT(OpenDevice("cuda:63"),
              IsError(absl::StatusCode::kFailedPrecondition, "cuda:63"));
  EXPECT_THAT(OpenDevice("auto"), IsOk());
}

}  // namespace
}  // namespace nearline::model
