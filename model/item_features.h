#ifndef NEARLINE_MODEL_ITEM_FEATURES_H_
#define NEARLINE_MODEL_ITEM_FEATURES_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/text.h"
#include "features/types.h"
#include "model/sparse_rows.h"
#include "model/tensors.h"

namespace nearline::model {

// A linear map from an item's attributes to its rows, so that an item that came
// after training has rows of its own at once. Fitted by ridge regression over
// the trained items at publication. Immutable.
class ItemFeatureMap {
 public:
  struct Options {
    int max_features = 256;  // the most frequent (attribute, value) pairs
    int min_items = 3;       // of which a pair must be an attribute
    double ridge = 10.0;
  };

  // Fits the map for every item table of `tensors` (names with ".item.") and
  // adds its weights there. `items[i]` are the attributes of row i, null for
  // none. Returns what the manifest must keep.
  static Json Fit(const std::vector<const features::Attributes*>& items,
                  const Options& options, Tensors* tensors);

  // Features of items as the map sees them, with the constant last; `width`
  // gets how many there are.
  static SparseRows Features(
      const std::vector<const features::Attributes*>& items,
      const Options& options, int64_t* width);

  // Takes the weights out of the bundle's tensors; `widths` are the tables' by
  // name. Errors: INVALID_ARGUMENT or NOT_FOUND naming what is wrong.
  static absl::StatusOr<ItemFeatureMap> Load(
      const Json& description, const std::map<std::string, int64_t>& widths,
      Tensors* tensors);

  // The table that a tensor of a map is about; any other name as it is.
  static absl::string_view TableOf(absl::string_view tensor);
  // The tensor [features, width] that maps features to the rows of a table.
  static std::string MapOf(absl::string_view table);
  // Whether a tensor is a table of items, of which rows are made.
  static bool IsTable(absl::string_view tensor);

  // The row of an item in `table`. Without any known attribute: the mean row,
  // and for a bias the tenth percentile, so that nothing unknown is pushed.
  std::vector<float> Row(const std::string& table,
                         const features::Attributes& attributes) const;

 private:
  struct Feature {
    std::string attribute;
    std::string value;  // of a text feature
    int index = -1;     // of a vector's element; -2 for a number; -1 for text
    float mean = 0;     // of numbers and elements
    float scale = 1;
  };
  struct Weights {
    size_t dim = 0;
    std::vector<float> map;       // [features + 1, dim], the constant last
    std::vector<float> fallback;  // [dim]
  };

  // Sparse (feature, value) pairs; without the constant.
  std::vector<std::pair<int, float>> Extract(
      const features::Attributes& attributes) const;
  static ItemFeatureMap Chosen(
      const std::vector<const features::Attributes*>& items,
      const Options& options);
  SparseRows ExtractAll(
      const std::vector<const features::Attributes*>& items) const;
  void Choose(const std::vector<const features::Attributes*>& items,
              const Options& options);
  Json Describe() const;

  std::vector<Feature> features_;
  std::map<std::string, std::map<std::string, int>> text_;  // -> feature
  std::map<std::string, std::vector<int>> numeric_;         // -> features
  std::map<std::string, Weights> tables_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ITEM_FEATURES_H_
