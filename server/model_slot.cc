#include "server/model_slot.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "base/file.h"
#include "base/text.h"
#include "model/kernels.h"
#include "model/recommender.h"

namespace nearline::server {
namespace {

std::vector<const model::RowMask*> Pointers(
    const std::vector<model::RowMask>& masks) {
  std::vector<const model::RowMask*> out;
  for (const model::RowMask& mask : masks) out.push_back(&mask);
  return out;
}

}  // namespace

ModelSlot::ModelSlot(features::Store* store,
                     model::GenerationStore* generations,
                     model::ScoringFactory factory, ModelSlotOptions options,
                     const Clock* clock)
    : store_(*store),
      generations_(*generations),
      factory_(std::move(factory)),
      options_(options),
      clock_(*clock) {
  store_.set_on_items([this](const std::vector<features::Ordinal>& items) {
    std::shared_ptr<model::Generation> current;
    {
      MutexLock lock(&mu_);
      current = current_;
    }
    if (current == nullptr) return;
    const auto catalogue = store_.ReadCatalogue();
    for (const features::Ordinal item : items) current->Bind(*catalogue, item);
  });
}

ModelSlot::~ModelSlot() { store_.set_on_items({}); }

GenerationPtr ModelSlot::Snapshot() const {
  MutexLock lock(&mu_);
  return current_;
}

GenerationPtr ModelSlot::Find(const std::string& id) const {
  MutexLock lock(&mu_);
  if (current_ != nullptr && current_->id() == id) return current_;
  for (const Retired& retired : retired_) {
    if (retired.generation->id() == id) return retired.generation;
  }
  return nullptr;
}

void ModelSlot::ForgetUsers() {
  std::vector<GenerationPtr> all;
  {
    MutexLock lock(&mu_);
    all.push_back(current_);
    for (const Retired& retired : retired_) all.push_back(retired.generation);
  }
  for (const GenerationPtr& generation : all) {
    if (generation != nullptr) generation->Forget();
  }
}

absl::Time ModelSlot::in_service_since() const {
  MutexLock lock(&mu_);
  return since_;
}

absl::StatusOr<std::shared_ptr<model::Generation>> ModelSlot::Load(
    const std::string& id) {
  const absl::Time start = clock_.Now();
  ASSIGN_OR_RETURN(model::Bundle bundle, generations_.Read(id));
  auto generation = model::Generation::Create(std::move(bundle), factory_);
  if (!generation.ok()) {
    return absl::DataLossError(
        absl::StrCat("generation ", id, ": ", generation.status().message()));
  }
  if (options_.query_cache_bytes > 0) {
    (*generation)->KeepQueries(options_.query_cache_bytes, options_.rank);
  }
  if (options_.encoder_state_bytes > 0) {
    (*generation)->KeepStates(options_.encoder_state_bytes, options_.rank);
  }
  (*generation)->BindAll(*store_.ReadCatalogue());
  absl::Status warm = Tune(generation->get());
  if (warm.ok()) warm = WarmUp(**generation);
  if (warm.ok()) warm = Compare(generation->get());
  if (!warm.ok()) {
    return absl::DataLossError(
        absl::StrCat("generation ", id, ": ", warm.message()));
  }
  Note(**generation, clock_.Now() - start);
  return generation;
}

// Beside the bundle, for people: its manifest does not know the file.
void ModelSlot::Note(const model::Generation& generation,
                     absl::Duration took) const {
  const model::ScanReport scan = generation.scanner().report();
  Json report = {{"time", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", clock_.Now(),
                                           absl::UTCTimeZone())},
                 {"seconds", absl::ToDoubleSeconds(took)},
                 {"instructions", model::KernelTarget()},
                 {"scan", scan.precision},
                 {"places_as_in_float32", generation.agreement()}};
  if (scan.lists > 0) {
    report["index"] = {{"lists", scan.lists},
                       {"looked_at", scan.probes},
                       {"recall_of_100", scan.recall}};
  }
  const std::string path =
      JoinPath(generations_.FolderOf(generation.id()), kWarmUpReport);
  const absl::Status written = WriteFileAtomic(path, report.dump(2) + "\n");
  if (!written.ok()) {
    spdlog::warn("generation {}: no report of its warm-up: {}", generation.id(),
                 Quoted(written.ToString()));
  }
}

