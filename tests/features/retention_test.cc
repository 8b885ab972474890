#include "features/retention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/features/store_fixture.h"
#include "tests/testing.h"

namespace nearline::features {
namespace {

using absl::StatusCode;

constexpr absl::Duration kDay = absl::Hours(24);

class RetentionTest : public ::testing::Test {
 protected:
  // A store on a clock of its own that keeps what `retention` says.
  void Open(RetentionOptions retention) {
    store_.reset();
    StoreOptions options = TestOptions(dir_.path());
    options.database.clock = &clock_;
    options.database.compression = "none";
    options.retention = retention;
    auto store = Store::Open(options);
    ASSERT_THAT(store, IsOk());
    store_ = *std::move(store);
  }
  NewEvent At(const std::string& user, const std::string& item,
              absl::Duration ago, const std::string& id = "") {
    NewEvent event = Like(user, item, id);
    event.time_micros = absl::ToUnixMicros(clock_.Now() - ago);
    return event;
  }
  RetireResult Sweep() {
    const auto swept =
        SweepOnce(store_.get(), clock_.Now(), [](auto, auto) { return true; });
    EXPECT_THAT(swept, IsOk());
    return swept.value_or(RetireResult());
  }
  std::vector<std::string> ItemsOf(const std::string& user) {
    std::vector<std::string> items;
    const auto history = store_->GetHistory(user, ~Sequence{0}, 1000);
    EXPECT_THAT(history, IsOk());
    for (const Event& event : *history) {
      items.push_back((*store_->ReadCatalogue())[event.item].id);
    }
    return items;
  }

  TempDir dir_;
  ManualClock clock_{absl::Now()};
  std::unique_ptr<Store> store_;
};

using ::testing::ElementsAre;

TEST_F(RetentionTest, OldEventsLeaveTheLogTheProfileAndTheCounts) {
  Open({.max_age = 30 * kDay});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", 29 * kDay),
                                       At("ann", "ronin", 5 * kDay),
                                       At("bob", "heat", 1 * kDay)}),
              IsOk());
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 2);
  EXPECT_EQ(Sweep().events, 0);
  clock_.Advance(2 * kDay);
  const RetireResult swept = Sweep();
  EXPECT_EQ(swept.events, 1);
  EXPECT_EQ(swept.users, 0);
  EXPECT_THAT(ItemsOf("ann"), ElementsAre("ronin"));
  const ProfilePtr ann = *store_->GetProfile("ann");
  EXPECT_EQ(ann->events(), 1);
  EXPECT_FALSE(ann->seen().contains(0));
  EXPECT_NEAR(store_->PopularityByItem()[0], std::exp2(-3.0 / 30), 1e-4);
  EXPECT_EQ(store_->sequence(), 3u);  // as before
  EXPECT_EQ(Sweep().events, 0);
}

TEST_F(RetentionTest, OfAUserTheNewestEventsAreKept) {
  Open({.max_events_per_user = 3});
  std::vector<NewEvent> events;
  for (int i = 0; i < 10; ++i) {
    events.push_back(At("ann", absl::StrCat("i", i), kDay, absl::StrCat(i)));
    if (i < 3) events.push_back(At("bob", absl::StrCat("i", i), kDay));
  }
  ASSERT_THAT(AppendAll(store_.get(), events), IsOk());
  EXPECT_EQ(Sweep().events, 7);
  EXPECT_THAT(ItemsOf("ann"), ElementsAre("i9", "i8", "i7"));
  EXPECT_EQ((*store_->GetProfile("bob"))->events(), 3);
  // A repeat of one that went is still a repeat.
  EXPECT_TRUE(AppendAll(store_.get(), {events[0]})->outcomes[0].duplicate);
  EXPECT_THAT(ItemsOf("ann"), ElementsAre("i9", "i8", "i7"));
}

TEST_F(RetentionTest, NewestIsByTimeNotByArrival) {
  Open({.max_events_per_user = 2});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "now", kDay, "1")}), IsOk());
  // What she did years ago, imported later.
  ASSERT_THAT(AppendAll(store_.get(),
                        {At("ann", "then-1", 900 * kDay, "2"),
                         At("ann", "then-2", 800 * kDay, "3"),
                         At("ann", "then-3", 850 * kDay, "4")},
                        /*historical=*/true),
              IsOk());
  EXPECT_EQ(Sweep().events, 2);
  EXPECT_THAT(ItemsOf("ann"), ElementsAre("then-2", "now"));
}

