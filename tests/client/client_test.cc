#include "client/client.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "client/records.h"
#include "client/table.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "tests/testing.h"

namespace nearline::client {
namespace {

std::string TryLater() {
  google::rpc::Status advice;
  advice.add_details()->PackFrom(google::rpc::RetryInfo());
  return advice.SerializeAsString();
}

// Fails as often as it is told, and keeps what it was asked.
class FlakyFeedback final : public api::FeedbackService::Service {
 public:
  grpc::Status Feedback(grpc::ServerContext*,
                        const api::FeedbackRequest* request,
                        api::FeedbackResponse* response) override {
    MutexLock lock(&mu_);
    requests_.push_back(*request);
    if (requests_.size() <= failures_) return failure_;
    response->set_accepted(request->events_size());
    return grpc::Status::OK;
  }
  void Fail(size_t times, grpc::StatusCode code,
            const std::string& details = TryLater()) {
    MutexLock lock(&mu_);
    requests_.clear();
    failures_ = times;
    failure_ = grpc::Status(code, "not now", details);
  }
  std::vector<api::FeedbackRequest> requests() const {
    MutexLock lock(&mu_);
    return requests_;
  }

 private:
  mutable Mutex mu_;
  std::vector<api::FeedbackRequest> requests_ ABSL_GUARDED_BY(mu_);
  size_t failures_ ABSL_GUARDED_BY(mu_) = 0;
  grpc::Status failure_ ABSL_GUARDED_BY(mu_);
};

class NoRollback final : public api::ModelService::Service {
 public:
  grpc::Status Rollback(grpc::ServerContext*, const api::RollbackRequest*,
                        api::RollbackResponse*) override {
    ++calls;
    return grpc::Status(grpc::UNAVAILABLE, "perhaps it was done");
  }
  std::atomic<int> calls{0};
};

class ClientTest : public testing::Test {
 protected:
  ClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&service_);
    builder.RegisterService(&model_);
    server_ = builder.BuildAndStart();
    client_ = std::make_unique<Client>(
        ClientOptions{.address = absl::StrCat("127.0.0.1:", port),
                      .attempts = 4,
                      .first_pause = absl::Milliseconds(1)});
  }
  static api::FeedbackRequest TwoEvents() {
    api::FeedbackRequest request;
    request.add_events()->set_user("ann");
    request.add_events()->set_event_id("mine");
    return request;
  }

  FlakyFeedback service_;
  NoRollback model_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, RetriesCarryTheSameEventIds) {
  for (const auto code : {grpc::UNAVAILABLE, grpc::RESOURCE_EXHAUSTED}) {
    service_.Fail(2, code);
    const auto response = client_->Feedback(TwoEvents());
    ASSERT_THAT(response, IsOk());
    EXPECT_EQ(response->accepted(), 2);
    const auto requests = service_.requests();
    ASSERT_EQ(requests.size(), 3u);
    for (const api::FeedbackRequest& request : requests) {
      EXPECT_EQ(request.events(0).event_id(), requests[0].events(0).event_id());
      EXPECT_EQ(request.events(1).event_id(), "mine");
    }
    EXPECT_FALSE(requests[0].events(0).event_id().empty());
  }
}

TEST_F(ClientTest, IdsThatAreMadeUpDiffer) {
  service_.Fail(0, grpc::OK);
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(client_->Feedback(TwoEvents()), IsOk());
    ids.insert(service_.requests().back().events(0).event_id());
  }
  EXPECT_EQ(ids.size(), 100u);
}

TEST_F(ClientTest, GivesUpAfterItsAttempts) {
  service_.Fail(100, grpc::UNAVAILABLE);
  const auto status = client_->Feedback(TwoEvents()).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(status.message(), "not now");
  EXPECT_EQ(service_.requests().size(), 4u);
}

TEST_F(ClientTest, DoesNotRepeatWhatWouldGoFurtherBack) {
  EXPECT_TRUE(absl::IsUnavailable(client_->Rollback("g-1").status()));
  EXPECT_EQ(model_.calls.exchange(0), 4);
  EXPECT_TRUE(absl::IsUnavailable(client_->Rollback("").status()));
  EXPECT_EQ(model_.calls, 1);
}

TEST_F(ClientTest, DoesNotRepeatWhatCannotGetBetter) {
  service_.Fail(1, grpc::INVALID_ARGUMENT);
  EXPECT_TRUE(absl::IsInvalidArgument(client_->Feedback(TwoEvents()).status()));
  EXPECT_EQ(service_.requests().size(), 1u);
  // As gRPC says it of a message that is too large: without advice.
  service_.Fail(1, grpc::RESOURCE_EXHAUSTED, "");
  EXPECT_TRUE(
      absl::IsResourceExhausted(client_->Feedback(TwoEvents()).status()));
  EXPECT_EQ(service_.requests().size(), 1u);
}

TEST(Table, LeavesNothingThatSteersATerminal) {
  Table table({"item", "title"});
  table.Add({"esc",
             "evil\x1b[31mred\nnext\xc2\x9b"
             "31m, \xc3\xa9t\xc3\xa9"});
  const std::string text = table.Render();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find("\xc2\x9b"), std::string::npos);
  EXPECT_THAT(text, testing::HasSubstr("\xc3\xa9t\xc3\xa9"));
}

TEST(Records, APositionIsNotCut) {
  const auto read = [](int64_t position) {
    api::Event event;
    return FromJson(Json{{"user", "a"}, {"item", "b"}, {"position", position}},
                    "view", &event);
  };
  EXPECT_THAT(read(7), IsOk());
  for (const int64_t position : {int64_t{-1}, (int64_t{1} << 32) + 1}) {
    EXPECT_THAT(read(position),
                IsError(absl::StatusCode::kInvalidArgument, "position"));
  }
}

}  // namespace
}  // namespace nearline::client
