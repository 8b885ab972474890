#include "model/recommender.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/time/clock.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// Orders the head of `list` by the ranker's scores; what follows keeps its
// order, with scores shifted below the head's last. False, and nothing done,
// where these are no numbers.
absl::StatusOr<bool> Rerank(const Ranker& ranker, const History& history,
                            const float* query, const float* user,
                            size_t shortlist, std::vector<ScoredRow>* list) {
  const size_t head = std::min(shortlist, list->size());
  if (head == 0) return true;
  thread_local std::vector<float> scores;
  RETURN_IF_ERROR(
      ranker.Score(history, query, user, {list->data(), head}, &scores));
  for (const float score : scores) {
    if (!std::isfinite(score)) return false;
  }
  const float scan_last = (*list)[head - 1].score;
  for (size_t i = 0; i < head; ++i) (*list)[i].score = scores[i];
  SortBestFirst(absl::MakeSpan(list->data(), head));
  const float rank_last = (*list)[head - 1].score;
  for (size_t i = head; i < list->size(); ++i) {
    (*list)[i].score = rank_last + ((*list)[i].score - scan_last);
  }
  return true;
}

// Puts a list that Scanner::Shortlist has found in the order of the scan.
void Order(const Scanner& scanner, const float* query,
           std::vector<ScoredRow>* list) {
  scanner.Score(query, absl::MakeSpan(*list));
  std::erase_if(*list, [](const ScoredRow& r) { return r.score == kNone; });
  SortBestFirst(absl::MakeSpan(*list));
}

// What models make of users: query vectors [m, D], and behind them what the
// ranker, if there is one, reads of them, [m, U].
struct Users {
  std::vector<float> queries, ranked;
};

// The sums that vectors of the queries in `places` begin with, of users who are
// known and have long histories; else null. `values` is what they point into.
std::vector<const float*> SumsOf(const Generation& generation,
                                 absl::Span<const Query> queries,
                                 absl::Span<const size_t> places,
                                 std::vector<float>* values) {
  std::vector<const float*> sums;
  EncoderStates* const states = generation.states();
  if (states == nullptr) return sums;
  values->resize(places.size() * states->dim());
  float* next = values->data();
  for (const size_t place : places) {
    const Query& query = queries[place];
    const bool kept = query.user != Query::kNobody &&
                      query.history->rows.size() >= EncoderStates::kShortest;
    sums.push_back(kept ? next : nullptr);
    if (!kept) continue;
    states->Sum(query.user, *query.history, next, query.forgets);
    next += states->dim();
  }
  return sums;
}

// Those that the generation keeps are not computed again.
absl::Status Encode(const Generation& generation,
                    absl::Span<const Query> queries, const Ranker* ranker,
                    Users* users) {
  QueryCache* const cache = generation.queries();
  const auto d = static_cast<size_t>(generation.encoder().dim());
  const size_t u = ranker == nullptr ? 0 : ranker->user_dim();
  users->queries.resize(queries.size() * d);
  users->ranked.resize(queries.size() * u);
  std::vector<const History*> missing;
  std::vector<size_t> places;
  thread_local std::vector<float> kept;
  kept.resize(d + u);
  const auto put = [&](size_t i) {
    std::copy_n(kept.data(), d, users->queries.data() + i * d);
    std::copy_n(kept.data() + d, u, users->ranked.data() + i * u);
  };
  for (size_t i = 0; i < queries.size(); ++i) {
    const History& history = *queries[i].history;
    if (cache != nullptr && cache->Find(history, d + u, kept.data())) {
      put(i);
    } else {
      missing.push_back(&history);
      places.push_back(i);
    }
  }
  if (missing.empty()) return absl::OkStatus();
  thread_local std::vector<float> values, computed;
  const std::vector<const float*> sums =
      SumsOf(generation, queries, places, &values);
  RETURN_IF_ERROR(generation.encoder().EncodeFrom(sums, missing, &computed));
  const std::optional<size_t> of_ranker = generation.ranker_sums();
  // What is kept is whole.
  const bool keep = cache != nullptr && d + u == generation.kept_dim();
  for (size_t i = 0; i < missing.size(); ++i) {
    std::copy_n(computed.data() + i * d, d, kept.data());
    if (u > 0) {
      const bool known = of_ranker && !sums.empty() && sums[i] != nullptr;
      ranker->ReadUser(*missing[i], known ? sums[i] + *of_ranker : nullptr,
                       kept.data() + d);
    }
    put(places[i]);
    if (keep) {
      cache->Put(*missing[i], kept.data(), queries[places[i]].forgets);
    }
  }
  return absl::OkStatus();
}