// Some of the users that there are, from first to last, or made-up ones where
// these are few.
std::vector<model::History> ModelSlot::SampleUsers(
    const model::Generation& generation, int64_t most) {
  constexpr int64_t kFew = 20;
  std::vector<model::History> histories;
  const int64_t users = store_.users(), sample = std::min(users, most);
  for (int64_t i = 0; i < sample; ++i) {
    const std::string id =
        store_.UserId(static_cast<features::Ordinal>(i * users / sample));
    if (id.empty()) continue;  // erased
    const auto profile = store_.GetProfile(id);
    if (!profile.ok() || *profile == nullptr) continue;
    model::History history =
        generation.HistoryOf(**profile, store_.profile_options().max_weight);
    if (!history.empty()) histories.push_back(std::move(history));
  }
  for (uint32_t i = 0; std::ssize(histories) < std::min(kFew, most); ++i) {
    histories.push_back(
        {.rows = {i * 131 % generation.base_rows()}, .weights = {1}});
  }
  return histories;
}

absl::StatusOr<ModelSlot::Sample> ModelSlot::SampleQueries(
    const model::Generation& generation, int64_t most) {
  const std::vector<model::History> users = SampleUsers(generation, most);
  std::vector<const model::History*> pointers;
  for (const model::History& one : users) pointers.push_back(&one);
  Sample sample;
  RETURN_IF_ERROR(generation.encoder().Encode(pointers, &sample.queries));
  // What they have is not answered to them.
  sample.masks.assign(users.size(), model::RowMask(generation.rows(), true));
  for (size_t i = 0; i < users.size(); ++i) {
    for (const model::Row row : users[i].rows) sample.masks[i].Clear(row);
  }
  return sample;
}

// An approximate scan learns how far to look.
absl::Status ModelSlot::Tune(model::Generation* generation) {
  if (generation->scanner().report().lists == 0) return absl::OkStatus();
  constexpr int64_t kUsers = 200;
  ASSIGN_OR_RETURN(const Sample sample, SampleQueries(*generation, kUsers));
  RETURN_IF_ERROR(generation->Tune(sample.queries, Pointers(sample.masks)));
  const model::ScanReport report = generation->scanner().report();
  spdlog::info(
      "generation {}: of {} lists of its index {} are looked at, where {:.1f} "
      "% of the 100 best are found",
      generation->id(), report.lists, report.probes, 100 * report.recall);
  return absl::OkStatus();
}

// What comes of the scan's precision on this processor, of its blocks and of
// its index, against the plain scores of all rows, for as many users as so many
// multiplications allow.
absl::Status ModelSlot::Compare(model::Generation* generation) {
  constexpr int64_t kProducts = 200'000'000, kUsers = 200;
  constexpr int kBest = 10;
  const auto rows = static_cast<int64_t>(generation->rows());
  const int64_t users = std::clamp<int64_t>(
      kProducts / (rows * generation->encoder().dim()), 1, kUsers);
  ASSIGN_OR_RETURN(const Sample sample, SampleQueries(*generation, users));
  const std::vector<int> ks(sample.masks.size(), kBest);
  std::vector<std::vector<model::ScoredRow>> lists;
  RETURN_IF_ERROR(generation->scanner().Scan(
      sample.queries, Pointers(sample.masks), ks, &lists));
  const size_t dim = sample.queries.size() / sample.masks.size();
  int64_t places = 0, agreed = 0;
  for (size_t i = 0; i < lists.size(); ++i) {
    std::vector<model::ScoredRow> all;
    for (model::Row row = 0; row < generation->rows(); ++row) {
      if (sample.masks[i][row]) all.push_back({.row = row});
    }
    generation->scanner().Score(&sample.queries[i * dim], absl::MakeSpan(all));
    const size_t best = std::min<size_t>(kBest, all.size());
    std::partial_sort(all.begin(),
                      all.begin() + static_cast<std::ptrdiff_t>(best),
                      all.end());
    for (size_t place = 0; place < best; ++place) {
      ++places;
      agreed += place < lists[i].size() && lists[i][place].row == all[place].row
                    ? 1
                    : 0;
    }
  }
  if (places > 0) {
    generation->set_agreement(static_cast<double>(agreed) /
                              static_cast<double>(places));
  }
  spdlog::info(
      "generation {}: the scan gives {:.2f} % of the places among the {} best "
      "to the items that float32 does",
      generation->id(), 100 * generation->agreement(), kBest);
  return absl::OkStatus();
}

