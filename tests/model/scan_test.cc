// Scanning: packed products, masks and the best k, against full sorts.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "base/random.h"
#include "model/kernels.h"
#include "model/matrix_scanner.h"
#include "model/packed_matrix.h"
#include "model/top_k.h"
#include "tests/model/random_floats.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

TEST(PackedMatrix, MultipliesLikeThreeLoops) {
  for (const int n : {1, 17, 512, 700}) {
    for (const int m : {1, 3, 32, 33}) {
      const int d = 40;
      const auto rows = RandomFloats(static_cast<size_t>(n * d), 1);
      const auto queries = RandomFloats(static_cast<size_t>(m * d), 2);
      const auto matrix = PackedMatrix::Create(rows.data(), n, d);
      ASSERT_THAT(matrix, IsOk());
      std::vector<float> out(static_cast<size_t>(m * n));
      matrix->Multiply(queries.data(), m, out.data());
      for (int i = 0; i < m; ++i) {
        for (int j = 0; j < n; ++j) {
          double sum = 0;
          for (int k = 0; k < d; ++k) {
            sum +=
                static_cast<double>(queries[static_cast<size_t>(i * d + k)]) *
                rows[static_cast<size_t>(j * d + k)];
          }
          ASSERT_NEAR(out[static_cast<size_t>(i * n + j)], sum, 1e-3)
              << n << " " << m;
        }
      }
    }
  }
}

std::vector<ScoredRow> SortAll(const std::vector<float>& scores,
                               const std::vector<float>& bias,
                               const RowMask& mask, size_t k) {
  std::vector<ScoredRow> all;
  for (Row r = 0; r < scores.size(); ++r) {
    if (mask[r]) all.push_back({scores[r] + bias[r], r});
  }
  std::sort(all.begin(), all.end());
  all.resize(std::min(k, all.size()));
  return all;
}

TEST(TopK, EqualsAFullSortUnderMasksAndTies) {
  Random random(9);
  for (int round = 0; round < 300; ++round) {
    const size_t n = 1 + random.Below(2000);
    std::vector<float> scores(n), bias(n, 0.0f);
    // Few distinct scores: ties everywhere.
    for (float& s : scores) s = static_cast<float>(random.Below(20));
    RowMask mask(n);
    for (Row r = 0; r < n; ++r) {
      if (random.Below(3) > 0) mask.Set(r);
    }
    const size_t k = 1 + random.Below(random.Below(2) == 0 ? 16 : 300);
    TopK one_by_one(static_cast<int>(k), &mask);
    TopK together(static_cast<int>(k), &mask);
    const size_t step = 1 + random.Below(1000);
    std::vector<ScoredBlock> blocks;
    for (size_t first = 0; first < n; first += step) {
      blocks.push_back({scores.data() + first, bias.data() + first,
                        std::min(step, n - first), static_cast<Row>(first)});
      one_by_one.Add({blocks.back()});
    }
    together.Add(blocks);
    const auto expected = SortAll(scores, bias, mask, k);
    EXPECT_EQ(one_by_one.Take(), expected);
    EXPECT_EQ(together.Take(), expected);
  }
}

TEST(TopK, SortsAsScoresAndRowsCompare) {
  Random random(4);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<ScoredRow> rows = {{kInfinity, 1}, {-kInfinity, 2}, {-0.0f, 7},
                                 {0, 3},         {-1e-40f, 4},    {1e-40f, 5}};
  for (Row row = 10; row < 300; ++row) {
    rows.push_back({static_cast<float>(random.Normal()), row});
    rows.push_back({static_cast<float>(random.Below(9)) - 4, 1000 - row});
  }
  std::vector<ScoredRow> expected = rows;
  std::sort(expected.begin(), expected.end());
  SortBestFirst(absl::MakeSpan(rows));
  EXPECT_EQ(rows, expected);
}

TEST(TopK, NeverKeepsNaN) {
  const std::vector<float> scores = {std::numeric_limits<float>::quiet_NaN(),
                                     1};
  const std::vector<float> bias(2, 0.0f);
  const RowMask mask(2, true);
  TopK top(2, &mask);
  top.Add({{scores.data(), bias.data(), 2, 0}});
  EXPECT_EQ(top.Take().size(), 1u);
}

TEST(RowMask, GivesTheBitsFromAnyRowOn) {
  RowMask mask(150);
  for (Row row = 0; row < 150; row += 7) mask.Set(row);
  for (Row from = 0; from < 150; ++from) {
    const uint64_t bits = mask.From(from);
    for (Row i = 0; i < 64; ++i) {
      EXPECT_EQ((bits >> i) & 1, from + i < 150 && mask[from + i] ? 1u : 0u);
    }
  }
}