TEST_F(RetentionTest, AUserOfWhomNothingIsLeftGoesToo) {
  Open({.max_age = 30 * kDay});
  ASSERT_THAT(
      Do<Sequence>(
          store_.get(),
          UpsertUsers{.users = {{"bob", {{"city", std::string("Rome")}}},
                                {"idle", {}}}}),
      IsOk());
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", kDay, "1"),
                                       At("bob", "heat", kDay, "1")}),
              IsOk());
  const Ordinal ann = (*store_->GetProfile("ann"))->user();
  EXPECT_EQ(Sweep().users, 1);  // "idle", who never did anything
  clock_.Advance(31 * kDay);
  const RetireResult swept = Sweep();
  EXPECT_EQ(swept.events, 2);
  EXPECT_EQ(swept.users, 1);
  EXPECT_EQ(store_->users(), 1);
  EXPECT_EQ(*store_->GetProfile("ann"), nullptr);
  EXPECT_THAT(store_->GetUser("ann"), IsError(StatusCode::kNotFound, "ann"));
  EXPECT_THAT(store_->GetUser("bob"), IsOk());  // his city is not an event
  // Who comes back is new, after a restart, too.
  Open({.max_age = 30 * kDay});
  EXPECT_EQ(store_->users(), 1);
  const auto again = AppendAll(store_.get(), {At("ann", "heat", kDay, "1")});
  ASSERT_THAT(again, IsOk());
  EXPECT_FALSE(again->outcomes[0].duplicate);
  EXPECT_GT((*store_->GetProfile("ann"))->user(), ann);
}

TEST_F(RetentionTest, AUserStaysWhileARepeatCouldCount) {
  Open({.max_age = 30 * kDay});
  const NewEvent event = At("ann", "heat", kDay, "1");
  ASSERT_THAT(AppendAll(store_.get(), {event}), IsOk());
  ASSERT_THAT(Do<RetractResult>(store_.get(), Retract{.refs = {{"ann", "1"}}}),
              IsOk());
  EXPECT_EQ(Sweep().users, 0);
  EXPECT_TRUE(AppendAll(store_.get(), {event})->outcomes[0].duplicate);
  clock_.Advance(31 * kDay);
  EXPECT_EQ(Sweep().users, 1);
  EXPECT_EQ(store_->users(), 0);
}

TEST_F(RetentionTest, TheIdOfAnImportIsKnownForAWindowLonger) {
  Open({.max_age = 100 * kDay});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", 99 * kDay, "line 1")},
                        /*historical=*/true),
              IsOk());
  clock_.Advance(2 * kDay);
  const RetireResult swept = Sweep();
  EXPECT_EQ(swept.events, 1);
  EXPECT_EQ(swept.users, 0);
  // A file without times, whose events are stamped anew.
  const auto again =
      AppendAll(store_.get(), {At("ann", "heat", 0 * kDay, "line 1")},
                /*historical=*/true);
  EXPECT_TRUE(again->outcomes[0].duplicate);
  clock_.Advance(31 * kDay);
  EXPECT_EQ(Sweep().users, 1);
}

TEST_F(RetentionTest, WhatIsTooOldIsNotTaken) {
  Open({.max_age = 10 * kDay});
  EXPECT_THAT(AppendAll(store_.get(), {At("ann", "heat", 11 * kDay)}),
              IsError(StatusCode::kFailedPrecondition, "events[0].time = "));
  EXPECT_THAT(AppendAll(store_.get(), {At("ann", "heat", 11 * kDay)}),
              IsError(StatusCode::kFailedPrecondition, "retention.max_age"));
  // An import is told how much of it counted for nothing.
  const auto imported = AppendAll(
      store_.get(),
      {At("ann", "heat", 11 * kDay, "1"), At("ann", "heat", 9 * kDay, "2")},
      /*historical=*/true);
  ASSERT_THAT(imported, IsOk());
  EXPECT_TRUE(imported->outcomes[0].expired);
  EXPECT_EQ(imported->outcomes[0].sequence, 0u);
  EXPECT_FALSE(imported->outcomes[1].expired);
  EXPECT_EQ(imported->sequence, 1u);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 1);
  // Nor does a file that is imported again bring back what was retired.
  clock_.Advance(2 * kDay);
  EXPECT_EQ(Sweep().events, 1);
  const auto again =
      AppendAll(store_.get(), {At("ann", "heat", 11 * kDay, "2")},
                /*historical=*/true);
  EXPECT_TRUE(again->outcomes[0].duplicate);
  EXPECT_EQ((*store_->GetProfile("ann"))->events(), 0);
}

