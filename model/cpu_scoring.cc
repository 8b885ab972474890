#include "model/cpu_scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "model/kernels.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Asks for a row that will be read soon.
void Prefetch(const ItemTable& table, Row row) {
  constexpr size_t kLine = 64 / sizeof(float);
  const float* const values = table[row];
  for (size_t at = 0; at < table.dim(); at += kLine) {
    __builtin_prefetch(values + at);
  }
}

}  // namespace

void GatherSum(const ItemTable& table, const History& history, float scale,
               float* out) {
  thread_local std::vector<const float*> rows;
  thread_local std::vector<float> weights;
  rows.clear();
  weights.clear();
  for (size_t i = 0; i < history.rows.size(); ++i) {
    rows.push_back(table[history.rows[i]]);
    weights.push_back(history.weights[i] * scale);
  }
  SumScaled(rows.data(), weights.data(), rows.size(), table.dim(), out);
}

namespace {

// The sum of the history's rows, known or not.
void AddUp(const ItemTable& table, const History& history, const float* sum,
           float* out) {
  if (sum == nullptr) return GatherSum(table, history, 1, out);
  std::copy_n(sum, table.dim(), out);
}

}  // namespace

void HistoryLayer::Apply(const History& history, const float* sum,
                         float* out) const {
  double squares = 0;
  for (const float w : history.weights) squares += static_cast<double>(w) * w;
  const auto scale =
      static_cast<float>(squares > 0 ? 1.0 / std::sqrt(squares) : 0.0);
  if (sum == nullptr) {
    GatherSum(table_, history, scale, out);
  } else {
    for (size_t i = 0; i < table_.dim(); ++i) out[i] = scale * sum[i];
  }
  if (!bias_.empty()) {
    AddBiasTanh(bias_.data(), bias_.size(), out);
    return;
  }
  const float was = std::sqrt(Dot(out, out, table_.dim()));
  const float factor = was > 0 ? length_ / was : 0;
  for (size_t i = 0; i < table_.dim(); ++i) out[i] *= factor;
}

absl::StatusOr<DenseLayer> DenseLayer::Create(const std::vector<float>& weight,
                                              std::vector<float> bias, int in) {
  ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      PackedMatrix::Create(weight.data(), static_cast<int>(bias.size()), in));
  return DenseLayer(std::move(matrix), std::move(bias));
}

absl::Status MultVaeEncoder::EncodeFrom(
    absl::Span<const float* const> sums,
    absl::Span<const History* const> histories,
    std::vector<float>* queries) const {
  const size_t m = histories.size();
  const auto h = static_cast<size_t>(first_.dim());
  const auto z = static_cast<size_t>(mean_.out());
  const auto d = static_cast<size_t>(dim());
  thread_local std::vector<float> hidden, mean;
  hidden.resize(m * h);
  mean.resize(m * z);
  queries->resize(m * d);
  for (size_t i = 0; i < m; ++i) {
    first_.Apply(*histories[i], sums.empty() ? nullptr : sums[i],
                 hidden.data() + i * h);
  }
  mean_.Product(hidden.data(), static_cast<int>(m), mean.data());
  for (size_t i = 0; i < m; ++i) {
    AddScaled(mean_.bias().data(), 1.0f, z, mean.data() + i * z);
  }
  hidden_.Product(mean.data(), static_cast<int>(m), queries->data());
  for (size_t i = 0; i < m; ++i) {
    AddBiasTanh(hidden_.bias().data(), d, queries->data() + i * d);
  }
  return absl::OkStatus();
}

void RecentLayer::Apply(const History& history, float* out) const {
  const size_t d = table_.dim();
  const size_t n = std::min(history.rows.size(), positions_.size() / d);
  std::fill(out, out + d, 0.0f);
  for (size_t l = 0; l < n; ++l) {
    const float* const row = table_[history.rows[history.rows.size() - 1 - l]];
    const float* const weights = positions_.data() + l * d;
    for (size_t c = 0; c < d; ++c) out[c] += weights[c] * row[c];
  }
  if (n == 0) return;
  const float scale = 1 / std::sqrt(static_cast<float>(n));
  for (size_t c = 0; c < d; ++c) out[c] *= scale;
}

