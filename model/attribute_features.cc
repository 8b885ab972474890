#include "model/attribute_features.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>
#include <utility>

namespace nearline::model {

using features::Attributes;

namespace {

// Numbers beyond it are no measure of anything, and their squares overflow.
constexpr double kMostNumber = 1e15;

// Knots of a number's hats, coarse ones first: those share what the finer ones
// have too few subjects to learn.
constexpr size_t kKnots[] = {2, 4, 8, 16};
constexpr size_t kMostCorrelated = 2000;  // subjects
constexpr double kVectorLength = 4;

double Bounded(double x) { return std::clamp(x, -kMostNumber, kMostNumber); }

std::set<std::string> Distinct(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace

void AttributeFeatures::Add(Feature feature) {
  const auto number = static_cast<uint32_t>(features_.size());
  if (feature.index == kText) {
    text_[feature.attribute][feature.value] = number;
  } else {
    numeric_[feature.attribute].push_back(number);
  }
  features_.push_back(std::move(feature));
}

double AttributeFeatures::Feature::Of(double x) const {
  if (index != kHat) return std::clamp((x - mean) * scale, -most, most);
  if (x < mean) {
    return low == mean ? 1 : std::max(0.0, (x - low) / (mean - low));
  }
  return high == mean ? 1 : std::max(0.0, (high - x) / (high - mean));
}

AttributeFeatures::AttributeFeatures(
    const std::vector<const Attributes*>& subjects, const Options& options) {
  std::map<std::pair<std::string, std::string>, int> counts;
  std::map<std::string, std::vector<double>> numbers;
  std::map<std::string, std::vector<const std::vector<float>*>> vectors;
  for (const Attributes* attributes : subjects) {
    if (attributes == nullptr) continue;
    for (const auto& [name, value] : *attributes) {
      if (const auto* s = std::get_if<std::string>(&value)) {
        ++counts[{name, *s}];
      } else if (const auto* l =
                     std::get_if<std::vector<std::string>>(&value)) {
        for (const std::string& text : Distinct(*l)) ++counts[{name, text}];
      } else if (const auto* x = std::get_if<double>(&value)) {
        numbers[name].push_back(Bounded(*x));
      } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
        vectors[name].push_back(v);
      }
    }
  }
  const auto few = [&](const auto& entry) {
    return entry.second.size() < static_cast<size_t>(options.min_count);
  };
  std::erase_if(numbers, few);
  std::erase_if(numbers, [](const auto& entry) {
    return std::all_of(entry.second.begin(), entry.second.end(),
                       [&](double x) { return x == entry.second[0]; });
  });
  std::erase_if(vectors, few);
  const auto room = static_cast<size_t>(options.max_features);
  for (auto& [name, values] : numbers) {
    if (features_.size() >= room / 2) break;
    AddNumber(name, std::move(values), room / 4 / numbers.size());
  }
  const size_t after_numbers = features_.size();
  for (const auto& [name, values] : vectors) {
    AddVector(name, values, std::max<size_t>(1, room / 4 / vectors.size()));
  }
  const size_t texts_end = features_.size() + room - after_numbers;
  std::vector<std::tuple<int, std::string, std::string>> texts;
  for (const auto& [key, count] : counts) {
    if (count >= options.min_count) {
      texts.emplace_back(-count, key.first, key.second);
    }
  }
  std::sort(texts.begin(), texts.end());
  for (const auto& [count, attribute, value] : texts) {
    if (features_.size() == texts_end) break;
    Add({.attribute = attribute, .value = value});
  }
}

// Knots at quantiles, at which a value counts by the square root of how often
// it occurs: neither do frequent values take all knots, nor rare ones.
void AttributeFeatures::AddNumber(const std::string& attribute,
                                  std::vector<double> values, size_t room) {
  std::sort(values.begin(), values.end());
  Distribution distinct;
  double sum = 0;
  for (size_t i = 0, next = 0; i < values.size(); i = next) {
    while (next < values.size() && values[next] == values[i]) ++next;
    distinct.emplace_back(values[i], sum);
    sum += std::sqrt(static_cast<double>(next - i));
  }
  if (distinct.size() < 2) return;
  for (const size_t level : kKnots) {
    const size_t knots = std::min(level, distinct.size());
    if (level > kKnots[0] && room < knots) return;
    room -= std::min(room, knots);
    AddHats(attribute, distinct, knots);
    if (distinct.size() <= level) return;
  }
}

void AttributeFeatures::AddHats(const std::string& attribute,
                                const Distribution& distinct, size_t knots) {
  std::vector<double> at;
  const double last = distinct.back().second;
  for (size_t k = 0; k < knots; ++k) {
    const double wanted =
        last * static_cast<double>(k) / static_cast<double>(knots - 1);
    const auto above = std::upper_bound(
        distinct.begin() + 1, distinct.end(), wanted,
        [](double w, const auto& entry) { return w < entry.second; });
    const double value =
        knots == distinct.size() ? distinct[k].first : (above - 1)->first;
    if (at.empty() || value > at.back()) at.push_back(value);
  }
  for (size_t k = 0; k < at.size(); ++k) {
    Add({.attribute = attribute,
         .index = kHat,
         .mean = at[k],
         .low = at[k == 0 ? 0 : k - 1],
         .high = at[std::min(k + 1, at.size() - 1)]});
  }
}

// Elements by Cholesky factorization of their correlations with pivots: in each
// step the one of which the others before it say least, as long as there is
// something left to say.
void AttributeFeatures::AddVector(
    const std::string& attribute,
    const std::vector<const std::vector<float>*>& vectors, size_t room) {
  size_t dim = 0;
  for (const auto* v : vectors) dim = std::max(dim, v->size());
  if (dim == 0) return;
  const size_t n = std::min(vectors.size(), kMostCorrelated);
  std::vector<double> mean(dim), spread(dim);
  // [n, dim], standardized; what a vector does not have is as the mean.
  std::vector<float> x(n * dim, 0.0f);
  for (size_t c = 0; c < dim; ++c) {
    double count = 0, sum = 0, squares = 0;
    for (const auto* v : vectors) {
      if (c >= v->size()) continue;
      const double value = Bounded((*v)[c]);
      count += 1;
      sum += value;
      squares += value * value;
    }
    mean[c] = sum / count;
    spread[c] = std::sqrt(std::max(squares / count - mean[c] * mean[c], 0.0));
    if (spread[c] < 1e-6 * std::max(1e-6, std::abs(mean[c]))) spread[c] = 0;
  }
  for (size_t i = 0; i < n; ++i) {
    const std::vector<float>& v = *vectors[i * vectors.size() / n];
    for (size_t c = 0; c < v.size(); ++c) {
      if (spread[c] == 0) continue;
      const double z = (Bounded(v[c]) - mean[c]) / spread[c];
      x[i * dim + c] = static_cast<float>(std::clamp(z, -5.0, 5.0));
    }
  }
  std::vector<float> left(dim, 0.0f);  // of an element's square length
  for (size_t i = 0; i < n; ++i) {
    for (size_t c = 0; c < dim; ++c) left[c] += x[i * dim + c] * x[i * dim + c];
  }
  const float enough = 0.01f * *std::max_element(left.begin(), left.end());
  std::vector<std::vector<float>> factors;  // of the chosen ones, [dim] each
  std::vector<size_t> chosen;
  while (chosen.size() < std::min(room, dim)) {
    const auto pivot = static_cast<size_t>(
        std::max_element(left.begin(), left.end()) - left.begin());
    if (left[pivot] <= enough) break;
    std::vector<float> factor(dim, 0.0f);
    for (size_t i = 0; i < n; ++i) {
      const float z = x[i * dim + pivot];
      for (size_t c = 0; c < dim; ++c) factor[c] += z * x[i * dim + c];
    }
    for (const std::vector<float>& before : factors) {
      for (size_t c = 0; c < dim; ++c) factor[c] -= before[pivot] * before[c];
    }
    const float length = std::sqrt(left[pivot]);
    for (size_t c = 0; c < dim; ++c) {
      factor[c] /= length;
      left[c] -= factor[c] * factor[c];
    }
    left[pivot] = 0;
    chosen.push_back(pivot);
    factors.push_back(std::move(factor));
  }
  std::sort(chosen.begin(), chosen.end());
  const double share =
      kVectorLength / std::sqrt(static_cast<double>(chosen.size()));
  for (const size_t c : chosen) {
    Add({.attribute = attribute,
         .index = static_cast<int>(c),
         .mean = mean[c],
         .scale = share / spread[c],
         .most = 5 * share});
  }
}

FeatureValues AttributeFeatures::Of(const Attributes& attributes) const {
  FeatureValues out;
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
      for (const std::string& s : Distinct(*l)) text(name, s);
    } else if (const auto column = numeric_.find(name);
               column != numeric_.end()) {
      for (const uint32_t f : column->second) {
        const Feature& feature = features_[f];
        double x = 0;
        if (const auto* number = std::get_if<double>(&value)) {
          if (feature.index >= 0) continue;
          x = feature.Of(Bounded(*number));
        } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
          const auto i = static_cast<size_t>(feature.index);
          if (feature.index < 0 || i >= v->size()) continue;
          x = feature.Of(Bounded((*v)[i]));
        }
        if (x != 0 || feature.index != kHat) {
          out.emplace_back(f, static_cast<float>(x));
        }
      }
    }
  }
  if (!out.empty()) {
    out.emplace_back(static_cast<uint32_t>(features_.size()), 1.0f);
  }
  return out;
}

