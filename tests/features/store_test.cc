#include "features/store.h"

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "features/database.h"
#include "features/store_format.h"
#include "tests/features/store_fixture.h"
#include "tests/testing.h"

namespace nearline::features {
namespace {

using absl::StatusCode;

class StoreTest : public testing::Test {
 protected:
  void SetUp() override { store_ = OpenStore(dir_.path()); }
  void Reopen() {
    store_.reset();
    store_ = OpenStore(dir_.path());
  }
  const TempDir dir_;
  std::unique_ptr<Store> store_;
};

TEST_F(StoreTest, AnAcknowledgedEventIsInTheNextProfile) {
  EXPECT_EQ(*store_->GetProfile("ann"), nullptr);
  for (int i = 1; i <= 20; ++i) {
    ASSERT_THAT(AppendAll(store_.get(), {Like("ann", absl::StrCat("i", i))}),
                IsOk());
    EXPECT_EQ((*store_->GetProfile("ann"))->events(), i);
  }
}

TEST_F(StoreTest, ARepeatCountsOnceAndGetsItsSequence) {
  const NewEvent event = Like("ann", "heat", "id-1");
  const auto first = AppendAll(store_.get(), {event});
  const auto again = AppendAll(store_.get(), {event, event});
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->outcomes[0].duplicate && again->outcomes[1].duplicate);
  EXPECT_EQ(again->outcomes[0].sequence, first->outcomes[0].sequence);
  Reopen();
  const auto later = AppendAll(store_.get(), {event});
  ASSERT_THAT(later, IsOk());
  EXPECT_TRUE(later->outcomes[0].duplicate);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 1);
}

TEST_F(StoreTest, ARepeatWithoutATimeIsARepeatWheneverItComes) {
  NewEvent event = Like("ann", "heat", "id-1");
  event.time_must_match = false;
  ASSERT_THAT(AppendAll(store_.get(), {event}), IsOk());
  event.time_micros += 1000;
  const auto again = AppendAll(store_.get(), {event});
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->outcomes[0].duplicate);
}

TEST_F(StoreTest, ARepeatInsideOneBatchCountsOnce) {
  const NewEvent event = Like("ann", "heat", "id-1");
  const auto result = AppendAll(store_.get(), {event, event});
  ASSERT_THAT(result, IsOk());
  EXPECT_FALSE(result->outcomes[0].duplicate);
  EXPECT_TRUE(result->outcomes[1].duplicate);
  EXPECT_EQ(result->sequence, 1u);
}

TEST_F(StoreTest, AnIdWithAnotherContentIsRefusedAndNothingIsWritten) {
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat", "id-1")}), IsOk());
  EXPECT_THAT(AppendAll(store_.get(), {Like("ann", "ronin", "id-2"),
                                       Like("ann", "ronin", "id-1")}),
              IsError(StatusCode::kAlreadyExists, "events[1]"));
  EXPECT_EQ(store_->sequence(), 1u);
}

TEST_F(StoreTest, APartialBatchTakesTheRest) {
  NewEvent bad = Like("ann", "heat");
  bad.type = "teleport";
  const auto result =
      AppendAll(store_.get(), {bad, Like("ann", "ronin")}, false, true);
  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->outcomes[0].status,
              IsError(StatusCode::kInvalidArgument, "teleport"));
  EXPECT_EQ(result->outcomes[1].sequence, 1u);
}

TEST_F(StoreTest, ALiveEventMustLieInsideTheWindow) {
  NewEvent old = Like("ann", "heat", "id");
  old.time_micros = 1;
  EXPECT_THAT(AppendAll(store_.get(), {old}),
              IsError(StatusCode::kFailedPrecondition, "window"));
  EXPECT_THAT(AppendAll(store_.get(), {old}, /*historical=*/true), IsOk());
}

