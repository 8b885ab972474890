#include "model/head.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "base/text.h"
#include "model/generation.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

constexpr const char* kPaths[] = {".item.encoder", ".item.linear",
                                  ".item.recent"};
constexpr size_t kMostPaths = std::size(kPaths);

absl::StatusOr<const ItemTable*> Table(const ItemTables& tables,
                                       const std::string& name) {
  const auto found = tables.find(name);
  if (found != tables.end()) return found->second.get();
  return absl::NotFoundError(absl::StrCat("no tensor ", Quoted(name)));
}

}  // namespace

void HeadInputs::Parts::SetMeans() {
  const size_t n = rows->base_rows(), d = rows->dim();
  std::vector<double> sums(d, 0.0);
  double biases = 0;
  for (Row row = 0; row < n; ++row) {
    for (size_t c = 0; c < d; ++c) sums[c] += (*rows)[row][c];
    biases += (*bias)[row][0];
  }
  mean_row.clear();
  for (const double sum : sums) {
    mean_row.push_back(static_cast<float>(sum / static_cast<double>(n)));
  }
  mean_bias = static_cast<float>(biases / static_cast<double>(n));
}

std::vector<size_t> HeadInputs::WidthsOf(const std::string& model,
                                         const ItemTables& tables) {
  std::vector<size_t> widths;
  for (const char* path : kPaths) {
    const auto table = tables.find(model + path);
    if (table != tables.end()) widths.push_back(table->second->dim());
  }
  return widths;
}

absl::StatusOr<HeadInputs> HeadInputs::Load(const std::string& model, int dim,
                                            const ItemTables& tables,
                                            const Tensors& tensors) {
  Parts parts{.widths = WidthsOf(model, tables)};
  const size_t sum =
      std::accumulate(parts.widths.begin(), parts.widths.end(), size_t{0});
  if (parts.widths.size() < 2 || sum != static_cast<size_t>(dim)) {
    return absl::InvalidArgumentError(
        absl::StrCat("ranker head: ", Quoted(model), " has no paths beside ",
                     "each other, of which it could tell"));
  }
  ASSIGN_OR_RETURN(parts.rows, Table(tables, ScannedTable(model)));
  ASSIGN_OR_RETURN(parts.bias, Table(tables, BiasTable(model)));
  ASSIGN_OR_RETURN(parts.popularity, Table(tables, "head.item.popularity"));
  const auto measures = static_cast<int64_t>(parts.widths.size()) + 2;
  ASSIGN_OR_RETURN(const Tensor* mean,
                   tensors.Get("head.input.mean", {measures}));
  ASSIGN_OR_RETURN(const Tensor* scale,
                   tensors.Get("head.input.scale", {measures}));
  ASSIGN_OR_RETURN(const Tensor* least, tensors.Get("head.input.least", {1}));
  parts.least = static_cast<size_t>(std::clamp(least->values[0], 1.0f, 1e6f));
  parts.SetMeans();
  parts.mean = mean->values;
  parts.scale = scale->values;
  if (parts.popularity->dim() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"head.item.popularity\" has ",
                     parts.popularity->dim(), " columns; expected 1"));
  }
  return HeadInputs(std::move(parts));
}

void HeadInputs::Of(const History& history, const float* query,
                    absl::Span<const ScoredRow> shortlist,
                    std::vector<float>* out) const {
  const size_t paths = this->paths();
  std::array<size_t, kMostPaths> begins{};
  std::array<float, kMostPaths> of_mean{};
  for (size_t p = 0; p < paths; ++p) {
    if (p > 0) begins[p] = begins[p - 1] + p_.widths[p - 1];
    of_mean[p] =
        Dot(query + begins[p], p_.mean_row.data() + begins[p], p_.widths[p]);
  }
  of_mean[0] += p_.mean_bias;
  const float length =
      std::log(static_cast<float>(std::max<size_t>(1, history.rows.size())));
  out->resize(shortlist.size() * size());
  float* x = out->data();
  for (const ScoredRow& candidate : shortlist) {
    const float* const row = (*p_.rows)[candidate.row];
    float rest = candidate.score;
    for (size_t p = 0; p < paths; ++p) {
      if (p == 1) continue;
      x[p] = Dot(query + begins[p], row + begins[p], p_.widths[p]);
      if (p == 0) x[p] += (*p_.bias)[candidate.row][0];
      rest -= x[p];
    }
    x[1] = rest;
    for (size_t p = 0; p < paths; ++p) x[p] -= of_mean[p];
    x[paths] = (*p_.popularity)[candidate.row][0];
    x[paths + 1] = length;
    for (size_t i = 0; i < paths + 2; ++i) {
      x[i] = (x[i] - p_.mean[i]) * p_.scale[i];
    }
    for (size_t p = 0; p < paths; ++p) x[paths + 2 + p] = x[p] * x[paths + 1];
    x += size();
  }
}

}  // namespace nearline::model
