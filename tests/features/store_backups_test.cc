#include "features/store_backups.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/features/store_fixture.h"

namespace nearline::features {
namespace {

using absl::StatusCode;

class StoreBackupsTest : public testing::Test {
 protected:
  StoreBackupsTest() : store_(OpenStore(dir_ / "a")), backups_(Open()) {}

  std::unique_ptr<StoreBackups> Open(bool read_only = false) {
    auto backups = StoreBackups::Open({.path = dir_ / "backups",
                                       .scratch = dir_ / "scratch",
                                       .read_only = read_only});
    EXPECT_THAT(backups, IsOk());
    return *std::move(backups);
  }
  void Add(const std::string& user, int events) {
    std::vector<NewEvent> all;
    for (int i = 0; i < events; ++i) {
      all.push_back(Like(user, absl::StrCat("item-", i % 50)));
    }
    ASSERT_THAT(AppendAll(store_.get(), std::move(all)), IsOk());
  }
  absl::StatusOr<BackupInfo> Create() {
    return backups_->Create(store_.get(), "g-1", nullptr);
  }
  std::unique_ptr<Store> Restore(uint32_t id, const std::string& name) {
    EXPECT_THAT(MakeDirs(dir_ / name), IsOk());
    EXPECT_THAT(backups_->Restore(id, dir_ / name + "/store"), IsOk());
    return OpenStore(dir_ / name);
  }
  static int64_t EventsOf(Store* store, const std::string& user) {
    const auto profile = store->GetProfile(user);
    EXPECT_THAT(profile, IsOk());
    return *profile == nullptr ? 0 : (*profile)->events();
  }

  const TempDir dir_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StoreBackups> backups_;
};

TEST_F(StoreBackupsTest, EachHoldsWhatTheStoreHeldThen) {
  Add("ann", 100);
  const auto first = Create();
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->sequence, 100u);
  EXPECT_EQ(first->log_id, store_->log_id());
  EXPECT_EQ(first->generation, "g-1");
  Add("ann", 10);
  Add("bob", 5);
  const auto second = Create();
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(second->sequence, 115u);
  EXPECT_EQ(backups_->List().size(), 2u);
  EXPECT_FALSE(FileExists(dir_ / "scratch"));