std::vector<const ItemTable*> HistoryEncoder::summed() const {
  std::vector<const ItemTable*> tables;
  if (neural_) tables.push_back(neural_->table());
  if (linear_ != nullptr) tables.push_back(linear_);
  return tables;
}

absl::Status HistoryEncoder::EncodeFrom(
    absl::Span<const float* const> sums,
    absl::Span<const History* const> histories,
    std::vector<float>* queries) const {
  queries->resize(histories.size() * static_cast<size_t>(dim()));
  float* out = queries->data();
  for (size_t i = 0; i < histories.size(); ++i) {
    const History& history = *histories[i];
    const float* sum = sums.empty() ? nullptr : sums[i];
    if (neural_) {
      neural_->Apply(history, sum, out);
      out += neural_->dim();
      if (sum != nullptr) sum += neural_->dim();
    }
    if (linear_ != nullptr) {
      AddUp(*linear_, history, sum, out);
      out += linear_->dim();
    }
    if (recent_) {
      recent_->Apply(history, out);
      out += recent_->dim();
    }
  }
  return absl::OkStatus();
}

NeuMfRanker::NeuMfRanker(HistoryLayer first, DenseLayer user,
                         std::vector<Layer> layers, std::vector<float> last,
                         Parts parts)
    : first_(std::move(first)),
      user_(std::move(user)),
      layers_(std::move(layers)),
      last_(std::move(last)),
      parts_(std::move(parts)),
      gmf_(parts_.gmf == nullptr ? 0 : parts_.gmf->dim()) {
  for (Layer& layer : layers_) layer.bias.resize(layer.matrix.stride(), 0.0f);
  last_.resize(layers_.back().matrix.stride(), 0.0f);
}

std::vector<const ItemTable*> NeuMfRanker::summed() const {
  std::vector<const ItemTable*> tables = {first_.table()};
  if (parts_.linear != nullptr) tables.push_back(parts_.linear);
  return tables;
}

void NeuMfRanker::ReadUser(const History& history, const float* sums,
                           float* user) const {
  const auto d = static_cast<size_t>(first_.dim());
  const size_t stride = layers_[0].matrix.stride();
  thread_local std::vector<float> h;
  h.resize(d);
  first_.Apply(history, sums, h.data());
  std::fill(user, user + stride, 0.0f);
  user_.Product(h.data(), 1, user);
  AddScaled(user_.bias().data(), 1.0f, user_.bias().size(), user);
  if (gmf_ == 0) return;
  std::copy(h.begin(), h.end(), user + stride);
  if (parts_.linear != nullptr) {
    AddUp(*parts_.linear, history, sums == nullptr ? nullptr : sums + d,
          user + stride + d);
  }
}

absl::Status NeuMfRanker::Score(const History& history, const float* query,
                                const float* user,
                                absl::Span<const ScoredRow> shortlist,
                                std::vector<float>* scores) const {
  const size_t n = shortlist.size();
  thread_local std::vector<float> x, y;
  thread_local std::vector<const float*> of_items;
  of_items.clear();
  for (const ScoredRow& one : shortlist) {
    of_items.push_back((*parts_.mlp)[one.row]);
    Prefetch(*parts_.mlp, one.row);
  }
  x.clear();
  if (parts_.inputs) parts_.inputs->Of(history, query, shortlist, &x);
  size_t stride = layers_[0].matrix.in();
  for (size_t l = 0; l < layers_.size(); ++l) {
    const Layer& layer = layers_[l];
    y.resize(n * layer.matrix.stride());
    layer.matrix.Apply(x.data(), stride, n, l == 0 ? user : layer.bias.data(),
                       l == 0 ? of_items.data() : nullptr, y.data());
    stride = layer.matrix.stride();
    x.swap(y);
  }
  const float* const g = user + layers_[0].matrix.stride();
  scores->resize(n);
  for (size_t i = 0; i < n; ++i) {
    const Row row = shortlist[i].row;
    (*scores)[i] = Dot(x.data() + i * stride, last_.data(), stride);
    if (parts_.inputs.has_value()) (*scores)[i] += shortlist[i].score;
    if (gmf_ == 0) continue;
    if (i + 1 < n) Prefetch(*parts_.gmf, shortlist[i + 1].row);
    (*scores)[i] +=
        Dot(g, (*parts_.gmf)[row], gmf_) + (*parts_.gmf_bias)[row][0];
  }
  return absl::OkStatus();
}

