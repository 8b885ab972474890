#ifndef NEARLINE_TESTS_MODEL_HEAD_BUNDLE_H_
#define NEARLINE_TESTS_MODEL_HEAD_BUNDLE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "model/head.h"
#include "tests/model/tiny_model.h"

namespace nearline::model {

inline constexpr int kHeadItems = 90;

inline void Fit(Bundle* bundle) {
  bundle->manifest.parameters["item_features"] = ItemFeatureMap::Fit(
      std::vector<const features::Attributes*>(bundle->items.size(), nullptr),
      {}, &bundle->tensors);
}

// Three paths of random weights, neighbours, and a head.
inline Bundle HeadBundle() {
  Random random(4);
  Bundle bundle;
  bundle.manifest.id = "g-head";
  bundle.manifest.retriever = "joint";
  bundle.manifest.ranker = kHead;
  for (int i = 0; i < kHeadItems; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    AddRandom(name, std::move(shape), &random, &bundle);
  };
  add("joint.item.encoder", {kHeadItems, 10});
  add("joint.encoder.bias", {10});
  add("joint.item.linear", {kHeadItems, 7});
  add("joint.item.recent", {kHeadItems, 5});
  add("joint.recent.positions", {4, 5});
  add("joint.item.decoder", {kHeadItems, 22});
  add("joint.item.bias", {kHeadItems, 1});
  add("joint.neighbours.weights", {kHeadItems, 3});
  std::vector<float> rows;
  for (int i = 0; i < 3 * kHeadItems; ++i) {
    rows.push_back(static_cast<float>((i / 3 + 1 + i % 3) % kHeadItems));
  }
  bundle.tensors.Add("joint.neighbours.rows", {kHeadItems, 3}, rows);
  add("head.item.history", {kHeadItems, 6});
  add("head.history.bias", {6});
  add("head.mlp.user.weight", {8, 6});
  add("head.mlp.user.bias", {8});
  add("head.item.mlp", {kHeadItems, 8});
  add("head.mlp.paths.weight", {8, 8});
  add("head.mlp.2.weight", {4, 8});
  add("head.mlp.2.bias", {4});
  add("head.mlp.last", {4});
  add("head.item.popularity", {kHeadItems, 1});
  bundle.tensors.Add("head.input.least", {1}, {3});
  add("head.input.mean", {5});
  add("head.input.scale", {5});
  Fit(&bundle);
  return bundle;
}

}  // namespace nearline::model

#endif  // NEARLINE_TESTS_MODEL_HEAD_BUNDLE_H_
