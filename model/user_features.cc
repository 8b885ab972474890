#include "model/user_features.h"

#include <algorithm>
#include <bit>

namespace nearline::model {
namespace {

constexpr char kMap[] = "user_features.map";    // [features + 1, dim]
constexpr char kGain[] = "user_features.gain";  // [kBuckets]

}  // namespace

size_t UserFeatures::BucketOf(size_t items) {
  return std::min<size_t>(kBuckets - 1,
                          static_cast<size_t>(std::bit_width(items)));
}

UserFeatures::UserFeatures(AttributeFeatures features, size_t dim,
                           std::vector<float> map, const Gains& gains)
    : features_(std::move(features)),
      dim_(dim),
      map_(std::move(map)),
      gains_(gains) {}

Json UserFeatures::Save(Tensors* tensors) const {
  tensors->Add(kMap, {features_.width() + 1, static_cast<int64_t>(dim_)}, map_);
  tensors->Add(kGain, {kBuckets}, {gains_.begin(), gains_.end()});
  return features_.Describe();
}

absl::StatusOr<UserFeatures> UserFeatures::Load(const Json& description,
                                                int dim, Tensors* tensors) {
  ASSIGN_OR_RETURN(AttributeFeatures features,
                   AttributeFeatures::Load(description, "user_features"));
  ASSIGN_OR_RETURN(Tensor map,
                   tensors->Take(kMap, {features.width() + 1, dim}));
  ASSIGN_OR_RETURN(const Tensor gain, tensors->Take(kGain, {kBuckets}));
  Gains gains{};
  std::copy(gain.values.begin(), gain.values.end(), gains.begin());
  return UserFeatures(std::move(features), static_cast<size_t>(dim),
                      std::move(map.values), gains);
}

FeatureValues UserFeatures::TraitsOf(const features::Attributes& attributes,
                                     const History& history) const {
  if (gains_[BucketOf(history.rows.size())] == 0) return {};
  return features_.Of(attributes);
}

void UserFeatures::AddTo(const History& history, float* query) const {
  const float gain = gains_[BucketOf(history.rows.size())];
  const auto add = [&](size_t row, float scale) {
    const float* const from = map_.data() + row * dim_;
    for (size_t c = 0; c < dim_; ++c) query[c] += scale * from[c];
  };
  const auto width = static_cast<size_t>(features_.width());
  for (const auto& [feature, value] : history.traits) {
    add(feature, value * gain);
    const bool constant = feature + 1 == width;
    if (constant && history.rows.empty()) add(width, value * gain);
  }
}

absl::Status TraitEncoder::EncodeFrom(
    absl::Span<const float* const> sums,
    absl::Span<const History* const> histories,
    std::vector<float>* queries) const {
  RETURN_IF_ERROR(of_events_->EncodeFrom(sums, histories, queries));
  const auto dim = static_cast<size_t>(this->dim());
  for (size_t i = 0; i < histories.size(); ++i) {
    users_->AddTo(*histories[i], queries->data() + i * dim);
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
