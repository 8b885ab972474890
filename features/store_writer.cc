// The store's writer: gathers waiting mutations, stages them into one batch,
// syncs it, and only then lets memory and callers see it.
#include <utility>

#include "features/staged_write.h"
#include "features/store.h"

namespace nearline::features {
namespace {

int64_t EventsIn(const Mutation& mutation) {
  const auto* append = std::get_if<Append>(&mutation);
  return append == nullptr ? 1 : static_cast<int64_t>(append->events.size());
}

}  // namespace

absl::Status Store::Submit(Mutation mutation) {
  MutexLock lock(&queue_mu_);
  if (stopping_ || options_.database.read_only) {
    return absl::UnavailableError("the store is closing");
  }
  const int64_t events = EventsIn(mutation);
  if (queued_events_ > 0 &&
      queued_events_ + events > options_.max_queued_events) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the feedback queue is full (", queued_events_,
                     " events waiting); retry after a pause"));
  }
  queued_events_ += events;
  queue_.push_back(std::move(mutation));
  queue_cv_.Signal();
  return absl::OkStatus();
}

void Store::WriterLoop() {
  std::vector<Mutation> gathered;
  while (true) {
    int64_t events = 0;
    {
      MutexLock lock(&queue_mu_);
      while (queue_.empty() && !stopping_) queue_cv_.Wait(&queue_mu_);
      if (queue_.empty()) return;
      while (!queue_.empty()) {
        events += EventsIn(queue_.front());
        if (!gathered.empty() && events > options_.max_batch_events) break;
        // What reads the committed log is written alone.
        const bool alone = std::holds_alternative<DeleteUser>(queue_.front()) ||
                           std::holds_alternative<Retire>(queue_.front());
        if (alone && !gathered.empty()) break;
        queued_events_ -= EventsIn(queue_.front());
        gathered.push_back(std::move(queue_.front()));
        queue_.pop_front();
        if (alone) break;
      }
    }
    WriteGathered(&gathered);
    gathered.clear();
  }
}

// After a failed write nothing in memory is trusted: the store is opened and
// read again.
absl::Status Store::EnsureWritable() {
  if (!database_->needs_reload()) return absl::OkStatus();
  RETURN_IF_ERROR(database_->Reopen());
  RETURN_IF_ERROR(Load());
  profiles_->Clear();
  return absl::OkStatus();
}

void Store::WriteGathered(std::vector<Mutation>* mutations) {
  const absl::Status writable = EnsureWritable();
  if (!writable.ok()) {
    {
      MutexLock lock(&queue_mu_);
      ++stats_.failed_writes;
    }
    for (Mutation& mutation : *mutations) {
      std::visit(
          [&](auto& m) {
            if (m.done) m.done(writable);
          },
          mutation);
    }
    return;
  }
  StagedWrite write(this);
  for (Mutation& mutation : *mutations) {
    std::visit([&](auto& m) { write.Stage(m); }, mutation);
  }
  const absl::Time start = absl::Now();
  const absl::Status status = write.Commit();
  {
    MutexLock lock(&queue_mu_);
    stats_.sync_time += absl::Now() - start;
    if (status.ok()) {
      ++stats_.syncs;
      stats_.synced_events += write.events();
    } else {
      ++stats_.failed_writes;
    }
  }
  write.Finish(status);
}

void Store::JanitorLoop() {
  while (true) {
    std::deque<Erasure> erasures;
    {
      MutexLock lock(&janitor_mu_);
      while (erasures_.empty() && !janitor_stopping_) {
        janitor_cv_.Wait(&janitor_mu_);
      }
      if (erasures_.empty()) return;
      erasures.swap(erasures_);
    }
    const absl::Status status = database_->Purge(
        {kEvents, kSequences, kEventIds, kUsers, kUserIds, kItems});
    // Else the mark stays, and the next erasure or start tries again.
    if (status.ok()) {
      (void)Submit(Purged{.last_erasure = erasures.back().number});
    }
    for (Erasure& erasure : erasures) {
      if (!erasure.request.done) continue;
      if (status.ok()) {
        erasure.request.done(erasure.events);
      } else {
        erasure.request.done(Annotate(
            status,
            "the user is deleted, but old files could not be rewritten "
            "yet; the next erasure or start tries again"));
      }
    }
  }
}

}  // namespace nearline::features
