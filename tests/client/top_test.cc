#include "client/top.h"

#include "absl/strings/str_split.h"
#include "tests/testing.h"

namespace nearline::client {
namespace {

using testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(1000);

api::StatusResponse Status(int64_t up, int64_t calls, int64_t slow) {
  api::StatusResponse status;
  status.set_version("1.2.3");
  status.mutable_uptime()->set_seconds(up);
  status.mutable_processor_time()->set_seconds(up / 2);
  status.set_generation("g-1");
  status.set_queued_requests(7);
  for (const double bound : {0.001, 0.01, 1.0}) status.add_time_bounds(bound);
  api::MethodStatus* const method = status.add_methods();
  method->set_method("Recommend");
  method->set_calls(calls);
  method->set_failed(slow);
  for (const int64_t n : {calls - slow, int64_t{0}, int64_t{0}, slow}) {
    method->add_calls_by_time(n);
  }
  return status;
}

TEST(Top, ShowsWhatHappenedBetweenTwoLooks) {
  Top top("here:1");
  EXPECT_EQ(top.Render(80), "");
  top.Add(Status(100, 1'000'000, 0), kStart);
  EXPECT_THAT(top.Render(80), HasSubstr("nearline 1.2.3 on here:1, up"));
  EXPECT_THAT(top.Render(80), testing::Not(HasSubstr("calls/s")));
  top.Add(Status(102, 1'000'400, 40), kStart + absl::Seconds(2));
  const std::string text = top.Render(80);
  EXPECT_THAT(text, HasSubstr("processors busy 0.50"));
  EXPECT_THAT(text, HasSubstr("waiting: 7 requests"));
  EXPECT_THAT(text, HasSubstr("model    g-1"));
  // 400 calls in two seconds, a tenth of them slower than the last bound.
  EXPECT_THAT(text, testing::ContainsRegex(
                        "Recommend +200 +0.56 ms +over 1 s +20 +1,000,400"));
}

TEST(Top, BeginsAnewWithAServerThatDoes) {
  Top top("here:1");
  top.Add(Status(100, 5000, 0), kStart);
  top.Add(Status(1, 3, 0), kStart + absl::Seconds(1));
  EXPECT_THAT(top.Render(80), testing::Not(HasSubstr("calls/s")));
}

TEST(Top, CutsLinesByCharacters) {
  Top top("here:1");
  top.Add(Status(100, 0, 0), kStart);
  for (int i = 1; i < 100; ++i) {
    top.Add(Status(100 + i, i * i, 0), kStart + absl::Seconds(i));
  }
  for (const auto line : absl::StrSplit(top.Render(30), '\n')) {
    const auto characters = std::count_if(
        line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; });
    EXPECT_LE(characters, 30) << line;
  }
}

TEST(Top, TellsTimesFromCounts) {
  const std::vector<double> bounds = {0.001, 0.01};
  EXPECT_EQ(TimeWithin(0.5, {0, 0, 0}, bounds), "-");
  EXPECT_EQ(TimeWithin(0.5, {10, 0, 0}, bounds), "0.5 ms");
  EXPECT_EQ(TimeWithin(0.5, {0, 10, 0}, bounds), "5.5 ms");
  EXPECT_EQ(TimeWithin(1.0, {5, 5, 0}, bounds), "10 ms");
  EXPECT_EQ(TimeWithin(0.99, {0, 0, 4}, bounds), "over 0.01 s");
}

TEST(Top, DrawsBars) {
  EXPECT_EQ(Bars({}), "");
  EXPECT_EQ(Bars({0, 1, 4, 8}), " ▁▄█");
  EXPECT_EQ(Bars({0, 0}), "  ");
}

}  // namespace
}  // namespace nearline::client
