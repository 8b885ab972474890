#ifndef NEARLINE_MODEL_EVALUATE_H_
#define NEARLINE_MODEL_EVALUATE_H_

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "base/status.h"
#include "base/workers.h"
#include "features/dataset.h"
#include "model/generation.h"
#include "model/metric_spec.h"
#include "model/metrics.h"
#include "model/recommender.h"

namespace nearline::model {

// One question to a model whose answer is known.
struct Case {
  History history;
  // The user's, which RankCases makes traits of, in place of the history's;
  // null for none.
  const features::Attributes* attributes = nullptr;
  RowMask mask;              // what may be answered
  std::vector<Row> truth;    // ascending; rows the model lacks are misses
  int positives = 0;         // truth and what the model lacks
  std::vector<Row> repeats;  // candidates once more for each further listing
};

// Per-case values, one vector a metric, by name.
using CaseMetrics = std::map<std::string, std::vector<double>>;

// Runs the serving code over the cases, for metrics of hits. `on_share` hears
// of progress in [0, 1].
absl::StatusOr<CaseMetrics> Evaluate(
    const Generation& generation, absl::Span<const Case> cases,
    const std::vector<MetricSpec>& metrics, const RecommendOptions& options,
    const std::function<void(double)>& on_share = {});

// A case's answer, best first.
struct RankedCase {
  std::vector<ScoredRow> list;
  // Whether list[r] is wanted; of a list of all candidates, with as many
  // further entries as candidates are listed more than once.
  std::vector<bool> hits;
};

// The first `depth` of each case, or all its candidates when `depth` is 0: then
// ties count against the wanted. On the calling thread, or on `workers`.
absl::StatusOr<std::vector<RankedCase>> RankCases(
    const Generation& generation, absl::Span<const Case> cases, int depth,
    const RecommendOptions& options,
    const std::function<void(double)>& on_share = {},
    Workers* workers = nullptr);

// Likewise, one case, by `scores` of all rows.
RankedCase RankByScores(const std::vector<float>& scores, const Case& c,
                        int depth);

// What lists are like beside being right, told from the training data: items
// 0 .. items - 1 by user, and their attributes by row, if they have any.
class ListMeter {
 public:
  ListMeter(const features::Interactions& train, int64_t items,
            absl::Span<const features::Attributes> attributes = {});

  // Whether some item has the attribute "genres", a string or several.
  bool KnowsGenres() const;

  // A user's list, its first k:
  // - novelty: mean of -log2 of the share of training users who have the item,
  //   which counts as one user's when nobody has;
  // - diversity: mean of 1 - cosine over pairs of items, as sets of users;
  // - popularity_lift: mean popularity of the list / that of the history - 1
  //   (Abdollahpouri 2020), 0 without a history;
  // - calibration: Kullback-Leibler divergence from the history's shares of
  //   genres to the list's, a hundredth of the former mixed into the latter
  //   (Steck, RecSys 2018); 0 is calibrated, or a history without genres.
  double OfUser(const MetricSpec& metric, const Case& c,
                const RankedCase& ranked);
  // All lists, their first k:
  // - coverage: share of the items that appear in some list;
  // - gini: of the items' counts over all lists.
  double OfLists(const MetricSpec& metric,
                 absl::Span<const RankedCase> ranked) const;

 private:
  using Shares = std::map<std::string, double>;  // by genre
  // Of items alike; of none that has genres, empty.
  Shares GenresOf(absl::Span<const Row> rows,
                  absl::Span<const float> weights) const;
  double Popularity(absl::Span<const Row> rows) const;  // mean; in users
  double Cosine(Row a, Row b);

  const double users_;
  std::vector<std::vector<uint32_t>> users_of_;   // by row; ascending
  std::vector<std::vector<std::string>> genres_;  // by row, or empty
  absl::flat_hash_map<std::pair<Row, Row>, float> cosines_;
};

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
