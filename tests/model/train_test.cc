// Training with LibTorch: what is learned, and that it is served as trained.
#include "model/train.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "model/devices.h"
#include "model/epochs.h"
#include "model/product.h"
#include "model/recommender.h"
#include "model/tower.h"
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
  bundle.tensors = std::move(tensors);
  bundle.manifest.parameters["item_features"] =
      ItemFeatureMap::Fit(std::vector<const features::Attributes*>(60, nullptr),
                          {}, &bundle.tensors);
  const auto opened = OpenDevice(device);
  if (!opened.ok()) return opened.status();
  return Generation::Create(std::move(bundle), opened->scoring);
}

constexpr char kCosineDae[] = "mult-dae temperature=0.2";
constexpr char kCosineJoint[] = "joint temperature=0.2";

// Of a model and settings of it, spaces between.
class TrainTest : public testing::TestWithParam<const char*> {
 protected:
  static std::vector<std::string> Words() {
    return absl::StrSplit(GetParam(), ' ');
  }
  static std::string Model() { return Words()[0]; }
  static Parameters Small() {
    Parameters p = *ParametersOf(Model());
    for (const char* setting :
         {"hidden=32", "latent=8", "factors=16", "layer1=16", "layer2=8",
          "batch=32", "epochs=12", "gmf_epochs=12", "mlp_epochs=6",
          "mlp_items=40", "joint_items=40", "rank=16", "lambda=10",
          "regularization=0.05"}) {
      (void)p.SetText(setting);  // each model takes what it has
    }
    const std::vector<std::string> words = Words();
    for (size_t i = 1; i < words.size(); ++i) {
      EXPECT_THAT(p.SetText(words[i]), IsOk());
    }
    return p;
  }
};

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