TEST_F(StoreTest, EventIdsExpireOnRead) {
  ManualClock clock(absl::Now());
  StoreOptions options = TestOptions(dir_ / "other");
  options.database.clock = &clock;
  options.database.event_id_window = absl::Hours(1);
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  NewEvent event = Like("ann", "heat", "id");
  event.time_micros = absl::ToUnixMicros(clock.Now());
  ASSERT_THAT(AppendAll(store->get(), {event}), IsOk());
  clock.Advance(absl::Hours(2));
  // The very repeat is too old now; a new event may take the id.
  EXPECT_THAT(AppendAll(store->get(), {event}),
              IsError(StatusCode::kFailedPrecondition, "window"));
  event.time_micros = absl::ToUnixMicros(clock.Now());
  const auto fresh = AppendAll(store->get(), {event});
  ASSERT_THAT(fresh, IsOk());
  EXPECT_FALSE(fresh->outcomes[0].duplicate);
}

TEST_F(StoreTest, AnEventAheadOfTimeIsKnownAsLongAsItCanBeRepeated) {
  ManualClock clock(absl::Now());
  StoreOptions options = TestOptions(dir_ / "other");
  options.database.clock = &clock;
  options.database.event_id_window = absl::Minutes(1);
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  NewEvent event = Like("ann", "heat", "id");
  event.time_micros = absl::ToUnixMicros(clock.Now() + absl::Minutes(4));
  ASSERT_THAT(AppendAll(store->get(), {event}), IsOk());
  clock.Advance(absl::Seconds(66));
  const auto again = AppendAll(store->get(), {event});
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->outcomes[0].duplicate);
  clock.Advance(absl::Minutes(4));
  EXPECT_THAT(AppendAll(store->get(), {event}),
              IsError(StatusCode::kFailedPrecondition, "window"));
}

TEST_F(StoreTest, ALiveEventThatIsImportedAgainIsARepeat) {
  const NewEvent event = Like("ann", "heat", "id");
  ASSERT_THAT(AppendAll(store_.get(), {event}), IsOk());
  NewEvent imported = event;
  imported.time_must_match = false;
  const auto again = AppendAll(store_.get(), {imported}, /*historical=*/true);
  ASSERT_THAT(again, IsOk());
  EXPECT_TRUE(again->outcomes[0].duplicate);
  NewEvent later = event;
  later.time_micros += 1;
  EXPECT_THAT(AppendAll(store_.get(), {later}),
              IsError(StatusCode::kAlreadyExists, "another content"));
  NewEvent other = Like("bob", "heat", "id");
  other.time_micros = event.time_micros;
  later.user = "bob";
  EXPECT_THAT(AppendAll(store_.get(), {other, later}),
              IsError(StatusCode::kAlreadyExists, "twice"));
}

TEST_F(StoreTest, AFolderThatHasLostItsBeginningIsLeftAsItIs) {
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat")}), IsOk());
  store_.reset();
  const std::string folder = dir_.path() + "/store";
  std::filesystem::remove(folder + "/CURRENT");
  const auto before = ListDir(folder);
  EXPECT_THAT(Store::Open(TestOptions(dir_.path())),
              IsError(StatusCode::kDataLoss, "no CURRENT"));
  EXPECT_EQ(*ListDir(folder), *before);
}

TEST_F(StoreTest, OtherWeightsAreCountedAnew) {
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat"), Like("bob", "heat"),
                                       Like("ann", "ronin")}),
              IsOk());
  store_.reset();
  StoreOptions options = TestOptions(dir_.path());
  for (EventType& type : options.event_types) {
    if (type.name == "like") type.weight *= 3;
  }
  options.popularity_half_life = absl::Hours(24);
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  EXPECT_NEAR((*store)->PopularityByItem()[0], 6, 0.01);
  EXPECT_NEAR((*store)->PopularityByItem()[1], 3, 0.01);
}

TEST(Popularity, TiesOfWhatIsAnsweredGoByIdentity) {
  Catalogue catalogue(0);
  for (const char* id : {"b", "a", "c"}) {
    catalogue.Put(catalogue.size(), {.id = id, .listed = true});
  }
  // Sums of the same numbers in other orders.
  PopularityCounts counts(absl::Hours(1), 0);
  const std::vector<double> sums = {0.3, 0.1 + 0.2, 0.25};
  for (Ordinal item = 3; item-- > 0;) counts.Set(item, sums[item]);
  ASSERT_NE(counts[0], counts[1]);
  const auto ranking = RankByPopularity(counts, catalogue);
  EXPECT_THAT(ranking->items, testing::ElementsAre(1u, 0u, 2u));
  EXPECT_EQ(ranking->scores[0], ranking->scores[1]);
}

