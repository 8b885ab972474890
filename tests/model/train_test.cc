// Training with LibTorch: what is learned, and that it is served as trained.
#include "model/train.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_format.h"
#include "model/devices.h"
#include "model/epochs.h"
#include "model/head.h"
#include "model/product.h"
#include "model/recommender.h"
#include "model/trainers.h"
#include "tests/model/train_fixture.h"
#include "tests/model/two_tastes.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

absl::StatusOr<std::shared_ptr<Generation>> Serve(const std::string& model,
                                                  Tensors tensors,
                                                  const std::string& device) {
  Bundle bundle;
  bundle.manifest.id = "test";
  bundle.manifest.retriever = model;
  if (model == "neumf" || model == "mlp") bundle.manifest.ranker = model;
  for (int i = 0; i < 60; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  if (HasHead(tensors)) bundle.manifest.ranker = kHead;
  bundle.tensors = std::move(tensors);
  bundle.manifest.parameters["item_features"] =
      ItemFeatureMap::Fit(std::vector<const features::Attributes*>(60, nullptr),
                          {}, &bundle.tensors);
  const auto opened = OpenDevice(device);
  if (!opened.ok()) return opened.status();
  return Generation::Create(std::move(bundle), opened->scoring);
}

TEST_P(TrainTest, LearnsTheTwoTastesAndServesThem) {
  const TrainingSet set = TwoTastes();
  double metric = 0;
  TrainOptions options{
      .on_epoch = [&](const EpochReport& r) { metric = r.metric; }};
  const auto tensors = Train(Model(), set, Small(), options);
  ASSERT_THAT(tensors, IsOk());
  if (StartsWarm(Model())) {
    EXPECT_GT(metric, 0.35);
  }
  const auto generation = Serve(Model(), *tensors, "cpu");
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
  const auto a = Train(Model(), set, Small(), {.seed = 7});
  const auto b = Train(Model(), set, Small(), {.seed = 7});
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  for (const auto& [name, tensor] : a->all()) {
    EXPECT_EQ(tensor.values, b->all().at(name).values) << name;
  }
}

class WarmStartTest : public TrainTest {};

TEST_P(WarmStartTest, BeginsWhereTheOldWeightsWere) {
  const TrainingSet set = TwoTastes();
  struct First {  // that is known
    double metric = 0, loss = 0;
  };
  const auto train = [&](const Tensors* warm, First* first) {
    return Train(Model(), set, Small(),
                 {.on_epoch =
                      [=](const EpochReport& r) {
                        if (first->metric <= 0) first->metric = r.metric;
                        if (first->loss <= 0) first->loss = r.loss;
                      },
                  .warm_start = warm});
  };
  First of_cold, of_warm;
  const auto cold = train(nullptr, &of_cold);
  ASSERT_THAT(cold, IsOk());
  ASSERT_THAT(train(&*cold, &of_warm), IsOk());
  EXPECT_GT(of_warm.metric, 0.3);
  EXPECT_LT(of_warm.loss, of_cold.loss);
}

// The half of its GMF that a softmax has learned, without the other one.
TEST(NeuMf, StartsWarmWithOneHalfOfItsGmf) {
  const TrainingSet set = TwoTastes();
  Parameters p = SmallModel(kHalvesNeuMf).parameters;
  for (const char* setting : {"mlp_share=0", "joint_epochs=0"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto cold = Train("neumf", set, p, {});
  ASSERT_THAT(cold, IsOk());
  ASSERT_THAT(p.SetText("gmf_learning_rate=1e-6"), IsOk());
  const auto warm = Train("neumf", set, p, {.warm_start = &*cold});
  ASSERT_THAT(warm, IsOk());
  const Tensor& before = cold->all().at("neumf.item.gmf");
  const Tensor& after = warm->all().at("neumf.item.gmf");
  ASSERT_EQ(after.shape, before.shape);
  const auto columns = static_cast<size_t>(before.shape[1]);
  const auto half = static_cast<size_t>(p.Int("factors"));
  ASSERT_LT(half, columns);
  for (size_t i = 0; i < before.values.size(); ++i) {
    if (i % columns >= half) continue;
    EXPECT_NEAR(after.values[i], before.values[i], 1e-3);
  }
}

// The scores of 60 items and one of the tail agree with the CPU's path.
void ExpectScoresOfCpu(const std::string& model, const Tensors& tensors,
                       const std::string& device) {
  const auto plain = Serve(model, tensors, "cpu");
  const auto other = Serve(model, tensors, device);
  ASSERT_THAT(plain, IsOk());
  ASSERT_THAT(other, IsOk());
  features::Catalogue catalogue(0);
  catalogue.Put(0, {.id = "later", .listed = true});
  (*plain)->BindAll(catalogue);
  (*other)->BindAll(catalogue);
  const History history{.rows = {2, 4, 60}, .weights = {1, 0.5f, 1}};
  RowMask mask(61, true);
  mask.Clear(2);
  const Query query{&history, &mask, 61};
  std::vector<std::vector<ScoredRow>> a, b;
  ASSERT_THAT(Recommend(**plain, {&query, 1}, {}, &a), IsOk());
  ASSERT_THAT(Recommend(**other, {&query, 1}, {}, &b), IsOk());
  ASSERT_EQ(a[0].size(), 60u);
  ASSERT_EQ(b[0].size(), 60u);
  for (size_t i = 0; i < 60; ++i) {
    EXPECT_NEAR(a[0][i].score, b[0][i].score, 1e-3);
  }
}

// The device path, on LibTorch's CPU device.
TEST_P(TrainTest, DevicesAgree) {
  const auto tensors = Train(Model(), TwoTastes(), Small(), {});
  ASSERT_THAT(tensors, IsOk());
  ExpectScoresOfCpu(Model(), *tensors, "torch:cpu");
}

constexpr const char* kModels[] = {
    "mult-vae", "mult-dae",   "ease",     "paths",     "item-knn", "user-knn",
    "content",  "hybrid",     "elsa",     "ials",      kLongMf,    "bpr-mf",
    "joint",    "gmf",        "mlp",      "neumf",     kCosineDae, kCosineJoint,
    "recent",   kRecentJoint, kHeadJoint, kHalvesNeuMf};

TEST(Devices, EveryModelTrainsAndServesOnCuda) {
  if (!CheckDevice("cuda:0").ok()) GTEST_SKIP() << "there is no CUDA device";
  for (const char* words : kModels) {
    SCOPED_TRACE(words);
    const SmallModel model(words);
    double best = 0;
    const auto tensors =
        Train(model.name, TwoTastes(), model.parameters,
              {.device = "cuda:0", .on_epoch = [&](const EpochReport& r) {
                 best = std::max(best, r.metric);
               }});
    ASSERT_THAT(tensors, IsOk());
    if (StartsWarm(model.name)) {
      EXPECT_GT(best, 0.35);
    }
    ExpectScoresOfCpu(model.name, *tensors, "cuda:0");
  }
}

INSTANTIATE_TEST_SUITE_P(Models, TrainTest, testing::ValuesIn(kModels), NameOf);
INSTANTIATE_TEST_SUITE_P(Models, WarmStartTest,
                         testing::Values("mult-vae", "mult-dae", "elsa", "ials",
                                         kLongMf, "bpr-mf", "joint", "gmf",
                                         "mlp", "neumf", kCosineDae,
                                         kCosineJoint, "recent", kRecentJoint,
                                         kHeadJoint, kHalvesNeuMf),
                         NameOf);

class ByHandTest : public TrainTest {};

// LibTorch's automatic gradient is the obvious version. Batches of 150 are more
// than one piece of work.
TEST_P(ByHandTest, TakesTheStepsThatLibTorchTakes) {
  const TrainingSet set = TwoTastes();
  Parameters p = Small();
  for (const char* setting :
       {"epochs=3", "gmf_epochs=3", "batch=150", "weight_decay=0.01"}) {
    (void)p.SetText(setting);
  }
  const auto slow = Train(Model(), set, p, {.by_hand = false});
  ASSERT_THAT(slow, IsOk());
  for (const int threads : {1, 3}) {
    const auto fast =
        Train(Model(), set, p, {.threads = threads, .bfloat16 = false});
    ASSERT_THAT(fast, IsOk());
    for (const auto& [name, tensor] : fast->all()) {
      const Tensor& expected = slow->all().at(name);
      ASSERT_EQ(tensor.shape, expected.shape);
      for (size_t i = 0; i < tensor.values.size(); ++i) {
        ASSERT_NEAR(tensor.values[i], expected.values[i], 1e-4)
            << name << "[" << i << "]";
      }
    }
  }
}

TEST_P(ByHandTest, InBfloat16LeadsToAlmostTheSameWeights) {
  const Bfloat16 one = 0x3f80;
  float product = 0;
  if (!Multiply({&one, 1, 1}, {&one, 1, 1}, &product)) {
    GTEST_SKIP() << "there is no product of bfloat16 for this processor";
  }
  const TrainingSet set = TwoTastes();
  Parameters p = Small();
  for (const char* setting : {"epochs=3", "gmf_epochs=3", "batch=150"}) {
    (void)p.SetText(setting);
  }
  const auto exact = Train(Model(), set, p, {.bfloat16 = false});
  ASSERT_THAT(exact, IsOk());
  std::vector<Tensors> rounded;
  for (const int threads : {1, 3}) {
    auto tensors =
        Train(Model(), set, p, {.threads = threads, .bfloat16 = true});
    ASSERT_THAT(tensors, IsOk());
    rounded.push_back(*std::move(tensors));
  }
  double error = 0, size = 0;
  for (const auto& [name, tensor] : rounded[0].all()) {
    EXPECT_EQ(tensor.values, rounded[1].all().at(name).values) << name;
    const Tensor& expected = exact->all().at(name);
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      const double off = tensor.values[i] - expected.values[i];
      error += off * off;
      size += static_cast<double>(expected.values[i]) * expected.values[i];
    }
  }
  EXPECT_GT(error, 0);
  EXPECT_LT(std::sqrt(error / size), 0.02);
}
INSTANTIATE_TEST_SUITE_P(Models, ByHandTest,
                         testing::Values("mult-vae", "mult-dae", kCosineDae,
                                         "gmf"),
                         NameOf);

TEST(Bundles, AnEncoderOfNoLengthIsRefused) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float length : {0.0f, -1.0f, infinity, std::nanf("")}) {
    Tensors tensors;
    tensors.Add("mult-dae.item.encoder", {60, 2}, std::vector<float>(120, 1));
    tensors.Add("mult-dae.encoder.length", {1}, {length});
    tensors.Add("mult-dae.item.decoder", {60, 2}, std::vector<float>(120, 1));
    tensors.Add("mult-dae.item.bias", {60, 1}, std::vector<float>(60, 0));
    EXPECT_THAT(
        Serve("mult-dae", std::move(tensors), "cpu"),
        IsError(absl::StatusCode::kInvalidArgument, "mult-dae.encoder.length"))
        << length;
  }
}

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

