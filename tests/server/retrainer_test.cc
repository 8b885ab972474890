#include "server/retrainer.h"

#include <sys/stat.h>

#include <fstream>

#include "base/file.h"
#include "base/mutex.h"
#include "base/text.h"
#include "tests/features/store_fixture.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

// A supervisor whose trainer is a shell script.
class RetrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = features::OpenStore(dir_.path());
    slot_ = std::make_unique<ModelSlot>(store_.get(), &generations_,
                                        model::CpuScoring, ModelSlotOptions{},
                                        &clock_);
    config_.data_dir = dir_.path();
    config_.training.first = "";  // one trainer a run
  }
  void Supervise(const std::string& script) {
    const std::string path = dir_ / "trainer";
    ASSERT_EQ(mkfifo(began_.c_str(), 0600), 0);
    std::ofstream(path) << "#!/bin/sh\necho > '" << began_ << "'\n"
                        << script << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    config_.training.program = path;
    retrainer_ = std::make_unique<Retrainer>(
        config_, store_.get(), &generations_, slot_.get(), &clock_);
  }
  void Feed(int events) {
    for (int i = 0; i < events; ++i) {
      ASSERT_THAT(
          features::AppendAll(store_.get(), {features::Like("ann", "heat")}),
          IsOk());
    }
  }
  // Waits until the next trainer has begun, then for its run's end.
  RunStatus NextEnd() {
    std::string line;
    std::getline(std::ifstream(began_) >> std::ws, line);
    return LastEnd();
  }
  // Waits for the end of the newest run.
  RunStatus LastEnd() {
    Mutex mu;
    CondVar changed;
    RunStatus last;
    const auto watch = retrainer_->Watch("", [&](const RunStatus& status) {
      MutexLock lock(&mu);
      last = status;
      changed.SignalAll();
    });
    EXPECT_THAT(watch, IsOk());
    {
      MutexLock lock(&mu);
      while (!last.done()) changed.Wait(&mu);
    }
    retrainer_->Unwatch(*watch);
    return last;
  }

  const TempDir dir_;
  const std::string began_ = dir_ / "began";  // a pipe; a trainer writes to it
  ManualClock clock_{absl::Now()};
  Config config_;
  std::unique_ptr<features::Store> store_;
  model::LocalGenerationStore generations_{dir_ / "generations"};
  std::unique_ptr<ModelSlot> slot_;
  std::unique_ptr<Retrainer> retrainer_;
};

// A server without LibTorch computes on processors; its trainer need not.
TEST_F(RetrainerTest, ATrainerElsewhereChoosesADeviceOfItsOwn) {
  config_.training.socket = "socket";
  config_.device = "cpu";
  std::string device;
  for (const char* configured : {"auto", "cpu"}) {
    config_.training.device = configured;
    retrainer_ = std::make_unique<Retrainer>(
        config_, store_.get(), &generations_, slot_.get(), &clock_,
        [&](const Config& config, const std::string& run_id, const auto&,
            const OnLine&) {
          const auto job = ReadFile(
              JoinPath(config.data_dir, "checkpoints/" + run_id + "/job.json"));
          device = (*ParseJson(*job))["device"].get<std::string>();
          return absl::AbortedError("elsewhere");
        });
    ASSERT_THAT(retrainer_->Start(false, "test"), IsOk());
    EXPECT_EQ(LastEnd().message, "elsewhere");
    EXPECT_EQ(device, configured);
  }
}

TEST_F(RetrainerTest, StartsAfterSoManyEvents) {
  config_.training.every_events = 3;
  Supervise("exit 3");
  Feed(2);
  EXPECT_EQ(retrainer_->stats().failed, 0);
  Feed(1);
  const RunStatus run = NextEnd();
  EXPECT_EQ(run.state, RunStatus::State::kFailed);
  Feed(3);
  EXPECT_NE(NextEnd().id, run.id);
  EXPECT_EQ(retrainer_->stats().failed, 2);
}

