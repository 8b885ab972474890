#ifndef NEARLINE_MODEL_USER_FEATURES_H_
#define NEARLINE_MODEL_USER_FEATURES_H_

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "features/types.h"
#include "model/attribute_features.h"
#include "model/scoring.h"
#include "model/tensors.h"

namespace nearline::model {

// What attributes of a user add to the query vector: the difference between the
// queries of users like that and of all, by a linear map of features, times a
// gain for each length of the history. To an empty history's query comes
// also what all queries have in common. Learned by FitUsers. Immutable.
class UserFeatures {
 public:
  // By how many items the history has: 0, 1, 2 to 3, 4 to 7, ..., 256 or more.
  static constexpr size_t kBuckets = 10;
  static size_t BucketOf(size_t items);
  // How much of the map a bucket takes.
  using Gains = std::array<float, kBuckets>;

  // `map` is [features.width() + 1, dim], the last row for empty histories.
  UserFeatures(AttributeFeatures features, size_t dim, std::vector<float> map,
               const Gains& gains);

  // Adds the tensors to a bundle's, and returns what its manifest must keep.
  Json Save(Tensors* tensors) const;
  // Takes the tensors out of a bundle's, for queries [dim]. Errors:
  // INVALID_ARGUMENT or NOT_FOUND naming what is wrong.
  static absl::StatusOr<UserFeatures> Load(const Json& description, int dim,
                                           Tensors* tensors);

  // The history's traits; none where they would add nothing.
  FeatureValues TraitsOf(const features::Attributes& attributes,
                         const History& history) const;
  // Adds what the history's traits say. query: [dim].
  void AddTo(const History& history, float* query) const;

 private:
  const AttributeFeatures features_;
  const size_t dim_;
  const std::vector<float> map_;
  const Gains gains_;
};

// An encoder, and what traits add to its queries.
class TraitEncoder final : public Encoder {
 public:
  TraitEncoder(std::unique_ptr<Encoder> of_events,
               std::shared_ptr<const UserFeatures> users)
      : of_events_(std::move(of_events)), users_(std::move(users)) {}
  int dim() const override { return of_events_->dim(); }
  std::vector<const ItemTable*> summed() const override {
    return of_events_->summed();
  }
  absl::Status EncodeFrom(absl::Span<const float* const> sums,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override;

 private:
  const std::unique_ptr<Encoder> of_events_;
  const std::shared_ptr<const UserFeatures> users_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_USER_FEATURES_H_