// Touches weights and code paths before traffic does, with made-up histories.
// Errors: DATA_LOSS when an answer lacks items, or holds scores that are not
// finite.
absl::Status ModelSlot::WarmUp(const model::Generation& generation) {
  const model::RowMask mask(generation.rows(), true);
  for (uint32_t i = 0; i < 20; ++i) {
    model::History history;
    for (uint32_t j = 0; j < 20; ++j) {
      history.rows.push_back((i * 131 + j * 17) % generation.base_rows());
      history.weights.push_back(1.0f);
    }
    const model::Query query{&history, &mask, 10};
    std::vector<std::vector<model::ScoredRow>> lists;
    RETURN_IF_ERROR(model::Recommend(generation, {&query, 1}, {}, &lists));
    const bool finite = std::all_of(
        lists[0].begin(), lists[0].end(),
        [](const model::ScoredRow& s) { return std::isfinite(s.score); });
    if (!finite || lists[0].size() < std::min<size_t>(10, generation.rows())) {
      return absl::DataLossError(
          "its scores are not finite: the weights overflow");
    }
  }
  return absl::OkStatus();
}

void ModelSlot::Swap(std::shared_ptr<model::Generation> next) {
  const absl::Time now = clock_.Now();
  // Freed after the lock is released: a generation is large.
  std::vector<Retired> expired;
  const std::shared_ptr<model::Generation> bind_again = next;
  std::shared_ptr<model::Generation> retired;
  {
    MutexLock lock(&mu_);
    retired = current_;
    if (current_ != nullptr) {
      retired_.push_back({std::move(current_), now + options_.keep_retired});
    }
    current_ = std::move(next);
    since_ = now;
    std::vector<Retired> kept;
    for (Retired& retired : retired_) {
      (retired.until < now ? expired : kept).push_back(std::move(retired));
    }
    // At most two, whatever their age: memory is bounded.
    while (kept.size() > 2) {
      expired.push_back(std::move(kept.front()));
      kept.erase(kept.begin());
    }
    retired_ = std::move(kept);
  }
  // Pages that are continued have no use for them, and none are kept any more.
  if (retired != nullptr && retired->states() != nullptr) {
    retired->states()->Clear();
  }
  // Items that came between Load and now.
  bind_again->BindAll(*store_.ReadCatalogue());
}

absl::Status ModelSlot::Publish(const std::string& id) {
  MutexLock publish(&publish_mu_);
  ASSIGN_OR_RETURN(auto generation, Load(id));
  RETURN_IF_ERROR(generations_.SetCurrent(id));
  Swap(std::move(generation));
  return absl::OkStatus();
}

absl::Status ModelSlot::LoadCurrent() {
  MutexLock publish(&publish_mu_);
  ASSIGN_OR_RETURN(const std::string current, generations_.Current());
  ASSIGN_OR_RETURN(const auto manifests, generations_.List());
  if (current.empty()) {
    const bool any =
        std::any_of(manifests.begin(), manifests.end(),
                    [](const model::Manifest& m) { return m.accepted; });
    if (!any) return absl::OkStatus();
    spdlog::error("the generations' CURRENT is missing");
  }
  absl::StatusOr<std::shared_ptr<model::Generation>> generation;
  if (!current.empty()) {
    generation = Load(current);
    if (generation.ok()) {
      Swap(*std::move(generation));
      return absl::OkStatus();
    }
    spdlog::error("generation {} does not load: {}", Quoted(current),
                  generation.status().ToString());
  }
  for (const model::Manifest& manifest : manifests) {
    if (manifest.id == current || !manifest.accepted) continue;
    generation = Load(manifest.id);
    if (!generation.ok()) continue;
    spdlog::warn("serving {} instead", manifest.id);
    Swap(*std::move(generation));
    return absl::OkStatus();
  }
  spdlog::warn("no other generation loads; serving popular items");
  return absl::OkStatus();
}

}  // namespace nearline::server
