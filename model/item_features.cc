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

std::vector<std::vector<std::pair<int, float>>> ItemFeatureMap::ExtractAll(
    const std::vector<const Attributes*>& items) const {
  std::vector<std::vector<std::pair<int, float>>> rows(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i] != nullptr) rows[i] = Extract(*items[i]);
    rows[i].emplace_back(static_cast<int>(features_.size()), 1.0f);
  }
  return rows;
}

std::vector<std::vector<std::pair<int, float>>> ItemFeatureMap::Features(
    const std::vector<const Attributes*>& items, const Options& options,
    size_t* width) {
  const ItemFeatureMap map = Chosen(items, options);
  *width = map.features_.size() + 1;
  return map.ExtractAll(items);
}

Json ItemFeatureMap::Fit(const std::vector<const Attributes*>& items,
                         const Options& options, Tensors* tensors) {
  const ItemFeatureMap map = Chosen(items, options);
  const size_t n = map.features_.size() + 1;
  const auto rows = map.ExtractAll(items);
  std::vector<double> gram(n * n, 0.0);
  for (const auto& row : rows) {
    for (const auto& [f, x] : row) {
      for (const auto& [g, y] : row) {
        gram[static_cast<size_t>(f) * n + static_cast<size_t>(g)] +=
            static_cast<double>(x) * y;
      }
    }
  }
  std::vector<std::pair<std::string, Tensor>> tables;
  for (const auto& [name, tensor] : tensors->all()) {
    if (absl::StrContains(name, ".item.")) tables.emplace_back(name, tensor);
  }
  for (const auto& [name, tensor] : tables) {
    const size_t dim = static_cast<size_t>(tensor.size()) / items.size();
    std::vector<double> target(n * dim, 0.0);
    std::vector<float> fallback(dim, 0.0f);
    for (size_t i = 0; i < items.size(); ++i) {
      const float* row = tensor.values.data() + i * dim;
      for (const auto& [f, x] : rows[i]) {
        double* sum = target.data() + static_cast<size_t>(f) * dim;
        for (size_t c = 0; c < dim; ++c)
          sum[c] += static_cast<double>(x) * row[c];
      }
      for (size_t c = 0; c < dim; ++c) {
        fallback[c] += row[c] / static_cast<float>(items.size());
      }
    }
    if (dim == 1) {  // a bias: low, not average
      std::vector<float> sorted = tensor.values;
      const auto tenth = static_cast<std::ptrdiff_t>(sorted.size() / 10);
      std::nth_element(sorted.begin(), sorted.begin() + tenth, sorted.end());
      fallback[0] = sorted[static_cast<size_t>(tenth)];
    }
    std::vector<double> a = gram;
    SolveRidge(&a, n, options.ridge, &target, dim);
    tensors->Add(kMapPrefix + name,
                 {static_cast<int64_t>(n), static_cast<int64_t>(dim)},
                 std::vector<float>(target.begin(), target.end()));
    tensors->Add(kFallbackPrefix + name, {static_cast<int64_t>(dim)},
                 std::move(fallback));
  }
  return map.Describe();
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
