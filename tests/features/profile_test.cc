#include "features/profile.h"

#include <thread>

#include "base/random.h"
#include "features/profile_cache.h"
#include "tests/testing.h"

namespace nearline::features {
namespace {

Event MakeEvent(Ordinal item, Sequence sequence, int64_t time, uint8_t type,
                double value = 0) {
  Event e;
  e.user = 1;
  e.item = item;
  e.sequence = sequence;
  e.time_micros = time;
  e.type = type;
  e.value = value;
  return e;
}

EventTypes Types() { return *EventTypes::Create(EventTypes::Defaults()); }

bool Same(const Profile& a, const Profile& b) {
  if (a.history().size() != b.history().size() || a.seen() != b.seen() ||
      a.disliked() != b.disliked() || a.events() != b.events()) {
    return false;
  }
  for (size_t i = 0; i < a.history().size(); ++i) {
    const HistoryEntry &x = a.history()[i], &y = b.history()[i];
    if (x.item != y.item || x.weight_sum != y.weight_sum ||
        x.time_micros != y.time_micros || x.sequence != y.sequence) {
      return false;
    }
  }
  return true;
}

TEST(EventTypes, WeighsByConfiguration) {
  const EventTypes types = Types();
  const auto rating = static_cast<uint8_t>(types.Find("rating"));
  EXPECT_EQ(types.Weight(rating, 4), 1.0);
  EXPECT_EQ(types.Weight(rating, 3.5), 0.0);
  EXPECT_EQ(types.Find("wish"), -1);
}

TEST(EventTypes, RefusesTwoOfAName) {
  EXPECT_THAT(
      EventTypes::Create(std::vector<EventType>{{.name = "a"}, {.name = "a"}}),
      IsError(absl::StatusCode::kInvalidArgument, "twice"));
}

TEST(Profile, CountsEveryViewOfTheSameItem) {
  const EventTypes types = Types();
  const auto view = static_cast<uint8_t>(types.Find("view"));
  Profile profile(1);
  for (Sequence s = 1; s <= 4; ++s) {
    ASSERT_TRUE(profile.Apply(MakeEvent(7, s, 10, view), types, {}));
  }
  ASSERT_EQ(profile.history().size(), 1u);
  EXPECT_EQ(profile.history()[0].weight_sum, 1.0f);
}

TEST(Profile, ADislikeHidesAndAddsNoWeight) {
  const EventTypes types = Types();
  Profile profile(1);
  ASSERT_TRUE(profile.Apply(
      MakeEvent(7, 1, 10, static_cast<uint8_t>(types.Find("dislike"))), types,
      {}));
  EXPECT_TRUE(profile.disliked().contains(7));
  EXPECT_TRUE(profile.history().empty());
}

TEST(Profile, KeepsTheCompleteSeenSetBeyondTheHistory) {
  const EventTypes types = Types();
  const ProfileOptions options{.max_history = 3};
  const auto like = static_cast<uint8_t>(types.Find("like"));
  Profile profile(1);
  for (Ordinal item = 0; item < 10; ++item) {
    ASSERT_TRUE(
        profile.Apply(MakeEvent(item, item + 1, item, like), types, options));
  }
  EXPECT_EQ(profile.history().size(), 3u);
  EXPECT_EQ(profile.history().back().item, 9u);
  EXPECT_EQ(profile.seen().cardinality(), 10u);
}

// The property that the hot path rests on.
TEST(Profile, ApplyingEventsEqualsRebuildingFromTheLog) {
  const EventTypes types = Types();
  const ProfileOptions options{.max_history = 8, .max_weight = 3};
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<Event> log;
    Profile applied(1);
    for (Sequence s = 1; s <= 60; ++s) {
      const auto type = static_cast<uint8_t>(random.Below(7));
      log.push_back(MakeEvent(static_cast<Ordinal>(random.Below(20)), s,
                              static_cast<int64_t>(random.Below(40)), type,
                              static_cast<double>(random.Below(6))));
      Profile::Builder builder(1, types, options);
      for (const Event& e : log) builder.Add(e);
      const Profile rebuilt = std::move(builder).Build();
      if (!applied.Apply(log.back(), types, options)) applied = rebuilt;
      ASSERT_TRUE(Same(applied, rebuilt)) << "round " << round << " at " << s;
    }
  }
}

ProfilePtr WithEvents(int n) {
  const EventTypes types = Types();
  auto profile = std::make_shared<Profile>(1);
  for (int i = 0; i < n; ++i) {
    EXPECT_TRUE(profile->Apply(
        MakeEvent(static_cast<Ordinal>(i), static_cast<Sequence>(i) + 1, i, 2),
        types, {}));
  }
  return profile;
}

TEST(ProfileCache, StaysUnderItsBudget) {
  ProfileCache cache(1 << 20, [](absl::string_view) { return WithEvents(50); });
  for (int i = 0; i < 5000; ++i) {
    ASSERT_THAT(cache.Get(absl::StrCat("user-", i)), IsOk());
  }
  EXPECT_LE(cache.stats().bytes, 1 << 20);
  EXPECT_GT(cache.stats().evictions, 0);
}

TEST(ProfileCache, DoesNotKeepUnknownUsers) {
  ProfileCache cache(1 << 20, [](absl::string_view) { return ProfilePtr(); });
  EXPECT_EQ(*cache.Get("nobody"), nullptr);
  EXPECT_EQ(cache.stats().profiles, 0);
}

TEST(ProfileCache, AnEventDuringALoadStartsTheLoadAgain) {
  const EventTypes types = Types();
  ProfileCache* cache = nullptr;
  int loads = 0;
  ProfileCache real(1 << 20, [&](absl::string_view user) {
    if (++loads == 1) {
      // The writer commits between the load's read and its end.
      const Event event = MakeEvent(9, 9, 9, 2);
      const Event* const events[] = {&event};
      cache->Apply(user, events, types, {});
      return WithEvents(1);
    }
    return WithEvents(2);
  });
  cache = &real;
  EXPECT_EQ((*real.Get("u"))->events(), 2);
  EXPECT_EQ(loads, 2);
}

TEST(ProfileCache, ReadersAndTheWriterMayRace) {
  const EventTypes types = Types();
  std::atomic<int> committed{0};
  ProfileCache cache(64 << 10,
                     [&](absl::string_view) { return WithEvents(committed); });
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) {
      const Event event = MakeEvent(static_cast<Ordinal>(i),
                                    static_cast<Sequence>(i) + 1, i, 2);
      const Event* const events[] = {&event};
      committed = i + 1;
      cache.Apply("u", events, types, {});
    }
  });
  int64_t last = 0;
  for (int i = 0; i < 2000; ++i) {
    const int64_t before = committed.load();
    const auto profile = cache.Get("u");
    ASSERT_THAT(profile, IsOk());
    // What was applied before the read is in it; one commit may be in between.
    EXPECT_GE((*profile)->events(), before - 1);
    EXPECT_GE((*profile)->events(), last);
    last = (*profile)->events();
  }
  writer.join();
  EXPECT_EQ((*cache.Get("u"))->events(), 300);
}

}  // namespace
}  // namespace nearline::features
