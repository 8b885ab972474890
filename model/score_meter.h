#ifndef NEARLINE_MODEL_SCORE_METER_H_
#define NEARLINE_MODEL_SCORE_METER_H_

#include <array>
#include <vector>

#include "absl/types/span.h"
#include "features/dataset.h"
#include "model/evaluate.h"

namespace nearline::model {

// Values of a case's lines: by place in its history and in its truth.
struct CaseRatings {
  std::vector<float> history, truth;
};

// What scores say beside their order: how likely an item is wanted, and how it
// will be rated. Models of events give neither, so both are fitted to cases cut
// out of the training data, from a score's distance to the mean of the user's
// candidates, in standard deviations:
// - likelihood: a logistic function of it (Platt 1999);
// - rating: a linear one of it and of what user and item differ by from the
//   mean rating, least squares, within the range of training ratings.
class ScoreMeter {
 public:
  // The cases are ranked with all their candidates. `ratings` are theirs, and
  // `train_ratings` those of `train`; both may be empty: then Errors must not
  // be called.
  ScoreMeter(const features::Interactions& train,
             absl::Span<const float> train_ratings, int64_t items,
             absl::Span<const Case> cases, absl::Span<const RankedCase> ranked,
             absl::Span<const CaseRatings> ratings);

  // Mean over the candidates of -log of the likelihood of what is so.
  double LogLoss(const Case& c, const RankedCase& ranked) const;

  // Of the predicted ratings of the wanted items that are candidates.
  struct Sums {
    double absolute = 0, squared = 0;
    int64_t ratings = 0;
  };
  void AddErrors(const Case& c, const RankedCase& ranked,
                 const CaseRatings& ratings, Sums* to) const;

 private:
  using Features = std::array<double, 4>;  // 1, user, item, score

  void FitLikelihood(absl::Span<const Case> cases,
                     absl::Span<const RankedCase> ranked);
  void FitRatings(absl::Span<const Case> cases,
                  absl::Span<const RankedCase> ranked,
                  absl::Span<const CaseRatings> ratings);
  // Calls f(features, rating) for each rating that can be predicted.
  template <typename F>
  void ForEachRating(const Case& c, const RankedCase& ranked,
                     const CaseRatings& ratings, const F& f) const;

  double slope_ = 0, intercept_ = 0;  // of the likelihood's logit
  double mean_ = 0, lowest_ = 0, highest_ = 0;
  std::vector<double> of_item_;  // by row, beside the mean rating
  Features weights_ = {};
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SCORE_METER_H_
