#include "features/store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/text.h"
#include "base/varint.h"
#include "features/store_format.h"

namespace nearline::features {
namespace {

constexpr Sequence kAllSequences = ~Sequence{0};

absl::Status NoSuchUser(absl::string_view id) {
  return absl::NotFoundError(absl::StrCat("no user ", Quoted(id)));
}

absl::Status BadMeta(const std::string& key) {
  return absl::DataLossError(
      absl::StrCat("the store's \"", key, "\" is damaged; restore a backup"));
}

}  // namespace

Store::Store(StoreOptions options)
    : options_(std::move(options)), clock_(options_.database.clock) {}

absl::StatusOr<std::unique_ptr<Store>> Store::Open(StoreOptions options) {
  std::unique_ptr<Store> store(new Store(std::move(options)));
  ASSIGN_OR_RETURN(store->database_, Database::Open(store->options_.database));
  RETURN_IF_ERROR(store->Load());
  store->profiles_ = std::make_unique<ProfileCache>(
      store->options_.hot_profile_bytes, [s = store.get()](auto user) {
        return s->LoadProfile(user, kAllSequences);
      });
  if (!store->options_.database.read_only) {
    store->writer_ = std::thread([s = store.get()] { s->WriterLoop(); });
    store->janitor_ = std::thread([s = store.get()] { s->JanitorLoop(); });
  }
  return store;
}

Store::~Store() {
  {
    MutexLock lock(&queue_mu_);
    stopping_ = true;
    queue_cv_.SignalAll();
  }
  if (writer_.joinable()) writer_.join();
  {
    MutexLock lock(&janitor_mu_);
    janitor_stopping_ = true;
    janitor_cv_.SignalAll();
  }
  if (janitor_.joinable()) janitor_.join();
}

absl::Status Store::Load() {
  RETURN_IF_ERROR(LoadMeta());
  RETURN_IF_ERROR(LoadTables());
  return recount_ ? Recount() : absl::OkStatus();
}

absl::Status Store::LoadMeta() {
  std::map<std::string, std::string> meta;
  {
    const Database::Pin pin(database_.get());
    RETURN_IF_ERROR(pin.ok());
    const auto rows = pin.Iterate(kMeta);
    for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
      meta.emplace(rows->key().ToString(), rows->value().ToString());
    }
    RETURN_IF_ERROR(FromRocks(rows->status(), "reading the store"));
  }
  const bool fresh = !meta.contains("format");
  if (fresh && options_.database.read_only) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.database.path, " holds no store"));
  }
  if (!fresh && meta["format"] != std::to_string(kStoreFormat)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the store in ", options_.database.path, " has format ", meta["format"],
        "; this build reads format ", kStoreFormat,
        ". Use the version of Nearline that wrote it, or a newer one"));
  }
  rocksdb::WriteBatch batch;
  const auto put = [&](const std::string& key, const std::string& value) {
    batch.Put(database_->table(kMeta), key, value);
    meta[key] = value;
  };
  if (fresh) {
    put("format", std::to_string(kStoreFormat));
    put("log_id", absl::BytesToHexString(RandomBytes(8)));
    put("secret", RandomBytes(32));
    put("epoch", std::to_string(absl::ToUnixMicros(clock_->Now())));
    put("counting", CountingRules());
    put("next_user", "0");
    put("next_sequence", "1");
  }
  // Numbers of events that are lost will be those of others: who waits for one
  // must not take it for his.
  const bool lost =
      database_->log_was_damaged() && !options_.database.read_only;
  if (!fresh && (options_.renew_log_id || lost)) {
    put("log_id", absl::BytesToHexString(RandomBytes(8)));
  }
  // Erased, and perhaps not gone from every file when the last process ended.
  if (const auto unfinished = meta.find("purge"); unfinished != meta.end()) {
    if (!absl::SimpleAtoi(unfinished->second, &last_erasure_)) {
      return BadMeta("purge");
    }
    MutexLock lock(&janitor_mu_);
    erasures_.push_back({.number = last_erasure_});
    janitor_cv_.Signal();
  }
  log_id_ = meta["log_id"];
  secret_ = meta["secret"];
  uint64_t next_sequence = 0;
  if (!absl::SimpleAtoi(meta["next_user"], &next_user_)) {
    return BadMeta("next_user");
  }
  if (!absl::SimpleAtoi(meta["next_sequence"], &next_sequence) ||
      next_sequence == 0) {
    return BadMeta("next_sequence");
  }
  sequence_ = next_sequence - 1;

  std::map<std::string, uint8_t> codes;
  for (const auto& [key, value] : meta) {
    if (key.starts_with("type/")) {
      uint32_t code = 0;
      if (!absl::SimpleAtoi(value, &code) || code > 255) return BadMeta(key);
      codes[key.substr(5)] = static_cast<uint8_t>(code);
    }
  }
  for (const EventType& type : options_.event_types) {
    if (codes.contains(type.name)) continue;
    if (codes.size() >= 255) {
      return absl::FailedPreconditionError(
          "the log knows 255 event types already; no further name can be "
          "added");
    }
    const auto code = static_cast<uint8_t>(codes.size());
    codes[type.name] = code;
    put("type/" + type.name, std::to_string(code));
  }
  ASSIGN_OR_RETURN(EventTypes types,
                   EventTypes::Create(options_.event_types, codes));
  if (event_types_ == nullptr) {
    event_types_ = std::make_unique<const EventTypes>(std::move(types));
  }
  if (batch.Count() > 0 && !options_.database.read_only) {
    RETURN_IF_ERROR(database_->Write(&batch));
  }
  WriterLock lock(&memory_mu_);
  catalogue_ = std::make_unique<Catalogue>(options_.established_after);
  // Shares of events are told from the epoch on; they must not overflow.
  int64_t epoch = 0;
  if (!absl::SimpleAtoi(meta["epoch"], &epoch)) return BadMeta("epoch");
  const absl::Duration age = clock_->Now() - absl::FromUnixMicros(epoch);
  recount_ = !options_.database.read_only &&
             (meta["counting"] != CountingRules() ||
              age > 400 * options_.popularity_half_life);
  if (recount_) epoch = absl::ToUnixMicros(clock_->Now());
  counts_ =
      std::make_unique<PopularityCounts>(options_.popularity_half_life, epoch);
  return absl::OkStatus();
}

