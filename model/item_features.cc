#include "model/item_features.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace nearline::model {
namespace {

using features::Attributes;

constexpr char kPrefix[] = "item_features.";
constexpr char kMapPrefix[] = "item_features.map.";
constexpr char kFallbackPrefix[] = "item_features.fallback.";

// Solves (A + ridge I) X = B in place by Cholesky; A [n, n] symmetric, B [n,
// m].
void SolveRidge(std::vector<double>* a, size_t n, double ridge,
                std::vector<double>* b, size_t m) {
  auto& A = *a;
  auto& B = *b;
  for (size_t i = 0; i < n; ++i) A[i * n + i] += ridge;
  for (size_t j = 0; j < n; ++j) {
    double diagonal = A[j * n + j];
    for (size_t k = 0; k < j; ++k) diagonal -= A[j * n + k] * A[j * n + k];
    diagonal = std::sqrt(std::max(diagonal, 1e-12));
    A[j * n + j] = diagonal;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = A[i * n + j];
      for (size_t k = 0; k < j; ++k) sum -= A[i * n + k] * A[j * n + k];
      A[i * n + j] = sum / diagonal;
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t k = 0; k < i; ++k) {
      for (size_t c = 0; c < m; ++c)
        B[i * m + c] -= A[i * n + k] * B[k * m + c];
    }
    for (size_t c = 0; c < m; ++c) B[i * m + c] /= A[i * n + i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t k = i + 1; k < n; ++k) {
      for (size_t c = 0; c < m; ++c)
        B[i * m + c] -= A[k * n + i] * B[k * m + c];
    }
    for (size_t c = 0; c < m; ++c) B[i * m + c] /= A[i * n + i];
  }
}

// F^T F [n, n] of features F by item.
std::vector<double> Gram(const SparseRows& f, size_t n) {
  std::vector<double> gram(n * n, 0.0);
  for (size_t i = 0; i + 1 < f.offsets.size(); ++i) {
    for (size_t a = f.offsets[i]; a < f.offsets[i + 1]; ++a) {
      for (size_t b = f.offsets[i]; b < f.offsets[i + 1]; ++b) {
        gram[f.columns[a] * n + f.columns[b]] +=
            static_cast<double>(f.values[a]) * f.values[b];
      }
    }
  }
  return gram;
}

// F^T T [n, dim] of a table T [items, dim].
std::vector<double> Project(const SparseRows& f, size_t n,
                            const std::vector<float>& table, size_t dim) {
  std::vector<double> out(n * dim, 0.0);
  for (size_t i = 0; i + 1 < f.offsets.size(); ++i) {
    const float* const row = table.data() + i * dim;
    for (size_t a = f.offsets[i]; a < f.offsets[i + 1]; ++a) {
      double* const sum = out.data() + f.columns[a] * dim;
      for (size_t c = 0; c < dim; ++c) {
        sum[c] += static_cast<double>(f.values[a]) * row[c];
      }
    }
  }
  return out;
}

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

void ItemFeatureMap::Choose(const std::vector<const Attributes*>& items,
                            const Options& options) {
  std::map<std::pair<std::string, std::string>, int> counts;
  struct Moments {
    double n = 0, sum = 0, squares = 0;
  };
  std::map<std::pair<std::string, int>, Moments> numbers;
  const auto number = [&](const std::string& name, int index, double x) {
    Moments& m = numbers[{name, index}];
    m.n += 1;
    m.sum += x;
    m.squares += x * x;
  };
  for (const Attributes* attributes : items) {
    if (attributes == nullptr) continue;
    for (const auto& [name, value] : *attributes) {
      if (const auto* s = std::get_if<std::string>(&value)) {
        ++counts[{name, *s}];
      } else if (const auto* l =
                     std::get_if<std::vector<std::string>>(&value)) {
        for (const std::string& text : *l) ++counts[{name, text}];
      } else if (const auto* x = std::get_if<double>(&value)) {
        number(name, -2, *x);
      } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
        for (size_t i = 0; i < v->size(); ++i) {
          number(name, static_cast<int>(i), (*v)[i]);
        }
      }
    }
  }
  std::vector<std::tuple<int, std::string, std::string>> texts;
  for (const auto& [key, count] : counts) {
    if (count >= options.min_items) {
      texts.emplace_back(-count, key.first, key.second);
    }
  }
  std::sort(texts.begin(), texts.end());
  const auto room = static_cast<size_t>(options.max_features);
  for (const auto& [key, m] : numbers) {
    if (features_.size() == room || m.n < options.min_items) continue;
    const double mean = m.sum / m.n;
    const double variance = std::max(m.squares / m.n - mean * mean, 1e-12);
    features_.push_back({.attribute = key.first,
                         .index = key.second,
                         .mean = static_cast<float>(mean),
                         .scale = static_cast<float>(1 / std::sqrt(variance))});
  }
  for (const auto& [count, attribute, value] : texts) {
    if (features_.size() == room) break;
    features_.push_back({.attribute = attribute, .value = value});
  }
}

