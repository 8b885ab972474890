#include "model/item_features.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "model/ridge.h"

namespace nearline::model {
namespace {

using features::Attributes;

constexpr char kPrefix[] = "item_features.";
constexpr char kMapPrefix[] = "item_features.map.";
constexpr char kFallbackPrefix[] = "item_features.fallback.";

// The row of an item of which nothing is known: the mean one; of a bias, low.
std::vector<float> Fallback(const std::vector<float>& table, size_t dim) {
  if (dim == 1) {
    std::vector<float> sorted = table;
    const auto tenth = static_cast<std::ptrdiff_t>(sorted.size() / 10);
    std::nth_element(sorted.begin(), sorted.begin() + tenth, sorted.end());
    return {sorted[static_cast<size_t>(tenth)]};
  }
  const size_t items = table.size() / dim;
  std::vector<float> mean(dim, 0.0f);
  for (size_t i = 0; i < table.size(); ++i) {
    mean[i % dim] += table[i] / static_cast<float>(items);
  }
  return mean;
}

}  // namespace

Json ItemFeatureMap::Fit(const std::vector<const Attributes*>& items,
                         const Options& options, Tensors* tensors) {
  const AttributeFeatures features(items, options.features);
  const auto n = static_cast<size_t>(features.width());
  const SparseRows rows = features.Rows(items);
  std::vector<std::pair<std::string, Tensor>> tables;
  for (const auto& [name, tensor] : tensors->all()) {
    if (IsTable(name)) tables.emplace_back(name, tensor);
  }
  for (const auto& [name, table] : tables) {
    const size_t dim = static_cast<size_t>(table.size()) / items.size();
    tensors->Add(MapOf(name),
                 {static_cast<int64_t>(n), static_cast<int64_t>(dim)},
                 RidgeMap(rows, n, table.values, dim, options.ridge));
    tensors->Add(kFallbackPrefix + name, {static_cast<int64_t>(dim)},
                 Fallback(table.values, dim));
  }
  return features.Describe();
}

std::string ItemFeatureMap::MapOf(absl::string_view table) {
  return absl::StrCat(kMapPrefix, table);
}

bool ItemFeatureMap::IsTable(absl::string_view tensor) {
  return absl::StrContains(tensor, ".item.") &&
         !absl::StartsWith(tensor, kPrefix);
}

absl::string_view ItemFeatureMap::TableOf(absl::string_view tensor) {
  return absl::StripPrefix(absl::StripPrefix(tensor, kMapPrefix),
                           kFallbackPrefix);
}

absl::StatusOr<ItemFeatureMap> ItemFeatureMap::Load(
    const Json& description, const std::map<std::string, int64_t>& widths,
    Tensors* tensors) {
  ItemFeatureMap map;
  ASSIGN_OR_RETURN(map.features_,
                   AttributeFeatures::Load(description, "item_features"));
  const int64_t n = map.features_.width();
  for (const auto& [table, width] : widths) {
    ASSIGN_OR_RETURN(Tensor fallback,
                     tensors->Take(kFallbackPrefix + table, {width}));
    ASSIGN_OR_RETURN(Tensor weights,
                     tensors->Take(kMapPrefix + table, {n, width}));
    map.tables_[table] = {.dim = fallback.values.size(),
                          .map = std::move(weights.values),
                          .fallback = std::move(fallback.values)};
  }
  return map;
}

std::vector<float> ItemFeatureMap::Row(const std::string& table,
                                       const Attributes& attributes) const {
  const Weights& weights = tables_.at(table);
  const FeatureValues known = features_.Of(attributes);
  if (known.empty()) return weights.fallback;
  std::vector<float> row(weights.dim, 0.0f);
  for (const auto& [f, x] : known) {
    const float* const from = weights.map.data() + f * weights.dim;
    for (size_t c = 0; c < weights.dim; ++c) row[c] += x * from[c];
  }
  return row;
}

}  // namespace nearline::model
