#ifndef NEARLINE_MODEL_METRIC_SPEC_H_
#define NEARLINE_MODEL_METRIC_SPEC_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"

namespace nearline::model {

// "ndcg@10": what is measured, and to which rank.
struct MetricSpec {
  enum class Kind {
    kNdcg,
    kRecall,
    kPlainRecall,
    kPrecision,
    kF1,
    kHitRate,
    kMap,
    kMrr,
    kAuc,  // over all candidates; has no rank
    kNovelty,
    kDiversity,
    kPopularityLift,
    kCalibration,
    kLogLoss,  // over all candidates
    kCoverage,
    kGini,
    kMae,
    kMse,
    kRmse,
  };
  Kind kind = Kind::kNdcg;
  int k = 10;

  // Errors: INVALID_ARGUMENT listing the metrics there are.
  static absl::StatusOr<MetricSpec> Parse(absl::string_view text);
  // Separated by commas; each once.
  static absl::StatusOr<std::vector<MetricSpec>> ParseList(
      absl::string_view text);
  std::string Name() const;
  // Told from hits alone, so that a gate can go by it.
  bool OfHits() const { return kind < Kind::kNovelty; }
  // Told from scores, by a ScoreMeter; of them those of ratings.
  bool OfScores() const { return kind == Kind::kLogLoss || OfRatings(); }
  bool OfRatings() const { return kind >= Kind::kMae; }
  bool HasRank() const { return kind != Kind::kAuc && !OfScores(); }
  bool SmallerIsBetter() const {
    return kind == Kind::kCalibration || kind == Kind::kGini || OfScores();
  }
  // Every user has a value; else there is one for all lists together.
  bool OfUsers() const { return kind < Kind::kCoverage; }
  // Of metrics of hits. `hits` and `positives` as in metrics.h.
  double Of(const std::vector<bool>& hits, int positives) const;
};

// The greatest rank that a metric asks for, 0 when one asks for all candidates.
int DepthOf(const std::vector<MetricSpec>& metrics);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_METRIC_SPEC_H_
