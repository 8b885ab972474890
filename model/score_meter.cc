#include "model/score_meter.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace nearline::model {
namespace {

// Ratings near the mean that a user or an item is thought to have beside its
// own, so that few do not say much.
constexpr double kPrior = 5;

struct Spread {
  double mean = 0, deviation = 0;
  double Of(double score) const {
    return deviation > 1e-12 ? (score - mean) / deviation : 0;
  }
};

Spread SpreadOf(const std::vector<ScoredRow>& list) {
  double sum = 0, squares = 0;
  for (const ScoredRow& s : list) sum += s.score;
  const double n = std::max<double>(1, static_cast<double>(list.size()));
  for (const ScoredRow& s : list) squares += std::pow(s.score - sum / n, 2);
  return {sum / n, std::sqrt(squares / n)};
}

bool IsWanted(const Case& c, Row row) {
  return std::binary_search(c.truth.begin(), c.truth.end(), row);
}

double Logistic(double x) { return 1 / (1 + std::exp(-x)); }

}  // namespace

ScoreMeter::ScoreMeter(const features::Interactions& train,
                       absl::Span<const float> train_ratings, int64_t items,
                       absl::Span<const Case> cases,
                       absl::Span<const RankedCase> ranked,
                       absl::Span<const CaseRatings> ratings) {
  FitLikelihood(cases, ranked);
  if (train_ratings.empty()) return;
  for (const float rating : train_ratings) mean_ += rating;
  mean_ /= static_cast<double>(train_ratings.size());
  const auto [low, high] =
      std::minmax_element(train_ratings.begin(), train_ratings.end());
  lowest_ = *low;
  highest_ = *high;
  of_item_.assign(static_cast<size_t>(items), 0);
  std::vector<double> counts(of_item_.size(), kPrior);
  for (size_t i = 0; i < train_ratings.size(); ++i) {
    of_item_[train.items[i]] += train_ratings[i] - mean_;
    ++counts[train.items[i]];
  }
  for (size_t i = 0; i < counts.size(); ++i) of_item_[i] /= counts[i];
  FitRatings(cases, ranked, ratings);
}

// Newton's method on the mean loss, with a ridge that keeps a perfect order
// finite.
void ScoreMeter::FitLikelihood(absl::Span<const Case> cases,
                               absl::Span<const RankedCase> ranked) {
  constexpr int kRounds = 30;
  constexpr double kRidge = 1e-4;
  for (int round = 0; round < kRounds; ++round) {
    double g0 = 0, g1 = 0, h00 = 0, h01 = 0, h11 = 0, n = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
      const Spread spread = SpreadOf(ranked[i].list);
      for (const ScoredRow& s : ranked[i].list) {
        const double z = spread.Of(s.score);
        const double p = Logistic(slope_ * z + intercept_);
        const double off = p - (IsWanted(cases[i], s.row) ? 1 : 0);
        const double curve = p * (1 - p);
        g0 += off;
        g1 += off * z;
        h00 += curve;
        h01 += curve * z;
        h11 += curve * z * z;
        ++n;
      }
    }
    if (n == 0) return;
    g0 += n * kRidge * intercept_;
    g1 += n * kRidge * slope_;
    h00 += n * kRidge;
    h11 += n * kRidge;
    const double determinant = h00 * h11 - h01 * h01;
    // A step of two at most: far from the minimum the curve is flat.
    const auto step = [](double x) { return std::clamp(x, -2.0, 2.0); };
    const double by0 = step((h11 * g0 - h01 * g1) / determinant);
    const double by1 = step((h00 * g1 - h01 * g0) / determinant);
    intercept_ -= by0;
    slope_ -= by1;
    if (std::abs(by0) + std::abs(by1) < 1e-9) return;
  }
}

double ScoreMeter::LogLoss(const Case& c, const RankedCase& ranked) const {
  if (ranked.list.empty()) return 0;
  const Spread spread = SpreadOf(ranked.list);
  double sum = 0;
  for (const ScoredRow& s : ranked.list) {
    const double logit = slope_ * spread.Of(s.score) + intercept_;
    const double x = IsWanted(c, s.row) ? -logit : logit;
    sum += std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
  }
  return sum / static_cast<double>(ranked.list.size());
}

template <typename F>
void ScoreMeter::ForEachRating(const Case& c, const RankedCase& ranked,
                               const CaseRatings& ratings, const F& f) const {
  const Spread spread = SpreadOf(ranked.list);
  double of_user = 0;
  for (const float rating : ratings.history) of_user += rating - mean_;
  of_user /= static_cast<double>(ratings.history.size()) + kPrior;
  for (const ScoredRow& s : ranked.list) {
    const auto at = std::lower_bound(c.truth.begin(), c.truth.end(), s.row);
    if (at == c.truth.end() || *at != s.row) continue;
    const double of_item = s.row < of_item_.size() ? of_item_[s.row] : 0;
    f(Features{1, of_user, of_item, spread.Of(s.score)},
      ratings.truth[static_cast<size_t>(at - c.truth.begin())]);
  }
}

// By the normal equations, and elimination.
void ScoreMeter::FitRatings(absl::Span<const Case> cases,
                            absl::Span<const RankedCase> ranked,
                            absl::Span<const CaseRatings> ratings) {
  constexpr size_t kN = std::tuple_size_v<Features>;
  double a[kN][kN + 1] = {};
  for (size_t i = 0; i < cases.size(); ++i) {
    ForEachRating(cases[i], ranked[i], ratings[i],
                  [&](const Features& x, double rating) {
                    for (size_t r = 0; r < kN; ++r) {
                      for (size_t k = 0; k < kN; ++k) a[r][k] += x[r] * x[k];
                      a[r][kN] += x[r] * (rating - mean_);
                    }
                  });
  }
  for (size_t r = 0; r < kN; ++r) a[r][r] += 1;  // for what does not vary
  for (size_t r = 0; r < kN; ++r) {
    for (size_t other = 0; other < kN; ++other) {
      if (other == r) continue;
      const double share = a[other][r] / a[r][r];
      for (size_t k = r; k <= kN; ++k) a[other][k] -= share * a[r][k];
    }
  }
  for (size_t r = 0; r < kN; ++r) weights_[r] = a[r][kN] / a[r][r];
}

void ScoreMeter::AddErrors(const Case& c, const RankedCase& ranked,
                           const CaseRatings& ratings, Sums* to) const {
  ForEachRating(c, ranked, ratings, [&](const Features& x, double rating) {
    double predicted = mean_;
    for (size_t i = 0; i < x.size(); ++i) predicted += weights_[i] * x[i];
    const double off = std::clamp(predicted, lowest_, highest_) - rating;
    to->absolute += std::abs(off);
    to->squared += off * off;
    ++to->ratings;
  });
}

}  // namespace nearline::model