std::string Store::CountingRules() const {
  std::string out = absl::FormatDuration(options_.popularity_half_life);
  for (const EventType& type : options_.event_types) {
    absl::StrAppendFormat(&out, ";%s,%.17g,%d,%.17g,%d", type.name, type.weight,
                          static_cast<int>(type.value), type.positive_from,
                          type.negative);
  }
  return out;
}

// Popularity as the rules that are configured now have it, from the whole log.
absl::Status Store::Recount() {
  rocksdb::WriteBatch batch;
  {
    const Database::Pin pin(database_.get());
    RETURN_IF_ERROR(pin.ok());
    WriterLock lock(&memory_mu_);
    for (Ordinal item = 0; item < counts_->size(); ++item) {
      counts_->Set(item, 0);
    }
    const auto rows = pin.Iterate(kEvents);
    for (rows->SeekToFirst(); rows->Valid(); rows->Next()) {
      ASSIGN_OR_RETURN(
          const Event event,
          DecodeEventRow(ToView(rows->key()), ToView(rows->value())));
      const double weight = event_types_->Weight(event.type, event.value);
      if (weight <= 0) continue;
      counts_->Set(event.item, (*counts_)[event.item] +
                                   counts_->Share(weight, event.time_micros));
    }
    RETURN_IF_ERROR(FromRocks(rows->status(), "counting events"));
    for (Ordinal item = 0; item < counts_->size(); ++item) {
      std::string value;
      PutRaw(&value, (*counts_)[item]);
      batch.Put(database_->table(kCounts), OrdinalKey(item), value);
    }
    batch.Put(database_->table(kMeta), "epoch",
              std::to_string(counts_->epoch_micros()));
    batch.Put(database_->table(kMeta), "counting", CountingRules());
  }
  return database_->Write(&batch);
}

