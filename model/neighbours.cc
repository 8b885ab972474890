#include "model/neighbours.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/text.h"

namespace nearline::model {

absl::StatusOr<Neighbours> Neighbours::Create(const Tensor& rows,
                                              const Tensor& weights) {
  if (rows.shape.size() != 2 || rows.shape != weights.shape) {
    return absl::InvalidArgumentError(
        "neighbours: expected rows and weights of one shape [N, K]");
  }
  const auto n = static_cast<float>(rows.shape[0]);
  std::vector<Row> whole;
  whole.reserve(rows.values.size());
  for (size_t i = 0; i < rows.values.size(); ++i) {
    const float row = rows.values[i];
    if (!(row >= 0 && row < n) || row != std::floor(row) ||
        !std::isfinite(weights.values[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("neighbours: row ", row, " with weight ",
                       weights.values[i], "; expected a whole number in [0, ",
                       rows.shape[0], ") and a finite weight"));
    }
    whole.push_back(static_cast<Row>(row));
  }
  return Neighbours(static_cast<size_t>(rows.shape[1]), std::move(whole),
                    weights.values);
}

void Neighbours::Gather(const History& history,
                        std::vector<ScoredRow>* sums) const {
  constexpr float kUntouched = std::numeric_limits<float>::quiet_NaN();
  thread_local std::vector<float> dense;  // all untouched between calls
  sums->clear();
  for (size_t j = 0; j < history.rows.size(); ++j) {
    const size_t begin = history.rows[j] * width_;
    if (begin >= rows_.size()) continue;  // an item that came later
    for (size_t at = begin; at < begin + width_; ++at) {
      if (weights_[at] == 0) continue;
      const Row row = rows_[at];
      if (row >= dense.size()) dense.resize(row + 1, kUntouched);
      if (std::isnan(dense[row])) {
        dense[row] = 0;
        sums->push_back({0, row});
      }
      dense[row] += history.weights[j] * weights_[at];
    }
  }
  for (ScoredRow& sum : *sums) {
    sum.score = std::exchange(dense[sum.row], kUntouched);
  }
}

NeighbourTable::NeighbourTable(int64_t rows, int64_t width)
    : rows_(rows),
      width_(std::min(width, rows)),
      neighbours_(static_cast<size_t>(rows_ * width_), 0.0f),
      weights_(neighbours_.size(), 0.0f) {}

void NeighbourTable::Set(int64_t row, std::vector<ScoredRow> entries) {
  const size_t kept = std::min(entries.size(), static_cast<size_t>(width_));
  std::partial_sort(entries.begin(),
                    entries.begin() + static_cast<std::ptrdiff_t>(kept),
                    entries.end(), [](const ScoredRow& a, const ScoredRow& b) {
                      const float x = std::abs(a.score), y = std::abs(b.score);
                      return x != y ? x > y : a.row < b.row;
                    });
  const auto begin = static_cast<size_t>(row * width_);
  for (size_t i = 0; i < kept; ++i) {
    neighbours_[begin + i] = static_cast<float>(entries[i].row);
    weights_[begin + i] = entries[i].score;
  }
}

void NeighbourTable::Export(const std::string& model, Tensors* out) const {
  out->Add(model + ".neighbours.rows", {rows_, width_}, neighbours_);
  out->Add(model + ".neighbours.weights", {rows_, width_}, weights_);
}

}  // namespace nearline::model
