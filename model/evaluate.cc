#include "model/evaluate.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_format.h"

namespace nearline::model {
namespace {

constexpr size_t kBatch = 64;

// All candidates in order, wanted ones after unwanted ones of the same score,
// and once more in `hits` for each further listing.
void CountTies(const Case& c, RankedCase* ranked) {
  const auto wanted = [&](Row row) {
    return std::binary_search(c.truth.begin(), c.truth.end(), row);
  };
  std::sort(ranked->list.begin(), ranked->list.end(),
            [&](const ScoredRow& a, const ScoredRow& b) {
              if (a.score != b.score) return a.score > b.score;
              const bool wants_a = wanted(a.row), wants_b = wanted(b.row);
              return wants_a != wants_b ? wants_b : a.row < b.row;
            });
  ranked->hits.clear();
  for (const ScoredRow& scored : ranked->list) {
    const auto repeats =
        std::count(c.repeats.begin(), c.repeats.end(), scored.row);
    // Further listings of a wanted item count as unwanted ones, before it.
    ranked->hits.insert(ranked->hits.end(), static_cast<size_t>(repeats),
                        false);
    ranked->hits.push_back(wanted(scored.row));
  }
}

// As RankCases, of one batch.
absl::Status RankBatch(const Generation& generation,
                       absl::Span<const Case> cases, int depth,
                       const RecommendOptions& options,
                       absl::Span<RankedCase> out) {
  std::vector<Query> queries;
  std::vector<History> with_traits(cases.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const History* history = &c.history;
    if (c.attributes != nullptr) {
      with_traits[i] = c.history;
      generation.AddTraits(c.attributes, &with_traits[i]);
      history = &with_traits[i];
    }
    queries.push_back(
        {history, &c.mask,
         depth > 0 ? depth : std::max(1, static_cast<int>(c.mask.Count()))});
  }
  std::vector<std::vector<ScoredRow>> lists;
  RETURN_IF_ERROR(Recommend(generation, queries, options, &lists));
  size_t rows = 0;  // that occur
  for (const Case& c : cases) {
    rows = std::max(rows, c.mask.rows());
    if (!c.truth.empty()) rows = std::max<size_t>(rows, c.truth.back() + 1);
  }
  RowMask wanted(rows);
  for (size_t i = 0; i < cases.size(); ++i) {
    out[i].list = std::move(lists[i]);
    for (const Row row : cases[i].truth) wanted.Set(row);
    out[i].hits.reserve(out[i].list.size());
    for (const ScoredRow& scored : out[i].list) {
      out[i].hits.push_back(wanted[scored.row]);
    }
    for (const Row row : cases[i].truth) wanted.Clear(row);
    if (depth == 0) CountTies(cases[i], &out[i]);
  }
  return absl::OkStatus();
}

// Of shares, from one to the other, a little of the one mixed into the other.
double Divergence(const std::map<std::string, double>& from,
                  const std::map<std::string, double>& to) {
  constexpr double kMixed = 0.01;
  double sum = 0;
  for (const auto& [genre, p] : from) {
    if (!(p > 0)) continue;
    const auto found = to.find(genre);
    const double q = found == to.end() ? 0 : found->second;
    sum += p * std::log(p / ((1 - kMixed) * q + kMixed * p));
  }
  return sum;
}

}  // namespace

absl::StatusOr<std::vector<RankedCase>> RankCases(
    const Generation& generation, absl::Span<const Case> cases, int depth,
    const RecommendOptions& options,
    const std::function<void(double)>& on_share, Workers* workers) {
  constexpr size_t kTogether = 32;  // batches between two reports
  std::vector<RankedCase> out(cases.size());
  for (size_t first = 0; first < cases.size(); first += kTogether * kBatch) {
    const size_t count = std::min(kTogether * kBatch, cases.size() - first);
    const size_t batches = (count + kBatch - 1) / kBatch;
    std::vector<absl::Status> failures(batches);
    const auto rank = [&](int64_t i) {
      const auto batch = static_cast<size_t>(i);
      const size_t begin = first + batch * kBatch;
      failures[batch] =
          RankBatch(generation, cases.subspan(begin, kBatch), depth, options,
                    absl::MakeSpan(out).subspan(begin, kBatch));
    };
    if (workers != nullptr) {
      workers->ForEach(static_cast<int64_t>(batches), rank);
    } else {
      for (size_t i = 0; i < batches; ++i) rank(static_cast<int64_t>(i));
    }
    for (const absl::Status& failure : failures) RETURN_IF_ERROR(failure);
    if (on_share) {
      on_share(static_cast<double>(first + count) /
               static_cast<double>(cases.size()));
    }
  }
  return out;
}

RankedCase RankByScores(const std::vector<float>& scores, const Case& c,
                        int depth) {
  const std::vector<float> no_bias(scores.size(), 0.0f);
  TopK top(depth > 0 ? depth : std::max(1, static_cast<int>(c.mask.Count())),
           &c.mask);
  top.Add({{scores.data(), no_bias.data(), scores.size(), 0}});
  RankedCase out{.list = top.Take()};
  for (const ScoredRow& scored : out.list) {
    out.hits.push_back(
        std::binary_search(c.truth.begin(), c.truth.end(), scored.row));
  }
  if (depth == 0) CountTies(c, &out);
  return out;
}

absl::StatusOr<CaseMetrics> Evaluate(
    const Generation& generation, absl::Span<const Case> cases,
    const std::vector<MetricSpec>& metrics, const RecommendOptions& options,
    const std::function<void(double)>& on_share) {
  ASSIGN_OR_RETURN(
      const std::vector<RankedCase> ranked,
      RankCases(generation, cases, DepthOf(metrics), options, on_share));
  CaseMetrics out;
  for (const MetricSpec& metric : metrics) {
    std::vector<double>& values = out[metric.Name()];
    for (size_t i = 0; i < cases.size(); ++i) {
      values.push_back(metric.Of(ranked[i].hits, cases[i].positives));
    }
  }
  return out;
}

ListMeter::ListMeter(const features::Interactions& train, int64_t items,
                     absl::Span<const features::Attributes> attributes)
    : users_(static_cast<double>(train.users())),
      users_of_(static_cast<size_t>(items)) {
  for (int64_t u = 0; u < train.users(); ++u) {
    for (const uint32_t item : train.ItemsOf(u)) {
      users_of_[item].push_back(static_cast<uint32_t>(u));
    }
  }
  for (const features::Attributes& of_item : attributes) {
    std::vector<std::string>& genres = genres_.emplace_back();
    const auto found = of_item.find("genres");
    if (found == of_item.end()) continue;
    if (const auto* one = std::get_if<std::string>(&found->second)) {
      genres = {*one};
    } else if (const auto* many =
                   std::get_if<std::vector<std::string>>(&found->second)) {
      genres = *many;
    }
  }
}

bool ListMeter::KnowsGenres() const {
  return std::any_of(genres_.begin(), genres_.end(),
                     [](const auto& genres) { return !genres.empty(); });
}

ListMeter::Shares ListMeter::GenresOf(absl::Span<const Row> rows,
                                      absl::Span<const float> weights) const {
  Shares shares;
  double total = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] >= genres_.size()) continue;
    const auto& genres = genres_[rows[i]];
    for (const std::string& genre : genres) {
      const double share = weights[i] / static_cast<double>(genres.size());
      shares[genre] += share;
      total += share;
    }
  }
  for (auto& [genre, share] : shares) share /= total;
  return shares;
}