TEST_F(RetentionTest, AnErasureFindsTheMarksOfEventsThatAreGone) {
  Open({.max_events_per_user = 1});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", kDay),
                                       At("ann", "secret-item", kDay)}),
              IsOk());
  EXPECT_EQ(Sweep().events, 1);
  EXPECT_THAT((*store_->ReadCatalogue())[0].seen_by, ElementsAre(0u));
  ASSERT_THAT(Do<int64_t>(store_.get(), DeleteUser{.id = "ann"}), IsOk());
  EXPECT_THAT((*store_->ReadCatalogue())[0].seen_by, ElementsAre());
}

TEST_F(RetentionTest, FreesSpaceWhereFeedbackIsRefusedForWantOfIt) {
  Open({});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", kDay)}), IsOk());
  store_.reset();
  StoreOptions options = TestOptions(dir_.path());
  options.database.clock = &clock_;
  options.database.free_space_reserve = *FreeBytes(dir_.path()) / 2 * 3;
  options.retention = {.max_age = kDay};
  std::vector<std::string> logged;
  options.database.log = [&](int, absl::string_view message) {
    logged.emplace_back(message);
  };
  auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  store_ = *std::move(store);
  clock_.Advance(kDay);
  const auto append = [&] {
    EXPECT_THAT(AppendAll(store_.get(), {At("ann", "heat", absl::Hours(1))}),
                IsError(StatusCode::kResourceExhausted, "Free some space"));
  };
  append();
  EXPECT_EQ(Sweep().events, 1);
  append();
  // That there is space for a sweep is not that there is space.
  EXPECT_THAT(logged, ElementsAre(::testing::HasSubstr("are refused")));
}