// In a catalogue that is large for it, paths take EASE's place, and without
// validation data the model sets some apart.
TEST(Joint, SetsValidationApartAndTakesPathsInLargeCatalogues) {
  TrainingSet set = TwoTastes();
  set.validation_input = set.validation_target = {};
  Parameters p = *ParametersOf("joint");
  for (const char* setting :
       {"hidden=16", "epochs=5", "rank=8", "ease_items=10", "neighbour_share=1",
        "neighbour_width=7"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  double metric = 0;
  const auto tensors =
      Train("joint", set, p,
            {.on_epoch = [&](const EpochReport& r) { metric = r.metric; }});
  ASSERT_THAT(tensors, IsOk());
  EXPECT_EQ(tensors->all().at("joint.neighbours.rows").shape,
            (std::vector<int64_t>{60, 7}));
  // The linear part is that of all events, whichever were set apart.
  Parameters q = *ParametersOf("paths");
  ASSERT_THAT(q.Set("rank", 8), IsOk());
  ASSERT_THAT(q.Set("neighbour_width", 7), IsOk());
  const auto paths = Train("paths", set, q, {});
  ASSERT_THAT(paths, IsOk());
  const std::vector<float>& all =
      paths->all().at("paths.neighbours.weights").values;
  const std::vector<float>& scaled =
      tensors->all().at("joint.neighbours.weights").values;
  const float weight = scaled[0] / all[0];
  EXPECT_GT(weight, 0);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_NEAR(scaled[i], weight * all[i], 1e-4 * weight);
  }
  const auto generation = Serve("joint", *tensors, "cpu");
  ASSERT_THAT(generation, IsOk());
  const History history{.rows = {1, 3, 5}, .weights = {1, 1, 1}};
  const RowMask mask(60, true);
  const Query query{&history, &mask, 15};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
  for (const ScoredRow& s : lists[0]) EXPECT_EQ(s.row % 2, 1u);
}

TEST(Train, WithoutEventsItSaysSo) {
  TrainingSet set;
  set.items = 3;
  EXPECT_THAT(Train("mult-vae", set, *ParametersOf("mult-vae"), {}),
              IsError(absl::StatusCode::kFailedPrecondition, "learn from"));
}

Tensors OneWeight(float value) {
  Tensors tensors;
  tensors.Add("w", {1}, {value});
  return tensors;
}

// Runs epochs with these losses, whose weights are their losses, too; one that
// validates finds the second epoch best.
absl::StatusOr<Tensors> RunLosses(const std::vector<double>& losses,
                                  bool validates, std::string* note) {
  size_t at = 0;
  return RunEpochs(
      {.phase = "toy",
       .epochs = static_cast<int>(losses.size()),
       .patience = 10,
       .train = [&](int) { return losses[at++]; },
       .validate = validates ? std::function<double()>(
                                   [&] { return at == 2 ? 1.0 : 0.5; })
                             : nullptr,
       .save = [&] { return OneWeight(static_cast<float>(losses[at - 1])); }},
      {.on_epoch = [=](const EpochReport& r) {
        if (!r.note.empty()) *note = r.note;
      }});
}

TEST(Epochs, TheBestIsKeptOrTheLast) {
  std::string note;
  EXPECT_EQ(RunLosses({4, 3, 2}, true, &note)->all().at("w").values[0], 3);
  EXPECT_EQ(RunLosses({4, 3, 2}, false, &note)->all().at("w").values[0], 2);
  EXPECT_EQ(note, "");
}

TEST(Epochs, OneThatDivergesIsSaidAndTheGoodOneBeforeKept) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  for (const bool validates : {false, true}) {
    std::string note;
    for (const double bad : {kNaN, HUGE_VAL}) {
      const auto kept = RunLosses({4, 3, bad, 1}, validates, &note);
      ASSERT_THAT(kept, IsOk());
      EXPECT_EQ(kept->all().at("w").values[0], 3);
      EXPECT_THAT(note, testing::HasSubstr("epoch 2 is kept"));
      EXPECT_THAT(RunLosses({bad, 1}, validates, &note),
                  IsError(absl::StatusCode::kOutOfRange, "learning rate"));
      EXPECT_THAT(note, testing::HasSubstr("no epoch before"));
    }
  }
  // A loss still, but no weight any more.
  std::string note;
  EXPECT_EQ(RunLosses({4, 1e39}, false, &note)->all().at("w").values[0], 4);
  EXPECT_THAT(note, testing::HasSubstr("epoch 1 is kept"));
}