double ListMeter::Popularity(absl::Span<const Row> rows) const {
  double sum = 0;
  for (const Row row : rows) sum += static_cast<double>(users_of_[row].size());
  return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
}

double ListMeter::Cosine(Row a, Row b) {
  const auto& of_a = users_of_[a];
  const auto& of_b = users_of_[b];
  if (of_a.empty() || of_b.empty()) return 0;
  const auto [it, added] = cosines_.try_emplace(std::minmax(a, b), 0.0f);
  if (added) {
    std::vector<uint32_t> both;
    std::set_intersection(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(),
                          std::back_inserter(both));
    it->second =
        static_cast<float>(static_cast<double>(both.size()) /
                           std::sqrt(static_cast<double>(of_a.size()) *
                                     static_cast<double>(of_b.size())));
  }
  return it->second;
}

double ListMeter::OfUser(const MetricSpec& metric, const Case& c,
                         const RankedCase& ranked) {
  if (metric.OfHits()) return metric.Of(ranked.hits, c.positives);
  std::vector<Row> rows;
  for (const ScoredRow& scored : ranked.list) {
    if (rows.size() == static_cast<size_t>(metric.k)) break;
    rows.push_back(scored.row);
  }
  const auto n = static_cast<double>(rows.size());
  if (rows.empty()) return 0;
  double sum = 0;
  switch (metric.kind) {
    case MetricSpec::Kind::kNovelty:
      for (const Row row : rows) {
        const auto users =
            static_cast<double>(std::max<size_t>(1, users_of_[row].size()));
        sum -= std::log2(users / users_);
      }
      return sum / n;
    case MetricSpec::Kind::kDiversity:
      for (size_t i = 0; i < rows.size(); ++i) {
        for (size_t j = 0; j < i; ++j) sum += 1 - Cosine(rows[i], rows[j]);
      }
      return n > 1 ? sum / (n * (n - 1) / 2) : 0;
    case MetricSpec::Kind::kPopularityLift: {
      const double before = Popularity(c.history.rows);
      return before > 0 ? Popularity(rows) / before - 1 : 0;
    }
    case MetricSpec::Kind::kCalibration:
      return Divergence(GenresOf(c.history.rows, c.history.weights),
                        GenresOf(rows, std::vector<float>(rows.size(), 1.0f)));
    default:
      return 0;
  }
}

double ListMeter::OfLists(const MetricSpec& metric,
                          absl::Span<const RankedCase> ranked) const {
  std::vector<int64_t> counts(users_of_.size(), 0);
  for (const RankedCase& one : ranked) {
    const size_t k = std::min(one.list.size(), static_cast<size_t>(metric.k));
    for (size_t r = 0; r < k; ++r) ++counts[one.list[r].row];
  }
  if (metric.kind == MetricSpec::Kind::kGini) return Gini(std::move(counts));
  const auto shown = std::count_if(counts.begin(), counts.end(),
                                   [](int64_t count) { return count > 0; });
  return counts.empty()
             ? 0
             : static_cast<double>(shown) / static_cast<double>(counts.size());
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
