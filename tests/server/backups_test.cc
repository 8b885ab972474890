// Backups through the server, and what a restore gives.
#include "server/backups.h"

#include <grpcpp/generic/generic_stub.h>
#include <httplib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "server/doctor.h"
#include "server/listener.h"
#include "tests/server/server_fixture.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

class BackupsTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    config_.backup.dir = dir_ / "backups";
    Start();
    for (int u = 0; u < 20; ++u) {
      for (int i = 0; i < 5; ++i) {
        ASSERT_THAT(Feed(Like(absl::StrCat("user-", u),
                              absl::StrFormat("i%03d", (u * 7 + i) % 100))),
                    IsOk());
      }
    }
  }
  absl::StatusOr<api::BackupInfo> Backup(bool verify = true) {
    api::BackupRequest request;
    request.set_verify(verify);
    return client_->Backup(request, [this](const api::BackupProgress& p) {
      phases_.push_back(p.phase());
    });
  }
  // A server on what the newest backup holds.
  absl::StatusOr<RestoreReport> RestoreElsewhere() {
    server_.reset();  // it writes to backup.dir
    config_.data_dir = dir_ / "restored";
    return RestoreBackup(config_, 0, false, [](const std::string&) {});
  }
  std::vector<std::string> AnswersOf(int user) {
    const auto answer = Ask(absl::StrCat("user-", user), 20);
    EXPECT_THAT(answer, IsOk());
    std::vector<std::string> out = {answer->generation()};
    for (const api::ScoredItem& item : answer->items()) {
      out.push_back(absl::StrCat(item.item(), " ", item.score()));
    }
    return out;
  }

  std::vector<std::string> phases_;
};

TEST_F(BackupsTest, ARestoredServerGivesTheSameAnswers) {
  std::vector<std::vector<std::string>> before;
  for (int u = 0; u < 20; ++u) before.push_back(AnswersOf(u));
  const auto backup = Backup();
  ASSERT_THAT(backup, IsOk());
  EXPECT_EQ(backup->id(), 1);
  EXPECT_EQ(backup->sequence(), 100u);
  EXPECT_EQ(backup->generation(), "g-tiny-1");
  EXPECT_EQ(phases_.front(), "copy");
  EXPECT_EQ(phases_.back(), "done");
  const std::string token = Ask("user-1")->consistency_token();
  ASSERT_THAT(Feed(Like("user-1", "i099")), IsOk());  // lost

  const auto report = RestoreElsewhere();
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->erased, 0);
  Start();
  for (int u = 0; u < 20; ++u) {
    EXPECT_EQ(AnswersOf(u), before[static_cast<size_t>(u)]);
  }
  // A token of the lost log is none of this one's.
  api::RecommendRequest request;
  request.set_user("user-1");
  request.set_after(token);
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kFailedPrecondition, "another log"));
  EXPECT_THAT(Backup(), IsOk());  // goes on in the same folder
}

TEST_F(BackupsTest, WhoWasErasedSinceStaysErased) {
  ASSERT_THAT(Backup(), IsOk());
  ASSERT_THAT(client_->DeleteUser("user-3"), IsOk());
  EXPECT_THAT(client_->DeleteUser("nobody"),
              IsError(StatusCode::kNotFound, "nobody"));
  const auto report = RestoreElsewhere();
  ASSERT_THAT(report, IsOk());
  EXPECT_EQ(report->erased, 1);
  Start();
  EXPECT_THAT(client_->GetUser("user-3"), IsError(StatusCode::kNotFound, ""));
  EXPECT_THAT(client_->GetUser("user-4"), IsOk());
}

TEST_F(BackupsTest, AnErasureThatCannotBeNotedIsNotMade) {
  ASSERT_THAT(MakeDirs(dir_ / "backups/erasures"), IsOk());  // no file
  client::Client client({.address = address_, .attempts = 1});
  EXPECT_THAT(client.DeleteUser("user-3"),
              IsError(StatusCode::kUnavailable, "nothing was erased"));
  EXPECT_THAT(client_->GetUser("user-3"), IsOk());
}

TEST_F(BackupsTest, ARestoreNeverWritesOverAStore) {
  ASSERT_THAT(Backup(), IsOk());
  EXPECT_THAT(RestoreBackup(config_, 0, false, [](const std::string&) {}),
              IsError(StatusCode::kFailedPrecondition, ""));  // it runs
  server_.reset();
  EXPECT_THAT(RestoreBackup(config_, 0, false, [](const std::string&) {}),
              IsError(StatusCode::kFailedPrecondition, "is there already"));
  config_.data_dir = dir_ / "restored";
  EXPECT_THAT(RestoreBackup(config_, 9, false, [](const std::string&) {}),
              IsError(StatusCode::kNotFound, "no backup 9"));
  config_.backup.dir = dir_ / "elsewhere";
  EXPECT_THAT(RestoreBackup(config_, 0, false, [](const std::string&) {}),
              IsError(StatusCode::kNotFound, "holds no backups"));
}

