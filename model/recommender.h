#ifndef NEARLINE_MODEL_RECOMMENDER_H_
#define NEARLINE_MODEL_RECOMMENDER_H_

#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/status.h"
#include "model/generation.h"

namespace nearline::model {

struct Query {
  static constexpr uint32_t kNobody = 0xffffffffu;

  const History* history = nullptr;
  const RowMask* mask = nullptr;  // rows that may be answered
  int count = 0;
  uint32_t user = kNobody;  // whose history it is, as it is now
  uint64_t forgets = 0;     // Generation::forgets, before the history was read
};

struct RecommendOptions {
  int shortlist = 200;  // the scan's best that the ranker orders anew
  bool rank = true;     // false: the scan's order
};

struct StageTimes {
  absl::Duration encode, scan, rank;
};

// encode -> scan -> rank for a batch, on one generation: what serving and
// evaluation share. Answers have at most `count` rows, fewer when fewer are
// eligible: the ranker's order of the shortlist, then the scan's order of the
// rest, with scores that never rise. Of histories that it does not rank the
// scan's order stands. `times` is added to, unless null.
absl::Status Recommend(const Generation& generation,
                       absl::Span<const Query> queries,
                       const RecommendOptions& options,
                       std::vector<std::vector<ScoredRow>>* answers,
                       StageTimes* times = nullptr);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_RECOMMENDER_H_
