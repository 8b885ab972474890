#include "model/matrix_scanner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "model/kernels.h"
#include "model/selection_kernels.h"

namespace nearline::model {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNone = -kInfinity;

// Of n >= k rows the k best, first, and their ties with the k-th; returns how
// many. There is room for 64 more of both.
size_t KeepBest(size_t k, size_t n, float* scores, Row* rows) {
  const size_t padded = (n + 63) / 64 * 64;
  std::fill(scores + n, scores + padded, kNone);
  return PartitionAtKth(KthLargest(scores, padded, k), kInfinity, n, scores,
                        rows);
}

// Scores in float32, what is no number as kNone.
void ScoreExactly(const ItemTable& table, const ItemTable& bias,
                  const float* query, absl::Span<const Row> rows,
                  float* scores) {
  thread_local std::vector<const float*> values;
  values.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) values[i] = table[rows[i]];
  DotRows(query, values.data(), rows.size(), table.dim(), scores);
  for (size_t i = 0; i < rows.size(); ++i) {
    const float score = scores[i] + *bias[rows[i]];
    scores[i] = std::isnan(score) ? kNone : score;
  }
}

}  // namespace

void ScoreRows(const ItemTable& table, const ItemTable& bias,
               const float* query, absl::Span<ScoredRow> rows) {
  thread_local std::vector<Row> numbers;
  thread_local std::vector<float> scores;
  numbers.clear();
  for (const ScoredRow& one : rows) numbers.push_back(one.row);
  scores.resize(rows.size());
  ScoreExactly(table, bias, query, numbers, scores.data());
  for (size_t i = 0; i < rows.size(); ++i) rows[i].score = scores[i];
}