TEST_F(BackupsTest, ADamagedBackupLeavesNoStore) {
  ASSERT_THAT(Backup(), IsOk());
  std::fstream weights(
      dir_ / "backups/generations/g-tiny-1/weights.safetensors",
      std::ios::in | std::ios::out);
  weights.seekp(200);
  weights.put('!');
  weights.close();
  EXPECT_THAT(RestoreElsewhere(), IsError(StatusCode::kDataLoss, "g-tiny-1"));
  EXPECT_EQ(*ListDir(config_.data_dir), std::vector<std::string>{"LOCK"});
  const auto rest = RestoreBackup(config_, 0, true, [](const std::string&) {});
  ASSERT_THAT(rest, IsOk());
  Start();
  EXPECT_EQ(client_->Status()->sequence(), 100u);
  EXPECT_EQ(client_->Status()->generation(), "");
}

TEST_F(BackupsTest, ADamagedCopyOfAModelIsFoundAndMadeAnew) {
  ASSERT_THAT(Backup(), IsOk());
  const std::string path =
      dir_ / "backups/generations/g-tiny-1/weights.safetensors";
  const std::string whole = *ReadFile(path);
  std::ofstream(path) << "cut";
  ASSERT_THAT(Backup(), IsOk());
  EXPECT_EQ(*ReadFile(path), whole);
}

TEST_F(BackupsTest, ARestoreThatWasCutShortIsNotServedAndCanBeMadeAgain) {
  ASSERT_THAT(Backup(), IsOk());
  server_.reset();
  config_.data_dir = dir_ / "restored";
  ASSERT_THAT(MakeDirs(RestoringIn(config_.data_dir) + "/store"), IsOk());
  ASSERT_THAT(MakeDirs(config_.data_dir + "/generations"), IsOk());
  EXPECT_THAT(Server::Start(config_).status(),
              IsError(StatusCode::kFailedPrecondition, "restore` again"));
  EXPECT_THAT(RestoreElsewhere(), IsOk());
  Start();
  EXPECT_EQ(client_->Status()->generation(), "g-tiny-1");
}

TEST_F(BackupsTest, ARestoreThatWasAllButDoneIsServed) {
  server_.reset();
  ASSERT_THAT(MakeDirs(RestoringIn(config_.data_dir)), IsOk());
  Start();
  EXPECT_FALSE(FileExists(RestoringIn(config_.data_dir)));
}

TEST_F(BackupsTest, ABackupThatIsDamagedIsNotKept) {
  ASSERT_THAT(Backup(), IsOk());
  for (const auto& file : std::filesystem::recursive_directory_iterator(
           dir_ / "backups/store/shared_checksum")) {
    std::fstream bytes(file.path(), std::ios::in | std::ios::out);
    bytes.seekp(40);
    bytes.put('!');
  }
  // It shares the damaged files.
  EXPECT_THAT(Backup(), IsError(StatusCode::kFailedPrecondition,
                                "set backup.dir to an empty folder"));
  EXPECT_EQ(client_->ListBackups()->backups_size(), 1);
  EXPECT_THAT(server_->Scrape(),
              testing::HasSubstr("nearline_backup_failures_total 1"));
}

TEST_F(BackupsTest, AFolderThatCannotBeUsedIsNamedAtStart) {
  for (const char* folder : {"/proc/nope", "/etc/passwd"}) {
    config_.backup.dir = folder;
    Config config = config_;
    config.data_dir = dir_ / "other";
    EXPECT_THAT(Server::Start(config).status().message(),
                testing::HasSubstr("backup.dir: "))
        << folder;
  }
}

// Scrapes go on while the server drains.
TEST_F(BackupsTest, DrainingShowsItsMetrics) {
  const int port = (*Listener::Bind("127.0.0.1:0", 1))->port();
  config_.metrics_listen = absl::StrCat("127.0.0.1:", port);
  config_.serving.drain = absl::Seconds(1);
  Start();
  ASSERT_THAT(Backup(), IsOk());
  // A call whose message does not come keeps it draining.
  grpc::GenericStub stub(channel_);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const auto call = stub.PrepareCall(
      &context, "/nearline.v1.RecommendationService/Recommend", &queue);
  call->StartCall(nullptr);
  void* tag = nullptr;
  bool ok = false;
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  std::atomic<bool> stopped{false};
  int scraped = 0;
  std::thread scraper([&] {
    while (!stopped) {
      httplib::Client http("127.0.0.1", port);
      const auto answer = http.Get("/metrics");
      if (!answer) continue;
      EXPECT_THAT(answer->body, testing::HasSubstr("nearline_backup_bytes"));
      ++scraped;
    }
  });
  server_.reset();
  stopped = true;
  scraper.join();
  EXPECT_GT(scraped, 0);
  queue.Shutdown();
}