  const auto old = Restore(first->id, "old");
  EXPECT_EQ(EventsOf(old.get(), "ann"), 100);
  EXPECT_EQ(EventsOf(old.get(), "bob"), 0);
  EXPECT_EQ(old->sequence(), 100u);
  const auto now = Restore(second->id, "now");
  EXPECT_EQ(EventsOf(now.get(), "ann"), 110);
  EXPECT_EQ(EventsOf(now.get(), "bob"), 5);
}

TEST_F(StoreBackupsTest, OnlyWhatIsNewIsCopied) {
  for (int i = 0; i < 20; ++i) Add(absl::StrCat("user-", i), 5000);
  ASSERT_THAT(Create(), IsOk());
  const int64_t one = FolderBytes(dir_ / "backups");
  Add("ann", 10);
  ASSERT_THAT(Create(), IsOk());
  EXPECT_LT(FolderBytes(dir_ / "backups"), one * 3 / 2);
}

TEST_F(StoreBackupsTest, AnotherProcessMayReadBesideTheServer) {
  Add("ann", 10);
  ASSERT_THAT(Create(), IsOk());
  const auto reader = Open(true);
  EXPECT_EQ(reader->List().size(), 1u);
  Add("ann", 10);
  ASSERT_THAT(Create(), IsOk());
  EXPECT_THAT(reader->Restore(1, dir_ / "c"), IsOk());
}

TEST_F(StoreBackupsTest, DamageIsFound) {
  Add("ann", 100);
  ASSERT_THAT(Create(), IsOk());
  EXPECT_THAT(backups_->Verify(1), IsOk());
  for (const auto& file : std::filesystem::recursive_directory_iterator(
           dir_ / "backups/store/shared_checksum")) {
    std::fstream bytes(file.path(), std::ios::in | std::ios::out);
    bytes.seekp(40);
    bytes.put('!');
  }
  EXPECT_THAT(backups_->Verify(1), IsError(StatusCode::kDataLoss, "backup 1"));
  EXPECT_FALSE(backups_->Restore(1, dir_ / "c").ok());
  EXPECT_THAT(backups_->Verify(7), IsError(StatusCode::kNotFound, "backup 7"));
}

TEST_F(StoreBackupsTest, AFolderIsOfOneStore) {
  Add("ann", 1);
  ASSERT_THAT(Create(), IsOk());
  const auto other = OpenStore(dir_ / "other");
  EXPECT_THAT(backups_->Create(other.get(), "", nullptr),
              IsError(StatusCode::kFailedPrecondition, "of another store"));
}

TEST_F(StoreBackupsTest, OldOnesGoWithErasuresThatConcernNoOther) {
  const auto erase = [&](const std::string& user) {
    ASSERT_THAT(backups_->RecordErasure({.user_key = store_->UserKey(user),
                                         .log_id = store_->log_id(),
                                         .sequence = store_->sequence(),
                                         .time = absl::Now()}),
                IsOk());
  };
  Add("ann", 10);
  ASSERT_THAT(Create(), IsOk());
  erase("ann");
  Add("bob", 10);
  ASSERT_THAT(Create(), IsOk());
  erase("bob");
  ASSERT_THAT(backups_->Prune(2), IsOk());
  EXPECT_EQ(backups_->Erasures()->size(), 2u);
  ASSERT_THAT(backups_->Prune(1), IsOk());
  ASSERT_EQ(backups_->List().size(), 1u);
  EXPECT_EQ(backups_->List()[0].id, 2u);
  const auto left = backups_->Erasures();
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ((*left)[0].user_key, store_->UserKey("bob"));
  EXPECT_THAT(*ReadFile(dir_ / "backups/erasures"),
              testing::Not(testing::HasSubstr("bob")));
}

TEST_F(StoreBackupsTest, AnErasureThatMayHaveBeenMadeConcernsEveryBackup) {
  Add("ann", 10);
  Erasure erasure = {.user_key = store_->UserKey("ann"),
                     .log_id = store_->log_id(),
                     .time = absl::Now(),
                     .done = false};
  ASSERT_THAT(backups_->RecordErasure(erasure), IsOk());
  // A backup is made between the note and the erasure, at a later sequence.
  Add("bob", 5);
  const auto made = Create();
  ASSERT_THAT(made, IsOk());
  ASSERT_THAT(backups_->Prune(1), IsOk());
  ASSERT_EQ(backups_->Erasures()->size(), 1u);
  EXPECT_TRUE(backups_->Erasures()->front().ConcernsBackup(*made));
  // Once it is known when it was done, that decides.
  erasure.done = true;
  erasure.sequence = store_->sequence();
  ASSERT_THAT(backups_->RecordErasure(erasure), IsOk());
  ASSERT_EQ(backups_->Erasures()->size(), 1u);
  EXPECT_TRUE(backups_->Erasures()->front().ConcernsBackup(*made));
  Add("bob", 5);
  EXPECT_FALSE(backups_->Erasures()->front().ConcernsBackup(*Create()));
  // One that could not be made concerns none.
  ASSERT_THAT(backups_->Prune(1), IsOk());
  EXPECT_EQ(backups_->Erasures()->size(), 0u);
}

TEST_F(StoreBackupsTest, OneProcessWritesToAFolder) {
  const auto second = StoreBackups::Open(
      {.path = dir_ / "backups", .scratch = dir_ / "scratch-2"});
  EXPECT_THAT(second.status(), IsError(StatusCode::kFailedPrecondition,
                                       "Set another backup.dir"));
}

TEST_F(StoreBackupsTest, ATornErasureIsNoneAndAStrangeOneIsToldOf) {
  const Erasure erasure = {.user_key = store_->UserKey("ann"),
                           .log_id = "l",
                           .sequence = 7,
                           .time = absl::FromUnixSeconds(9)};
  ASSERT_THAT(backups_->RecordErasure(erasure), IsOk());
  const std::string path = dir_ / "backups/erasures";
  std::ofstream(path, std::ios::app) << "done l 8 90";
  EXPECT_EQ(backups_->Erasures()->size(), 1u);
  ASSERT_THAT(backups_->RecordErasure(erasure), IsOk());
  EXPECT_EQ(backups_->Erasures()->size(), 2u);
  std::ofstream(path, std::ios::app) << "nonsense\n";
  EXPECT_THAT(backups_->Erasures(),
              IsError(StatusCode::kDataLoss, "erasures:3"));
}

TEST(Erasure, ConcernsBackupsMadeBeforeIt) {
  const absl::Time noon = absl::FromUnixSeconds(1'000'000);
  const BackupInfo backup = {.time = noon, .sequence = 100, .log_id = "a"};
  const auto concerns = [&](const char* log, Sequence sequence,
                            absl::Duration later) {
    return Erasure{.log_id = log, .sequence = sequence, .time = noon + later}
        .ConcernsBackup(backup);
  };
  EXPECT_TRUE(concerns("a", 100, absl::ZeroDuration()));
  EXPECT_TRUE(concerns("a", 101, -absl::Hours(1)));
  EXPECT_FALSE(concerns("a", 99, absl::Hours(1)));
  // A store that was restored counts anew.
  EXPECT_TRUE(concerns("b", 5, absl::Minutes(1)));
  EXPECT_FALSE(concerns("b", 500, -absl::Minutes(1)));
}

TEST_F(StoreBackupsTest, ARestoredLogTakesAnotherName) {
  Add("ann", 10);
  ASSERT_THAT(Create(), IsOk());
  ASSERT_THAT(MakeDirs(dir_ / "b"), IsOk());
  ASSERT_THAT(backups_->Restore(1, dir_ / "b/store"), IsOk());
  StoreOptions options = TestOptions(dir_ / "b");
  options.renew_log_id = true;
  auto restored = Store::Open(options);
  ASSERT_THAT(restored, IsOk());
  EXPECT_NE((*restored)->log_id(), store_->log_id());
  EXPECT_EQ((*restored)->UserKey("ann"), store_->UserKey("ann"));
}

TEST_F(StoreBackupsTest, WritesGoOnWhileOneIsMade) {
  Add("ann", 1000);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) Add("bob", 10);
  });
  for (int i = 0; i < 5; ++i) {
    const auto made = Create();
    ASSERT_THAT(made, IsOk());
    const auto restored = Restore(made->id, absl::StrCat("r", i));
    EXPECT_EQ(restored->sequence(), made->sequence);
    EXPECT_EQ(EventsOf(restored.get(), "ann") + EventsOf(restored.get(), "bob"),
              static_cast<int64_t>(made->sequence));
  }
  stop = true;
  writer.join();
}

}  // namespace
}  // namespace nearline::features