// What was retired lies in a lower level than what says so.
TEST_F(RetentionTest, FilesAreRewrittenInTime) {
  StoreOptions options = TestOptions(dir_.path());
  options.database.clock = &clock_;
  options.database.compression = "none";
  options.database.rewrite_interval = absl::Seconds(1);
  options.retention = {.max_age = 30 * kDay};
  NewEvent event = At("ann", "heat", kDay);
  event.context = "secret-context";
  {
    const auto store = Store::Open(options);
    ASSERT_THAT(store, IsOk());
    ASSERT_THAT(AppendAll(store->get(), {event, At("bob", "heat", kDay)}),
                IsOk());
  }
  {
    const auto database = Database::Open(options.database);
    ASSERT_THAT(database, IsOk());
    ASSERT_THAT((*database)->Purge({kEvents}), IsOk());
  }
  EXPECT_TRUE(OnDisk(dir_.path(), "secret-context"));
  clock_.Advance(30 * kDay);
  const auto store = Store::Open(options);
  ASSERT_THAT(store, IsOk());
  ASSERT_THAT(
      SweepOnce(store->get(), clock_.Now(), [](auto, auto) { return true; }),
      IsOk());
  // RocksDB looks at the age of files when it has written another. Three are
  // not merged for their number.
  for (int files = 0; files < 2; ++files) {
    absl::SleepFor(absl::Milliseconds(1500));
    ASSERT_THAT(AppendAll(store->get(), {At("bob", "heat", kDay)}), IsOk());
    ASSERT_THAT((*store)->Flush(), IsOk());
  }
  for (int tries = 0; tries < 100; ++tries) {
    if (!OnDisk(dir_.path(), "secret-context")) break;
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_FALSE(OnDisk(dir_.path(), "secret-context"));
}

// Against a list of events, with feedback, retractions and erasures between the
// parts of a sweep.
TEST_F(RetentionTest, ManyEventsUnderWayAgainstAPlainList) {
  const RetentionOptions retention{.max_age = 20 * kDay,
                                   .max_events_per_user = 1200};
  Open(retention);
  struct Plain {
    std::string user, id;
    absl::Time time;
  };
  std::vector<Plain> log;  // in order of sequence
  std::mt19937 random(7);
  const auto append = [&](int count, int days) {
    std::vector<NewEvent> events;
    for (int i = 0; i < count; ++i) {
      // One user has most of it.
      const std::string user =
          absl::StrCat("u", random() % 2 == 0 ? 0 : random() % 40);
      const std::string id = absl::StrCat("e", log.size());
      const absl::Duration ago =
          absl::Hours(static_cast<int>(random() % (24u * days)));
      events.push_back(At(user, absl::StrCat("i", random() % 30), ago, id));
      log.push_back({user, id, clock_.Now() - ago});
    }
    ASSERT_THAT(AppendAll(store_.get(), std::move(events)), IsOk());
  };
  for (int i = 0; i < 6; ++i) append(2000, 19);
  clock_.Advance(10 * kDay);
  const absl::Time oldest = clock_.Now() - retention.max_age;

  const size_t before = log.size();
  std::set<std::string> retracted;
  bool erased = false;
  const auto swept = SweepOnce(store_.get(), clock_.Now(), [&](auto, auto) {
    const std::string id = absl::StrCat("e", random() % before);
    const Plain& event = log[static_cast<size_t>(std::stoi(id.substr(1)))];
    EXPECT_THAT(
        Do<RetractResult>(store_.get(), Retract{.refs = {{event.user, id}}}),
        IsOk());
    retracted.insert(id);
    if (!erased) {
      EXPECT_THAT(Do<int64_t>(store_.get(), DeleteUser{.id = "u39"}), IsOk());
    }
    erased = true;
    return true;
  });
  ASSERT_THAT(swept, IsOk());
  EXPECT_GT(swept->events, 1000);

  // The cap was counted before some of the retractions, so the user of most
  // events may have a few less than it allows; a second sweep changes nothing.
  EXPECT_EQ(Sweep().events, 0);
  std::map<std::string, std::vector<const Plain*>> young;
  for (const Plain& event : log) {
    if (event.user == "u39" || event.time < oldest) continue;
    if (!retracted.contains(event.id)) young[event.user].push_back(&event);
  }
  std::vector<double> counts(30);
  for (auto& [user, events] : young) {
    const auto history = store_->GetHistory(user, ~Sequence{0}, 100'000);
    ASSERT_THAT(history, IsOk());
    if (events.size() < 1200) {
      EXPECT_EQ(history->size(), events.size()) << user;
    } else {
      EXPECT_LE(history->size(), 1200u);
      EXPECT_GE(history->size() + retracted.size(), 1200u);
    }
    std::stable_sort(
        events.begin(), events.end(), [](const Plain* a, const Plain* b) {
          return absl::ToUnixMicros(a->time) < absl::ToUnixMicros(b->time);
        });
    std::set<std::string> newest, kept;
    for (size_t i = events.size() - history->size(); i < events.size(); ++i) {
      newest.insert(events[i]->id);
    }
    for (const Event& event : *history) {
      kept.insert(event.event_id);
      counts[event.item] += std::exp2(
          -absl::FDivDuration(
              clock_.Now() - absl::FromUnixMicros(event.time_micros), kDay) /
          30);
    }
    EXPECT_EQ(kept, newest) << user;
    EXPECT_EQ((*store_->GetProfile(user))->events(),
              static_cast<int64_t>(history->size()));
  }
  const std::vector<float> popularity = store_->PopularityByItem();
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_NEAR(popularity[i], counts[i], 1e-3) << i;
  }
}

TEST_F(RetentionTest, SweepsByItselfAndStopsAtOnce) {
  Open({.max_age = 30 * kDay, .sweep_interval = absl::Milliseconds(20)});
  ASSERT_THAT(AppendAll(store_.get(), {At("ann", "heat", 29 * kDay)}), IsOk());
  clock_.Advance(2 * kDay);
  std::atomic<int> sweeps{0};
  {
    Retention retention(store_.get(), &clock_, [&](const auto& swept) {
      EXPECT_THAT(swept, IsOk());
      ++sweeps;
    });
    while (sweeps < 2) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(retention.stats().events, 1);
    EXPECT_EQ(retention.stats().users, 1);
    EXPECT_EQ(retention.stats().failures, 0);
    EXPECT_EQ(retention.stats().last_sweep, clock_.Now());
  }
  Open({.max_age = 30 * kDay, .sweep_interval = absl::Hours(24)});
  const Retention idle(store_.get(), &clock_, [](const auto&) {});
}

}  // namespace
}  // namespace nearline::features
