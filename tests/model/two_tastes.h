#ifndef NEARLINE_TESTS_MODEL_TWO_TASTES_H_
#define NEARLINE_TESTS_MODEL_TWO_TASTES_H_

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "model/train.h"

namespace nearline::model {

// Two tastes: even users like even items, odd users odd ones. Items tell which
// they are.
inline TrainingSet TwoTastes() {
  static const auto* const kKinds = new std::vector<features::Attributes>{
      {{"kind", "even"}}, {{"kind", "odd"}}};
  TrainingSet set;
  set.items = 60;
  for (size_t i = 0; i < 60; ++i) set.attributes.push_back(&(*kKinds)[i % 2]);
  Random random(1);
  for (int u = 0; u < 300; ++u) {
    auto* const to = u < 260 ? &set.train : &set.validation_input;
    std::vector<uint32_t> items;
    while (items.size() < 12) {
      const auto item = static_cast<uint32_t>(2 * random.Below(30) +
                                              static_cast<unsigned>(u % 2));
      if (std::find(items.begin(), items.end(), item) == items.end()) {
        items.push_back(item);
      }
    }
    for (size_t i = 0; i < items.size(); ++i) {
      auto* const target = u >= 260 && i >= 9 ? &set.validation_target : to;
      target->items.push_back(items[i]);
      target->weights.push_back(1);
    }
    to->EndUser();
    if (u >= 260) set.validation_target.EndUser();
  }
  return set;
}

}  // namespace nearline::model

#endif  // NEARLINE_TESTS_MODEL_TWO_TASTES_H_
