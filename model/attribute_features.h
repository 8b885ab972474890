#ifndef NEARLINE_MODEL_ATTRIBUTE_FEATURES_H_
#define NEARLINE_MODEL_ATTRIBUTE_FEATURES_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "base/text.h"
#include "features/types.h"
#include "model/sparse_rows.h"

namespace nearline::model {

// (feature, value) pairs.
using FeatureValues = std::vector<std::pair<uint32_t, float>>;

// Attributes of items or users as numbers: one feature for each frequent
// (attribute, value) pair of texts, 1 where it holds; one for each number and
// each element of an embedding, standardized and kept within [-5, 5]; last a
// constant, 1. Immutable.
class AttributeFeatures {
 public:
  struct Options {
    int max_features = 256;  // numbers first, then the most frequent pairs
    int min_count = 3;       // of which a feature must be an attribute
  };

  AttributeFeatures() = default;  // the constant alone
  // Chooses features; null for a subject without attributes.
  AttributeFeatures(const std::vector<const features::Attributes*>& subjects,
                    const Options& options);
  // From what Describe gave. Errors: INVALID_ARGUMENT with `name` and what is
  // wrong.
  static absl::StatusOr<AttributeFeatures> Load(const Json& description,
                                                absl::string_view name);
  Json Describe() const;

  // How many features there are, with the constant.
  int64_t width() const { return static_cast<int64_t>(features_.size()) + 1; }
  // Empty when no attribute is known.
  FeatureValues Of(const features::Attributes& attributes) const;
  // The same by row, but of nothing known there is the constant.
  SparseRows Rows(
      const std::vector<const features::Attributes*>& subjects) const;

 private:
  struct Feature {
    std::string attribute;
    std::string value;  // of a text feature
    int index = -1;     // of a vector's element; -2 for a number; -1 for text
    float mean = 0;     // of numbers and elements
    float scale = 1;
  };
  void Add(Feature feature);

  std::vector<Feature> features_;
  std::map<std::string, std::map<std::string, uint32_t>> text_;  // -> feature
  std::map<std::string, std::vector<uint32_t>> numeric_;         // -> features
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ATTRIBUTE_FEATURES_H_
