#include "model/cpu_scoring.h"

#include <algorithm>
#include <cmath>

#include "model/kernels.h"

namespace nearline::model {

void HistoryLayer::Apply(const History& history, float* out) const {
  const size_t d = bias_.size();
  std::fill_n(out, d, 0.0f);
  double squares = 0;
  for (const float w : history.weights) squares += static_cast<double>(w) * w;
  if (squares > 0) {
    const auto scale = static_cast<float>(1.0 / std::sqrt(squares));
    for (size_t i = 0; i < history.rows.size(); ++i) {
      AddScaled(table_[history.rows[i]], history.weights[i] * scale, d, out);
    }
  }
  AddBiasTanh(bias_.data(), d, out);
}

absl::StatusOr<DenseLayer> DenseLayer::Create(const std::vector<float>& weight,
                                              std::vector<float> bias, int in) {
  ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      PackedMatrix::Create(weight.data(), static_cast<int>(bias.size()), in));
  return DenseLayer(std::move(matrix), std::move(bias));
}

absl::Status MultVaeEncoder::Encode(absl::Span<const History* const> histories,
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
    first_.Apply(*histories[i], hidden.data() + i * h);
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

absl::Status NeuMfEncoder::Encode(absl::Span<const History* const> histories,
                                  std::vector<float>* queries) const {
  const auto d = static_cast<size_t>(dim());
  queries->resize(histories.size() * d);
  for (size_t i = 0; i < histories.size(); ++i) {
    first_.Apply(*histories[i], queries->data() + i * d);
  }
  return absl::OkStatus();
}

absl::Status NeuMfRanker::Score(const History& history,
                                absl::Span<const Row> candidates,
                                std::vector<float>* scores) const {
  const size_t n = candidates.size();
  const auto d = static_cast<size_t>(first_.dim());
  const auto h1 = static_cast<size_t>(user_.out());
  thread_local std::vector<float> user, hidden_user, x, y;
  user.resize(d);
  hidden_user.resize(h1);
  first_.Apply(history, user.data());
  user_.Product(user.data(), 1, hidden_user.data());
  AddScaled(user_.bias().data(), 1.0f, h1, hidden_user.data());

  x.resize(n * h1);
  for (size_t i = 0; i < n; ++i) {
    AddRelu(hidden_user.data(), (*parts_.mlp)[candidates[i]], h1,
            x.data() + i * h1);
  }
  for (const DenseLayer& layer : parts_.hidden) {
    const auto out = static_cast<size_t>(layer.out());
    y.resize(n * out);
    layer.Product(x.data(), static_cast<int>(n), y.data());
    for (size_t i = 0; i < n; ++i) {
      AddRelu(y.data() + i * out, layer.bias().data(), out, y.data() + i * out);
    }
    x.swap(y);
  }
  const size_t last = parts_.last.size();
  scores->resize(n);
  for (size_t i = 0; i < n; ++i) {
    (*scores)[i] = Dot(user.data(), (*parts_.gmf)[candidates[i]], d) +
                   (*parts_.gmf_bias)[candidates[i]][0] +
                   Dot(x.data() + i * last, parts_.last.data(), last);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MatrixScanner>> MatrixScanner::Create(
    const ItemTable* rows, const ItemTable* bias) {
  ASSIGN_OR_RETURN(PackedMatrix matrix,
                   PackedMatrix::Create(rows->base().data(),
                                        static_cast<int>(rows->base_rows()),
                                        static_cast<int>(rows->dim())));
  return std::unique_ptr<MatrixScanner>(
      new MatrixScanner(rows, bias, std::move(matrix)));
}

absl::Status MatrixScanner::Scan(
    absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
    absl::Span<const int> ks, std::vector<std::vector<ScoredRow>>* best) const {
  const size_t d = rows_.dim();
  thread_local std::vector<float> scores;
  scores.resize(static_cast<size_t>(PackedMatrix::kMaxBatch) *
                static_cast<size_t>(matrix_.stride()));
  best->clear();
  for (size_t first = 0; first < masks.size();
       first += PackedMatrix::kMaxBatch) {
    const size_t m =
        std::min<size_t>(PackedMatrix::kMaxBatch, masks.size() - first);
    std::vector<TopK> top;
    top.reserve(m);
    for (size_t i = 0; i < m; ++i) {
      top.emplace_back(ks[first + i], masks[first + i]);
    }
    for (int b = 0; b < matrix_.blocks(); ++b) {
      matrix_.MultiplyBlock(queries.data() + first * d, static_cast<int>(m), b,
                            scores.data());
      const Row start =
          static_cast<Row>(b) * static_cast<Row>(matrix_.stride());
      for (size_t i = 0; i < m; ++i) {
        top[i].Add(scores.data() + i * static_cast<size_t>(matrix_.stride()),
                   bias_.base().data() + start,
                   static_cast<size_t>(matrix_.BlockRows(b)), start);
      }
    }
    for (size_t i = 0; i < m; ++i) {
      const float* query = queries.data() + (first + i) * d;
      const auto rows = static_cast<Row>(masks[first + i]->rows());
      for (auto row = static_cast<Row>(rows_.base_rows()); row < rows; ++row) {
        const float score = Dot(query, rows_[row], d);
        top[i].Add(&score, bias_[row], 1, row);
      }
      best->push_back(top[i].Take());
    }
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