absl::Status Store::LoadTables() {
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  WriterLock lock(&memory_mu_);
  const auto items = pin.Iterate(kItems);
  for (items->SeekToFirst(); items->Valid(); items->Next()) {
    ASSIGN_OR_RETURN(ItemRecord item, DecodeItem(ToView(items->value())));
    const auto ordinal = GetBigEndian<Ordinal>(ToView(items->key()));
    if (ordinal != catalogue_->size()) {
      return absl::DataLossError(absl::StrCat("the store lacks item number ",
                                              catalogue_->size(),
                                              "; restore a backup"));
    }
    catalogue_->Put(ordinal, std::move(item));
  }
  RETURN_IF_ERROR(FromRocks(items->status(), "reading items"));
  const auto counts = pin.Iterate(kCounts);
  for (counts->SeekToFirst(); counts->Valid(); counts->Next()) {
    ByteReader value(ToView(counts->value()));
    counts_->Set(GetBigEndian<Ordinal>(ToView(counts->key())),
                 value.Raw<double>());
  }
  RETURN_IF_ERROR(FromRocks(counts->status(), "reading item counts"));
  int64_t users = 0;
  const auto rows = pin.Iterate(kUserIds);
  for (rows->SeekToFirst(); rows->Valid(); rows->Next()) ++users;
  users_ = users;
  return FromRocks(rows->status(), "reading users");
}

std::string Store::UserKey(absl::string_view id) const {
  // Not the id itself: keys of deleted users would live on in file metadata.
  return ShortMac(secret_, id);
}

absl::StatusOr<Ordinal> Store::FindUser(absl::string_view id) const {
  const Database::Pin pin(database_.get());
  auto value = pin.Get(kUserIds, UserKey(id));
  if (absl::IsNotFound(value.status())) return kNoOrdinal;
  RETURN_IF_ERROR(value.status());
  return GetBigEndian<Ordinal>(*value);
}

absl::StatusOr<ProfilePtr> Store::GetProfile(absl::string_view user) {
  return profiles_->Get(user);
}

absl::StatusOr<ProfilePtr> Store::GetProfileAt(absl::string_view user,
                                               Sequence sequence) {
  ASSIGN_OR_RETURN(ProfilePtr now, profiles_->Get(user));
  if (now == nullptr || now->sequence() <= sequence) return now;
  return LoadProfile(user, sequence);
}

absl::StatusOr<ProfilePtr> Store::LoadProfile(absl::string_view id,
                                              Sequence up_to) const {
  ASSIGN_OR_RETURN(const Ordinal user, FindUser(id));
  if (user == kNoOrdinal) return ProfilePtr();
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  Profile::Builder builder(user, *event_types_, options_.profile);
  const std::string end = OrdinalKey(user + 1);
  const rocksdb::Slice bound(end);
  rocksdb::ReadOptions read;
  read.iterate_upper_bound = &bound;
  const auto rows = pin.Iterate(kEvents, read);
  for (rows->Seek(OrdinalKey(user)); rows->Valid(); rows->Next()) {
    ASSIGN_OR_RETURN(const Event event, DecodeEventRow(ToView(rows->key()),
                                                       ToView(rows->value())));
    if (event.sequence > up_to) break;
    builder.Add(event);
  }
  RETURN_IF_ERROR(FromRocks(rows->status(), "reading events"));
  const auto record = pin.Get(kUsers, OrdinalKey(user));
  if (absl::IsNotFound(record.status())) return ProfilePtr();  // just deleted
  RETURN_IF_ERROR(record.status());
  ASSIGN_OR_RETURN(User decoded, DecodeUser(*record));
  builder.SetAttributes(Shared(std::move(decoded.attributes)));
  return std::make_shared<const Profile>(std::move(builder).Build());
}

std::shared_ptr<const PopularRanking> Store::Popular() {
  const absl::Time now = clock_->Now();
  MutexLock lock(&popular_mu_);
  ReaderLock memory(&memory_mu_);
  if (popular_ == nullptr || now - popular_time_ >= absl::Seconds(1) ||
      popular_version_ != catalogue_->version()) {
    popular_ = RankByPopularity(*counts_, *catalogue_);
    popular_time_ = now;
    popular_version_ = catalogue_->version();
  }
  return popular_;
}

std::vector<float> Store::PopularityByItem() const {
  const int64_t now = absl::ToUnixMicros(clock_->Now());
  ReaderLock memory(&memory_mu_);
  std::vector<float> out(catalogue_->size());
  for (Ordinal i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(counts_->AsOf(i, now));
  }
  return out;
}

absl::StatusOr<User> Store::GetUser(absl::string_view id) const {
  ASSIGN_OR_RETURN(const Ordinal user, FindUser(id));
  if (user == kNoOrdinal) return NoSuchUser(id);
  const Database::Pin pin(database_.get());
  ASSIGN_OR_RETURN(const std::string value, pin.Get(kUsers, OrdinalKey(user)));
  return DecodeUser(value);
}