// The scan where neighbours reach rows: these are scored one by one, the scan
// finds the best of the rest.
absl::Status ScanWithNeighbours(const Generation& generation,
                                absl::Span<const Query> queries,
                                const std::vector<float>& vectors,
                                absl::Span<const int> ks,
                                std::vector<std::vector<ScoredRow>>* answers) {
  const size_t m = queries.size();
  const Scanner& scanner = generation.scanner();
  const auto d = static_cast<size_t>(generation.encoder().dim());
  std::vector<std::vector<ScoredRow>> reached(m);
  std::vector<RowMask> rest(m);
  std::vector<const RowMask*> masks;
  std::vector<ScoredRow> sums;
  for (size_t i = 0; i < m; ++i) {
    const RowMask& mask = *queries[i].mask;
    rest[i] = mask;
    masks.push_back(&rest[i]);
    generation.neighbours()->Gather(*queries[i].history, &sums);
    std::erase_if(sums, [&](const ScoredRow& sum) {
      return sum.row >= mask.rows() || !mask[sum.row];
    });
    reached[i] = sums;
    scanner.Score(vectors.data() + i * d, absl::MakeSpan(reached[i]));
    for (size_t at = 0; at < sums.size(); ++at) {
      rest[i].Clear(sums[at].row);
      reached[i][at].score += sums[at].score;
    }
  }
  RETURN_IF_ERROR(scanner.Scan(vectors, masks, ks, answers));
  for (size_t i = 0; i < m; ++i) {
    std::vector<ScoredRow>& list = (*answers)[i];
    std::erase_if(reached[i],
                  [](const ScoredRow& r) { return !std::isfinite(r.score); });
    list.insert(list.end(), reached[i].begin(), reached[i].end());
    const size_t k = std::min(list.size(), static_cast<size_t>(ks[i]));
    std::partial_sort(list.begin(),
                      list.begin() + static_cast<std::ptrdiff_t>(k),
                      list.end());
    list.resize(k);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Recommend(const Generation& generation,
                       absl::Span<const Query> queries,
                       const RecommendOptions& options,
                       std::vector<std::vector<ScoredRow>>* answers,
                       StageTimes* times) {
  const Ranker* ranker = options.rank ? generation.ranker() : nullptr;
  const Scanner& scanner = generation.scanner();
  // What the ranker orders anew, whatever the scan says of it, needs no order.
  bool ordered = ranker == nullptr || ranker->ReadsScores() ||
                 generation.neighbours() != nullptr;
  std::vector<const RowMask*> masks;
  std::vector<int> ks;
  for (const Query& query : queries) {
    masks.push_back(query.mask);
    ks.push_back(ranker == nullptr ? query.count
                                   : std::max(query.count, options.shortlist));
    ordered = ordered || query.count > options.shortlist;
  }
  const absl::Time start = absl::Now();
  thread_local Users users;
  RETURN_IF_ERROR(Encode(generation, queries, ranker, &users));
  const absl::Time encoded = absl::Now();
  if (generation.neighbours() != nullptr) {
    RETURN_IF_ERROR(
        ScanWithNeighbours(generation, queries, users.queries, ks, answers));
  } else if (ordered) {
    RETURN_IF_ERROR(scanner.Scan(users.queries, masks, ks, answers));
  } else {
    RETURN_IF_ERROR(scanner.Shortlist(users.queries, masks, ks, answers));
  }
  const absl::Time scanned = absl::Now();
  const auto d = static_cast<size_t>(generation.encoder().dim());
  for (size_t i = 0; i < queries.size(); ++i) {
    std::vector<ScoredRow>& list = (*answers)[i];
    const float* const query = users.queries.data() + i * d;
    bool ranked = false;
    if (ranker != nullptr && ranker->Ranks(*queries[i].history)) {
      ASSIGN_OR_RETURN(ranked,
                       Rerank(*ranker, *queries[i].history, query,
                              users.ranked.data() + i * ranker->user_dim(),
                              static_cast<size_t>(options.shortlist), &list));
    }
    if (!ranked && !ordered) Order(scanner, query, &list);
    if (list.size() > static_cast<size_t>(queries[i].count)) {
      list.resize(static_cast<size_t>(queries[i].count));
    }
  }
  if (times != nullptr) {
    times->encode += encoded - start;
    times->scan += scanned - encoded;
    times->rank += absl::Now() - scanned;
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