TEST(RowMask, FullMasksHaveNoBitBeyondTheEnd) {
  EXPECT_EQ(RowMask(70, true).Count(), 70);
  EXPECT_EQ(RowMask(64, true).Count(), 64);
}

struct ScannerCase {
  PackedMatrix::Precision precision;
  size_t outlier;  // a value beside which int8 leaves the others few bits
};

constexpr size_t kNoOutlier = SIZE_MAX, kScannerDim = 24;

std::vector<Row> SortedRows(const std::vector<ScoredRow>& list) {
  std::vector<Row> rows;
  for (const ScoredRow& one : list) rows.push_back(one.row);
  std::sort(rows.begin(), rows.end());
  return rows;
}

class MatrixScannerTest : public testing::TestWithParam<ScannerCase> {};

TEST_P(MatrixScannerTest, ScansBaseAndTailLikeAFullSort) {
  if (GetParam().precision != PackedMatrix::Precision::kFloat32 &&
      GetParam().precision != PackedMatrix::Fastest()) {
    GTEST_SKIP() << "this processor has no fast int8 product";
  }
  constexpr size_t kDim = kScannerDim, kBase = 50, kFew = 700, kAll = 2000;
  auto values = RandomFloats(kAll * kDim, 1);
  if (GetParam().outlier != kNoOutlier) values[GetParam().outlier] = 20;
  const auto biases = RandomFloats(kAll, 2);
  ItemTable rows({values.begin(), values.begin() + kBase * kDim}, kDim);
  ItemTable bias({biases.begin(), biases.begin() + kBase}, 1);
  auto scanner = MatrixScanner::Create(&rows, &bias, GetParam().precision);
  ASSERT_THAT(scanner, IsOk());
  for (size_t row = kBase; row < kAll; ++row) {
    rows.SetTail(row - kBase, values.data() + row * kDim);
    bias.SetTail(row - kBase, &biases[row]);
    // One by one, and many at once.
    if (row < kFew) (*scanner)->Extend(static_cast<Row>(row + 1));
  }
  (*scanner)->Extend(kAll);
  // Masks made before and after blocks were laid out.
  const std::vector<size_t> ends = {kBase, 177, 178, 300, kFew, kAll};
  const auto queries = RandomFloats(ends.size() * kDim, 3);
  std::vector<RowMask> masks;
  for (const size_t end : ends) masks.emplace_back(end, true);
  masks.back().Clear(1999);
  std::vector<const RowMask*> pointers;
  for (const RowMask& mask : masks) pointers.push_back(&mask);
  const std::vector<int> ks(ends.size(), 30);
  std::vector<std::vector<ScoredRow>> best, unordered;
  ASSERT_THAT((*scanner)->Scan(queries, pointers, ks, &best), IsOk());
  ASSERT_THAT((*scanner)->Shortlist(queries, pointers, ks, &unordered), IsOk());
  for (size_t i = 0; i < ends.size(); ++i) {
    std::vector<ScoredRow> all;
    for (Row row = 0; row < masks[i].rows(); ++row) {
      if (!masks[i][row]) continue;
      const float score = biases[row] + Dot(queries.data() + i * kDim,
                                            values.data() + row * kDim, kDim);
      all.push_back({score, row});
    }
    std::sort(all.begin(), all.end());
    all.resize(30);
    EXPECT_EQ(best[i], all) << i;
    EXPECT_EQ(SortedRows(unordered[i]), SortedRows(all)) << i;
  }
}

TEST(MatrixScanner, LeavesWhatIsNoNumberOutOfAShortlist) {
  // Two of the first row's products overflow, and their sum is no number; those
  // of rounded values need not.
  constexpr size_t kDim = 64;
  std::vector<float> values = RandomFloats(10 * kDim, 1);
  values[0] = values[1] = 3e38f;
  const ItemTable rows(values, kDim);
  const ItemTable bias(std::vector<float>(10, 0.0f), 1);
  const auto scanner = MatrixScanner::Create(&rows, &bias);
  ASSERT_THAT(scanner, IsOk());
  std::vector<float> query(kDim, 1);
  query[0] = 3e3f;
  query[1] = -3e3f;
  const RowMask mask(10, true);
  const RowMask* const masks[] = {&mask};
  const int ks[] = {50};
  std::vector<std::vector<ScoredRow>> best, unordered;
  ASSERT_THAT((*scanner)->Scan(query, masks, ks, &best), IsOk());
  ASSERT_THAT((*scanner)->Shortlist(query, masks, ks, &unordered), IsOk());
  EXPECT_EQ(best[0].size(), 9u);
  EXPECT_EQ(SortedRows(unordered[0]), SortedRows(best[0]));
}

