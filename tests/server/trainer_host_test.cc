// A server's trainer in another process, as a host on a socket.
#include "server/trainer_host.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/version.h"
#include "proto/nearline/v1/trainer.grpc.pb.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

namespace api = ::nearline::v1;
using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

class TrainerHostTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.data_dir = dir_.path();
    config_.training.socket = dir_ / "trainer.sock";
    config_.training.program = dir_ / "program";
  }
  // What stands for the trainer.
  void Program(const std::string& script) {
    std::ofstream(config_.training.program) << "#!/bin/sh\n" << script << "\n";
    std::filesystem::permissions(config_.training.program,
                                 std::filesystem::perms::owner_all);
  }
  void Host() {
    host_.reset();
    auto host = TrainerHost::Start(config_);
    ASSERT_THAT(host, IsOk());
    host_ = *std::move(host);
  }
  absl::Status Run(const std::string& id = "run-1",
                   absl::Duration wait = absl::Seconds(10)) {
    lines_.clear();
    return RunTrainerByHost(
        config_, id, [this] { return stop_.load(); },
        [this](const std::string& line) {
          lines_.push_back(line);
          told_ = true;
        },
        wait);
  }
  void AwaitLine() {
    while (!told_) absl::SleepFor(absl::Milliseconds(1));
  }

  const TempDir dir_;
  Config config_;
  std::unique_ptr<TrainerHost> host_;
  std::vector<std::string> lines_;
  std::atomic<bool> stop_{false}, told_{false};
};

TEST_F(TrainerHostTest, LinesComeAsTheyArePrintedAndTheJobIsTheRuns) {
  Program("echo \"$@\"; echo two");
  Host();
  EXPECT_THAT(Run(), IsOk());
  EXPECT_THAT(lines_, ElementsAre(absl::StrCat("run --job ", dir_.path(),
                                               "/checkpoints/run-1/job.json"),
                                  "two"));
  EXPECT_THAT(Run("run-2"), IsOk());  // and another
}

TEST_F(TrainerHostTest, AFailureSaysWhy) {
  Program("echo 'it went wrong' >&2; exit 3");
  Host();
  const absl::Status failed = Run();
  EXPECT_THAT(failed, IsError(StatusCode::kAborted, "exited with code 3"));
  EXPECT_THAT(failed, IsError(StatusCode::kAborted, "it went wrong"));
  Program("kill -9 $$");
  EXPECT_THAT(Run(), IsError(StatusCode::kAborted, "killed by signal 9"));
}

TEST_F(TrainerHostTest, TheKernelIsToldWhomToEndFirst) {
  Program("cat /proc/self/oom_score_adj");
  Host();
  EXPECT_THAT(Run(), IsOk());
  EXPECT_THAT(lines_, ElementsAre("1000"));
}

TEST_F(TrainerHostTest, OneRunAtATimeAndAStoppedServerEndsIt) {
  Program("echo begun; sleep 1000");
  Host();
  absl::Status first;
  std::thread running([&] { first = Run(); });
  AwaitLine();
  const absl::Status second = RunTrainerByHost(
      config_, "run-2", [] { return false; }, [](const std::string&) {},
      absl::Milliseconds(500));
  EXPECT_THAT(second, IsError(StatusCode::kResourceExhausted, "another run"));
  stop_ = true;
  running.join();
  EXPECT_THAT(first, IsError(StatusCode::kAborted, "server is stopping"));
  // The next run begins when the program is gone.
  stop_ = false;
  Program("echo done");
  EXPECT_THAT(Run(), IsOk());
}

TEST_F(TrainerHostTest, AHostThatStopsOrIsNotThere) {
  Program("echo begun; sleep 1000");
  EXPECT_THAT(Run("run-1", absl::Milliseconds(300)),
              IsError(StatusCode::kUnavailable, "no trainer listens on"));
  Host();
  absl::Status running;
  std::thread thread([&] { running = Run(); });
  AwaitLine();
  host_.reset();
  thread.join();
  EXPECT_THAT(running, IsError(StatusCode::kAborted, "container is stopping"));
}

TEST_F(TrainerHostTest, ASocketThatADeadHostLeftIsTaken) {
  Program("echo done");
  Host();
  struct stat info {};
  ASSERT_EQ(stat(config_.training.socket.c_str(), &info), 0);
  EXPECT_TRUE(S_ISSOCK(info.st_mode));
  EXPECT_EQ(info.st_mode & 0077u, 0u) << "others could ask";
  // As if it had been killed: the file stays, nobody listens.
  const std::string kept = dir_ / "kept";
  std::filesystem::create_hard_link(config_.training.socket, kept);
  host_.reset();
  std::filesystem::remove(config_.training.socket);
  std::filesystem::rename(kept, config_.training.socket);
  EXPECT_FALSE(TrainerHostListens(config_));
  Host();
  EXPECT_TRUE(TrainerHostListens(config_));
  EXPECT_THAT(Run(), IsOk());
}

TEST_F(TrainerHostTest, WhatIsNoRunOrOfAnotherVersionIsRefused) {
  Program("echo done");
  Host();
  EXPECT_THAT(Run("../../etc"),
              IsError(StatusCode::kInvalidArgument, "run_id"));
  EXPECT_THAT(Run(""), IsError(StatusCode::kInvalidArgument, "run_id"));
  const auto channel = grpc::CreateChannel("unix:" + config_.training.socket,
                                           grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  api::RunRequest request;
  request.set_run_id("run-1");
  request.set_version("0.0.9");
  const auto reader =
      api::TrainerService::NewStub(channel)->Run(&context, request);
  api::RunResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("0.0.9"));
}

TEST_F(TrainerHostTest, ASocketThatCannotBeIsRefusedInWords) {
  config_.training.socket = "";
  EXPECT_THAT(TrainerHost::Start(config_), IsError(StatusCode::kInvalidArgument,
                                                   "training.socket is empty"));
  config_.training.socket = dir_ / "no/such/folder/s";
  EXPECT_THAT(TrainerHost::Start(config_),
              IsError(StatusCode::kUnavailable, "cannot be listened on"));
}

}  // namespace
}  // namespace nearline::server
