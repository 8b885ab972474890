#include "model/tuner.h"

#include <algorithm>
#include <cmath>

namespace nearline::model {

Tuner::Tuner(Parameters start, std::vector<ParameterSpec> searched, int trials,
             uint64_t seed)
    : searched_(std::move(searched)),
      trials_(trials),
      random_(seed),
      tried_(start),
      best_(std::move(start)) {}

absl::StatusOr<Tuner> Tuner::Create(Parameters start,
                                    const std::set<std::string>& fixed,
                                    int trials, uint64_t seed) {
  std::vector<ParameterSpec> searched;
  for (const ParameterSpec& spec : start.specs()) {
    const bool open = spec.search.low < spec.search.high;
    if (open && !fixed.contains(spec.name)) searched.push_back(spec);
  }
  if (searched.empty()) {
    return absl::InvalidArgumentError(
        "the model has no parameter left to tune; leave out --tune");
  }
  return Tuner(std::move(start), std::move(searched), trials, seed);
}

Parameters Tuner::Next() {
  if (told_ == 0) return tried_;  // what was given
  constexpr double kNear = 0.8;
  const bool near = 3 * told_ >= trials_ && random_.Uniform() < kNear;
  tried_ = best_;
  for (const ParameterSpec& spec : searched_) {
    // Near the best, a few parameters move at a time.
    if (near && random_.Uniform() < 0.5) continue;
    (void)tried_.Set(spec.name, Draw(spec, near));  // within the range
  }
  return tried_;
}

void Tuner::Tell(double value) {
  if (told_++ > 0 && value <= best_value_) return;
  best_value_ = value;
  best_ = tried_;
}

double Tuner::Draw(const ParameterSpec& spec, bool near) {
  const auto to = [&](double x) {
    return spec.search.by_ratio ? std::log(x) : x;
  };
  const double low = to(spec.search.low), high = to(spec.search.high);
  double x = low + (high - low) * random_.Uniform();
  // A default may lie outside, as "chosen by itself" does.
  const double now = best_[spec.name];
  if (near && now >= spec.search.low && now <= spec.search.high) {
    x = std::clamp(to(now) + 0.15 * (high - low) * random_.Normal(), low, high);
  }
  x = std::clamp(spec.search.by_ratio ? std::exp(x) : x, spec.search.low,
                 spec.search.high);
  return spec.whole ? std::round(x) : x;
}

}  // namespace nearline::model