// However wide the error of the product is beside the scores' distances, and of
// rows that are alike the first ones.
TEST(MatrixScanner, FindsTheRowsOfAShortlist) {
  constexpr size_t kDim = 40, kRows = 3000, kQueries = 7;
  Random random(5);
  auto values = RandomFloats(kRows * kDim, 1);
  for (size_t row = 1; row < kRows; ++row) {
    if (random.Below(4) > 0) continue;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>((row - 1) * kDim),
                kDim, values.begin() + static_cast<std::ptrdiff_t>(row * kDim));
  }
  const ItemTable rows(values, kDim);
  const ItemTable bias(std::vector<float>(kRows, 0.0f), 1);
  auto queries = RandomFloats(kQueries * kDim, 3);
  std::fill_n(queries.begin(), kDim, 0.0f);  // of which all rows are alike
  RowMask mask(kRows);
  for (Row row = 0; row < kRows; ++row) {
    if (random.Below(3) > 0) mask.Set(row);
  }
  const std::vector<const RowMask*> masks(kQueries, &mask);
  const auto sorted = [&](size_t query, int k) {
    std::vector<float> scores;
    for (Row row = 0; row < kRows; ++row) {
      scores.push_back(Dot(queries.data() + query * kDim, rows[row], kDim));
    }
    return SortAll(scores, bias.base(), mask, static_cast<size_t>(k));
  };
  for (const auto precision :
       {PackedMatrix::Precision::kFloat32, PackedMatrix::Fastest()}) {
    const auto scanner = MatrixScanner::Create(&rows, &bias, precision);
    ASSERT_THAT(scanner, IsOk());
    for (const int k : {1, 2, 50, 200, 1500, 2999}) {
      const std::vector<int> ks(kQueries, k);
      std::vector<std::vector<ScoredRow>> best, unordered;
      ASSERT_THAT((*scanner)->Scan(queries, masks, ks, &best), IsOk());
      ASSERT_THAT((*scanner)->Shortlist(queries, masks, ks, &unordered),
                  IsOk());
      for (size_t i = 0; i < kQueries; ++i) {
        EXPECT_EQ(best[i], sorted(i, k)) << k;
        EXPECT_EQ(SortedRows(unordered[i]), SortedRows(best[i])) << k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Precisions, MatrixScannerTest,
    testing::Values(
        ScannerCase{PackedMatrix::Precision::kFloat32, kNoOutlier},
        ScannerCase{PackedMatrix::Precision::kInt8, kNoOutlier},
        ScannerCase{PackedMatrix::Precision::kInt8, 7 * kScannerDim},
        ScannerCase{PackedMatrix::Precision::kInt8, 1500 * kScannerDim}));

TEST(PackedMatrix, ErrsByLessThanItsBound) {
  for (const auto precision :
       {PackedMatrix::Precision::kFloat32, PackedMatrix::Fastest()}) {
    constexpr int kRows = 200, kDim = 300, kQueries = 5;
    const auto rows = RandomFloats(kRows * kDim, 1);
    const auto values = RandomFloats(kQueries * kDim, 2);
    const auto matrix =
        PackedMatrix::Create(rows.data(), kRows, kDim, precision);
    ASSERT_THAT(matrix, IsOk());
    PackedMatrix::Queries queries;
    matrix->Prepare(values.data(), kQueries, &queries);
    std::vector<float> out(
        static_cast<size_t>(PackedMatrix::kMaxBatch * matrix->stride()));
    matrix->MultiplyBlock(queries, 0, out.data());
    for (int i = 0; i < kQueries; ++i) {
      const float* const query = values.data() + i * kDim;
      const float bound =
          matrix->ErrorBound(std::sqrt(Dot(query, query, kDim)),
                             queries.lost[static_cast<size_t>(i)], 0);
      for (int j = 0; j < kRows; ++j) {
        double exact = 0;
        for (int k = 0; k < kDim; ++k) {
          exact +=
              static_cast<double>(values[static_cast<size_t>(i * kDim + k)]) *
              rows[static_cast<size_t>(j * kDim + k)];
        }
        EXPECT_LE(std::abs(out[static_cast<size_t>(i * matrix->stride() + j)] -
                           exact),
                  bound);
      }
    }
  }
}

TEST(PackedMatrix, LeavesOutWhatLosesMost) {
  constexpr int kRows = 700, kDim = 300;
  auto rows = RandomFloats(kRows * kDim, 1);
  rows[7 * kDim] = rows[600 * kDim + 9] = 20;  // others keep few bits beside it
  const auto most = static_cast<float>(0.02 * std::sqrt(kDim));
  const auto exact = PackedMatrix::Create(
      rows.data(), kRows, kDim, PackedMatrix::Precision::kFloat32, most);
  ASSERT_THAT(exact, IsOk());
  EXPECT_THAT(exact->left_out(), testing::IsEmpty());
  if (PackedMatrix::Fastest() == PackedMatrix::Precision::kFloat32) {
    GTEST_SKIP() << "this processor has no fast int8 product";
  }
  const auto rounded = PackedMatrix::Create(
      rows.data(), kRows, kDim, PackedMatrix::Precision::kInt8, most);
  ASSERT_THAT(rounded, IsOk());
  EXPECT_THAT(rounded->left_out(), testing::ElementsAre(7, 600));
  const auto query = RandomFloats(kDim, 2);
  std::vector<float> out(kRows);
  rounded->Multiply(query.data(), 1, out.data());
  EXPECT_EQ(out[7], 0);
  EXPECT_EQ(out[600], 0);
  EXPECT_NEAR(out[8], Dot(query.data(), rows.data() + 8 * kDim, kDim), 0.5);
  // The bound is that of the rest.
  const auto all = PackedMatrix::Create(rows.data(), kRows, kDim,
                                        PackedMatrix::Precision::kInt8);
  EXPECT_LT(rounded->ErrorBound(1, 0, 0), all->ErrorBound(1, 0, 0) / 2);
}

// Rows that rounding hurts: so few that they are scored apart, or so many that
// nothing is rounded.
TEST(MatrixScanner, ScoresRowsApartThatRoundingHurts) {
  constexpr size_t kDim = 40, kBase = 1500, kAll = 1600;
  if (PackedMatrix::Fastest() == PackedMatrix::Precision::kFloat32) {
    GTEST_SKIP() << "this processor has no fast int8 product";
  }
  for (const size_t hurt : {3u, 200u}) {
    auto values = RandomFloats(kAll * kDim, 1);
    for (size_t i = 0; i < hurt; ++i) values[i * 7 * kDim] = 25;
    values[1510 * kDim] = values[1597 * kDim] = 25;  // that come later
    const auto biases = RandomFloats(kAll, 2);
    ItemTable rows({values.begin(), values.begin() + kBase * kDim}, kDim);
    ItemTable bias({biases.begin(), biases.begin() + kBase}, 1);
    const auto scanner = MatrixScanner::Create(&rows, &bias);
    ASSERT_THAT(scanner, IsOk());
    if (hurt == 3) {
      EXPECT_THAT((*scanner)->apart(), testing::ElementsAre(0, 7, 14));
    } else {
      EXPECT_THAT((*scanner)->apart(), testing::IsEmpty());
    }
    EXPECT_EQ((*scanner)->report().precision, hurt == 3 ? "int8" : "float32");
    for (size_t row = kBase; row < kAll; ++row) {
      rows.SetTail(row - kBase, values.data() + row * kDim);
      bias.SetTail(row - kBase, &biases[row]);
    }
    (*scanner)->Extend(kAll - 1);  // the last ones fill no block
    auto queries = RandomFloats(3 * kDim, 3);
    queries[0] = 2;         // rows apart come first,
    queries[kDim] = -2;     // or last,
    queries[2 * kDim] = 0;  // or among the others
    RowMask mask(kAll, true), early(kBase - 1, true);
    mask.Clear(7);
    const std::vector<const RowMask*> masks = {&mask, &mask, &early};
    const std::vector<int> ks = {30, 30, 400};
    std::vector<std::vector<ScoredRow>> best, unordered, others;
    ASSERT_THAT((*scanner)->Scan(queries, masks, ks, &best), IsOk());
    ASSERT_THAT((*scanner)->Shortlist(queries, masks, ks, &unordered), IsOk());
    ASSERT_THAT((*scanner)->ScanOthers(queries, masks, ks, &others), IsOk());
    for (size_t i = 0; i < masks.size(); ++i) {
      std::vector<float> scores;
      RowMask other = *masks[i];
      for (Row row = 0; row < kAll; ++row) {
        scores.push_back(
            Dot(queries.data() + i * kDim, values.data() + row * kDim, kDim));
        const bool apart = hurt == 3 && row <= 14 && row % 7 == 0;
        if (row < std::min(kBase, other.rows()) && !apart) other.Clear(row);
      }
      std::vector<float> masked = scores;
      masked.resize(masks[i]->rows());
      const auto k = static_cast<size_t>(ks[i]);
      const auto expected = SortAll(masked, biases, *masks[i], k);
      EXPECT_EQ(best[i], expected) << hurt << " " << i;
      EXPECT_EQ(SortedRows(unordered[i]), SortedRows(expected)) << i;
      EXPECT_EQ(others[i], SortAll(masked, biases, other, k)) << i;
    }
  }
}

// As long as a shortlist. The k best come first.
std::vector<ScoredRow> NominatedBy(TopK* top) {
  const auto [scores, rows, size] = top->Nominate();
  std::vector<ScoredRow> list;
  for (size_t i = 0; i < size; ++i) list.push_back({scores[i], rows[i]});
  return list;
}

TEST(TopK, KeepsAllWithinTheSlackOfLongLists) {
  Random random(10);
  for (const float slack : {0.0f, 0.05f, 3.0f}) {
    for (const size_t n : {150u, 3000u, 9000u}) {
      const auto scores = RandomFloats(n, n), bias = RandomFloats(n, n + 1);
      RowMask mask(n);
      for (Row r = 0; r < n; ++r) {
        if (random.Below(3) > 0) mask.Set(r);
      }
      std::vector<ScoredRow> expected = SortAll(scores, bias, mask, n);
      const size_t k = std::min<size_t>(200, expected.size());
      const float least = expected[k - 1].score - slack;
      std::erase_if(expected,
                    [&](const ScoredRow& row) { return row.score < least; });
      TopK top;
      top.Start(200, &mask, slack);
      for (size_t first = 0; first < n; first += 512) {
        top.Add({{scores.data() + first, bias.data() + first,
                  std::min<size_t>(512, n - first), static_cast<Row>(first)}});
      }
      std::vector<ScoredRow> found = NominatedBy(&top);
      ASSERT_EQ(found.size(), expected.size()) << n << " " << slack;
      const auto kth = found.begin() + static_cast<std::ptrdiff_t>(k);
      std::sort(found.begin(), kth);
      std::sort(kth, found.end());
      EXPECT_EQ(found, expected) << n << " " << slack;
    }
  }
}

TEST(TopK, KeepsAllWithinTheSlack) {
  const std::vector<float> scores = {5, 1, 4.5, 3, 4, 2.9f};
  const std::vector<float> bias(6, 0.0f);
  const RowMask mask(6, true);
  TopK top;
  top.Start(2, &mask, 1.5f);  // the second is 4.5
  top.Add({{scores.data(), bias.data(), 6, 0}});
  EXPECT_THAT(NominatedBy(&top),
              testing::UnorderedElementsAre(ScoredRow{5, 0}, ScoredRow{4.5, 2},
                                            ScoredRow{4, 4}, ScoredRow{3, 3}));
}

TEST(TopK, StartsAnew) {
  const std::vector<float> scores = RandomFloats(3000, 1), bias(3000, 0.0f);
  TopK top;
  for (const int k : {1000, 3, 200}) {
    RowMask mask(3000, true);
    for (Row row = 0; row < 3000; row += 2) mask.Clear((row + k) % 3000);
    top.Start(k, &mask);
    top.Add({{scores.data(), bias.data(), 3000, 0}});
    EXPECT_EQ(top.Take(), SortAll(scores, bias, mask, static_cast<size_t>(k)));
  }
}

// A catalogue of which all is alike must not be kept whole.
TEST(TopK, OfTiesTheLowerRows) {
  const std::vector<float> scores(5000, 0.0f);
  const RowMask mask(5000, true);
  TopK top;
  top.Start(20, &mask);
  for (size_t first = 5000; first > 0;) {
    first -= 500;
    top.Add({{scores.data(), scores.data(), 500, static_cast<Row>(first)}});
  }
  const auto [unused, rows, size] = top.Nominate();
  std::vector<Row> found(rows, rows + size);
  std::sort(found.begin(), found.end());
  std::vector<Row> expected(20);
  std::iota(expected.begin(), expected.end(), 0u);
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace nearline::model
