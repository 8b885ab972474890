#include "server/pipeline.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "base/text.h"

namespace nearline::server {
namespace {

using features::Bitmap;
using features::kNoOrdinal;
using features::Ordinal;
using model::Row;

constexpr size_t kMaxDepth = 1000;

using ScoredItems = std::vector<std::pair<Ordinal, float>>;  // best first

// How many places more to ask for where the last one is an item's that came
// after training. Of equal scores the scan keeps the lower rows; those are in
// order of id among trained items, and in order of arrival among later ones, of
// which as many ties are looked at.
constexpr int kTiesBeyond = 64;

// Whether the cut may have gone through a run of later items that tie.
bool CutAmongLater(const model::Generation& generation,
                   const std::vector<model::ScoredRow>& list, int count) {
  return list.size() == static_cast<size_t>(count) &&
         list.back().row >= generation.base_rows();
}

// Orders runs of equal scores by id.
void SortTies(const features::Catalogue& catalogue, ScoredItems* list) {
  for (auto run = list->begin(); run != list->end();) {
    const auto end = std::find_if(run, list->end(), [&](const auto& e) {
      return e.second != run->second;
    });
    if (end - run > 1) {
      std::sort(run, end, [&](const auto& a, const auto& b) {
        return catalogue[a.first].id < catalogue[b.first].id;
      });
    }
    run = end;
  }
}

}  // namespace

// A job with what the stages have found out about it.
struct Pipeline::Work {
  RecommendJob* job = nullptr;
  GenerationPtr generation;  // null: popular
  features::ProfilePtr profile;
  model::History history;
  uint64_t forgets = 0;  // of the generation, before the profile was read
  PageToken page;
  features::Sequence sequence = 0;
  std::string degraded;

  Bitmap excluded;                // by the request; see Hidden
  std::optional<Bitmap> allowed;  // only these
  model::RowMask mask;
  int depth = 0;  // how long a list must be to continue behind the delivered

  ServedBy served_by = ServedBy::kPopular;
  ScoredItems list;