TEST_F(StoreTest, RetractionLeavesNoWeightAndTheIdStaysKnown) {
  const NewEvent event = Like("ann", "heat", "id-1");
  ASSERT_THAT(AppendAll(store_.get(), {event}), IsOk());
  ASSERT_THAT(store_->GetProfile("ann"), IsOk());
  const auto retracted = Do<RetractResult>(
      store_.get(), Retract{.refs = {{"ann", "id-1"}, {"ann", "none"}}});
  ASSERT_THAT(retracted, IsOk());
  EXPECT_EQ(retracted->retracted, 1);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 0);
  EXPECT_EQ(store_->PopularityByItem()[0], 0.0f);
  EXPECT_TRUE(AppendAll(store_.get(), {event})->outcomes[0].duplicate);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 0);
}

TEST_F(StoreTest, ARestartKeepsEverything) {
  ASSERT_THAT(
      Do<Sequence>(store_.get(),
                   UpsertItems{.items = {{"heat", {{"year", 1995.0}}}}}),
      IsOk());
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat")}), IsOk());
  const std::string log = store_->log_id();
  Reopen();
  EXPECT_EQ(store_->log_id(), log);
  EXPECT_EQ(store_->sequence(), 1u);
  EXPECT_EQ(store_->users(), 1);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 1);
  EXPECT_TRUE(store_->ReadCatalogue()->IsServable(0));
  EXPECT_GT(store_->PopularityByItem()[0], 0.9f);
}

TEST_F(StoreTest, AProfileCanBeReadAsOfASequence) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(AppendAll(store_.get(), {Like("ann", absl::StrCat("i", i))}),
                IsOk());
  }
  EXPECT_EQ((*store_->GetProfileAt("ann", 3))->events(), 3);
  EXPECT_EQ((*store_->GetProfileAt("ann", 5))->events(), 5);
}

TEST_F(StoreTest, DeleteUserLeavesNothingOnDiskEither) {
  store_.reset();
  StoreOptions options = TestOptions(dir_.path());
  options.database.compression = "none";
  auto opened = Store::Open(options);
  ASSERT_THAT(opened, IsOk());
  Store* const store = opened->get();
  std::vector<NewEvent> events;
  for (int i = 0; i < 50; ++i) {
    events.push_back(Like("secret-ann", absl::StrCat("i", i),
                          absl::StrCat("secret-event-", i)));
    events.push_back(Like("bob", absl::StrCat("i", i)));
  }
  ASSERT_THAT(AppendAll(store, std::move(events)), IsOk());
  ASSERT_THAT(
      Do<Sequence>(
          store,
          UpsertUsers{.users = {{"secret-ann",
                                 {{"note", std::string("secret-note")}}}}}),
      IsOk());
  EXPECT_TRUE(OnDisk(dir_.path(), "secret-"));
  const auto erased = Do<int64_t>(store, DeleteUser{.id = "secret-ann"});
  ASSERT_THAT(erased, IsOk());
  EXPECT_EQ(*erased, 50);
  EXPECT_FALSE(OnDisk(dir_.path(), "secret-"));
  EXPECT_EQ(*store->GetProfile("secret-ann"), nullptr);
  EXPECT_EQ((*store->GetProfile("bob"))->events(), 50);
  EXPECT_THAT(Do<int64_t>(store, DeleteUser{.id = "secret-ann"}),
              IsError(StatusCode::kNotFound, "secret-ann"));
}

