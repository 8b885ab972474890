// The head of the joint model: what it sees, what it says, what it learns.
#include "model/head.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "model/generation.h"
#include "model/recommender.h"
#include "model/train.h"
#include "tests/model/head_bundle.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

constexpr int kItems = kHeadItems;

// The head in double precision, one number at a time, from the scan's score.
class Obvious {
 public:
  explicit Obvious(const Bundle& bundle) : t_(bundle.tensors) {}

  double Score(const History& history, const std::vector<float>& query, Row row,
               double scanned) const {
    double of_path[3], of_mean[3], bias = 0;
    const int begin[] = {0, 10, 17, 22};
    for (int p = 0; p < 3; ++p) {
      of_path[p] = of_mean[p] = 0;
      for (int c = begin[p]; c < begin[p + 1]; ++c) {
        of_path[p] += query[c] * At("joint.item.decoder", row, c);
        for (Row other = 0; other < kItems; ++other) {
          of_mean[p] += query[c] * At("joint.item.decoder", other, c) / kItems;
        }
      }
    }
    of_path[0] += At("joint.item.bias", row, 0);
    for (Row other = 0; other < kItems; ++other) {
      bias += At("joint.item.bias", other, 0) / kItems;
    }
    of_mean[0] += bias;
    of_path[1] = scanned - of_path[0] - of_path[2];  // with the neighbours
    std::vector<double> x;
    for (int p = 0; p < 3; ++p) x.push_back(of_path[p] - of_mean[p]);
    x.push_back(At("head.item.popularity", row, 0));
    x.push_back(std::log(static_cast<double>(history.rows.size())));
    for (size_t i = 0; i < 5; ++i) {
      x[i] =
          (x[i] - At("head.input.mean", 0, i)) * At("head.input.scale", 0, i);
    }
    for (size_t p = 0; p < 3; ++p) x.push_back(x[p] * x[4]);

    double length = 0;
    for (const float w : history.weights) length += w * w;
    std::vector<double> h, z, y;
    for (size_t c = 0; c < 6; ++c) {
      double sum = At("head.history.bias", 0, c);
      for (size_t i = 0; i < history.rows.size(); ++i) {
        sum += history.weights[i] / std::sqrt(length) *
               At("head.item.history", history.rows[i], c);
      }
      h.push_back(std::tanh(sum));
    }
    for (size_t o = 0; o < 8; ++o) {
      double sum = At("head.mlp.user.bias", 0, o) + At("head.item.mlp", row, o);
      for (size_t c = 0; c < 6; ++c)
        sum += h[c] * At("head.mlp.user.weight", o, c);
      for (size_t i = 0; i < 8; ++i)
        sum += x[i] * At("head.mlp.paths.weight", o, i);
      z.push_back(std::max(0.0, sum));
    }
    double score = scanned;
    for (size_t o = 0; o < 4; ++o) {
      double sum = At("head.mlp.2.bias", 0, o);
      for (size_t i = 0; i < 8; ++i)
        sum += z[i] * At("head.mlp.2.weight", o, i);
      score += std::max(0.0, sum) * At("head.mlp.last", 0, o);
    }
    return score;
  }

 private:
  // Of a matrix; a vector is its row 0.
  double At(const char* name, size_t row, size_t column) const {
    const Tensor& t = t_.all().at(name);
    const auto width = static_cast<size_t>(t.shape.back());
    return t.values[row * width + column];
  }
  const Tensors& t_;
};

History MakeHistory() {
  return {.rows = {3, 40, 7, 81, 22}, .weights = {1, 2, 0.5f, 1, 3}};
}