  // The sets of items that are never answered. Those of the profile are not
  // copied: they may be large.
  std::array<const Bitmap*, 3> Hidden() const {
    static const Bitmap none;
    if (profile == nullptr) return {&excluded, &none, &none};
    return {&excluded, job->request.include_seen ? &none : &profile->seen(),
            &profile->disliked()};
  }
  // Whose history it is as it is now, and not as it was.
  uint32_t user() const {
    return profile == nullptr || !job->request.page_token.empty()
               ? model::Query::kNobody
               : profile->user();
  }
  bool MayBeAnswered(Ordinal item) const {
    for (const Bitmap* hidden : Hidden()) {
      if (hidden->contains(item)) return false;
    }
    return !allowed.has_value() || allowed->contains(item);
  }
};

Pipeline::Pipeline(features::Store* store, ModelSlot* slot,
                   PipelineOptions options, const Clock* clock,
                   std::function<void(const BatchReport&)> on_batch)
    : store_(*store),
      slot_(*slot),
      options_(options),
      clock_(*clock),
      on_batch_(std::move(on_batch)) {}

// Takes snapshots and reads the profile; what it cannot do is the caller's
// error.
absl::Status Pipeline::Prepare(Work* work) {
  const RecommendRequest& request = work->job->request;
  work->sequence = store_.sequence();
  if (!request.after.empty()) {
    RETURN_IF_ERROR(
        ReadConsistencyToken(request.after, store_.log_id(), work->sequence)
            .status());
  }
  const bool continued = !request.page_token.empty();
  if (continued) {
    ASSIGN_OR_RETURN(
        work->page,
        ReadPageToken(request.page_token, store_.secret(), request.hash,
                      clock_.Now(), options_.page_ttl));
    work->sequence = work->page.sequence;
    if (work->page.delivered.size() >= kMaxDepth) {
      return InvalidField(
          "page_token",
          absl::StrCat("a token after ", work->page.delivered.size(), " items"),
          absl::StrCat("one after fewer than ", kMaxDepth,
                       ", to which a list reaches down"));
    }
    if (!work->page.generation.empty()) {
      work->generation = slot_.Find(work->page.generation);
      if (work->generation == nullptr) {
        return absl::AbortedError(absl::StrCat(
            "generation ", work->page.generation,
            " of this list is gone; start again without page_token"));
      }
      work->forgets = work->generation->forgets();
    }
  }
  if (!request.user.empty()) {
    ASSIGN_OR_RETURN(work->profile,
                     continued
                         ? store_.GetProfileAt(request.user, work->sequence)
                         : store_.GetProfile(request.user));
  }
  work->depth = static_cast<int>(std::min(
      kMaxDepth,
      work->page.delivered.size() + static_cast<size_t>(request.count) + 1));
  return absl::OkStatus();
}

std::shared_ptr<const model::RowMask> Pipeline::BaseMask(
    const model::Generation& generation, const features::Catalogue& catalogue) {
  // Read first: a binding that comes while the mask is made outdates it.
  const uint64_t bindings = generation.bindings();
  MutexLock lock(&mask_mu_);
  if (mask_ != nullptr && mask_generation_ == generation.id() &&
      mask_version_ == catalogue.version() && mask_bindings_ == bindings) {
    return mask_;
  }
  auto mask = std::make_shared<model::RowMask>(generation.rows());
  for (const Ordinal item : catalogue.servable()) {
    const Row row = generation.RowOf(item);
    if (row < mask->rows()) mask->Set(row);
  }
  mask_generation_ = generation.id();
  mask_version_ = catalogue.version();
  mask_bindings_ = bindings;
  mask_ = mask;
  return mask;
}

// Turns the request's ids into ordinals, and what may be answered into a mask.
void Pipeline::Mask(const features::Catalogue& catalogue, Work* work) {
  const RecommendRequest& request = work->job->request;
  for (const std::string& id : request.exclude) {
    const Ordinal item = catalogue.Find(id);
    if (item != kNoOrdinal) work->excluded.add(item);
  }
  std::vector<std::pair<Ordinal, float>> entries;
  for (const auto& entry : request.history) {
    const Ordinal item = catalogue.Find(entry.item);
    if (item == kNoOrdinal) continue;
    entries.emplace_back(item, entry.weight);
    if (!request.include_seen) work->excluded.add(item);
  }
  if (!request.candidates.empty()) {
    work->allowed.emplace();
    for (const std::string& id : request.candidates) {
      const Ordinal item = catalogue.Find(id);
      if (item != kNoOrdinal) work->allowed->add(item);
    }
  }
  if (request.filter.has_value()) {
    Bitmap matching = features::Evaluate(*request.filter, catalogue);
    work->allowed = work->allowed.has_value() ? *work->allowed & matching
                                              : std::move(matching);
  }
  if (work->generation == nullptr) return;

  const model::Generation& generation = *work->generation;
  const auto base = BaseMask(generation, catalogue);
  if (work->profile != nullptr) {
    work->history = generation.HistoryOf(*work->profile,
                                         store_.profile_options().max_weight);
  } else {
    for (const auto& [item, weight] : entries) {
      const Row row = generation.RowOf(item);
      if (row >= base->rows()) continue;
      // The same item twice counts once, with both weights, where it came last.
      auto& rows = work->history.rows;
      auto& weights = work->history.weights;
      float sum = weight;
      const auto at = std::find(rows.begin(), rows.end(), row);
      if (at != rows.end()) {
        const auto before = weights.begin() + (at - rows.begin());
        sum += *before;
        weights.erase(before);
        rows.erase(at);
      }
      rows.push_back(row);
      weights.push_back(sum);
    }
  }
  if (work->allowed.has_value()) {
    work->mask = model::RowMask(base->rows());
    for (const Ordinal item : *work->allowed) {
      const Row row = generation.RowOf(item);
      if (row < base->rows() && (*base)[row]) work->mask.Set(row);
    }
  } else {
    work->mask = *base;
  }
  thread_local std::vector<Ordinal> items;
  for (const Bitmap* hidden : work->Hidden()) {
    items.resize(hidden->cardinality());
    hidden->toUint32Array(items.data());
    for (const Ordinal item : items) {
      const Row row = generation.RowOf(item);
      if (row < base->rows()) work->mask.Clear(row);
    }
  }
}

void Pipeline::Score(std::vector<Work*> works, bool rank,
                     model::StageTimes* times) {
  std::map<const model::Generation*, std::vector<Work*>> groups;
  for (Work* work : works) groups[work->generation.get()].push_back(work);
  for (const auto& [generation, group] : groups) {
    std::vector<model::Query> queries;
    for (Work* work : group) {
      queries.push_back({&work->history, &work->mask, work->depth, work->user(),
                         work->forgets});
    }
    model::RecommendOptions options = options_.recommend;
    options.rank = options.rank && rank;
    std::vector<std::vector<model::ScoredRow>> lists;
    absl::Status status =
        model::Recommend(*generation, queries, options, &lists, times);
    for (size_t i = 0; status.ok() && i < queries.size(); ++i) {
      if (!CutAmongLater(*generation, lists[i], queries[i].count)) continue;
      queries[i].count += kTiesBeyond;
      std::vector<std::vector<model::ScoredRow>> longer;
      status = model::Recommend(*generation, {&queries[i], 1}, options, &longer,
                                times);
      if (status.ok()) lists[i] = std::move(longer[0]);
    }
    const bool ranked = options.rank && generation->ranker() != nullptr;
    for (size_t i = 0; i < group.size(); ++i) {
      Work* const work = group[i];
      if (!status.ok()) {  // the model's trouble is not the caller's
        work->generation = nullptr;
        work->degraded = "no_generation";
        continue;
      }
      work->served_by = ranked && generation->ranker()->Ranks(work->history)
                            ? ServedBy::kRanked
                            : ServedBy::kShortlist;
      for (const model::ScoredRow& scored : lists[i]) {
        const Ordinal item = generation->OrdinalOf(scored.row);
        if (item != kNoOrdinal) work->list.emplace_back(item, scored.score);
      }
    }
  }
}

void Pipeline::ListPopular(Work* work) {
  work->served_by = ServedBy::kPopular;
  const auto ranking = store_.Popular();
  for (size_t i = 0; i < ranking->items.size(); ++i) {
    if (static_cast<int>(work->list.size()) >= work->depth) break;
    const Ordinal item = ranking->items[i];
    if (!work->MayBeAnswered(item)) continue;
    work->list.emplace_back(item, ranking->scores[i]);
  }
}

// Leaves out what was delivered, cuts the page, and says where to go on.
RecommendAnswer Pipeline::Finish(const features::Catalogue& catalogue,
                                 Work* work) {
  const RecommendRequest& request = work->job->request;
  RecommendAnswer answer;
  // Popular ones come in order, though their scores may be too small to tell.
  if (work->generation != nullptr) SortTies(catalogue, &work->list);
  std::vector<Ordinal>& delivered = work->page.delivered;
  const std::vector<Ordinal> before = delivered;
  bool more = false;
  for (const auto& [item, score] : work->list) {
    if (std::binary_search(before.begin(), before.end(), item)) continue;
    // An item may have moved to another row since the mask was made.
    if (!work->MayBeAnswered(item)) continue;
    if (static_cast<int>(answer.items.size()) == request.count) {
      more = true;
      break;
    }
    answer.items.push_back(catalogue[item].id);
    answer.scores.push_back(score);
    delivered.push_back(item);
  }
  answer.sequence = work->sequence;
  answer.served_by = work->served_by;
  answer.degraded_reason = work->degraded;
  if (work->generation != nullptr) answer.generation = work->generation->id();
  if (more && delivered.size() < kMaxDepth) {
    std::sort(delivered.begin(), delivered.end());
    work->page.request_hash = request.hash;
    work->page.generation = answer.generation;
    work->page.sequence = work->sequence;
    work->page.issued_micros = absl::ToUnixMicros(clock_.Now());
    answer.next_page_token = WritePageToken(work->page, store_.secret());
  }
  return answer;
}

void Pipeline::Run(std::vector<std::unique_ptr<RecommendJob>> batch,
                   int still_queued, const std::function<void()>& computed) {
  BatchReport report{.jobs = static_cast<int>(batch.size())};
  const absl::Time now = clock_.Now();
  const bool overloaded = still_queued > options_.overload_queue;
  const GenerationPtr current = slot_.Snapshot();
  const uint64_t forgets = current == nullptr ? 0 : current->forgets();
  std::vector<Work> works;
  works.reserve(batch.size());
  std::vector<RecommendJob*> empty;
  for (const auto& job : batch) {
    report.queued += std::max(now - job->admitted, absl::ZeroDuration());
    const bool cancelled = job->cancelled && job->cancelled();
    if (cancelled || job->deadline <= now) {
      ++report.dropped;
      job->done(cancelled ? absl::CancelledError("the caller has gone")
                          : absl::DeadlineExceededError(
                                "the deadline passed before work began"));
      continue;
    }
    if (job->empty) {
      empty.push_back(job.get());
      continue;
    }
    Work work{.job = job.get(), .forgets = forgets};
    const absl::Status status = Prepare(&work);
    if (!status.ok()) {
      job->done(status);
      continue;
    }
    if (job->request.page_token.empty()) work.generation = current;
    works.push_back(std::move(work));
  }
  {
    const auto catalogue = store_.ReadCatalogue();
    for (Work& work : works) Mask(*catalogue, &work);
  }
  std::vector<Work*> neural;
  for (Work& work : works) {
    const bool continued = !work.job->request.page_token.empty();
    if (work.generation == nullptr) {
      if (current == nullptr) work.degraded = "no_generation";
    } else if (work.history.empty()) {
      work.generation = nullptr;
    } else {
      neural.push_back(&work);
    }
    if (work.generation == nullptr && work.degraded.empty()) {
      work.degraded =
          current == nullptr && !continued ? "no_generation" : "no_history";
    }
  }
  // A list is continued as it was begun: only whole batches leave the ranker
  // out.
  const bool pages = std::any_of(neural.begin(), neural.end(), [](Work* w) {
    return !w->job->request.page_token.empty();
  });
  const bool rank = !overloaded || pages;
  if (!neural.empty()) Score(neural, rank, &report.stages);
  for (Work& work : works) {
    if (work.generation == nullptr) ListPopular(&work);
    if (!rank && work.served_by == ServedBy::kShortlist &&
        work.generation->ranker() != nullptr &&
        work.generation->ranker()->Ranks(work.history) &&
        options_.recommend.rank) {
      work.degraded = "overload";
    }
  }
  std::vector<RecommendAnswer> answers;
  {
    const auto catalogue = store_.ReadCatalogue();
    for (Work& work : works) answers.push_back(Finish(*catalogue, &work));
  }
  if (computed) computed();
  for (size_t i = 0; i < works.size(); ++i) {
    works[i].job->done(std::move(answers[i]));
  }
  for (RecommendJob* job : empty) job->done(RecommendAnswer());
  if (on_batch_) on_batch_(report);
}

absl::StatusOr<Pipeline::Similar> Pipeline::SimilarItems(
    const std::string& id, int count, const std::vector<std::string>& exclude,
    const std::optional<features::Filter>& filter) {
  const GenerationPtr generation = slot_.Snapshot();
  if (generation == nullptr) {
    return absl::FailedPreconditionError(
        "there is no generation yet; train one with Retrain");
  }
  model::RowMask mask;
  Row row = model::kNoRow;
  {
    const auto catalogue = store_.ReadCatalogue();
    const Ordinal item = catalogue->Find(id);
    if (item == kNoOrdinal || (*catalogue)[item].deleted) {
      return absl::NotFoundError(absl::StrCat("no item ", Quoted(id)));
    }
    row = generation->RowOf(item);
    mask = *BaseMask(*generation, *catalogue);
    if (row >= mask.rows()) {
      return absl::NotFoundError(absl::StrCat("item ", Quoted(id),
                                              " is not known to generation ",
                                              generation->id()));
    }
    for (const std::string& other : exclude) {
      const Ordinal o = catalogue->Find(other);
      if (o == kNoOrdinal) continue;
      const Row r = generation->RowOf(o);
      if (r < mask.rows()) mask.Clear(r);
    }
    if (filter.has_value()) {
      const Bitmap matching = features::Evaluate(*filter, *catalogue);
      for (Row r = 0; r < mask.rows(); ++r) {
        if (!matching.contains(generation->OrdinalOf(r))) mask.Clear(r);
      }
    }
  }
  ScoredItems list;
  for (const model::ScoredRow& scored :
       generation->Similar(row, mask, count + kTiesBeyond)) {
    const Ordinal item = generation->OrdinalOf(scored.row);
    if (item != kNoOrdinal) list.emplace_back(item, scored.score);
  }
  Similar similar{.generation = generation->id()};
  const auto catalogue = store_.ReadCatalogue();
  SortTies(*catalogue, &list);
  if (list.size() > static_cast<size_t>(count)) {
    list.resize(static_cast<size_t>(count));
  }
  for (const auto& [item, score] : list) {
    similar.items.push_back((*catalogue)[item].id);
    similar.scores.push_back(score);
  }
  return similar;
}

}  // namespace nearline::server
