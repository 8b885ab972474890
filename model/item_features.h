#ifndef NEARLINE_MODEL_ITEM_FEATURES_H_
#define NEARLINE_MODEL_ITEM_FEATURES_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/text.h"
#include "features/types.h"
#include "model/attribute_features.h"
#include "model/tensors.h"

namespace nearline::model {

// A linear map from an item's attributes to its rows, so that an item that came
// after training has rows of its own at once. Fitted by ridge regression over
// the trained items at publication. Immutable.
class ItemFeatureMap {
 public:
  struct Options {
    AttributeFeatures::Options features;
    double ridge = 10.0;
  };

  // Fits the map for every item table of `tensors` (names with ".item.") and
  // adds its weights there. `items[i]` are the attributes of row i, null for
  // none. Returns what the manifest must keep.
  static Json Fit(const std::vector<const features::Attributes*>& items,
                  const Options& options, Tensors* tensors);

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
  struct Weights {
    size_t dim = 0;
    std::vector<float> map;       // [features + 1, dim], the constant last
    std::vector<float> fallback;  // [dim]
  };

  AttributeFeatures features_;
  std::map<std::string, Weights> tables_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ITEM_FEATURES_H_