TEST(Head, ScoresEqualTheObviousNetwork) {
  const Bundle bundle = HeadBundle();
  const auto generation = Generation::Create(bundle);
  ASSERT_THAT(generation, IsOk());
  const History history = MakeHistory();
  const RowMask mask(kItems, true);
  const Query query{&history, &mask, 60};
  std::vector<std::vector<ScoredRow>> scanned, ranked;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &scanned),
              IsOk());
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.shortlist = 40}, &ranked),
              IsOk());
  const History* const one[] = {&history};
  std::vector<float> vector;
  ASSERT_THAT((*generation)->encoder().Encode(one, &vector), IsOk());
  const Obvious obvious(bundle);
  std::map<Row, double> wanted;
  for (size_t i = 0; i < 40; ++i) {
    const ScoredRow& s = scanned[0][i];
    wanted[s.row] = obvious.Score(history, vector, s.row, s.score);
  }
  for (size_t i = 0; i < 40; ++i) {
    const ScoredRow& s = ranked[0][i];
    ASSERT_TRUE(wanted.contains(s.row));
    EXPECT_NEAR(s.score, wanted[s.row], 1e-3);
    EXPECT_LE(s.score, ranked[0][i == 0 ? 0 : i - 1].score);
  }
}

TEST(Head, LeavesTheOrderOfTheScanToShortHistories) {
  const auto generation = Generation::Create(HeadBundle());
  ASSERT_THAT(generation, IsOk());
  const RowMask mask(kItems, true);
  for (const bool enough : {false, true}) {
    History history{.rows = {3, 40}, .weights = {1, 1}};
    if (enough) history = {.rows = {3, 40, 7}, .weights = {1, 1, 1}};
    EXPECT_EQ((*generation)->ranker()->Ranks(history), enough);
    const Query query{&history, &mask, 20};
    std::vector<std::vector<ScoredRow>> scanned, asked;
    ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &scanned),
                IsOk());
    ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &asked), IsOk());
    EXPECT_EQ(scanned[0][0].score == asked[0][0].score, !enough);
  }
}

TEST(Head, ThatSaysNoNumberLeavesTheOrderOfTheScan) {
  Bundle bundle = HeadBundle();
  bundle.tensors.Add("head.mlp.last", {4}, {3e38f, -3e38f, 3e38f, -3e38f});
  bundle.tensors.Add("head.input.scale", {5}, std::vector<float>(5, 3e38f));
  const auto generation = Generation::Create(bundle);
  ASSERT_THAT(generation, IsOk());
  const History history = MakeHistory();
  const RowMask mask(kItems, true);
  const Query query{&history, &mask, 20};
  std::vector<std::vector<ScoredRow>> scanned, asked;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &scanned),
              IsOk());
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &asked), IsOk());
  EXPECT_EQ(asked, scanned);
}

TEST(Head, OfAnotherModelOrShapeIsRefused) {
  Bundle bundle = HeadBundle();
  bundle.tensors.Add("head.input.mean", {4}, {0, 0, 0, 0});
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kInvalidArgument, "head.input.mean"));
  bundle = HeadBundle();
  bundle.tensors.Add("head.mlp.paths.weight", {8, 1}, std::vector<float>(8, 1));
  EXPECT_THAT(
      Generation::Create(bundle),
      IsError(absl::StatusCode::kInvalidArgument, "head.mlp.paths.weight"));
  bundle = HeadBundle();
  (void)*bundle.tensors.Take("head.input.least", {1});
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kNotFound, "head.input.least"));
  bundle = HeadBundle();
  bundle.tensors.Add("head.item.popularity", {kItems, 2},
                     std::vector<float>(2 * kItems, 1));
  Fit(&bundle);
  EXPECT_THAT(
      Generation::Create(bundle),
      IsError(absl::StatusCode::kInvalidArgument, "head.item.popularity"));
  bundle = HeadBundle();
  bundle.manifest.retriever = "ease";
  bundle.tensors.Add("ease.item.linear", {kItems, 2},
                     std::vector<float>(2 * kItems, 1));
  bundle.tensors.Add("ease.item.decoder", {kItems, 2},
                     std::vector<float>(2 * kItems, 1));
  bundle.tensors.Add("ease.item.bias", {kItems, 1},
                     std::vector<float>(kItems, 1));
  Fit(&bundle);
  EXPECT_THAT(Generation::Create(bundle),
              IsError(absl::StatusCode::kInvalidArgument, "no paths"));
}

