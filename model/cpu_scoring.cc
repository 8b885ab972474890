#include "model/cpu_scoring.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/kernels.h"

namespace nearline::model {

void GatherSum(const ItemTable& table, const History& history, float scale,
               float* out) {
  thread_local std::vector<const float*> rows;
  thread_local std::vector<float> weights;
  rows.resize(history.rows.size());
  weights.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = table[history.rows[i]];
    weights[i] = history.weights[i] * scale;
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
    Prefetch(of_items.back(), parts_.mlp->dim());
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
    if (i + 1 < n) Prefetch((*parts_.gmf)[shortlist[i + 1].row], gmf_);
    (*scores)[i] +=
        Dot(g, (*parts_.gmf)[row], gmf_) + (*parts_.gmf_bias)[row][0];
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
