// What takes things out of the store: events that were taken back, users, and
// what was kept for long enough.
#include <algorithm>
#include <utility>

#include "base/text.h"
#include "features/staged_write.h"

namespace nearline::features {

void StagedWrite::EraseEvent(const Event& event) {
  batch_.Delete(table(kEvents), EventKey(event.user, event.sequence));
  batch_.Delete(table(kSequences), SequenceKey(event.sequence));
  const double weight = store_.event_types().Weight(event.type, event.value);
  if (weight > 0) {
    AddToCount(event.item, -store_.counts_->Share(weight, event.time_micros));
  }
}

void StagedWrite::Stage(Retract& m) {
  RetractResult result;
  for (const Retract::Ref& ref : m.refs) {
    const absl::StatusOr<Ordinal> found = FindUser(ref.user);
    if (!found.ok()) return Poison(m.done, found.status());
    const Ordinal user = *found;
    if (user == kNoOrdinal) continue;
    const std::string id_key = EventIdKey(user, HashOf(ref.event_id));
    const absl::StatusOr<std::optional<EventIdRecord>> record =
        FindEventId(id_key);
    if (!record.ok()) return Poison(m.done, record.status());
    if (!record->has_value() || (*record)->retracted) continue;
    const auto event = ReadEvent(user, (*record)->sequence);
    if (!event.ok()) return Poison(m.done, event.status());
    if (!event->has_value()) continue;
    EraseEvent(**event);
    EventIdRecord kept = **record;
    kept.retracted = true;
    event_ids_[id_key] = kept;
    stale_users_.push_back(ref.user);
    ++result.retracted;
  }
  result.sequence = sequence_;
  WhenDurable(std::move(m.done), std::move(result));
}

absl::StatusOr<int64_t> StagedWrite::EraseUser(const std::string& id) {
  ASSIGN_OR_RETURN(const Ordinal user, FindUser(id));
  if (user == kNoOrdinal) {
    return absl::NotFoundError(absl::StrCat("no user ", Quoted(id)));
  }
  int64_t erased = 0;
  Sequence after = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::vector<Event> events,
                     store_.ReadEvents(user, after, 10'000));
    for (const Event& event : events) {
      if (event.user != user) break;
      EraseEvent(event);
      after = event.sequence;
      ++erased;
    }
    if (events.empty() || events.back().user != user) break;
  }
  // Also where the events that left the mark were retired long ago.
  for (const Ordinal item : store_.catalogue_->marked()) {
    const std::vector<Ordinal>& seen = (*store_.catalogue_)[item].seen_by;
    if (std::find(seen.begin(), seen.end(), user) != seen.end()) {
      std::erase(EditItem(item).seen_by, user);
    }
  }
  batch_.DeleteRange(table(kEvents), OrdinalKey(user), OrdinalKey(user + 1));
  batch_.DeleteRange(table(kEventIds), OrdinalKey(user), OrdinalKey(user + 1));
  EraseRecord(user, id);
  batch_.Put(table(kMeta), "purge", std::to_string(++store_.last_erasure_));
  return erased;
}

void StagedWrite::EraseRecord(Ordinal user, const std::string& id) {
  batch_.Delete(table(kUsers), OrdinalKey(user));
  batch_.Delete(table(kUserIds), store_.UserKey(id));
  users_[id] = kNoOrdinal;
  stale_users_.push_back(id);
  --users_added_;
}

void StagedWrite::Stage(DeleteUser& m) {
  frees_space_ = true;
  absl::StatusOr<int64_t> erased = EraseUser(m.id);
  if (absl::IsNotFound(erased.status())) return Fail(m.done, erased.status());
  if (!erased.ok()) return Poison(m.done, erased.status());
  finish_.push_back(
      [this, m = std::move(m), erased = *erased,
       number = store_.last_erasure_](const absl::Status& status) mutable {
        if (!status.ok()) return Fail(m.done, status);
        MutexLock lock(&store_.janitor_mu_);
        store_.erasures_.push_back({std::move(m), erased, number});
        store_.janitor_cv_.Signal();
      });
}

void StagedWrite::Stage(Retire& m) {
  frees_space_ = true;
  RetireResult result;
  absl::Status status;
  for (const Retire::Of& of : m.users) {
    if (status.ok()) status = RetireEvents(of, &result.events);
  }
  for (const Ordinal user : m.forget) {
    if (status.ok()) status = Forget(user, &result.users);
  }
  if (!status.ok()) return Poison(m.done, status);
  WhenDurable(std::move(m.done), RetireResult{result});
}

absl::Status StagedWrite::RetireEvents(const Retire::Of& of, int64_t* retired) {
  ASSIGN_OR_RETURN(const User user, store_.GetUser(of.user));
  if (user.id.empty()) return absl::OkStatus();  // erased since
  for (const Sequence sequence : of.sequences) {
    ASSIGN_OR_RETURN(const std::optional<Event> event,
                     ReadEvent(of.user, sequence));
    if (!event.has_value()) continue;  // retracted since
    EraseEvent(*event);
    ++*retired;
    if (event->event_id.empty()) continue;
    const std::string key = EventIdKey(of.user, HashOf(event->event_id));
    ASSIGN_OR_RETURN(const auto record, FindEventId(key));
    if (!record.has_value() || !record->permanent) continue;
    // From now on it expires like any other.
    EventIdRecord expiring = *record;
    expiring.permanent = false;
    expiring.time_micros = absl::ToUnixMicros(now_);
    event_ids_[key] = expiring;
  }
  stale_users_.push_back(user.id);
  return absl::OkStatus();
}

absl::Status StagedWrite::Forget(Ordinal ordinal, int64_t* forgotten) {
  ASSIGN_OR_RETURN(const User user, store_.GetUser(ordinal));
  if (user.id.empty() || !user.attributes.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Event> next,
                   store_.ReadEvents(ordinal, 0, 1));
  if (!next.empty() && next[0].user == ordinal) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool known, EraseExpiredIds(ordinal));
  if (known) return absl::OkStatus();
  // The marks that the user's number left on items name nobody any more.
  EraseRecord(ordinal, user.id);
  ++*forgotten;
  return absl::OkStatus();
}

// Whether some are left. One by one: every read looks through all ranges that
// were deleted, and there may be many such users.
absl::StatusOr<bool> StagedWrite::EraseExpiredIds(Ordinal user) {
  const Database::Pin pin(store_.database_.get());
  RETURN_IF_ERROR(pin.ok());
  const std::string end = OrdinalKey(user + 1);
  const rocksdb::Slice bound(end);
  rocksdb::ReadOptions read;
  read.iterate_upper_bound = &bound;
  const auto rows = pin.Iterate(kEventIds, read);
  bool known = false;
  for (rows->Seek(OrdinalKey(user)); rows->Valid(); rows->Next()) {
    ASSIGN_OR_RETURN(const auto record, FindEventId(rows->key().ToString()));
    known = known || record.has_value();
    if (!record.has_value()) batch_.Delete(table(kEventIds), rows->key());
  }
  RETURN_IF_ERROR(FromRocks(rows->status(), "reading event ids"));
  return known;
}

void StagedWrite::Stage(Purged& m) {
  // An erasure that came since is not gone from the files yet.
  if (m.last_erasure == store_.last_erasure_) {
    batch_.Delete(table(kMeta), "purge");
  }
  WhenDurable(std::move(m.done), Sequence{sequence_});
}

}  // namespace nearline::features
