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

double Bounded(double x) { return std::clamp(x, -kMostNumber, kMostNumber); }

std::set<std::string> Distinct(const std::vector<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace

void AttributeFeatures::Add(Feature feature) {
  const auto number = static_cast<uint32_t>(features_.size());
  if (feature.index == -1) {
    text_[feature.attribute][feature.value] = number;
  } else {
    numeric_[feature.attribute].push_back(number);
  }
  features_.push_back(std::move(feature));
}

AttributeFeatures::AttributeFeatures(
    const std::vector<const Attributes*>& subjects, const Options& options) {
  std::map<std::pair<std::string, std::string>, int> counts;
  struct Moments {
    double n = 0, sum = 0, squares = 0;
  };
  std::map<std::pair<std::string, int>, Moments> numbers;
  const auto number = [&](const std::string& name, int index, double given) {
    const double x = Bounded(given);
    Moments& m = numbers[{name, index}];
    m.n += 1;
    m.sum += x;
    m.squares += x * x;
  };
  for (const Attributes* attributes : subjects) {
    if (attributes == nullptr) continue;
    for (const auto& [name, value] : *attributes) {
      if (const auto* s = std::get_if<std::string>(&value)) {
        ++counts[{name, *s}];
      } else if (const auto* l =
                     std::get_if<std::vector<std::string>>(&value)) {
        for (const std::string& text : Distinct(*l)) ++counts[{name, text}];
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
    if (count >= options.min_count) {
      texts.emplace_back(-count, key.first, key.second);
    }
  }
  std::sort(texts.begin(), texts.end());
  const auto room = static_cast<size_t>(options.max_features);
  for (const auto& [key, m] : numbers) {
    if (features_.size() == room || m.n < options.min_count) continue;
    const double mean = m.sum / m.n;
    const double variance = std::max(m.squares / m.n - mean * mean, 1e-12);
    Add({.attribute = key.first,
         .index = key.second,
         .mean = static_cast<float>(mean),
         .scale = static_cast<float>(1 / std::sqrt(variance))});
  }
  for (const auto& [count, attribute, value] : texts) {
    if (features_.size() == room) break;
    Add({.attribute = attribute, .value = value});
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
        float x = feature.mean;
        if (const auto* number = std::get_if<double>(&value)) {
          if (feature.index == -2) x = static_cast<float>(Bounded(*number));
        } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
          const auto i = static_cast<size_t>(feature.index);
          if (feature.index >= 0 && i < v->size())
            x = static_cast<float>(Bounded((*v)[i]));
        }
        out.emplace_back(
            f, std::clamp((x - feature.mean) * feature.scale, -5.0f, 5.0f));
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
                   {"scale", f.scale}});
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
    f.mean = static_cast<float>(in.Double("mean"));
    f.scale = static_cast<float>(in.Double("scale"));
    RETURN_IF_ERROR(in.status());
    if (f.index < -2) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": index = ", f.index, ": expected -2 or more"));
    }
    out.Add(std::move(f));
  }
  return out;
}

}  // namespace nearline::model
