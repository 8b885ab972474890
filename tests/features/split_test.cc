#include "base/file.h"
#include "base/random.h"
#include "features/dataset.h"
#include "features/generator.h"
#include "tests/features/store_fixture.h"
#include "tests/testing.h"

namespace nearline::features {
namespace {

// `users` users with `each` likes; item and time by the functions.
void Fill(Store* store, int users, int each,
          const std::function<int64_t(int user, int i)>& time) {
  Random random(3);
  std::vector<NewEvent> events;
  for (int u = 0; u < users; ++u) {
    for (int i = 0; i < each; ++i) {
      events.push_back({.user = absl::StrCat("u", u),
                        .item = absl::StrCat("i", random.Below(200)),
                        .type = "like",
                        .time_micros = time(u, i),
                        .event_id = absl::StrCat(u, "/", i)});
    }
  }
  ASSERT_THAT(AppendAll(store, std::move(events), true), IsOk());
}

TEST(Split, ByTimeTrainsStrictlyBeforeTheCutoff) {
  const TempDir dir;
  auto store = OpenStore(dir.path());
  Fill(store.get(), 200, 20, [](int u, int i) { return u + i * 1000; });
  const auto split = SplitLog(*store, {.min_holdout_users = 50});
  ASSERT_THAT(split, IsOk());
  EXPECT_EQ(split->kind, Split::Kind::kByTime);
  EXPECT_GE(split->holdout.size(), 50u);
  for (const HoldoutUser& user : split->holdout) {
    for (const HistoryEntry& entry : user.profile.history()) {
      EXPECT_LT(entry.time_micros, split->cutoff_micros);
    }
    for (const Ordinal item : user.truth) {
      EXPECT_FALSE(user.profile.seen().contains(item));
    }
  }
}

TEST(Split, WithoutTimesHoldsOutTheSameUsersEveryTime) {
  const TempDir dir;
  auto store = OpenStore(dir.path());
  Fill(store.get(), 300, 10, [](int, int) { return 42; });
  const auto a = SplitLog(*store, {});
  const auto b = SplitLog(*store, {});
  ASSERT_THAT(a, IsOk());
  ASSERT_THAT(b, IsOk());
  EXPECT_EQ(a->kind, Split::Kind::kByUser);
  EXPECT_EQ(a->cutoff_micros, 0);
  ASSERT_EQ(a->holdout.size(), b->holdout.size());
  EXPECT_GT(a->holdout.size(), 10u);
  EXPECT_LT(a->train.users(), 300);
}

TEST(Split, UsersKeepTheirAttributes) {
  const TempDir dir;
  auto store = OpenStore(dir.path());
  Fill(store.get(), 300, 10, [](int, int) { return 42; });
  std::vector<User> users;
  for (int u = 0; u < 300; u += 2) {
    users.push_back({absl::StrCat("u", u), {{"n", static_cast<double>(u)}}});
  }
  ASSERT_THAT(Do<Sequence>(store.get(), UpsertUsers{.users = users}), IsOk());
  const auto split = SplitLog(*store, {});
  ASSERT_THAT(split, IsOk());
  ASSERT_EQ(static_cast<int64_t>(split->attributes.size()),
            split->train.users());
  int known = 0;
  for (const auto& attributes : split->attributes)
    known += attributes != nullptr;
  for (const HoldoutUser& user : split->holdout) {
    const auto found = store->GetUser(user.profile.user());
    ASSERT_THAT(found, IsOk());
    known += user.profile.attributes() != nullptr;
    EXPECT_EQ(user.profile.attributes() == nullptr, found->attributes.empty());
  }
  EXPECT_GT(known, 140);  // but for those with nothing to be found
}

TEST(Split, AnEmptyLogSaysWhatToDo) {
  const TempDir dir;
  auto store = OpenStore(dir.path());
  EXPECT_THAT(SplitLog(*store, {}),
              IsError(absl::StatusCode::kFailedPrecondition, "import"));
}

TEST(Generator, TheSameSeedGivesTheSameBytes) {
  const TempDir dir;
  const GeneratorOptions options{.users = 50, .items = 60};
  ASSERT_THAT(GenerateDemoData(options, dir / "a"), IsOk());
  ASSERT_THAT(GenerateDemoData(options, dir / "b"), IsOk());
  for (const char* name : {"items.jsonl", "users.jsonl", "events.tsv"}) {
    EXPECT_EQ(*ReadFile(JoinPath(dir / "a", name)),
              *ReadFile(JoinPath(dir / "b", name)));
  }
}

}  // namespace
}  // namespace nearline::features
