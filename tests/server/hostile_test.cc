// Broken and hostile requests, and crowds of them.
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "tests/server/server_fixture.h"
#include "tests/server/slow_sender.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

// Each is allowed; their sum is not finite in float32.
TEST_F(ServerTest, ValuesThatAddUpToInfinityLeaveAnswersFinite) {
  api::FeedbackRequest request;
  for (int i = 0; i < 10'000; ++i) {
    api::Event event = Like("ann", absl::StrFormat("i%03d", i % 3));
    event.set_type("rating");
    event.set_value(1e9);
    *request.add_events() = event;
  }
  for (int i = 0; i < 3; ++i) ASSERT_THAT(client_->Feedback(request), IsOk());
  for (const char* user : {"ann", "new"}) {
    const auto answer = Ask(user, 1000);
    ASSERT_THAT(answer, IsOk());
    EXPECT_GE(answer->items_size(), 97);
    for (const api::ScoredItem& item : answer->items()) {
      EXPECT_TRUE(std::isfinite(item.score())) << item.item();
    }
  }
}

TEST_F(ServerTest, BrokenBytesGetAClearAnswer) {
  api::FeedbackRequest request;
  *request.add_events() = Like("ann", "i001");
  *request.add_events() = Like("broken", "i001");
  std::string bytes = request.SerializeAsString();
  bytes[bytes.find("broken")] = '\xff';
  grpc::Status status = SendRaw("FeedbackService/Feedback", bytes);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              testing::HasSubstr("events[1].user = bytes that are no text"));
  google::rpc::Status details;
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "events[1].user");

  status = SendRaw("FeedbackService/Feedback",
                   request.SerializeAsString().substr(0, 9));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("cut"));
  status = SendRaw("RecommendationService/Recommend", std::string(50, '\x0b'));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServerTest, EndlessNestingGetsAnAnswer) {
  const auto nested = [](int levels) {
    std::string bytes;
    for (int i = 0; i < levels; ++i) {  // Filter.not
      std::string outer(1, '\x1a');
      for (size_t n = bytes.size(); true; n >>= 7) {
        outer.push_back(static_cast<char>((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        if (n <= 0x7f) break;
      }
      bytes = outer + bytes;
    }
    api::RecommendRequest request;
    request.set_user("ann");
    std::string out = request.SerializeAsString();
    const auto number = static_cast<char>(
        api::RecommendRequest::descriptor()->FindFieldByName("filter")->number()
            << 3 |
        2);
    out.push_back(number);
    for (size_t n = bytes.size(); true; n >>= 7) {
      out.push_back(static_cast<char>((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
      if (n <= 0x7f) break;
    }
    return out + bytes;
  };
  for (const int levels : {11, 98, 101, 30'000}) {
    const grpc::Status status =
        SendRaw("RecommendationService/Recommend", nested(levels));
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << levels;
    EXPECT_THAT(status.error_message(),
                testing::HasSubstr(levels < 100 ? "too deep" : "nested deeper"))
        << levels;
  }
}

TEST_F(ServerTest, LongNamesDoNotBreakTheAnswer) {
  api::UpsertItemsRequest request;
  api::Item* const item = request.add_items();
  item->set_id("i001");
  (*item->mutable_attributes())[std::string(50'000, 'n')].set_number(1);
  EXPECT_THAT(client_->UpsertItems(request).status(),
              IsError(StatusCode::kInvalidArgument, "1 to 64 bytes"));
}

TEST_F(ServerTest, AMessageBeyondTheLimitIsRefused) {
  config_.limits.max_message_mb = 1;
  Start();
  EXPECT_EQ(SendRaw("FeedbackService/Feedback", std::string(1 << 20, 'x'))
                .error_code(),
            grpc::INVALID_ARGUMENT);  // read, and found to be no message
  const grpc::Status status =
      SendRaw("FeedbackService/Feedback", std::string((1 << 20) + 1, 'x'));
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("larger than max"));
}

// Whoever reaches the port may begin messages, and is let in by the whole of
// them.
TEST_F(ServerTest, BeginningsOfLargeMessagesTakeNoMoreThanTheirShare) {
  constexpr int64_t kMebibyte = 1 << 20;
  config_.limits.messages_mb = 64;
  Start();
  std::vector<std::unique_ptr<SlowSender>> crowd;
  for (int i = 0; i < 10; ++i) {
    crowd.push_back(std::make_unique<SlowSender>(
        server_->port(), 4, "/nearline.v1.FeedbackService/Feedback",
        15 * kMebibyte));
  }
  // They would send 560 MiB.
  absl::Time moved = absl::Now();
  while (absl::Now() - moved < absl::Seconds(1)) {
    for (const auto& sender : crowd) {
      if (sender->Go(14 * kMebibyte)) moved = absl::Now();
    }
  }
  int64_t held = 0;
  int ended = 0;
  for (const auto& sender : crowd) {
    held += sender->held();
    ended += sender->ended();
  }
  EXPECT_GT(ended, 20);
  EXPECT_GT(held, 10 * kMebibyte);  // it is a test of something
  EXPECT_LT(held, 100 * kMebibyte);
  // Others are answered all the while.
  EXPECT_THAT(Feed(Like("ann", "i003")), IsOk());
  EXPECT_THAT(Ask("ann"), IsOk());
}

// Many calls at once, which end as they may.
class CrowdTest : public ServerTest {
 protected:
  static constexpr size_t kCalls = 300;
  struct Flight {
    grpc::ClientContext context;
    api::RecommendRequest request;
    api::RecommendResponse response;
    grpc::Status status;
  };

  // How many ended with each code.
  std::map<grpc::StatusCode, int> Send(
      const std::function<void(size_t i, Flight* flight)>& prepare,
      const std::function<void(size_t i, Flight* flight)>& sent) {
    const auto stub = api::RecommendationService::NewStub(channel_);
    std::vector<Flight> flights(kCalls);
    Mutex mu;
    CondVar cv;
    size_t ended = 0;
    for (size_t i = 0; i < kCalls; ++i) {
      Flight* const flight = &flights[i];
      flight->request.set_user("ann");
      flight->request.set_count(10);
      prepare(i, flight);
      stub->async()->Recommend(&flight->context, &flight->request,
                               &flight->response, [&, flight](grpc::Status s) {
                                 MutexLock lock(&mu);
                                 flight->status = std::move(s);
                                 ++ended;
                                 cv.Signal();
                               });
      sent(i, flight);
    }
    {
      MutexLock lock(&mu);
      while (ended < kCalls) cv.Wait(&mu);
    }
    std::map<grpc::StatusCode, int> codes;
    for (const Flight& flight : flights) {
      ++codes[flight.status.error_code()];
      EXPECT_EQ(flight.response.items_size(), flight.status.ok() ? 10 : 0);
      if (flight.status.error_code() == grpc::RESOURCE_EXHAUSTED) {
        EXPECT_THAT(flight.status.error_message(),
                    testing::HasSubstr("retry after a pause"));
      }
    }
    return codes;
  }
};

TEST_F(CrowdTest, AFullQueueRefusesAndTheRestIsAnswered) {
  config_.serving.max_queued = 1;
  Start();
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  int refused = 0;
  for (int round = 0; round < 50 && refused == 0; ++round) {
    auto codes = Send([](size_t, Flight*) {}, [](size_t, Flight*) {});
    refused = codes[grpc::RESOURCE_EXHAUSTED];
    EXPECT_GT(codes[grpc::OK], 0);
    EXPECT_EQ(codes[grpc::OK] + refused, static_cast<int>(kCalls));
  }
  EXPECT_GT(refused, 0);
}

TEST_F(CrowdTest, CancelledAndLateCallsHarmNobody) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  auto codes = Send(
      [](size_t i, Flight* flight) {
        if (i % 3 != 1) return;
        flight->context.set_deadline(std::chrono::system_clock::now() +
                                     std::chrono::microseconds(200));
      },
      [](size_t i, Flight* flight) {
        if (i % 3 == 2) flight->context.TryCancel();
      });
  EXPECT_GE(codes[grpc::OK], static_cast<int>(kCalls / 3));
  // Or refused, what would be late.
  EXPECT_EQ(codes[grpc::OK] + codes[grpc::CANCELLED] +
                codes[grpc::DEADLINE_EXCEEDED] +
                codes[grpc::RESOURCE_EXHAUSTED],
            static_cast<int>(kCalls));
  EXPECT_THAT(Ask("ann"), IsOk());
}

}  // namespace
}  // namespace nearline::server