// The device path, on LibTorch's CPU device.
TEST_P(TrainTest, DevicesAgree) {
  const auto tensors = Train(Model(), TwoTastes(), Small(), {});
  ASSERT_THAT(tensors, IsOk());
  const auto plain = Serve(Model(), *tensors, "cpu");
  const auto torch = Serve(Model(), *tensors, "torch:cpu");
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
  std::erase_if(name, [](char c) { return !absl::ascii_isalnum(c); });
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, TrainTest,
                         testing::Values("mult-vae", "mult-dae", "ease",
                                         "paths", "item-knn", "user-knn",
                                         "content", "hybrid", "elsa", "ials",
                                         "mf", "bpr-mf", "joint", "gmf", "mlp",
                                         "neumf", kCosineDae, kCosineJoint),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Models, WarmStartTest,
                         testing::Values("mult-vae", "mult-dae", "elsa", "ials",
                                         "mf", "bpr-mf", "joint", "gmf", "mlp",
                                         "neumf", kCosineDae, kCosineJoint),
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
  if (!HasFastBfloat16()) GTEST_SKIP() << "this processor has no bfloat16";
  const TrainingSet set = TwoTastes();
  Parameters p = Small();
  for (const char* setting : {"epochs=3", "gmf_epochs=3", "batch=150"}) {
    (void)p.SetText(setting);
  }
  const auto exact = Train(Model(), set, p, {.bfloat16 = false});
  ASSERT_THAT(exact, IsOk());
  std::vector<Tensors> rounded;
  for (const int threads : {1, 3}) {
    auto tensors = Train(Model(), set, p, {.threads = threads});
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
class TowerTest : public TrainTest {
 protected:
  // A tenth of the items untouched, half of them of either kind.
  static bool IsNew(uint32_t item) { return item % 20 < 2; }

  // Trained on the others, as rows 0 .. 53.
  absl::StatusOr<Bundle> TrainedWithoutNew(TrainingSet* set) {
    const TrainingSet all = TwoTastes();
    Bundle bundle;
    std::vector<uint32_t> row(60);
    for (uint32_t i = 0; i < 60; ++i) {
      if (IsNew(i)) continue;
      row[i] = static_cast<uint32_t>(bundle.items.size());
      bundle.items.push_back(absl::StrFormat("i%03d", i));
      set->attributes.push_back(all.attributes[i]);
    }
    set->items = static_cast<int64_t>(bundle.items.size());
    for (int64_t u = 0; u < all.train.users(); ++u) {
      for (const uint32_t item : all.train.ItemsOf(u)) {
        if (IsNew(item)) continue;
        set->train.items.push_back(row[item]);
        set->train.weights.push_back(1);
      }
      set->train.EndUser();
    }
    ASSIGN_OR_RETURN(bundle.tensors, Train(Model(), *set, Small(), {}));
    bundle.manifest.id = "test";
    bundle.manifest.retriever = Model();
    bundle.manifest.parameters["item_features"] =
        ItemFeatureMap::Fit(set->attributes, {}, &bundle.tensors);
    return bundle;
  }
};

TEST_P(TowerTest, PutsNewItemsAmongTheirKind) {
  TrainingSet set;
  auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  ASSERT_THAT(FitTower(set, {}, &*bundle), IsOk());
  const auto generation = Generation::Create(*std::move(bundle));
  ASSERT_THAT(generation, IsOk());
  features::Catalogue catalogue(0);
  catalogue.Put(
      0, {.id = "even", .attributes = {{"kind", "even"}}, .listed = true});
  catalogue.Put(1,
                {.id = "odd", .attributes = {{"kind", "odd"}}, .listed = true});
  (*generation)->BindAll(catalogue);
  ASSERT_EQ((*generation)->rows(), 56u);
  const History history{.rows = {1, 3, 5}, .weights = {1, 1, 1}};  // odd ones
  const RowMask mask(56, true);
  const Query query{&history, &mask, 56};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
  std::vector<size_t> place(56);
  for (size_t i = 0; i < 56; ++i) place[lists[0][i].row] = i;
  // In the middle of 28 odd ones, below which are 28 even ones.
  EXPECT_GT(place[55], 2u);
  EXPECT_LT(place[55], 26u);
  EXPECT_GT(place[54], 27u);
}

TEST_P(TowerTest, TheSameSeedGivesTheSameMap) {
  TrainingSet set;
  const auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  Bundle a = *bundle, b = *bundle;
  ASSERT_THAT(FitTower(set, {.seed = 3}, &a), IsOk());
  ASSERT_THAT(FitTower(set, {.seed = 3}, &b), IsOk());
  const std::string map =
      ItemFeatureMap::MapOf(ScannedTable(bundle->manifest.retriever));
  EXPECT_EQ(a.tensors.all().at(map).values, b.tensors.all().at(map).values);
  EXPECT_NE(a.tensors.all().at(map).values,
            bundle->tensors.all().at(map).values);
}

TEST_P(TowerTest, WithoutAttributesNothingChanges) {
  TrainingSet set;
  auto bundle = TrainedWithoutNew(&set);
  ASSERT_THAT(bundle, IsOk());
  set.attributes.clear();
  const auto before = bundle->tensors.all();
  ASSERT_THAT(FitTower(set, {}, &*bundle), IsOk());
  for (const auto& [name, tensor] : before) {
    EXPECT_EQ(bundle->tensors.all().at(name).values, tensor.values) << name;
  }
}
INSTANTIATE_TEST_SUITE_P(Models, TowerTest,
                         testing::Values("mult-vae", "mult-dae", "ease", "ials",
                                         "gmf", "joint", kCosineJoint),
                         NameOf);

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

// What neighbours add, [n, n].
std::vector<double> NeighboursOf(const Tensors& tensors, int64_t n,
                                 const std::string& model) {
  const Tensor& rows = tensors.all().at(model + ".neighbours.rows");
  const Tensor& weights = tensors.all().at(model + ".neighbours.weights");
  std::vector<double> out(static_cast<size_t>(n * n), 0.0);
  for (size_t at = 0; at < rows.values.size(); ++at) {
    const size_t row = at / static_cast<size_t>(rows.shape[1]);
    out[row * static_cast<size_t>(n) + static_cast<size_t>(rows.values[at])] +=
        weights.values[at];
  }
  return out;
}

// Events of which most are of a few popular items: the first singular value is
// much larger than the rest.
TrainingSet MostlyPopular() {
  TrainingSet set;
  set.items = 60;
  Random random(5);
  for (int user = 0; user < 300; ++user) {
    for (uint32_t item = 0; item < 60; ++item) {
      if (random.Uniform() > std::pow(0.93, item)) continue;
      set.train.items.push_back(item);
      set.train.weights.push_back(1);
    }
    set.train.EndUser();
  }
  return set;
}

// Singular vectors times their values would differ in length by these, and a
// row be rounded to int8 by the largest of its values.
TEST(Truncation, SpreadsARowOverAllOfItsValues) {
  const TrainingSet set = MostlyPopular();
  for (const char* model : {"paths", "user-knn"}) {
    Parameters p = *ParametersOf(model);
    ASSERT_THAT(p.Set("rank", 16), IsOk());
    const auto tensors = Train(model, set, p, {});
    ASSERT_THAT(tensors, IsOk());
    const Tensor& rows =
        tensors->all().at(std::string(model) + ".item.decoder");
    std::vector<double> squares(16, 0.0);
    for (size_t i = 0; i < rows.values.size(); ++i) {
      squares[i % 16] += static_cast<double>(rows.values[i]) * rows.values[i];
    }
    double all = 0;
    for (const double square : squares) all += square;
    const double most = *std::max_element(squares.begin(), squares.end());
    EXPECT_LT(most / all, 0.2) << model;
  }
}

TEST(Ease, NeighboursAreTheLargestOfWhatTheTruncationLeavesOut) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> expected = SlowEase(set, 10);
  Parameters p = *ParametersOf("ease");
  ASSERT_THAT(p.Set("lambda", 10), IsOk());
  ASSERT_THAT(p.Set("rank", 8), IsOk());
  for (const size_t width : {5, 60}) {
    ASSERT_THAT(p.Set("neighbour_width", static_cast<double>(width)), IsOk());
    const auto tensors = Train("ease", set, p, {});
    ASSERT_THAT(tensors, IsOk());
    const std::vector<double> product = Product(*tensors, set.items);
    const std::vector<double> rest = NeighboursOf(*tensors, set.items, "ease");
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> lost;
      size_t kept = 0;
      double least_kept = 1e9;
      for (size_t j = 0; j < n; ++j) {
        const size_t at = i * n + j;
        if (i == j) continue;
        if (rest[at] == 0) {
          lost.push_back(std::abs(expected[at] - product[at]));
          continue;
        }
        ++kept;
        EXPECT_NEAR(product[at] + rest[at], expected[at], 1e-5);
        least_kept = std::min(least_kept, std::abs(rest[at]));
      }
      EXPECT_EQ(kept, std::min(width, n - 1));
      for (const double value : lost) EXPECT_LE(value, least_kept + 1e-6);
    }
  }
}