std::vector<std::pair<int, float>> ItemFeatureMap::Extract(
    const Attributes& attributes) const {
  std::vector<std::pair<int, float>> out;
  const auto text = [&](const std::string& name, const std::string& value) {
    const auto column = text_.find(name);
    if (column == text_.end()) return;
    const auto it = column->second.find(value);
    if (it != column->second.end()) out.emplace_back(it->second, 1.0f);
  };
  for (const auto& [name, value] : attributes) {
    if (const auto* s = std::get_if<std::string>(&value)) {
      text(name, *s);
    } else if (const auto* l = std::get_if<std::vector<std::string>>(&value)) {
      for (const std::string& s : *l) text(name, s);
    } else if (const auto column = numeric_.find(name);
               column != numeric_.end()) {
      for (const int f : column->second) {
        const Feature& feature = features_[static_cast<size_t>(f)];
        float x = feature.mean;
        if (const auto* number = std::get_if<double>(&value)) {
          if (feature.index == -2) x = static_cast<float>(*number);
        } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
          const auto i = static_cast<size_t>(feature.index);
          if (feature.index >= 0 && i < v->size()) x = (*v)[i];
        }
        out.emplace_back(
            f, std::clamp((x - feature.mean) * feature.scale, -5.0f, 5.0f));
      }
    }
  }
  return out;
}

Json ItemFeatureMap::Describe() const {
  Json out = Json::array();
  for (const Feature& f : features_) {
    out.push_back({{"attribute", f.attribute},
                   {"value", f.value},
                   {"index", f.index},
                   {"mean", f.mean},
                   {"scale", f.scale}});
  }
  return out;
}

ItemFeatureMap ItemFeatureMap::Chosen(
    const std::vector<const Attributes*>& items, const Options& options) {
  ItemFeatureMap map;
  map.Choose(items, options);
  for (size_t f = 0; f < map.features_.size(); ++f) {
    const Feature& feature = map.features_[f];
    if (feature.index == -1) {
      map.text_[feature.attribute][feature.value] = static_cast<int>(f);
    } else {
      map.numeric_[feature.attribute].push_back(static_cast<int>(f));
    }
  }
  return map;
}

SparseRows ItemFeatureMap::ExtractAll(
    const std::vector<const Attributes*>& items) const {
  SparseRows rows;
  const auto add = [&](int feature, float value) {
    rows.columns.push_back(static_cast<uint32_t>(feature));
    rows.values.push_back(value);
  };
  for (const Attributes* const attributes : items) {
    if (attributes != nullptr) {
      for (const auto& [f, x] : Extract(*attributes)) add(f, x);
    }
    add(static_cast<int>(features_.size()), 1);
    rows.EndRow();
  }
  return rows;
}

SparseRows ItemFeatureMap::Features(const std::vector<const Attributes*>& items,
                                    const Options& options, int64_t* width) {
  const ItemFeatureMap map = Chosen(items, options);
  *width = static_cast<int64_t>(map.features_.size()) + 1;
  return map.ExtractAll(items);
}

Json ItemFeatureMap::Fit(const std::vector<const Attributes*>& items,
                         const Options& options, Tensors* tensors) {
  const ItemFeatureMap map = Chosen(items, options);
  const size_t n = map.features_.size() + 1;
  const SparseRows rows = map.ExtractAll(items);
  const std::vector<double> gram = Gram(rows, n);
  std::vector<std::pair<std::string, Tensor>> tables;
  for (const auto& [name, tensor] : tensors->all()) {
    if (IsTable(name)) tables.emplace_back(name, tensor);
  }
  for (const auto& [name, table] : tables) {
    const size_t dim = static_cast<size_t>(table.size()) / items.size();
    std::vector<double> weights = Project(rows, n, table.values, dim);
    std::vector<double> a = gram;
    SolveRidge(&a, n, options.ridge, &weights, dim);
    tensors->Add(MapOf(name),
                 {static_cast<int64_t>(n), static_cast<int64_t>(dim)},
                 std::vector<float>(weights.begin(), weights.end()));
    tensors->Add(kFallbackPrefix + name, {static_cast<int64_t>(dim)},
                 Fallback(table.values, dim));
  }
  return map.Describe();
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
  if (!description.is_array()) {
    return absl::InvalidArgumentError("item_features is no array");
  }
  for (const Json& entry : description) {
    JsonReader in(entry, "item_features");
    Feature f;
    f.attribute = in.String("attribute");
    f.value = in.String("value");
    f.index = static_cast<int>(in.Int("index"));
    f.mean = static_cast<float>(in.Double("mean"));
    f.scale = static_cast<float>(in.Double("scale"));
    RETURN_IF_ERROR(in.status());
    if (f.index < -2) {
      return absl::InvalidArgumentError(absl::StrCat(
          "item_features: index = ", f.index, ": expected -2 or more"));
    }
    const int number = static_cast<int>(map.features_.size());
    if (f.index == -1) {
      map.text_[f.attribute][f.value] = number;
    } else {
      map.numeric_[f.attribute].push_back(number);
    }
    map.features_.push_back(std::move(f));
  }
  const auto n = static_cast<int64_t>(map.features_.size()) + 1;
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
  std::vector<std::pair<int, float>> known = Extract(attributes);
  if (known.empty()) return weights.fallback;
  known.emplace_back(static_cast<int>(features_.size()), 1.0f);
  std::vector<float> row(weights.dim, 0.0f);
  for (const auto& [f, x] : known) {
    const float* from =
        weights.map.data() + static_cast<size_t>(f) * weights.dim;
    for (size_t c = 0; c < weights.dim; ++c) row[c] += x * from[c];
  }
  return row;
}

}  // namespace nearline::model