void ScoreRows(const ItemTable& table, const ItemTable& bias,
               const float* query, absl::Span<ScoredRow> rows) {
  const size_t d = table.dim();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i + 1 < rows.size()) Prefetch(table, rows[i + 1].row);
    const float score = Dot(query, table[rows[i].row], d) + *bias[rows[i].row];
    rows[i].score = std::isnan(score) ? kNone : score;
  }
}

absl::StatusOr<std::unique_ptr<MatrixScanner>> MatrixScanner::Create(
    const ItemTable* rows, const ItemTable* bias,
    PackedMatrix::Precision precision) {
  const auto create = [&] {
    return PackedMatrix::Create(rows->base().data(),
                                static_cast<int>(rows->base_rows()),
                                static_cast<int>(rows->dim()), precision);
  };
  ASSIGN_OR_RETURN(PackedMatrix matrix, create());
  if (matrix.loss() > kMostLoss) {
    precision = PackedMatrix::Precision::kFloat32;
    ASSIGN_OR_RETURN(matrix, create());
  }
  return std::unique_ptr<MatrixScanner>(
      new MatrixScanner(rows, bias, precision, std::move(matrix)));
}

namespace {

float LargestOf(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

}  // namespace

MatrixScanner::MatrixScanner(const ItemTable* rows, const ItemTable* bias,
                             PackedMatrix::Precision precision,
                             PackedMatrix matrix)
    : rows_(*rows),
      bias_(*bias),
      max_bias_(LargestOf(bias->base())),
      precision_(precision),
      matrix_(std::move(matrix)) {}

absl::StatusOr<std::shared_ptr<const MatrixScanner::TailBlock>>
MatrixScanner::Pack(Row first, Row end) const {
  std::vector<float> values, bias;
  for (Row row = first; row < end; ++row) {
    values.insert(values.end(), rows_[row], rows_[row] + rows_.dim());
    bias.push_back(*bias_[row]);
  }
  ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      PackedMatrix::Create(values.data(), static_cast<int>(end - first),
                           static_cast<int>(rows_.dim()), precision_));
  const float max_bias = LargestOf(bias);
  return std::make_shared<const TailBlock>(
      TailBlock{first, std::move(matrix), std::move(bias), max_bias});
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

absl::Status MatrixScanner::ScanLater(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  const bool any = std::any_of(
      masks.begin(), masks.end(),
      [this](const RowMask* mask) { return mask->rows() > rows_.base_rows(); });
  if (any) {
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
  std::vector<TopK> top;
  std::vector<float> bounds;
  top.reserve(m);
  for (size_t i = 0; i < m; ++i) {
    const float* const query = queries + i * rows_.dim();
    const float norm = std::sqrt(Dot(query, query, rows_.dim()));
    const float lost = prepared.lost[i];
    float bound = matrix_.ErrorBound(norm, lost, max_bias_);
    for (const auto& block : *tail) {
      bound = std::max(bound,
                       block->matrix.ErrorBound(norm, lost, block->max_bias));
    }
    top.emplace_back(ks[i], masks[i], 2 * bound);
    bounds.push_back(bound);
  }
  ScanParts(Parts(kind.base, *tail), prepared, &top);
  ScanRows(
      tail->empty() ? static_cast<Row>(rows_.base_rows()) : tail->back()->end(),
      queries, masks, &top);
  for (size_t i = 0; i < m; ++i) {
    const auto finish =
        kind.ordered ? &MatrixScanner::Rescore : &MatrixScanner::Choose;
    best->push_back((this->*finish)(queries + i * rows_.dim(),
                                    static_cast<size_t>(ks[i]), bounds[i],
                                    top[i].Take()));
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
    parts.push_back({&matrix_, b, bias_.base().data() + row, row});
  }
  for (const auto& block : tail) {
    parts.push_back({&block->matrix, 0, block->bias.data(), block->first});
  }
  return parts;
}

void MatrixScanner::ScanParts(absl::Span<const Part> parts,
                              const PackedMatrix::Queries& queries,
                              std::vector<TopK>* top) const {
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
    for (TopK& of_query : *top) {
      of_query.Add(blocks);
      for (size_t i = 0; i < blocks.size(); ++i) {
        blocks[i].scores += parts[first + i].matrix->stride();
      }
    }
  }
}

// The rows from `row` on, which no block holds yet.
void MatrixScanner::ScanRows(Row row, const float* queries,
                             absl::Span<const RowMask* const> masks,
                             std::vector<TopK>* top) const {
  const size_t d = rows_.dim();
  for (size_t i = 0; i < masks.size(); ++i) {
    const auto end = static_cast<Row>(masks[i]->rows());
    for (Row r = row; r < end; ++r) {
      const float score = Dot(queries + i * d, rows_[r], d);
      (*top)[i].Add({{&score, bias_[r], 1, r}});
    }
  }
}

// What a row scores then depends on nothing but the query and the row: not on
// precision, on who shares the batch, or on where the row lies.
std::vector<ScoredRow> MatrixScanner::Rescore(
    const float* query, size_t k, float bound,
    std::vector<ScoredRow> nominees) const {
  if (nominees.size() <= k) {
    Score(query, absl::MakeSpan(nominees));
  } else {
    // The likely best come first: few of the rest can reach the k-th of these.
    const auto rest = nominees.begin() + static_cast<std::ptrdiff_t>(k);
    Score(query, absl::MakeSpan(nominees.data(), k));
    const float kth = std::max_element(nominees.begin(), rest)->score;
    nominees.erase(
        std::remove_if(rest, nominees.end(),
                       [&](const auto& n) { return n.score + bound < kth; }),
        nominees.end());
    Score(query, absl::MakeSpan(nominees).subspan(k));
  }
  std::erase_if(nominees, [](const auto& n) { return n.score == kNone; });
  SortBestFirst(absl::MakeSpan(nominees));
  if (nominees.size() > k) nominees.resize(k);
  return nominees;
}

// What is clear of the best of the rest by both errors belongs to the k, be its
// exact score what it may.
std::vector<ScoredRow> MatrixScanner::Choose(
    const float* query, size_t k, float bound,
    std::vector<ScoredRow> nominees) const {
  // Beyond numbers, scores say nothing: all are made again, as in Rescore.
  if (nominees.size() <= k && std::isfinite(bound)) return nominees;
  float best_of_rest = kNone;
  for (size_t i = k; i < nominees.size(); ++i) {
    best_of_rest = std::max(best_of_rest, nominees[i].score);
  }
  const auto open = std::partition(
      nominees.begin(), nominees.end(),
      [&](const auto& n) { return n.score > best_of_rest + 2 * bound; });
  const auto clear = static_cast<size_t>(open - nominees.begin());
  Score(query, absl::MakeSpan(nominees).subspan(clear));
  nominees.erase(std::remove_if(open, nominees.end(),
                                [](const auto& n) { return n.score == kNone; }),
                 nominees.end());
  if (nominees.size() <= k) return nominees;
  std::nth_element(open, nominees.begin() + static_cast<std::ptrdiff_t>(k),
                   nominees.end());
  nominees.resize(k);
  return nominees;
}

}  // namespace nearline::model