SparseRows AttributeFeatures::Rows(
    const std::vector<const Attributes*>& subjects) const {
  const FeatureValues unknown = {
      {static_cast<uint32_t>(features_.size()), 1.0f}};
  SparseRows rows;
  for (const Attributes* const attributes : subjects) {
    FeatureValues values;
    if (attributes != nullptr) values = Of(*attributes);
    if (values.empty()) values = unknown;
    for (const auto& [feature, value] : values) {
      rows.columns.push_back(feature);
      rows.values.push_back(value);
    }
    rows.EndRow();
  }
  return rows;
}

Json AttributeFeatures::Describe() const {
  Json out = Json::array();
  for (const Feature& f : features_) {
    out.push_back({{"attribute", f.attribute},
                   {"value", f.value},
                   {"index", f.index},
                   {"mean", f.mean},
                   {"low", f.low},
                   {"high", f.high},
                   {"scale", f.scale},
                   {"most", f.most}});
  }
  return out;
}

absl::StatusOr<AttributeFeatures> AttributeFeatures::Load(
    const Json& description, absl::string_view name) {
  AttributeFeatures out;
  if (!description.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is no array"));
  }
  for (const Json& entry : description) {
    JsonReader in(entry, std::string(name));
    Feature f;
    f.attribute = in.String("attribute");
    f.value = in.String("value");
    f.index = static_cast<int>(in.Int("index"));
    f.mean = in.Double("mean");
    if (in.Has("low")) f.low = in.Double("low");
    if (in.Has("high")) f.high = in.Double("high");
    f.scale = in.Double("scale");
    if (in.Has("most")) f.most = in.Double("most");
    RETURN_IF_ERROR(in.status());
    if (f.index < kHat) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": index = ", f.index, ": expected -3 or more"));
    }
    if (f.index == kHat && !(f.low <= f.mean && f.mean <= f.high)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": low = ", f.low, ", mean = ", f.mean,
                       ", high = ", f.high, ": expected them in this order"));
    }
    if (!(f.most >= 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": most = ", f.most, ": expected 0 or more"));
    }
    out.Add(std::move(f));
  }
  return out;
}

}  // namespace nearline::model