absl::StatusOr<std::vector<User>> Store::ListUsers(Ordinal from, int count,
                                                   Ordinal* next) const {
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  std::vector<User> users;
  *next = kNoOrdinal;
  const auto rows = pin.Iterate(kUsers);
  for (rows->Seek(OrdinalKey(from)); rows->Valid(); rows->Next()) {
    if (users.size() == static_cast<size_t>(count)) {
      *next = GetBigEndian<Ordinal>(ToView(rows->key()));
      break;
    }
    ASSIGN_OR_RETURN(User user, DecodeUser(ToView(rows->value())));
    users.push_back(std::move(user));
  }
  RETURN_IF_ERROR(FromRocks(rows->status(), "reading users"));
  return users;
}

absl::StatusOr<std::vector<Ordinal>> Store::UsersWithoutEvents(
    Ordinal from, int count, Ordinal* next) const {
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  std::vector<Ordinal> without;
  *next = kNoOrdinal;
  const auto users = pin.Iterate(kUsers);
  const auto events = pin.Iterate(kEvents);
  for (users->Seek(OrdinalKey(from)); users->Valid(); users->Next()) {
    const auto user = GetBigEndian<Ordinal>(ToView(users->key()));
    if (count-- == 0) {
      *next = user;
      break;
    }
    ASSIGN_OR_RETURN(const User record, DecodeUser(ToView(users->value())));
    if (!record.attributes.empty()) continue;
    events->Seek(OrdinalKey(user));
    const bool has =
        events->Valid() && GetBigEndian<Ordinal>(ToView(events->key())) == user;
    if (!has) without.push_back(user);
  }
  RETURN_IF_ERROR(FromRocks(users->status(), "reading users"));
  RETURN_IF_ERROR(FromRocks(events->status(), "reading events"));
  return without;
}

absl::StatusOr<User> Store::GetUser(Ordinal user) const {
  const Database::Pin pin(database_.get());
  const auto value = pin.Get(kUsers, OrdinalKey(user));
  if (absl::IsNotFound(value.status())) return User();
  RETURN_IF_ERROR(value.status());
  return DecodeUser(*value);
}

std::string Store::UserId(Ordinal user) const {
  const auto found = GetUser(user);
  return found.ok() ? found->id : "";
}

absl::StatusOr<std::vector<Event>> Store::GetHistory(absl::string_view id,
                                                     Sequence before,
                                                     int count) const {
  ASSIGN_OR_RETURN(const Ordinal user, FindUser(id));
  if (user == kNoOrdinal) return NoSuchUser(id);
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  std::vector<Event> events;
  if (before == 0) return events;
  const auto rows = pin.Iterate(kEvents);
  for (rows->SeekForPrev(EventKey(user, before - 1));
       rows->Valid() && events.size() < static_cast<size_t>(count);
       rows->Prev()) {
    ASSIGN_OR_RETURN(Event event, DecodeEventRow(ToView(rows->key()),
                                                 ToView(rows->value())));
    if (event.user != user) break;
    events.push_back(std::move(event));
  }
  RETURN_IF_ERROR(FromRocks(rows->status(), "reading events"));
  return events;
}

absl::StatusOr<std::vector<Event>> Store::ReadEvents(Ordinal user,
                                                     Sequence after,
                                                     int count) const {
  const Database::Pin pin(database_.get());
  RETURN_IF_ERROR(pin.ok());
  std::vector<Event> events;
  rocksdb::ReadOptions read;
  read.readahead_size = 1 << 20;
  const auto rows = pin.Iterate(kEvents, read);
  for (rows->Seek(EventKey(user, after + 1));
       rows->Valid() && events.size() < static_cast<size_t>(count);
       rows->Next()) {
    ASSIGN_OR_RETURN(Event event, DecodeEventRow(ToView(rows->key()),
                                                 ToView(rows->value())));
    events.push_back(std::move(event));
  }
  RETURN_IF_ERROR(FromRocks(rows->status(), "reading events"));
  return events;
}

Store::Stats Store::stats() const {
  Stats stats;
  {
    MutexLock lock(&queue_mu_);
    stats = stats_;
    stats.queued_events = queued_events_;
  }
  stats.profiles = profiles_->stats();
  return stats;
}

}  // namespace nearline::features
