#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "model/clusters.h"
#include "model/index_scanner.h"
#include "model/list_kernels.h"
#include "model/synthesize.h"
#include "tests/model/random_floats.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

TEST(ListKernels, SumsAreExactOnEveryInstructionSet) {
  constexpr size_t kRows = 48;
  for (const size_t dim : {1u, 7u, 64u, 601u}) {
    const size_t pairs = (dim + 1) / 2;
    Random random(dim);
    std::vector<float> query(dim);
    for (float& x : query) x = static_cast<float>(random.Normal());
    std::vector<int32_t> rounded;
    float scale = 0;
    const float lost = QuantizePairs(query.data(), dim, &rounded, &scale);
    EXPECT_LE(lost, 0.6 * scale * std::sqrt(static_cast<float>(dim)));
    std::vector<int8_t> groups(kRows * pairs * 2);
    for (int8_t& v : groups) v = static_cast<int8_t>(random.Below(255) - 127);
    const auto at = [&](size_t row, size_t i) {
      return groups[((row / 16 * pairs + i / 2) * 16 + row % 16) * 2 + i % 2];
    };
    const auto of_query = [&](size_t i) {
      return static_cast<int16_t>(static_cast<uint32_t>(rounded[i / 2]) >>
                                  (i % 2 * 16));
    };
    for (size_t i = 0; i < dim; ++i) {
      EXPECT_NEAR(of_query(i) * scale, query[i], 0.51 * scale);
    }
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      std::vector<int32_t> out(kRows);
      DotsOfGroups(groups.data(), rounded.data(), pairs, kRows / 16,
                   out.data());
      for (size_t row = 0; row < kRows; ++row) {
        int32_t sum = 0;
        for (size_t i = 0; i < dim; ++i) sum += at(row, i) * of_query(i);
        EXPECT_EQ(out[row], sum) << hwy::TargetName(target);
      }
    }
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
}

TEST(ListKernels, NoNumberIsSaidToBeNone) {
  std::vector<int32_t> out;
  float scale = 0;
  const float odd[] = {1, std::nanf(""), 2};
  EXPECT_TRUE(std::isnan(QuantizePairs(odd, 3, &out, &scale)));
  const float zero[] = {0, 0};
  EXPECT_EQ(QuantizePairs(zero, 2, &out, &scale), 0);
}

// Rows along the axes, each in the neighbourhood of one of them.
TEST(Cluster, RowsOfOneDirectionAreTogether) {
  constexpr size_t kDim = 64, kRows = 640;
  Random random(1);
  std::vector<float> rows(kRows * kDim);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t c = 0; c < kDim; ++c) {
      rows[r * kDim + c] = static_cast<float>(0.02 * random.Normal());
    }
    // Of any length.
    rows[r * kDim + r % kDim] += static_cast<float>(1 + random.Uniform());
  }
  const auto of = Cluster(rows.data(), kRows, kDim, {.clusters = 64});
  ASSERT_THAT(of, IsOk());
  int together = 0;
  for (size_t r = kDim; r < kRows; ++r) together += (*of)[r] == (*of)[r % kDim];
  EXPECT_GT(together, 500);
}

TEST(Cluster, NoneIsMuchLargerThanTheOthers) {
  // Nearly all rows are alike.
  std::vector<float> rows = RandomFloats(1280 * 8, 3);
  for (size_t r = 0; r < 1200; ++r) {
    for (size_t c = 0; c < 8; ++c)
      rows[r * 8 + c] = 1 + 0.001f * rows[r * 8 + c];
  }
  const auto of = Cluster(rows.data(), 1280, 8, {.clusters = 64});
  ASSERT_THAT(of, IsOk());
  std::vector<int> sizes(64);
  for (const uint32_t c : *of) ++sizes[c];
  EXPECT_LE(*std::max_element(sizes.begin(), sizes.end()), 40);
}

