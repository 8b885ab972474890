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

// Attributes of items or users as features, all of about the same size, so that
// no kind of attribute drowns another:
// - texts: one for each frequent (attribute, value) pair, 1 where it holds;
// - numbers: hat functions between 2, 4, 8 and 16 knots at quantiles, of which
//   two share the 1, so that what is linear in them bends where it must;
// - vectors: up to 64 elements, those that say most of the others, standardized
//   and then shortened to a length of about 4 in all;
// - last a constant, 1.
// Immutable.
class AttributeFeatures {
 public:
  struct Options {
    // Of texts and numbers, of which numbers get a quarter, in equal parts, or
    // where they are many two each, up to a half; vectors have as many again as
    // that quarter.
    int max_features = 256;
    int min_count = 3;  // of which a feature must be an attribute
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
  // `index` of a feature that is no element of a vector. kNumber, standardized
  // as elements are, is not chosen any more, but in older bundles.
  static constexpr int kText = -1, kNumber = -2, kHat = -3;
  struct Feature {
    std::string attribute;
    std::string value;  // of a text
    int index = kText;
    // Of a hat, where it is 1; of elements and numbers, the mean.
    double mean = 0;
    double low = 0, high = 0;  // of a hat, where it ends; mean: it does not
    double scale = 1;          // of elements and numbers
    double most = 5;           // after scaling, up or down

    double Of(double x) const;
  };
  // Values in ascending order, and how much lies below.
  using Distribution = std::vector<std::pair<double, double>>;
  void AddHats(const std::string& attribute, const Distribution& distinct,
               size_t knots);
  // Both choose features by the values of the attribute's subjects.
  void AddNumber(const std::string& attribute, std::vector<double> values,
                 size_t room);
  void AddVector(const std::string& attribute,
                 const std::vector<const std::vector<float>*>& vectors,
                 size_t room);
  void Add(Feature feature);

  std::vector<Feature> features_;
  std::map<std::string, std::map<std::string, uint32_t>> text_;  // -> feature
  std::map<std::string, std::vector<uint32_t>> numeric_;         // -> features
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ATTRIBUTE_FEATURES_H_
