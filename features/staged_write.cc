#include "features/staged_write.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/hash.h"
#include "base/text.h"
#include "base/varint.h"

namespace nearline::features {

absl::StatusOr<Ordinal> StagedWrite::FindUser(const std::string& id) {
  const auto it = users_.find(id);
  if (it != users_.end()) return it->second;
  ASSIGN_OR_RETURN(const Ordinal user, store_.FindUser(id));
  users_[id] = user;
  return user;
}

absl::StatusOr<Ordinal> StagedWrite::FindOrAddUser(const std::string& id) {
  ASSIGN_OR_RETURN(Ordinal user, FindUser(id));
  if (user != kNoOrdinal) return user;
  user = next_user_++;
  ++users_added_;
  users_[id] = user;
  batch_.Put(table(kUserIds), store_.UserKey(id), OrdinalKey(user));
  batch_.Put(table(kUsers), OrdinalKey(user), EncodeUser({.id = id}));
  return user;
}

Ordinal StagedWrite::FindItem(const std::string& id) const {
  const auto it = new_items_.find(id);
  return it != new_items_.end() ? it->second : store_.catalogue_->Find(id);
}

ItemRecord& StagedWrite::EditItem(Ordinal item) {
  const auto [it, added] = items_.try_emplace(item);
  if (added && item < store_.catalogue_->size()) {
    it->second = (*store_.catalogue_)[item];
  }
  return it->second;
}

Ordinal StagedWrite::FindOrAddItem(const std::string& id) {
  Ordinal item = FindItem(id);
  if (item != kNoOrdinal) return item;
  item = store_.catalogue_->size() + static_cast<Ordinal>(new_items_.size());
  new_items_[id] = item;
  EditItem(item).id = id;
  return item;
}

void StagedWrite::AddToCount(Ordinal item, double share) {
  const auto [it, added] = counts_.try_emplace(item, 0.0);
  if (added) it->second = (*store_.counts_)[item];
  it->second = std::max(0.0, it->second + share);
}

absl::StatusOr<std::optional<EventIdRecord>> StagedWrite::FindEventId(
    const std::string& key) {
  std::optional<EventIdRecord> record;
  if (const auto it = event_ids_.find(key); it != event_ids_.end()) {
    record = it->second;
  } else {
    const Database::Pin pin(store_.database_.get());
    auto value = pin.Get(kEventIds, key);
    if (absl::IsNotFound(value.status())) return record;
    RETURN_IF_ERROR(value.status());
    ASSIGN_OR_RETURN(record, DecodeEventId(*value));
  }
  const absl::Duration window = store_.options_.database.event_id_window;
  if (!record->permanent &&
      absl::FromUnixMicros(record->time_micros) + window < now_) {
    record.reset();
  }
  return record;
}

// Decides what becomes of an event, staging nothing. The outcome's status is a
// refusal; the function's is trouble with the store.
absl::StatusOr<StagedWrite::Examined> StagedWrite::Examine(
    const NewEvent& event, bool historical) {
  const EventTypes& types = store_.event_types();
  Examined examined;
  EventOutcome& outcome = examined.outcome;
  if (types.Find(event.type) < 0) {
    outcome.status = InvalidField(
        "type", Quoted(event.type),
        absl::StrCat("a configured event type (", types.names(), ")"));
    return examined;
  }
  std::optional<EventIdRecord> known;
  if (!event.event_id.empty()) {
    examined.id = HashOf(event.event_id);
    examined.payload = PayloadHash(event);
    ASSIGN_OR_RETURN(const Ordinal user, FindUser(event.user));
    if (user != kNoOrdinal) {
      ASSIGN_OR_RETURN(known, FindEventId(EventIdKey(user, examined.id)));
    }
  }
  if (known.has_value()) {
    outcome.sequence = known->sequence;
    outcome.duplicate = known->payload_hash == examined.payload;
    if (outcome.duplicate && event.time_must_match) {
      const Ordinal user = *FindUser(event.user);
      ASSIGN_OR_RETURN(const std::optional<Event> first,
                       ReadEvent(user, known->sequence));
      outcome.duplicate =
          !first.has_value() || first->time_micros == event.time_micros;
    }
    if (!outcome.duplicate) {
      outcome.status = absl::AlreadyExistsError(
          absl::StrCat("event_id = ", Quoted(event.event_id), " of user ",
                       Quoted(event.user), " is sequence ", known->sequence,
                       " with another content; use a new id for a new event"));
    }
    return examined;
  }
  const absl::Time time = absl::FromUnixMicros(event.time_micros);
  const absl::Duration max_age = store_.options_.retention.max_age;
  if (max_age > absl::ZeroDuration() && time < now_ - max_age) {
    outcome.expired = historical;
    if (historical) return examined;
    outcome.status = absl::FailedPreconditionError(absl::StrCat(
        "time = ", absl::FormatTime(time, absl::UTCTimeZone()),
        " is older than retention.max_age of ", absl::FormatDuration(max_age),
        ", so the event would not be kept; leave it out"));
    return examined;
  }
  const absl::Duration window = store_.options_.database.event_id_window;
  if (!historical && time < now_ - window) {
    outcome.status = absl::FailedPreconditionError(absl::StrCat(
        "time = ", absl::FormatTime(time, absl::UTCTimeZone()),
        " is older than the event id window of ", absl::FormatDuration(window),
        ", so a repeat could count twice; send old events as historical"));
    return examined;
  }
  if (store_.options_.reject_unknown_items) {
    const Ordinal item = FindItem(event.item);
    const bool listed =
        item != kNoOrdinal &&
        (items_.contains(item) ? items_.at(item).listed
                               : (*store_.catalogue_)[item].listed);
    if (!listed) {
      outcome.status = absl::NotFoundError(absl::StrCat(
          "item = ", Quoted(event.item),
          " is not in the catalogue; add it with UpsertItems first"));
    }
  }
  return examined;
}

absl::Status StagedWrite::StageEvent(NewEvent& in, bool historical,
                                     Examined* examined) {
  EventOutcome* const outcome = &examined->outcome;
  ASSIGN_OR_RETURN(const Ordinal user, FindOrAddUser(in.user));
  const std::string id_key =
      in.event_id.empty() ? "" : EventIdKey(user, examined->id);
  if (!id_key.empty()) {
    // A repeat inside this very batch, which Examine could not see.
    if (const auto it = event_ids_.find(id_key); it != event_ids_.end()) {
      outcome->sequence = it->second.sequence;
      outcome->duplicate = true;
      return absl::OkStatus();
    }
  }
  Event event;
  event.user = user;
  event.item = FindOrAddItem(in.item);
  event.sequence = ++sequence_;
  event.type = static_cast<uint8_t>(store_.event_types().Find(in.type));
  event.value = in.value;
  event.time_micros = in.time_micros;
  event.event_id = in.event_id;
  event.request_id = in.request_id;
  event.position = in.position;
  event.context = in.context;
  outcome->sequence = event.sequence;

  batch_.Put(table(kEvents), EventKey(user, event.sequence),
             EncodeEvent(event));
  batch_.Put(table(kSequences), SequenceKey(event.sequence), OrdinalKey(user));
  if (!id_key.empty()) {
    const EventIdRecord record{
        .sequence = event.sequence,
        .payload_hash = examined->payload,
        .time_micros = std::max(absl::ToUnixMicros(now_), event.time_micros),
        .permanent = historical};
    event_ids_[id_key] = record;
  }
  const double weight = store_.event_types().Weight(event.type, event.value);
  if (weight > 0) {
    AddToCount(event.item, store_.counts_->Share(weight, event.time_micros));
  }
  const size_t enough = static_cast<size_t>(store_.options_.established_after);
  const auto staged = items_.find(event.item);
  const ItemRecord& item = staged != items_.end()
                               ? staged->second
                               : (*store_.catalogue_)[event.item];
  if (!item.listed && item.seen_by.size() < enough &&
      std::find(item.seen_by.begin(), item.seen_by.end(), user) ==
          item.seen_by.end()) {
    EditItem(event.item).seen_by.push_back(user);
  }
  events_.push_back({std::move(in.user), std::move(event)});
  return absl::OkStatus();
}

void StagedWrite::Stage(Append& m) {
  std::vector<Examined> examined(m.events.size());
  // Two events of one batch with one id: the same content is a repeat, another
  // is refused here, where the first has no sequence yet.
  absl::flat_hash_map<std::tuple<absl::string_view, uint64_t, uint64_t>, size_t>
      in_batch;
  for (size_t i = 0; i < m.events.size(); ++i) {
    const NewEvent& event = m.events[i];
    absl::StatusOr<Examined> one = Examine(event, m.historical);
    if (!one.ok()) return Fail(m.done, one.status());
    absl::Status& status = one->outcome.status;
    if (status.ok() && !event.event_id.empty() && !one->outcome.expired) {
      const auto [it, first] =
          in_batch.try_emplace({event.user, one->id.high, one->id.low}, i);
      const NewEvent& before = m.events[it->second];
      const bool at_the_time =
          !event.time_must_match || event.time_micros == before.time_micros;
      if (!first &&
          (examined[it->second].payload != one->payload || !at_the_time)) {
        status = absl::AlreadyExistsError(
            absl::StrCat("event_id = ", Quoted(event.event_id),
                         " stands twice in the batch with different contents"));
      }
    }
    if (!status.ok() && !m.each) {
      // The messages begin with the field.
      return Fail(m.done, InPart(status, absl::StrCat("events[", i, "]")));
    }
    examined[i] = *std::move(one);
  }
  AppendResult result;
  result.outcomes.reserve(m.events.size());
  for (size_t i = 0; i < m.events.size(); ++i) {
    EventOutcome& outcome = examined[i].outcome;
    if (outcome.status.ok() && !outcome.duplicate && !outcome.expired) {
      const absl::Status status =
          StageEvent(m.events[i], m.historical, &examined[i]);
      if (!status.ok()) return Poison(m.done, status);
    }
    result.outcomes.push_back(std::move(outcome));
  }
  result.sequence = sequence_;
  WhenDurable(std::move(m.done), std::move(result));
}

absl::StatusOr<std::optional<Event>> StagedWrite::ReadEvent(
    Ordinal user, Sequence sequence) const {
  const auto staged = std::find_if(
      events_.begin(), events_.end(),
      [&](const StagedEvent& e) { return e.event.sequence == sequence; });
  if (staged != events_.end()) return staged->event;
  const Database::Pin pin(store_.database_.get());
  const std::string key = EventKey(user, sequence);
  const auto value = pin.Get(kEvents, key);
  if (absl::IsNotFound(value.status())) return std::optional<Event>();
  RETURN_IF_ERROR(value.status());
  ASSIGN_OR_RETURN(Event event, DecodeEventRow(key, *value));
  return event;
}

void StagedWrite::Stage(UpsertItems& m) {
  for (Item& in : m.items) {
    ItemRecord& item = EditItem(FindOrAddItem(in.id));
    item.attributes = std::move(in.attributes);
    item.listed = true;
    item.deleted = false;
    item.seen_by.clear();
  }
  WhenDurable(std::move(m.done), Sequence{sequence_});
}

void StagedWrite::Stage(DeleteItems& m) {
  int64_t deleted = 0;
  for (const std::string& id : m.ids) {
    const Ordinal ordinal = FindItem(id);
    if (ordinal == kNoOrdinal) continue;
    ItemRecord& item = EditItem(ordinal);
    if (item.deleted) continue;
    if (item.listed) ++deleted;
    item.deleted = true;
    item.listed = false;
    item.attributes.clear();
  }
  WhenDurable(std::move(m.done), int64_t{deleted});
}

void StagedWrite::Stage(UpsertUsers& m) {
  for (User& user : m.users) {
    const absl::StatusOr<Ordinal> ordinal = FindOrAddUser(user.id);
    if (!ordinal.ok()) return Poison(m.done, ordinal.status());
    batch_.Put(table(kUsers), OrdinalKey(*ordinal), EncodeUser(user));
    stale_users_.push_back(std::move(user.id));
  }
  WhenDurable(std::move(m.done), Sequence{sequence_});
}

void StagedWrite::StageTables() {
  // In order: RocksDB puts a key beside the one before faster than elsewhere.
  std::vector<const std::pair<const std::string, EventIdRecord>*> ids;
  ids.reserve(event_ids_.size());
  for (const auto& entry : event_ids_) ids.push_back(&entry);
  std::sort(ids.begin(), ids.end(),
            [](const auto* a, const auto* b) { return a->first < b->first; });
  for (const auto* id : ids) {
    batch_.Put(table(kEventIds), id->first, EncodeEventId(id->second));
  }
  for (const auto& [ordinal, item] : items_) {
    batch_.Put(table(kItems), OrdinalKey(ordinal), EncodeItem(item));
  }
  for (const auto& [ordinal, count] : counts_) {
    std::string value;
    PutRaw(&value, count);
    batch_.Put(table(kCounts), OrdinalKey(ordinal), value);
  }
  if (sequence_ != store_.sequence_) {
    batch_.Put(table(kMeta), "next_sequence", std::to_string(sequence_ + 1));
  }
  if (next_user_ != store_.next_user_) {
    batch_.Put(table(kMeta), "next_user", std::to_string(next_user_));
  }
}

absl::Status StagedWrite::Commit() {
  RETURN_IF_ERROR(poison_);
  StageTables();
  if (batch_.Count() > 0) {
    RETURN_IF_ERROR(store_.database_->Write(&batch_, frees_space_));
  }
  Publish();
  return absl::OkStatus();
}

void StagedWrite::Publish() {
  std::vector<Ordinal> changed;
  {
    WriterLock lock(&store_.memory_mu_);
    for (auto& [ordinal, item] : items_) {
      store_.catalogue_->Put(ordinal, std::move(item));
      changed.push_back(ordinal);
    }
    for (const auto& [ordinal, count] : counts_) {
      store_.counts_->Set(ordinal, count);
    }
  }
  absl::flat_hash_map<absl::string_view, std::vector<const Event*>> by_user;
  for (const StagedEvent& e : events_) {
    by_user[e.user_id].push_back(&e.event);
  }
  for (const auto& [user, events] : by_user) {
    store_.profiles_->Apply(user, events, store_.event_types(),
                            store_.profile_options());
  }
  for (const std::string& user : stale_users_) {
    store_.profiles_->Invalidate(user);
  }
  store_.next_user_ = next_user_;
  store_.users_ += users_added_;
  store_.sequence_ = sequence_;
  if (changed.empty()) return;
  MutexLock lock(&store_.on_items_mu_);
  if (store_.on_items_) store_.on_items_(changed);
}

void StagedWrite::Finish(const absl::Status& status) {
  for (const auto& finish : finish_) finish(status);
}

}  // namespace nearline::features
