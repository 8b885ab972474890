#include "model/metric_spec.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/text.h"
#include "model/metrics.h"

namespace nearline::model {
namespace {

// In the order of MetricSpec::Kind.
constexpr const char* kNames[] = {
    "ndcg",        "recall",   "plain_recall", "precision",
    "f1",          "hr",       "map",          "mrr",
    "auc",         "novelty",  "diversity",    "popularity_lift",
    "calibration", "log_loss", "coverage",     "gini",
    "mae",         "mse",      "rmse"};

absl::Status Unknown(absl::string_view text) {
  std::vector<std::string> names;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    const MetricSpec metric{.kind = static_cast<MetricSpec::Kind>(i)};
    names.push_back(absl::StrCat(kNames[i], metric.HasRank() ? "@K" : ""));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("metric ", Quoted(text), ": expected one of ",
                   absl::StrJoin(names, ", "), " with K in [1, 1000]"));
}

}  // namespace

absl::StatusOr<MetricSpec> MetricSpec::Parse(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '@');
  const auto* const name =
      std::find(std::begin(kNames), std::end(kNames), parts[0]);
  if (name == std::end(kNames)) return Unknown(text);
  MetricSpec spec{.kind = static_cast<Kind>(name - std::begin(kNames))};
  if (!spec.HasRank()) {
    spec.k = 0;
    if (parts.size() > 1) return Unknown(text);
  } else if (parts.size() != 2 || !absl::SimpleAtoi(parts[1], &spec.k) ||
             spec.k < 1 || spec.k > 1000) {
    return Unknown(text);
  }
  return spec;
}

absl::StatusOr<std::vector<MetricSpec>> MetricSpec::ParseList(
    absl::string_view text) {
  std::vector<MetricSpec> out;
  for (const auto part : absl::StrSplit(text, ',')) {
    ASSIGN_OR_RETURN(const MetricSpec spec, Parse(part));
    const bool new_one = std::none_of(
        out.begin(), out.end(),
        [&](const MetricSpec& other) { return other.Name() == spec.Name(); });
    if (new_one) out.push_back(spec);
  }
  return out;
}

std::string MetricSpec::Name() const {
  const char* const name = kNames[static_cast<int>(kind)];
  return HasRank() ? absl::StrCat(name, "@", k) : name;
}

double MetricSpec::Of(const std::vector<bool>& hits, int positives) const {
  switch (kind) {
    case Kind::kNdcg:
      return Ndcg(hits, positives, k);
    case Kind::kRecall:
      return Recall(hits, positives, k);
    case Kind::kPlainRecall:
      return PlainRecall(hits, positives, k);
    case Kind::kPrecision:
      return Precision(hits, k);
    case Kind::kF1:
      return F1(hits, positives, k);
    case Kind::kHitRate:
      return HitRate(hits, k);
    case Kind::kMap:
      return AveragePrecision(hits, positives, k);
    case Kind::kMrr:
      return ReciprocalRank(hits, k);
    case Kind::kAuc:
      return Auc(hits, positives);
    default:
      return 0;
  }
}

int DepthOf(const std::vector<MetricSpec>& metrics) {
  int depth = 1;
  for (const MetricSpec& metric : metrics) {
    if (!metric.HasRank()) return 0;
    depth = std::max(depth, metric.k);
  }
  return depth;
}

}  // namespace nearline::model