// Weights so large that nothing finite can be learned from them.
TEST_P(WarmStartTest, NothingThatIsNotFiniteComesOut) {
  TrainingSet set = TwoTastes();
  for (float& weight : set.train.weights) weight = 3e38f;
  const auto tensors = Train(Model(), set, Small(), {});
  if (tensors.ok()) {
    EXPECT_TRUE(AllFinite(*tensors));
  } else {
    EXPECT_THAT(tensors,
                IsError(absl::StatusCode::kOutOfRange, "learning rate"));
  }
}

// Half of the users, so that items have few events.
TrainingSet SparseTastes() {
  TrainingSet set = TwoTastes();
  set.train.offsets.resize(131);
  const auto events = static_cast<size_t>(set.train.offsets.back());
  set.train.items.resize(events);
  set.train.weights.resize(events);
  return set;
}

TEST(Temperature, IsTriedWhereItMayHelp) {
  const auto of = [](const char* words, const TrainingSet& set,
                     const Tensors* warm = nullptr) {
    return TemperaturesOf(SmallModel(words).parameters, set,
                          {.warm_start = warm});
  };
  using testing::ElementsAre;
  const TrainingSet sparse = SparseTastes();
  EXPECT_THAT(of("mult-dae", sparse), ElementsAre(0.1, 0));
  EXPECT_THAT(of("mult-dae", TwoTastes()), ElementsAre(0));
  EXPECT_THAT(of("mult-dae temperature=0.3", sparse), ElementsAre(0.3));
  EXPECT_THAT(of("mult-vae", sparse), ElementsAre(0));
  Tensors warm;
  warm.Add("mult-dae.encoder.length", {1}, {10});
  EXPECT_THAT(of("mult-dae", sparse, &warm), ElementsAre(0.1));
}