TEST_F(BackupsTest, GenerationsOfRemovedBackupsGo) {
  config_.backup.keep = 1;
  Start();
  ASSERT_THAT(Backup(false), IsOk());
  model::Bundle next = model::TinyBundle(100);
  next.manifest.id = "g-tiny-2";
  model::LocalGenerationStore generations(config_.data_dir + "/generations");
  ASSERT_THAT(generations.Write(next), IsOk());
  ASSERT_THAT(client_->Rollback("g-tiny-2"), IsOk());
  const auto second = Backup();
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(second->generation(), "g-tiny-2");
  EXPECT_EQ(*ListDir(dir_ / "backups/generations"),
            std::vector<std::string>{"g-tiny-2"});
  const auto listed = client_->ListBackups();
  ASSERT_THAT(listed, IsOk());
  ASSERT_EQ(listed->backups_size(), 1);
  EXPECT_EQ(listed->backups(0).id(), 2);
  EXPECT_THAT(server_->Scrape(),
              testing::HasSubstr("nearline_backup_last_success_timestamp"));
}

TEST_F(BackupsTest, WithoutAFolderNoneAreMade) {
  config_.backup.dir = "";
  Start();
  EXPECT_THAT(Backup(),
              IsError(StatusCode::kFailedPrecondition, "no backup.dir"));
  EXPECT_THAT(client_->ListBackups(),
              IsError(StatusCode::kFailedPrecondition, "no backup.dir"));
}

// What the doctor says of a thing, worst first.
Finding::Level LevelOf(const std::vector<Finding>& findings,
                       const std::string& about, std::string* what) {
  Finding::Level worst = Finding::Level::kGood;
  for (const Finding& finding : findings) {
    if (finding.about != about) continue;
    if (what->empty() || finding.level > worst) *what = finding.what;
    worst = std::max(worst, finding.level);
  }
  EXPECT_FALSE(what->empty()) << about << " was not looked at";
  return worst;
}

class DoctorTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    config_.training.program = "/bin/true";
  }
  void Expect(Finding::Level level, const std::string& about,
              const std::string& text) {
    std::string what;
    EXPECT_EQ(LevelOf(Examine(config_), about, &what), level) << what;
    EXPECT_THAT(what, testing::HasSubstr(text));
  }
  static constexpr auto kGood = Finding::Level::kGood;
  static constexpr auto kDoubt = Finding::Level::kDoubt;
  static constexpr auto kWrong = Finding::Level::kWrong;
};

TEST_F(DoctorTest, LooksBesideARunningServerAndWithoutOne) {
  Expect(kGood, "data_dir", "a server runs here");
  Expect(kGood, "store", "in use");
  Expect(kGood, "generations", "g-tiny-1");
  server_.reset();
  Expect(kGood, "store", "100 items");
  Expect(kGood, "listen", "is free");
  Expect(kGood, "trainer", "/bin/true");
  Expect(kDoubt, "backup.dir", "none");
}

TEST_F(DoctorTest, FindsWhatIsWrong) {
  config_.training.program = "/no/such/trainer";
  Expect(kWrong, "trainer", "/no/such/trainer cannot be run");
  config_.device = "cuda:7";
  Expect(kWrong, "device", "cuda:7");
  config_.access.file = dir_ / "absent.yaml";
  Expect(kWrong, "access.file", "absent.yaml");
  config_.tls.files = {.certificate = dir_ / "c.pem", .key = dir_ / "k.pem"};
  Expect(kWrong, "tls", "c.pem");
  config_.limits.max_connections = 2'000'000'000;
  Expect(kDoubt, "open files", "limits.max_connections");
  server_.reset();
  const auto taken = Listener::Bind("127.0.0.1:0", 1);
  config_.listen = absl::StrCat("127.0.0.1:", (*taken)->port());
  Expect(kWrong, "listen", "another server is there");
  std::ofstream(dir_ / "data/generations/g-tiny-1/weights.safetensors")
      << "cut";
  Expect(kWrong, "generations", "remove CURRENT");
  ASSERT_THAT(RemoveAll(dir_ / "data/store/CURRENT"), IsOk());
  Expect(kWrong, "store", "");
}

TEST_F(DoctorTest, DoubtsCallersWhoMayTooMuchOrNothing) {
  config_.access.file = dir_ / "callers.yaml";
  ASSERT_THAT(
      WriteFileAtomic(config_.access.file,
                      "callers: [{name: a, anonymous: true, roles: [manage]}]"),
      IsOk());
  Expect(kDoubt, "access.file", "lets everyone manage");
  ASSERT_THAT(WriteFileAtomic(
                  config_.access.file,
                  "callers: [{name: a, anonymous: true, roles: [recommend]}]"),
              IsOk());
  Expect(kDoubt, "access.file", "nobody has the role manage");
}

}  // namespace
}  // namespace nearline::server