constexpr int kItems = 20'000, kDim = 32;

// A catalogue in clusters, and queries of users of some of them.
class IndexTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto bundle =
        *SynthesizeBundle({.retriever = "elsa", .items = kItems, .dim = kDim});
    rows_ = new ItemTable(bundle.tensors.all().at("elsa.item.decoder").values,
                          kDim);
    auto bias = RandomFloats(kItems, 5);
    for (float& x : bias) x *= 0.1f;
    bias_ = new ItemTable(std::move(bias), 1);
    for (int i = 0; i < 60; ++i) AddQuery(static_cast<Row>(i * 331));
  }
  static void AddQuery(Row row) {
    for (size_t c = 0; c < kDim; ++c) {
      queries_->push_back((*rows_)[row][c] + (*rows_)[row + 1][c]);
    }
  }
  void SetUp() override {
    exact_ = *MatrixScanner::Create(rows_, bias_);
    index_ = *IndexScanner::Create(rows_, bias_,
                                   *MatrixScanner::Create(rows_, bias_), {});
    ASSERT_THAT(Tune(index_.get(), *queries_), IsOk());
  }
  static absl::Status Tune(IndexScanner* index,
                           const std::vector<float>& queries) {
    const RowMask all(kItems, true);
    return index->Tune(
        queries, std::vector<const RowMask*>(queries.size() / kDim, &all));
  }
  std::vector<std::vector<ScoredRow>> Ask(const Scanner& scanner,
                                          const RowMask& mask, int k) {
    const size_t m = queries_->size() / kDim;
    const std::vector<const RowMask*> masks(m, &mask);
    const std::vector<int> ks(m, k);
    std::vector<std::vector<ScoredRow>> best;
    EXPECT_THAT(scanner.Scan(*queries_, masks, ks, &best), IsOk());
    return best;
  }
  // The share of the exact lists' rows that are found, all with their scores.
  double RecallOf(const RowMask& mask, int k) {
    const auto exact = Ask(*exact_, mask, k), found = Ask(*index_, mask, k);
    size_t common = 0, all = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_EQ(found[i].size(), exact[i].size());
      EXPECT_TRUE(std::is_sorted(found[i].begin(), found[i].end()));
      for (const ScoredRow& row : found[i]) {
        EXPECT_TRUE(mask[row.row]);
        // Bit by bit, if it is among the exact ones.
        const auto same = [&](const ScoredRow& e) { return e.row == row.row; };
        const auto at = std::find_if(exact[i].begin(), exact[i].end(), same);
        if (at == exact[i].end()) continue;
        EXPECT_EQ(row.score, at->score);
        ++common;
      }
      all += exact[i].size();
    }
    return static_cast<double>(common) / static_cast<double>(all);
  }

  static ItemTable* rows_;
  static ItemTable* bias_;
  static std::vector<float>* queries_;
  std::unique_ptr<MatrixScanner> exact_;
  std::unique_ptr<IndexScanner> index_;
};
ItemTable* IndexTest::rows_ = nullptr;
ItemTable* IndexTest::bias_ = nullptr;
std::vector<float>* IndexTest::queries_ = new std::vector<float>;

TEST_F(IndexTest, FindsWhatItIsTunedToFindAndLooksAtAFewListsOnly) {
  const ScanReport report = index_->report();
  EXPECT_GE(report.recall, 0.97);
  EXPECT_LT(report.probes, report.lists / 4);
  EXPECT_NEAR(RecallOf(RowMask(kItems, true), 100), report.recall, 1e-9);
  EXPECT_GE(RecallOf(RowMask(kItems, true), 11), 0.97);
  EXPECT_GE(RecallOf(RowMask(kItems, true), 400), 0.9);
}