TEST(Temperature, IsTheBetterOneOnValidationData) {
  const auto trained = [](const std::string& words, TrainingSet set) {
    const SmallModel model(words);
    const auto tensors = Train(model.name, set, model.parameters, {});
    EXPECT_THAT(tensors, IsOk());
    return tensors->all().at("mult-dae.item.decoder").values;
  };
  const TrainingSet set = SparseTastes();
  const std::vector<float> chosen = trained("mult-dae", set);
  const bool cosine = chosen == trained("mult-dae temperature=0.1", set);
  EXPECT_NE(cosine, chosen == trained("mult-dae temperature=0", set));
  // Without validation data some are set apart, and then all are trained on.
  TrainingSet without = set;
  without.validation_input = without.validation_target = {};
  const std::vector<float> whole = trained("mult-dae", without);
  EXPECT_NE(whole == trained("mult-dae temperature=0.1", without),
            whole == trained("mult-dae temperature=0", without));
}

// A table that only other kinds of models read is passed over on every device.
TEST(Devices, TablesOfOtherKindsArePassedOver) {
  const SmallModel model("gmf");
  auto tensors = Train(model.name, TwoTastes(), model.parameters, {});
  ASSERT_THAT(tensors, IsOk());
  tensors->Add("gmf.item.recent", {60, 4}, std::vector<float>(240, 1));
  tensors->Add("gmf.recent.positions", {2, 4}, std::vector<float>(8, 1));
  for (const char* device : {"cpu", "torch:cpu"}) {
    const auto generation = Serve(model.name, *tensors, device);
    ASSERT_THAT(generation, IsOk());
    const Encoder& encoder = (*generation)->encoder();
    const History history{.rows = {1}, .weights = {1}};
    std::vector<float> queries;
    ASSERT_THAT(encoder.Encode({&history, &history}, &queries), IsOk());
    EXPECT_EQ(queries.size(), 2 * static_cast<size_t>(encoder.dim())) << device;
  }
}

TEST(Devices, CudaIsRefusedWhereThereIsNone) {
  EXPECT_THAT(OpenDevice("cuda:63"),
              IsError(absl::StatusCode::kFailedPrecondition, "cuda:63"));
  EXPECT_THAT(OpenDevice("auto"), IsOk());
}

}  // namespace
}  // namespace nearline::model