namespace {

// What rounding to int8 may take from a row that is scored with the others. One
// in kShare loses more, or fewer. None where too many would be apart.
std::optional<float> MostLost(const ItemTable& rows) {
  constexpr size_t kShare = 128;       // costs about a tenth of the scan
  constexpr float kUsualLoss = 0.02f;  // apart, less would be saved than lost
  const size_t n = rows.base_rows(), d = rows.dim();
  struct Loss {
    float lost, norm;
  };
  std::vector<int8_t> rounded(d);
  std::vector<Loss> losses;
  for (Row row = 0; row < n; ++row) {
    float scale = 0;
    const float lost = QuantizeInt8(rows[row], d, rounded.data(), &scale);
    losses.push_back({std::isnan(lost) ? kInfinity : lost,
                      std::sqrt(Dot(rows[row], rows[row], d))});
  }
  const auto rest = losses.begin() + static_cast<std::ptrdiff_t>(n / kShare);
  std::nth_element(
      losses.begin(), rest, losses.end(),
      [](const Loss& a, const Loss& b) { return a.lost > b.lost; });
  float mean = 0;  // of the rest
  for (auto it = rest; it != losses.end(); ++it) {
    mean += it->norm / static_cast<float>(losses.end() - rest);
  }
  if (rest->lost > MatrixScanner::kMostLoss * mean) return std::nullopt;
  return std::max(rest->lost, kUsualLoss * mean);
}

float LargestOf(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixScanner>> MatrixScanner::Create(
    const ItemTable* rows, const ItemTable* bias,
    PackedMatrix::Precision precision) {
  float most_lost = kInfinity;
  if (precision == PackedMatrix::Precision::kInt8 && rows->base_rows() > 0) {
    const std::optional<float> lost = MostLost(*rows);
    if (!lost.has_value()) precision = PackedMatrix::Precision::kFloat32;
    most_lost = lost.value_or(kInfinity);
  }
  ASSIGN_OR_RETURN(PackedMatrix matrix,
                   PackedMatrix::Create(
                       rows->base().data(), static_cast<int>(rows->base_rows()),
                       static_cast<int>(rows->dim()), precision, most_lost));
  return std::unique_ptr<MatrixScanner>(
      new MatrixScanner(rows, bias, precision, most_lost, std::move(matrix)));
}

MatrixScanner::MatrixScanner(const ItemTable* rows, const ItemTable* bias,
                             PackedMatrix::Precision precision, float most_lost,
                             PackedMatrix matrix)
    : rows_(*rows),
      bias_(*bias),
      max_bias_(LargestOf(bias->base())),
      precision_(precision),
      most_lost_(most_lost),
      matrix_(std::move(matrix)),
      other_bias_(bias->base()) {
  for (const int row : matrix_.left_out()) {
    apart_.push_back(static_cast<Row>(row));
    other_bias_[apart_.back()] = kNone;
  }
}

absl::StatusOr<std::shared_ptr<const MatrixScanner::TailBlock>>
MatrixScanner::Pack(Row first, Row end) const {
  std::vector<float> values, bias;
  for (Row row = first; row < end; ++row) {
    values.insert(values.end(), rows_[row], rows_[row] + rows_.dim());
    bias.push_back(*bias_[row]);
  }
  ASSIGN_OR_RETURN(PackedMatrix matrix,
                   PackedMatrix::Create(
                       values.data(), static_cast<int>(end - first),
                       static_cast<int>(rows_.dim()), precision_, most_lost_));
  const float max_bias = LargestOf(bias);
  std::vector<Row> apart;
  for (const int i : matrix.left_out()) {
    bias[static_cast<size_t>(i)] = kNone;
    apart.push_back(first + static_cast<Row>(i));
  }
  return std::make_shared<const TailBlock>(TailBlock{
      first, std::move(matrix), std::move(bias), max_bias, std::move(apart)});
}

// Full blocks when many rows come at once. Of few, small blocks, and two that
// are alike become one: a row is laid out again no more than log2(n) times.
void MatrixScanner::Extend(Row rows) {
  constexpr Row kLargest = PackedMatrix::kBlockRows;
  Tail next = *tail();
  Row packed =
      next.empty() ? static_cast<Row>(rows_.base_rows()) : next.back()->end();
  if (packed + kSmallestTailBlock > rows) return;
  while (packed + kSmallestTailBlock <= rows) {
    Row first = packed;
    const Row count = std::min(kLargest, rows - packed);
    packed += count - count % kSmallestTailBlock;
    while (!next.empty() && next.back()->bias.size() <= packed - first &&
           packed - next.back()->first <= kLargest) {
      first = next.back()->first;
      next.pop_back();
    }
    auto block = Pack(first, packed);
    if (!block.ok()) return;  // they are scanned row by row
    next.push_back(*std::move(block));
  }
  MutexLock lock(&mu_);
  tail_ = std::make_shared<const Tail>(std::move(next));
}

absl::Status MatrixScanner::Scan(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  return ScanAll({.base = true, .ordered = true}, queries, masks, ks, best);
}

absl::Status MatrixScanner::Shortlist(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  return ScanAll({.base = true, .ordered = false}, queries, masks, ks, best);
}

absl::Status MatrixScanner::ScanOthers(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  const bool later = std::any_of(
      masks.begin(), masks.end(),
      [this](const RowMask* mask) { return mask->rows() > rows_.base_rows(); });
  if (later || !apart_.empty()) {
    return ScanAll({.base = false, .ordered = true}, queries, masks, ks, best);
  }
  best->assign(masks.size(), {});
  return absl::OkStatus();
}

absl::Status MatrixScanner::ScanAll(
    Kind kind, absl::Span<const float> queries,
    absl::Span<const RowMask* const> masks, absl::Span<const int> ks,
    std::vector<std::vector<ScoredRow>>* best) const {
  best->clear();
  const size_t d = rows_.dim();
  for (size_t first = 0; first < masks.size();
       first += PackedMatrix::kMaxBatch) {
    const size_t m =
        std::min<size_t>(PackedMatrix::kMaxBatch, masks.size() - first);
    ScanBatch(kind, queries.data() + first * d, masks.subspan(first, m),
              ks.subspan(first, m), best);
  }
  return absl::OkStatus();
}

void MatrixScanner::ScanBatch(Kind kind, const float* queries,
                              absl::Span<const RowMask* const> masks,
                              absl::Span<const int> ks,
                              std::vector<std::vector<ScoredRow>>* best) const {
  const size_t m = masks.size();
  thread_local PackedMatrix::Queries prepared;
  matrix_.Prepare(queries, static_cast<int>(m), &prepared);
  // Blocks that come meanwhile are left to the next scan.
  const std::shared_ptr<const Tail> tail = this->tail();
  thread_local std::vector<TopK> top;
  std::vector<float> bounds;
  if (top.size() < m) top.resize(m);
  for (size_t i = 0; i < m; ++i) {
    const float* const query = queries + i * rows_.dim();
    const float norm = std::sqrt(Dot(query, query, rows_.dim()));
    const float lost = prepared.lost[i];
    float bound = matrix_.ErrorBound(norm, lost, max_bias_);
    for (const auto& block : *tail) {
      bound = std::max(bound,
                       block->matrix.ErrorBound(norm, lost, block->max_bias));
    }
    top[i].Start(ks[i], masks[i], 2 * bound);
    bounds.push_back(bound);
  }
  ScanParts(Parts(kind.base, *tail), prepared, {top.data(), m});
  size_t end = 0;
  for (const RowMask* mask : masks) end = std::max(end, mask->rows());
  ScanRows(RowsApart(*tail, end), queries, {top.data(), m});
  for (size_t i = 0; i < m; ++i) {
    const auto finish =
        kind.ordered ? &MatrixScanner::Rescore : &MatrixScanner::Choose;
    best->push_back((this->*finish)(queries + i * rows_.dim(),
                                    static_cast<size_t>(ks[i]), bounds[i],
                                    top[i].Nominate()));
  }
}

std::vector<MatrixScanner::Part> MatrixScanner::Parts(bool base,
                                                      const Tail& tail) const {
  // To and fro: what the last scan read last is still near.
  thread_local bool back = false;
  back = !back;
  std::vector<Part> parts;
  for (int i = 0; base && i < matrix_.blocks(); ++i) {
    const int b = back ? matrix_.blocks() - 1 - i : i;
    const auto row = static_cast<Row>(b) * static_cast<Row>(matrix_.stride());
    parts.push_back({&matrix_, b, other_bias_.data() + row, row});
  }
  for (const auto& block : tail) {
    parts.push_back({&block->matrix, 0, block->bias.data(), block->first});
  }
  return parts;
}

void MatrixScanner::ScanParts(absl::Span<const Part> parts,
                              const PackedMatrix::Queries& queries,
                              absl::Span<TopK> top) const {
  constexpr size_t kTogether = 4096;  // rows whose scores are kept, 0.5 MB
  thread_local std::vector<float> scores;
  scores.resize((kTogether + PackedMatrix::kBlockRows) *
                PackedMatrix::kMaxBatch);
  std::vector<ScoredBlock> blocks;
  for (size_t next = 0; next < parts.size();) {
    const size_t first = next;
    blocks.clear();
    for (size_t rows = 0; next < parts.size() && rows < kTogether; ++next) {
      const Part& part = parts[next];
      float* const out = scores.data() + rows * PackedMatrix::kMaxBatch;
      part.matrix->MultiplyBlock(queries, part.block, out);
      blocks.push_back({out, part.bias,
                        static_cast<size_t>(part.matrix->BlockRows(part.block)),
                        part.first});
      rows += static_cast<size_t>(part.matrix->stride());
    }
    for (TopK& of_query : top) {
      of_query.Add(blocks);
      for (size_t i = 0; i < blocks.size(); ++i) {
        blocks[i].scores += parts[first + i].matrix->stride();
      }
    }
  }
}

std::vector<Row> MatrixScanner::RowsApart(const Tail& tail, size_t end) const {
  std::vector<Row> rows = apart_;
  for (const auto& block : tail) {
    rows.insert(rows.end(), block->apart.begin(), block->apart.end());
  }
  rows.erase(std::lower_bound(rows.begin(), rows.end(), end), rows.end());
  const size_t packed = tail.empty() ? rows_.base_rows() : tail.back()->end();
  for (size_t row = packed; row < end; ++row) {
    rows.push_back(static_cast<Row>(row));
  }
  return rows;
}

void MatrixScanner::ScanRows(absl::Span<const Row> rows, const float* queries,
                             absl::Span<TopK> top) const {
  thread_local std::vector<float> scores;
  scores.resize(rows.size());
  for (TopK& of_query : top) {
    ScoreExactly(rows_, bias_, queries, rows, scores.data());
    for (size_t i = 0; i < rows.size(); ++i)
      of_query.AddOne(scores[i], rows[i]);
    queries += rows_.dim();
  }
}

// What a row scores then depends on nothing but the query and the row: not on
// precision, on who shares the batch, or on where the row lies.
std::vector<ScoredRow> MatrixScanner::Rescore(const float* query, size_t k,
                                              float bound,
                                              TopK::Nominees nominees) const {
  const auto [rough, rows, all] = nominees;
  thread_local std::vector<float> exact;
  exact.resize((all + 127) / 64 * 64);
  // The likely best come first: few of the rest can reach the k-th of these.
  size_t n = std::min(all, k);
  ScoreExactly(rows_, bias_, query, {rows, n}, exact.data());
  if (all > k) {
    float kth = exact[0];
    for (size_t i = 1; i < k; ++i) kth = std::min(kth, exact[i]);
    for (size_t i = k; i < all; ++i) {
      rows[n] = rows[i];
      n += static_cast<size_t>(!(rough[i] + bound < kth));
    }
    ScoreExactly(rows_, bias_, query, {rows + k, n - k}, exact.data() + k);
    n = KeepBest(k, n, exact.data(), rows);
  }
  std::vector<ScoredRow> best;
  best.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    if (exact[i] != kNone) best.push_back({exact[i], rows[i]});
  }
  SortBestFirst(absl::MakeSpan(best));
  if (best.size() > k) best.resize(k);
  return best;
}

// What is clear of the best of the rest by both errors belongs to the k, be its
// exact score what it may.
std::vector<ScoredRow> MatrixScanner::Choose(const float* query, size_t k,
                                             float bound,
                                             TopK::Nominees nominees) const {
  std::vector<ScoredRow> best;
  best.reserve(nominees.size);
  for (size_t i = 0; i < nominees.size; ++i) {
    best.push_back({nominees.scores[i], nominees.rows[i]});
  }
  // Beyond numbers, scores say nothing: all are made again, as in Rescore.
  if (best.size() <= k && std::isfinite(bound)) return best;
  float best_of_rest = kNone;
  for (size_t i = k; i < best.size(); ++i) {
    best_of_rest = std::max(best_of_rest, best[i].score);
  }
  const auto open = std::partition(
      best.begin(), best.end(),
      [&](const auto& n) { return n.score > best_of_rest + 2 * bound; });
  const auto clear = static_cast<size_t>(open - best.begin());
  Score(query, absl::MakeSpan(best).subspan(clear));
  best.erase(std::remove_if(open, best.end(),
                            [](const auto& n) { return n.score == kNone; }),
             best.end());
  if (best.size() <= k) return best;
  std::nth_element(open, best.begin() + static_cast<std::ptrdiff_t>(k),
                   best.end());
  best.resize(k);
  return best;
}

}  // namespace nearline::model
