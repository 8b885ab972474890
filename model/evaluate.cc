#include "model/evaluate.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/text.h"

namespace nearline::model {
namespace {

constexpr size_t kBatch = 64;

}  // namespace

absl::StatusOr<MetricSpec> MetricSpec::Parse(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '@');
  MetricSpec spec;
  if (parts.size() == 2 && absl::SimpleAtoi(parts[1], &spec.k) && spec.k >= 1 &&
      spec.k <= 1000) {
    if (parts[0] == "ndcg") return spec;
    spec.kind = Kind::kRecall;
    if (parts[0] == "recall") return spec;
    spec.kind = Kind::kHitRate;
    if (parts[0] == "hr") return spec;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metric ", Quoted(text),
                   ": expected ndcg@K, recall@K or hr@K with K in [1, 1000]"));
}

absl::StatusOr<std::vector<MetricSpec>> MetricSpec::ParseList(
    absl::string_view text) {
  std::vector<MetricSpec> out;
  for (const auto part : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const MetricSpec spec, Parse(part));
    out.push_back(spec);
  }
  return out;
}

std::string MetricSpec::Name() const {
  const char* const names[] = {"ndcg", "recall", "hr"};
  return absl::StrCat(names[static_cast<int>(kind)], "@", k);
}

double MetricSpec::Of(const std::vector<bool>& hits, int positives) const {
  switch (kind) {
    case Kind::kNdcg:
      return Ndcg(hits, positives, k);
    case Kind::kRecall:
      return Recall(hits, positives, k);
    case Kind::kHitRate:
      return HitRate(hits, k);
  }
  return 0;
}

absl::StatusOr<CaseMetrics> Evaluate(
    const Generation& generation, absl::Span<const Case> cases,
    const std::vector<MetricSpec>& metrics, const RecommendOptions& options,
    const std::function<void(double)>& on_share) {
  int depth = 1;
  for (const MetricSpec& metric : metrics) depth = std::max(depth, metric.k);
  CaseMetrics out;
  std::vector<std::vector<ScoredRow>> lists;
  for (size_t first = 0; first < cases.size(); first += kBatch) {
    const auto batch = cases.subspan(first, kBatch);
    std::vector<Query> queries;
    for (const Case& c : batch) {
      queries.push_back({&c.history, &c.mask, depth});
    }
    RETURN_IF_ERROR(Recommend(generation, queries, options, &lists));
    for (size_t i = 0; i < batch.size(); ++i) {
      std::vector<bool> hits;
      for (const ScoredRow& scored : lists[i]) {
        hits.push_back(std::binary_search(batch[i].truth.begin(),
                                          batch[i].truth.end(), scored.row));
      }
      for (const MetricSpec& metric : metrics) {
        out[metric.Name()].push_back(metric.Of(hits, batch[i].positives));
      }
    }
    if (on_share) {
      on_share(static_cast<double>(first + batch.size()) /
               static_cast<double>(cases.size()));
    }
  }
  return out;
}

absl::StatusOr<std::vector<int>> RankOfTruth(const Generation& generation,
                                             absl::Span<const Case> cases,
                                             const RecommendOptions& options) {
  std::vector<int> ranks;
  std::vector<std::vector<ScoredRow>> lists;
  for (size_t first = 0; first < cases.size(); first += kBatch) {
    const auto batch = cases.subspan(first, kBatch);
    std::vector<Query> queries;
    for (const Case& c : batch) {
      queries.push_back(
          {&c.history, &c.mask, static_cast<int>(c.mask.Count())});
    }
    RETURN_IF_ERROR(Recommend(generation, queries, options, &lists));
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto& list = lists[i];
      const Row truth = batch[i].truth.empty() ? kNoRow : batch[i].truth[0];
      const auto found =
          std::find_if(list.begin(), list.end(),
                       [&](const ScoredRow& s) { return s.row == truth; });
      if (found == list.end()) {
        ranks.push_back(static_cast<int>(list.size()));
        continue;
      }
      auto as_good = std::count_if(
          list.begin(), list.end(),
          [&](const ScoredRow& s) { return s.score >= found->score; });
      for (const Row repeat : batch[i].repeats) {
        as_good +=
            std::any_of(list.begin(), list.end(), [&](const ScoredRow& s) {
              return s.row == repeat && s.score >= found->score;
            });
      }
      ranks.push_back(static_cast<int>(as_good) - 1);
    }
  }
  return ranks;
}

std::vector<Case> CasesOf(const Generation& generation,
                          const std::vector<features::HoldoutUser>& holdout,
                          const features::Catalogue& catalogue,
                          double max_weight) {
  RowMask servable(generation.rows());
  for (Row row = 0; row < servable.rows(); ++row) {
    const features::Ordinal item = generation.OrdinalOf(row);
    if (item != features::kNoOrdinal && catalogue.IsServable(item)) {
      servable.Set(row);
    }
  }
  std::vector<Case> cases;
  for (const features::HoldoutUser& user : holdout) {
    Case c{.history = generation.HistoryOf(user.profile, max_weight),
           .mask = servable,
           .positives = static_cast<int>(user.truth.size())};
    for (const features::Ordinal item : user.profile.seen()) {
      const Row row = generation.RowOf(item);
      if (row < c.mask.rows()) c.mask.Clear(row);
    }
    for (const features::Ordinal item : user.truth) {
      const Row row = generation.RowOf(item);
      if (row != kNoRow) c.truth.push_back(row);
    }
    std::sort(c.truth.begin(), c.truth.end());
    cases.push_back(std::move(c));
  }
  return cases;
}

GateDecision Decide(const std::vector<double>& candidate,
                    const std::vector<double>& incumbent,
                    const std::vector<double>& popularity,
                    const GateOptions& options, const std::string& why_not) {
  const double mine = MeanOf(candidate).mean;
  const auto users = candidate.size();
  if (users == 0) {
    return {true, "accepted: the log has no user to hold out"};
  }
  const bool few = users < static_cast<size_t>(options.min_users);
  if (incumbent.empty() || few) {
    const double other = MeanOf(popularity).mean;
    const bool accepted = mine >= other;
    return {
        accepted,
        absl::StrFormat(
            "%s: %s %.4f against popularity's %.4f on %d users (%s)",
            accepted ? "accepted" : "rejected", options.metric, mine, other,
            users,
            incumbent.empty() ? why_not : "too few to compare generations")};
  }
  const double other = MeanOf(incumbent).mean;
  const Interval interval =
      PairedBootstrap(candidate, incumbent, options.confidence, 1000, 1);
  const bool in_tolerance = mine - other >= -options.tolerance * other;
  const bool proven_worse = interval.high < 0;
  const bool accepted = in_tolerance && !proven_worse;
  return {accepted,
          absl::StrFormat(
              "%s: %s %.4f against %.4f in service on %d users, "
              "difference in [%+.4f, %+.4f] with %.0f %% confidence%s",
              accepted ? "accepted" : "rejected", options.metric, mine, other,
              users, interval.low, interval.high, options.confidence * 100,
              accepted       ? ""
              : proven_worse ? "; it is worse"
                             : "; the loss exceeds the tolerance")};
}

}  // namespace nearline::model