TEST_F(IndexTest, WhereListsTellLittleItLooksAtEveryRow) {
  // Biases decide, whatever the direction.
  const ItemTable bias(RandomFloats(kItems, 5), 1);
  ItemTable rows(rows_->base(), kDim);
  const auto index = *IndexScanner::Create(
      &rows, &bias, *MatrixScanner::Create(&rows, &bias), {});
  std::vector<float> weak = *queries_;
  for (float& x : weak) x *= 0.001f;
  ASSERT_THAT(Tune(index.get(), weak), IsOk());
  EXPECT_EQ(index->report().probes, index->report().lists);
  EXPECT_EQ(index->report().recall, 1);
  const auto exact = *MatrixScanner::Create(&rows, &bias);
  const RowMask mask(kItems, true);
  EXPECT_EQ(Ask(*index, mask, 20), Ask(*exact, mask, 20));
}

// Every so many rows so long that rounding would make all of it uncertain.
std::vector<float> Enlarge(std::vector<float> values, Row step) {
  for (size_t row = 7; row * kDim < values.size(); row += step) {
    for (size_t c = 0; c < kDim; ++c) values[row * kDim + c] *= 1000;
  }
  return values;
}

TEST_F(IndexTest, WhereRoundingSaysTooLittleItLooksAtEveryRow) {
  const ItemTable rows(Enlarge(rows_->base(), 20), kDim);
  const auto index = *IndexScanner::Create(
      &rows, bias_, *MatrixScanner::Create(&rows, bias_), {});
  EXPECT_EQ(index->report().probes, index->report().lists);
  const auto exact = *MatrixScanner::Create(&rows, bias_);
  const RowMask mask(kItems, true);
  EXPECT_EQ(Ask(*index, mask, 20), Ask(*exact, mask, 20));
}

TEST_F(IndexTest, FewSuchRowsAreLookedAtWithoutLists) {
  const ItemTable rows(Enlarge(rows_->base(), kItems / 10), kDim);
  const auto exact = *MatrixScanner::Create(&rows, bias_);
  if (exact->apart().empty()) {
    GTEST_SKIP() << "this processor has no fast int8 product";
  }
  const auto index = *IndexScanner::Create(
      &rows, bias_, *MatrixScanner::Create(&rows, bias_), {});
  EXPECT_LT(index->report().probes, index->report().lists);
  RowMask mask(kItems);
  for (const Row row : exact->apart()) mask.Set(row);
  const auto k = static_cast<int>(mask.Count());
  EXPECT_EQ(k, 10);
  EXPECT_EQ(Ask(*index, mask, k), Ask(*exact, mask, k));
  mask = RowMask(kItems, true);
  const auto found = Ask(*index, mask, 1), best = Ask(*exact, mask, 1);
  for (size_t i = 0; i < best.size(); ++i) EXPECT_EQ(found[i], best[i]) << i;
}

TEST_F(IndexTest, AQuerysAnswerDoesNotDependOnItsCompany) {
  const RowMask most(kItems, true);
  RowMask few(kItems);
  for (Row row = 0; row < kItems; row += 3) few.Set(row);
  const auto together = Ask(*index_, most, 30);
  for (size_t i = 0; i < 5; ++i) {
    std::vector<float> two(queries_->begin() + i * kDim,
                           queries_->begin() + (i + 2) * kDim);
    const RowMask* const masks[] = {&most, &few};
    const int ks[] = {30, 700};
    std::vector<std::vector<ScoredRow>> best;
    ASSERT_THAT(index_->Scan(two, masks, ks, &best), IsOk());
    EXPECT_EQ(best[0], together[i]);
  }
}

TEST_F(IndexTest, AsManyComeBackAsAreEligibleWhateverTheMask) {
  for (const int apart : {2, 3, 50, 5000}) {
    RowMask mask(kItems);
    for (Row row = 1; row < kItems; row += static_cast<Row>(apart)) {
      mask.Set(row);
    }
    EXPECT_GE(RecallOf(mask, 100), 0.95) << apart;
  }
  // Nothing of the lists that promise most.
  RowMask far(kItems, true);
  for (const auto& best : Ask(*exact_, far, 1000)) {
    for (const ScoredRow& row : best) far.Clear(row.row);
  }
  RecallOf(far, 50);
  for (const auto& best : Ask(*index_, RowMask(kItems), 10)) {
    EXPECT_TRUE(best.empty());
  }
}