TEST_F(StoreTest, AProfileHoldsTheAttributesOfNow) {
  const auto upsert = [&](const char* city) {
    ASSERT_THAT(Do<Sequence>(store_.get(),
                             UpsertUsers{.users = {{"ann", {{"city", city}}}}}),
                IsOk());
  };
  const auto city = [&]() -> std::string {
    const auto profile = store_->GetProfile("ann");
    EXPECT_THAT(profile, IsOk());
    return std::get<std::string>((*profile)->attributes()->at("city"));
  };
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat", "1")}), IsOk());
  const ProfilePtr before = *store_->GetProfile("ann");
  EXPECT_EQ(before->attributes(), nullptr);
  upsert("Paris");
  EXPECT_EQ(city(), "Paris");
  EXPECT_GT((*store_->GetProfile("ann"))->Bytes(), before->Bytes());
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "ran", "2")}), IsOk());
  EXPECT_EQ(city(), "Paris");
  upsert("Rome");
  EXPECT_EQ(city(), "Rome");
}

TEST_F(StoreTest, AnErasureThatWasCutShortIsFinishedAtTheNextStart) {
  store_.reset();
  StoreOptions options = TestOptions(dir_.path());
  options.database.compression = "none";
  {
    const auto store = Store::Open(options);
    ASSERT_THAT(store, IsOk());
    ASSERT_THAT(AppendAll(store->get(), {Like("secret-ann", "heat", "1")}),
                IsOk());
  }
  {
    // As if the process had died after the erasure was written: the mark is
    // there, and the files are as they were.
    auto database = Database::Open(options.database);
    ASSERT_THAT(database, IsOk());
    rocksdb::WriteBatch batch;
    batch.Put((*database)->table(kMeta), "purge", "1");
    batch.Delete((*database)->table(kUsers), OrdinalKey(0));
    ASSERT_THAT((*database)->Write(&batch), IsOk());
  }
  EXPECT_TRUE(OnDisk(dir_.path(), "secret-ann"));
  // It is taken up at the start, and a store does not close before it is done.
  ASSERT_THAT(Store::Open(options), IsOk());
  EXPECT_FALSE(OnDisk(dir_.path(), "secret-ann"));
}

TEST_F(StoreTest, OrdinalsAndSequencesAreNeverReused) {
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat")}), IsOk());
  const Ordinal ann = (*store_->GetProfile("ann"))->user();
  ASSERT_THAT(Do<int64_t>(store_.get(), DeleteUser{.id = "ann"}), IsOk());
  Reopen();
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat")}), IsOk());
  EXPECT_GT((*store_->GetProfile("ann"))->user(), ann);
  EXPECT_EQ(store_->sequence(), 2u);
}

TEST_F(StoreTest, UnknownItemsAreHiddenUntilEnoughUsersKnowThem) {
  for (int i = 0; i < 9; ++i) {
    ASSERT_THAT(AppendAll(store_.get(), {Like(absl::StrCat("u", i), "cult")}),
                IsOk());
  }
  EXPECT_FALSE(store_->ReadCatalogue()->IsServable(0));
  ASSERT_THAT(AppendAll(store_.get(), {Like("u0", "cult")}), IsOk());
  EXPECT_FALSE(store_->ReadCatalogue()->IsServable(0));
  ASSERT_THAT(AppendAll(store_.get(), {Like("u9", "cult")}), IsOk());
  EXPECT_TRUE(store_->ReadCatalogue()->IsServable(0));
}

TEST_F(StoreTest, UnknownItemsMayBeRefused) {
  StoreOptions options = TestOptions(dir_ / "other");
  options.reject_unknown_items = true;
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  EXPECT_THAT(AppendAll(store->get(), {Like("ann", "heat")}),
              IsError(StatusCode::kNotFound, "heat"));
}

TEST_F(StoreTest, PopularItemsAreRankedWithTiesById) {
  ASSERT_THAT(
      Do<Sequence>(store_.get(),
                   UpsertItems{.items = {{"c", {}}, {"b", {}}, {"a", {}}}}),
      IsOk());
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "c")}), IsOk());
  const auto ranking = store_->Popular();
  std::vector<std::string> ids;
  for (const Ordinal item : ranking->items) {
    ids.push_back((*store_->ReadCatalogue())[item].id);
  }
  EXPECT_THAT(ids, testing::ElementsAre("c", "a", "b"));
}

