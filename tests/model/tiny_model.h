#ifndef NEARLINE_TESTS_MODEL_TINY_MODEL_H_
#define NEARLINE_TESTS_MODEL_TINY_MODEL_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "model/bundle.h"
#include "model/item_features.h"

namespace nearline::model {

inline void AddRandom(const std::string& name, std::vector<int64_t> shape,
                      Random* random, Bundle* bundle) {
  Tensor t{.shape = shape};
  for (int64_t i = 0; i < t.size(); ++i) {
    t.values.push_back(static_cast<float>(0.5 * random->Normal()));
  }
  bundle->tensors.Add(name, std::move(shape), std::move(t.values));
}

// A two-stage bundle with random weights: items i000, i001, ...
inline Bundle TinyBundle(int items, uint64_t seed = 1, int hidden = 24,
                         int latent = 8) {
  Random random(seed);
  Bundle bundle;
  bundle.manifest.id = absl::StrFormat("g-tiny-%d", seed);
  bundle.manifest.retriever = "mult-vae";
  bundle.manifest.ranker = "neumf";
  bundle.manifest.accepted = true;
  bundle.manifest.metrics["ndcg@10"] = 0.5;
  bundle.manifest.created_micros = static_cast<int64_t>(seed);
  for (int i = 0; i < items; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    AddRandom(name, std::move(shape), &random, &bundle);
  };
  const int64_t n = items;
  add("mult-vae.item.encoder", {n, hidden});
  add("mult-vae.encoder.bias", {hidden});
  add("mult-vae.mean.weight", {latent, hidden});
  add("mult-vae.mean.bias", {latent});
  add("mult-vae.hidden.weight", {hidden, latent});
  add("mult-vae.hidden.bias", {hidden});
  add("mult-vae.item.decoder", {n, hidden});
  add("mult-vae.item.bias", {n, 1});
  add("neumf.item.history", {n, 16});
  add("neumf.history.bias", {16});
  add("neumf.item.linear", {n, 5});
  add("neumf.item.gmf", {n, 16 + 5});
  add("neumf.item.bias", {n, 1});
  add("neumf.item.mlp", {n, 12});
  add("neumf.mlp.user.weight", {12, 16});
  add("neumf.mlp.user.bias", {12});
  add("neumf.mlp.2.weight", {6, 12});
  add("neumf.mlp.2.bias", {6});
  add("neumf.mlp.last", {6});
  bundle.manifest.parameters["item_features"] =
      ItemFeatureMap::Fit(std::vector<const features::Attributes*>(
                              static_cast<size_t>(items), nullptr),
                          {}, &bundle.tensors);
  return bundle;
}

}  // namespace nearline::model

#endif  // NEARLINE_TESTS_MODEL_TINY_MODEL_H_