TEST_F(RetrainerTest, StartsWhenTheIntervalHasPassed) {
  config_.training.interval = absl::Hours(1);
  Supervise("exit 3");
  EXPECT_EQ(retrainer_->RunningId(), "");
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(NextEnd().state, RunStatus::State::kFailed);
}

TEST_F(RetrainerTest, ATrainerOutOfMemoryIsReported) {
  config_.training.memory_mb = 256;
  Supervise("exec python3 -c 'held = bytearray(1 << 30)'");
  ASSERT_THAT(retrainer_->Start(false, "test"), IsOk());
  const RunStatus run = NextEnd();
  EXPECT_EQ(run.state, RunStatus::State::kFailed);
  EXPECT_THAT(run.message, testing::HasSubstr("MemoryError"));
}

// The trainer names what its job asks it to make: "g-<retriever>".
constexpr char kNamesWhatItIsAskedFor[] =
    "sed -n 's/.*\"retriever\": \"\\(.*\\)\".*/{\"done\": \"g-\\1\"}/p' $3";

class FirstModelTest : public RetrainerTest {
 protected:
  void Make(const std::string& model, bool accepted) {
    model::Bundle bundle = model::TinyBundle(10);
    bundle.manifest.id = "g-" + model;
    bundle.manifest.accepted = accepted;
    bundle.manifest.decision = model;
    ASSERT_THAT(generations_.Write(bundle), IsOk());
  }
  // Both trainers of the run begin.
  RunStatus RunToTheEnd(const std::string& script) {
    config_.training.first = "auto";  // a small catalogue
    Supervise(script);
    EXPECT_THAT(retrainer_->Start(false, "test"), IsOk());
    std::string line;
    std::getline(std::ifstream(began_) >> std::ws, line);
    return NextEnd();
  }
};

TEST_F(FirstModelTest, ServesUntilTheBetterOneIsThere) {
  Make("ease", true);
  Make("joint", true);
  const RunStatus run = RunToTheEnd(kNamesWhatItIsAskedFor);
  EXPECT_EQ(run.state, RunStatus::State::kPublished);
  EXPECT_EQ(run.first, "g-ease");
  EXPECT_EQ(run.generation, "g-joint");
  EXPECT_EQ(slot_->Snapshot()->id(), "g-joint");
  EXPECT_EQ(retrainer_->stats().published, 1);
  // Something serves now.
  ASSERT_THAT(retrainer_->Start(false, "test"), IsOk());
  EXPECT_EQ(NextEnd().first, "");
}

TEST_F(FirstModelTest, StaysWhereTheOtherLoses) {
  Make("ease", true);
  Make("joint", false);
  const RunStatus run = RunToTheEnd(kNamesWhatItIsAskedFor);
  EXPECT_EQ(run.state, RunStatus::State::kRejected);
  EXPECT_EQ(slot_->Snapshot()->id(), "g-ease");
}

TEST_F(FirstModelTest, ThatFailsDoesNotKeepTheOtherOut) {
  Make("joint", true);
  const RunStatus run = RunToTheEnd(kNamesWhatItIsAskedFor);
  EXPECT_EQ(run.state, RunStatus::State::kPublished);
  EXPECT_EQ(run.first, "");
  EXPECT_EQ(slot_->Snapshot()->id(), "g-joint");
}

TEST_F(RetrainerTest, ASecondRequestJoinsOrIsRefused) {
  Supervise("exec sleep 600");
  const auto first = retrainer_->Start(false, "test");
  const auto second = retrainer_->Start(false, "test");
  ASSERT_THAT(second, IsOk());
  EXPECT_TRUE(second->joined);
  EXPECT_EQ(second->run_id, first->run_id);
  config_.training.second_request = "refuse";
  EXPECT_THAT(
      retrainer_->Start(false, "test").status(),
      IsError(absl::StatusCode::kFailedPrecondition, first->run_id.c_str()));
  retrainer_->Stop();
  EXPECT_EQ(LastEnd().state, RunStatus::State::kFailed);
  EXPECT_THAT(retrainer_->Start(false, "test").status(),
              IsError(absl::StatusCode::kUnavailable, "stopping"));
}

}  // namespace
}  // namespace nearline::server