TEST_F(IndexTest, RowsThatAMaskDoesNotCoverAreNotEligible) {
  EXPECT_GE(RecallOf(RowMask(kItems - 777, true), 100), 0.95);
  for (const auto& best : Ask(*index_, RowMask(kItems - 777, true), 100)) {
    for (const ScoredRow& row : best) EXPECT_LT(row.row, kItems - 777u);
  }
}

TEST_F(IndexTest, RowsThatCameLaterAreFoundWhenTheyAreBest) {
  ItemTable rows(rows_->base(), kDim), bias(bias_->base(), 1);
  const auto index = *IndexScanner::Create(
      &rows, &bias, *MatrixScanner::Create(&rows, &bias), {});
  constexpr Row kLater = 20;
  for (Row i = 0; i < kLater; ++i) {
    std::vector<float> row(queries_->begin() + i * kDim,
                           queries_->begin() + (i + 1) * kDim);
    for (float& x : row) x *= 10;  // the best for query i
    const float none = 0;
    ASSERT_TRUE(rows.SetTail(i, row.data()));
    ASSERT_TRUE(bias.SetTail(i, &none));
  }
  index->Extend(kItems + 10);
  const auto best = Ask(*index, RowMask(kItems + kLater, true), 5);
  for (Row i = 0; i < kLater; ++i) {
    EXPECT_EQ(best[i][0].row, kItems + i);
    EXPECT_EQ(best[i].size(), 5u);
  }
}

TEST_F(IndexTest, AQueryThatIsNoNumberFindsNothing) {
  std::vector<float> query(kDim, std::nanf(""));
  const RowMask mask(kItems, true);
  const RowMask* const masks[] = {&mask};
  const int ks[] = {10};
  std::vector<std::vector<ScoredRow>> best;
  ASSERT_THAT(index_->Scan(query, masks, ks, &best), IsOk());
  EXPECT_TRUE(best[0].empty());
}

TEST(WithIndex, ListsOfTheBundleAreTakenAndWrongOnesRefused) {
  auto bundle = *SynthesizeBundle(
      {.retriever = "elsa", .items = 900, .dim = 16, .users = 1});
  ASSERT_THAT(AddIndex(&bundle), IsOk());
  const ScoringFactory factory = WithIndex(CpuScoring, {.least_items = 1});
  EXPECT_THAT(Generation::Create(bundle, factory), IsOk());
  for (const float wrong : {-1.0f, 1000.0f, std::nanf("")}) {
    Bundle broken = bundle;
    auto lists = broken.tensors.all().at("index.lists").values;
    lists[7] = wrong;
    broken.tensors.Add("index.lists", {900}, lists);
    EXPECT_THAT(Generation::Create(broken, factory),
                IsError(absl::StatusCode::kInvalidArgument, "is outside"));
  }
  bundle.tensors.Add("index.lists", {3}, {0, 0, 0});
  EXPECT_THAT(Generation::Create(bundle, factory),
              IsError(absl::StatusCode::kInvalidArgument, "index.lists"));
}

TEST(WithIndex, SmallCataloguesAreScannedWhole) {
  for (const int64_t least : {901, 900}) {
    const auto generation = Generation::Create(
        *SynthesizeBundle({.retriever = "elsa", .items = 900, .dim = 16}),
        WithIndex(CpuScoring, {.least_items = least}));
    ASSERT_THAT(generation, IsOk());
    EXPECT_EQ((*generation)->scanner().report().lists > 0, least == 900);
  }
}

}  // namespace
}  // namespace nearline::model