// Z^T Z [n, n], pair by pair.
std::vector<double> SlowPaths(const TrainingSet& set, double item_exponent,
                              double user_exponent) {
  const auto n = static_cast<size_t>(set.items);
  std::vector<double> degree(n, 0.0), out(n * n, 0.0);
  for (size_t i = 0; i < set.train.items.size(); ++i) {
    degree[set.train.items[i]] += set.train.weights[i];
  }
  for (int64_t u = 0; u < set.train.users(); ++u) {
    const auto items = set.train.ItemsOf(u);
    const double of_user =
        std::pow(static_cast<double>(items.size()), -user_exponent);
    for (const uint32_t a : items) {
      for (const uint32_t b : items) {
        out[a * n + b] += of_user * std::pow(degree[a], -item_exponent) *
                          std::pow(degree[b], -item_exponent);
      }
    }
  }
  return out;
}

TEST(Paths, AreTheSlowOnes) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> expected = SlowPaths(set, 0.4, 0.8);
  Parameters p = *ParametersOf("paths");
  ASSERT_THAT(p.Set("item_exponent", 0.4), IsOk());
  ASSERT_THAT(p.Set("user_exponent", 0.8), IsOk());
  ASSERT_THAT(p.Set("saturation", 1e6), IsOk());
  ASSERT_THAT(p.Set("rank", 8), IsOk());
  const auto tensors = Train("paths", set, p, {});
  ASSERT_THAT(tensors, IsOk());
  const std::vector<double> product = Product(*tensors, set.items, "paths");
  const std::vector<double> rest = NeighboursOf(*tensors, set.items, "paths");
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      // No path leads from the even items to the odd ones.
      if (i == j || (i + j) % 2 == 1) continue;
      ASSERT_NEAR(product[i * n + j] + rest[i * n + j], expected[i * n + j],
                  1e-4);
    }
  }
}

// With all of the spectrum: M = B (I + B / t)^-1, so M + M B / t = B.
TEST(Paths, SaturationBendsTheSpectrum) {
  const TrainingSet set = TwoTastes();
  const auto n = static_cast<size_t>(set.items);
  const std::vector<double> b = SlowPaths(set, 0.3, 0.5);
  Parameters p = *ParametersOf("paths");
  ASSERT_THAT(p.Set("rank", 60), IsOk());
  ASSERT_THAT(p.Set("saturation", 1e6), IsOk());
  const auto unbent = Train("paths", set, p, {});
  ASSERT_THAT(p.Set("saturation", 0.5), IsOk());
  const auto bent = Train("paths", set, p, {});
  ASSERT_THAT(unbent, IsOk());
  ASSERT_THAT(bent, IsOk());
  // The largest eigenvalue of the product, by power iteration.
  const auto largest = [&](const Tensors& tensors) {
    const std::vector<double> m = Product(tensors, set.items, "paths");
    std::vector<double> v(n, 1.0);
    double length = 0;
    for (int round = 0; round < 300; ++round) {
      std::vector<double> w(n, 0.0);
      for (size_t i = 0; i < n * n; ++i) w[i / n] += m[i] * v[i % n];
      length =
          std::sqrt(std::inner_product(w.begin(), w.end(), w.begin(), 0.0));
      for (size_t i = 0; i < n; ++i) v[i] = w[i] / length;
    }
    return length;
  };
  const double first = largest(*unbent), limit = 0.5 * first;
  EXPECT_NEAR(largest(*bent), first / (1 + first / limit), 1e-3);
  const std::vector<double> m = Product(*bent, set.items, "paths");
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = m[i * n + j];
      for (size_t k = 0; k < n; ++k) {
        sum += m[i * n + k] * b[k * n + j] / limit;
      }
      ASSERT_NEAR(sum, b[i * n + j], 1e-3);
    }
  }
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
      [=](const EpochReport& r) {
        if (!r.note.empty()) *note = r.note;
      });
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

TEST(Devices, CudaIsRefusedWhereThereIsNone) {
  EXPECT_THAT(OpenDevice("cuda:63"),
              IsError(absl::StatusCode::kFailedPrecondition, "cuda:63"));
  EXPECT_THAT(OpenDevice("auto"), IsOk());
}

}  // namespace
}  // namespace nearline::model
