#ifndef NEARLINE_MODEL_EVALUATE_H_
#define NEARLINE_MODEL_EVALUATE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/status.h"
#include "features/dataset.h"
#include "model/generation.h"
#include "model/metrics.h"
#include "model/recommender.h"

namespace nearline::model {

// "ndcg@10": what is measured, and to which rank.
struct MetricSpec {
  enum class Kind { kNdcg, kRecall, kHitRate };
  Kind kind = Kind::kNdcg;
  int k = 10;

  // Errors: INVALID_ARGUMENT listing the metrics there are.
  static absl::StatusOr<MetricSpec> Parse(absl::string_view text);
  static absl::StatusOr<std::vector<MetricSpec>> ParseList(
      absl::string_view text);
  std::string Name() const;
  double Of(const std::vector<bool>& hits, int positives) const;
};

// One question to a model whose answer is known.
struct Case {
  History history;
  RowMask mask;              // what may be answered
  std::vector<Row> truth;    // ascending; rows the model lacks are misses
  int positives = 0;         // truth and what the model lacks
  std::vector<Row> repeats;  // candidates once more for each further listing
};

// Per-case values, one vector a metric, by name.
using CaseMetrics = std::map<std::string, std::vector<double>>;

// Runs the serving code over the cases. `on_share` hears of progress in [0, 1].
absl::StatusOr<CaseMetrics> Evaluate(
    const Generation& generation, absl::Span<const Case> cases,
    const std::vector<MetricSpec>& metrics, const RecommendOptions& options,
    const std::function<void(double)>& on_share = {});

// Rank, from 0, of each case's one truth among its mask; ties count against it,
// and what is listed more than once counts as often, the truth itself too.
absl::StatusOr<std::vector<int>> RankOfTruth(const Generation& generation,
                                             absl::Span<const Case> cases,
                                             const RecommendOptions& options);

// The holdout as cases of a generation bound to the store's catalogue.
std::vector<Case> CasesOf(const Generation& generation,
                          const std::vector<features::HoldoutUser>& holdout,
                          const features::Catalogue& catalogue,
                          double max_weight);

struct GateOptions {
  std::string metric = "ndcg@10";
  double tolerance = 0.02;   // of the incumbent's mean, that may be lost
  double confidence = 0.95;  // of the paired bootstrap
  int min_users = 100;       // fewer: only popularity must not be better
};

struct GateDecision {
  bool accepted = false;
  std::string words;
};

// Whether the candidate may be published. Vectors hold the metric by user, in
// one order; `incumbent` is empty when there is none to compare with. It may
// when it is not worse than the incumbent by more than the tolerance, and not
// worse at all with confidence; without a comparison, when it is not worse than
// popularity.
// `why_not` says why there is no incumbent to compare with.
GateDecision Decide(const std::vector<double>& candidate,
                    const std::vector<double>& incumbent,
                    const std::vector<double>& popularity,
                    const GateOptions& options,
                    const std::string& why_not = "nothing is in service");

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_EVALUATE_H_
