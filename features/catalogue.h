#ifndef NEARLINE_FEATURES_CATALOGUE_H_
#define NEARLINE_FEATURES_CATALOGUE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "features/bitmap.h"
#include "features/store_format.h"
#include "features/types.h"

namespace nearline::features {

// All items in memory, by ordinal and by id, with an index of their attributes
// for filters. Not locked: the store guards it.
class Catalogue {
 public:
  // An item nobody listed is shown once `established_after` users have touched
  // it; 0: never.
  explicit Catalogue(int established_after)
      : established_after_(established_after) {}

  // Puts the record at `ordinal`, which is size() for a new item. The id of an
  // ordinal never changes.
  void Put(Ordinal ordinal, ItemRecord record);

  Ordinal size() const { return static_cast<Ordinal>(items_.size()); }
  const ItemRecord& operator[](Ordinal ordinal) const {
    return items_[ordinal];
  }
  // kNoOrdinal when there is no such item.
  Ordinal Find(absl::string_view id) const;
  bool IsServable(Ordinal ordinal) const { return servable_.contains(ordinal); }
  // Items that may be recommended: listed or established, not deleted.
  const Bitmap& servable() const { return servable_; }
  // Items nobody listed, on which users have left their marks (seen_by).
  const Bitmap& marked() const { return marked_; }
  // Changes whenever an answer could.
  uint64_t version() const { return version_; }

  // Listed items in byte order of id, after `after`, at most `count`.
  std::vector<Ordinal> ListAfter(absl::string_view after, int count) const;
  int64_t listed() const { return listed_; }

  // Items whose string attribute is `value`, or whose list holds it.
  const Bitmap& WithText(const std::string& attribute,
                         const std::string& value) const;
  // Items whose number attribute lies in [low, high].
  Bitmap WithNumber(const std::string& attribute, double low,
                    double high) const;

 private:
  bool ComputeServable(const ItemRecord& item) const;
  void Index(Ordinal ordinal, const Attributes& attributes, bool add);

  const int established_after_;
  std::deque<ItemRecord> items_;  // a deque: ids stay where by_id_ looks
  absl::flat_hash_map<absl::string_view, Ordinal> by_id_;
  std::map<absl::string_view, Ordinal> order_;  // listed items by id
  std::map<std::string, absl::flat_hash_map<std::string, Bitmap>> text_;
  std::map<std::string, std::set<std::pair<double, Ordinal>>> numbers_;
  Bitmap servable_, marked_;
  uint64_t version_ = 1;
  int64_t listed_ = 0;
};

// A condition on an item's attributes.
struct Filter {
  enum class Kind {
    kAll,    // every child holds; true for none
    kAny,    // some child holds; false for none
    kNot,    // children[0] does not hold
    kText,   // the string is one of `values`, or the list holds one
    kRange,  // the number lies in [low, high]
  };
  Kind kind = Kind::kAll;
  std::vector<Filter> children;
  std::string attribute;
  std::vector<std::string> values;
  double low = 0;
  double high = 0;
};

// The servable items for which `filter` holds.
Bitmap Evaluate(const Filter& filter, const Catalogue& catalogue);

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_CATALOGUE_H_