TEST_F(StoreTest, ACheckpointIsAStoreForReading) {
  ASSERT_THAT(AppendAll(store_.get(), {Like("ann", "heat")}), IsOk());
  ASSERT_THAT(store_->Checkpoint(dir_ / "copy"), IsOk());
  StoreOptions options = TestOptions("");
  options.database.path = dir_ / "copy";
  options.database.read_only = true;
  const auto copy = Store::Open(options);
  ASSERT_THAT(copy, IsOk());
  EXPECT_EQ((*copy)->ReadEvents(0, 0, 10)->size(), 1u);
  EXPECT_THAT(AppendAll(copy->get(), {Like("ann", "heat")}),
              IsError(StatusCode::kUnavailable, ""));
}

TEST_F(StoreTest, AFullQueueRefusesAtOnce) {
  StoreOptions options = TestOptions(dir_ / "other");
  options.max_queued_events = 1;
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const absl::Status status =
        (*store)->Submit(Append{.events = {Like("ann", "heat")}});
    refused += absl::IsResourceExhausted(status);
  }
  EXPECT_GT(refused, 0);
}

TEST_F(StoreTest, ALogThatIsCutShortKeepsItsId) {
  const std::string log = store_->log_id();
  for (int i = 0; i < 50; ++i) {
    ASSERT_THAT(AppendAll(store_.get(), {Like("ann", absl::StrCat("i", i))}),
                IsOk());
  }
  store_.reset();
  std::filesystem::path newest;
  for (const auto& file : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(dir_.path()))) {
    if (file.path().extension() == ".log") newest = file.path();
  }
  ASSERT_FALSE(newest.empty());
  const auto size = std::filesystem::file_size(newest);
  ASSERT_GT(size, 1000u);
  std::filesystem::resize_file(newest, size - 3);
  Reopen();
  EXPECT_EQ(store_->log_id(), log);
  EXPECT_EQ(store_->sequence(), 49u);
}

TEST_F(StoreTest, ALogThatIsDamagedWithinGetsAnotherId) {
  const std::string log = store_->log_id();
  for (int i = 0; i < 50; ++i) {
    ASSERT_THAT(AppendAll(store_.get(), {Like("ann", absl::StrCat("i", i))}),
                IsOk());
  }
  store_.reset();
  for (const auto& file : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(dir_.path()))) {
    if (file.path().extension() != ".log") continue;
    std::fstream bytes(file.path(), std::ios::in | std::ios::out);
    bytes.seekp(static_cast<std::streamoff>(file.file_size() / 2));
    bytes << "damage";
  }
  Reopen();
  EXPECT_NE(store_->log_id(), log);
  EXPECT_LT(store_->sequence(), 50u);
  EXPECT_GT(store_->sequence(), 0u);
  const std::string renewed = store_->log_id();
  Reopen();
  EXPECT_EQ(store_->log_id(), renewed);
}

TEST_F(StoreTest, AFullDiskIsRefusedInWords) {
  StoreOptions options = TestOptions(dir_ / "other");
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  store->reset();
  options.database.free_space_reserve = int64_t{1} << 60;
  std::vector<std::string> logged;
  options.database.log = [&](int, absl::string_view message) {
    logged.emplace_back(message);
  };
  store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(AppendAll(store->get(), {Like("ann", "heat")}),
                IsError(StatusCode::kResourceExhausted, "Free some space"));
  }
  EXPECT_EQ((*store)->sequence(), 0u);
  // Said once, not for each of thousands of writes.
  EXPECT_THAT(logged, testing::ElementsAre(testing::HasSubstr("are refused")));
}

TEST_F(StoreTest, WritersAndReadersMayRace) {
  std::atomic<int> acknowledged{0};
  std::thread writer([&] {
    for (int i = 0; i < 100; ++i) {
      EXPECT_THAT(AppendAll(store_.get(), {Like("ann", absl::StrCat("i", i))}),
                  IsOk());
      ++acknowledged;
    }
  });
  while (acknowledged < 100) {
    const int before = acknowledged;
    const auto profile = store_->GetProfile("ann");
    ASSERT_THAT(profile, IsOk());
    if (before > 0) {
      EXPECT_GE((*profile)->events(), before);
    }
    store_->Popular();
    EXPECT_LE(store_->ReadCatalogue()->size(), 100u);
  }
  writer.join();
}

}  // namespace
}  // namespace nearline::features