// Users begin with some of ten items that all know, and go on with items of
// their own half. The scan, for which a history is a set, hands out what of the
// ten is left; nobody ever comes back to these.
TEST(Head, LearnsWhatTheScanHandsOutInVain) {
  TrainingSet set;
  set.items = 50;
  set.in_order = true;
  Random random(3);
  const auto draw = [&](uint32_t first, uint64_t of, size_t count) {
    const size_t end = set.train.items.size() + count;
    const auto begin = static_cast<std::ptrdiff_t>(set.train.items.size());
    while (set.train.items.size() < end) {
      const auto item = first + static_cast<uint32_t>(random.Below(of));
      const auto from = set.train.items.begin() + begin;
      if (std::find(from, set.train.items.end(), item) ==
          set.train.items.end()) {
        set.train.items.push_back(item);
      }
    }
  };
  for (int u = 0; u < 600; ++u) {
    draw(0, 10, 7);
    draw(u % 2 == 0 ? 10 : 30, 20, 8);
    set.train.weights.resize(set.train.items.size(), 1);
    set.train.EndUser();
  }
  Parameters p = *ParametersOf("joint");
  for (const char* setting :
       {"hidden=16", "epochs=8", "batch=64", "rank=16", "recent_weight=0"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto tensors = Train("joint", set, p, {});
  ASSERT_THAT(tensors, IsOk());
  ASSERT_TRUE(HasHead(*tensors));
  Bundle bundle;
  bundle.manifest.retriever = "joint";
  bundle.manifest.ranker = kHead;
  for (int i = 0; i < 50; ++i)
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  bundle.tensors = *tensors;
  Fit(&bundle);
  const auto generation = Generation::Create(std::move(bundle));
  ASSERT_THAT(generation, IsOk());
  const History history{.rows = {0, 1, 2, 3, 4, 5, 6, 10, 11, 12},
                        .weights = std::vector<float>(10, 1)};
  RowMask mask(50, true);
  for (const Row row : history.rows) mask.Clear(row);
  const Query query{&history, &mask, 5};
  const auto old_ones = [&](bool rank) {
    std::vector<std::vector<ScoredRow>> lists;
    EXPECT_THAT(Recommend(**generation, {&query, 1}, {.rank = rank}, &lists),
                IsOk());
    return std::count_if(lists[0].begin(), lists[0].end(),
                         [](const ScoredRow& s) { return s.row < 10; });
  };
  EXPECT_GT(old_ones(false), 0);
  EXPECT_EQ(old_ones(true), 0);
}

// Where items have few events, it is trained for an order alone.
TEST(Head, IsForSparseSetsOnlyWhenTheyHaveAnOrder) {
  TrainingSet set;
  set.items = 200;
  Random random(3);
  for (int u = 0; u < 600; ++u) {
    const auto first = static_cast<uint32_t>(random.Below(190));
    for (uint32_t i = 0; i < 6; ++i) set.train.items.push_back(first + i);
    set.train.weights.resize(set.train.items.size(), 1);
    set.train.EndUser();
  }
  Parameters p = *ParametersOf("joint");
  for (const char* setting : {"hidden=8", "epochs=1", "rank=8"}) {
    ASSERT_THAT(p.SetText(setting), IsOk());
  }
  const auto trains_head = [&] {
    bool trained = false;
    const auto tensors =
        Train("joint", set, p, {.on_epoch = [&](const EpochReport& report) {
                if (report.phase == "joint head") trained = true;
              }});
    EXPECT_THAT(tensors, IsOk());
    return trained;
  };
  EXPECT_FALSE(trains_head());
  set.in_order = true;
  EXPECT_TRUE(trains_head());
  set.in_order = false;
  ASSERT_THAT(p.SetText("head_share=1"), IsOk());
  EXPECT_TRUE(trains_head());
}

}  // namespace
}  // namespace nearline::model
