#include "server/tokens.h"

#include "base/random.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

TEST(ConsistencyToken, NamesLogAndSequence) {
  const std::string token = ConsistencyToken("abc", 7);
  EXPECT_EQ(*ReadConsistencyToken(token, "abc", 7), 7u);
  EXPECT_THAT(ReadConsistencyToken(token, "abd", 7),
              IsError(StatusCode::kFailedPrecondition, "another log"));
  EXPECT_THAT(ReadConsistencyToken(token, "abc", 6),
              IsError(StatusCode::kFailedPrecondition, "future"));
  for (const char* bad : {"", "abc", "abc-", "abc-x", "abc--1"}) {
    EXPECT_THAT(ReadConsistencyToken(bad, "abc", 7),
                IsError(StatusCode::kInvalidArgument, "after"));
  }
}

class PageTokenTest : public testing::Test {
 protected:
  const PageToken token_{.request_hash = 5,
                         .generation = "g",
                         .sequence = 9,
                         .issued_micros = 1'000'000,
                         .delivered = {1, 5, 900}};
  const absl::Time now_ = absl::FromUnixSeconds(2);
  absl::StatusOr<PageToken> Read(const std::string& text, uint64_t hash = 5) {
    return ReadPageToken(text, "key", hash, now_, absl::Seconds(10));
  }
};

TEST_F(PageTokenTest, ReadsBack) {
  const auto read = Read(WritePageToken(token_, "key"));
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->delivered, token_.delivered);
  EXPECT_EQ(read->generation, "g");
  EXPECT_EQ(read->sequence, 9u);
}

TEST_F(PageTokenTest, EveryChangedByteIsAForgery) {
  const std::string good = WritePageToken(token_, "key");
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = bad[i] == 'A' ? 'B' : 'A';
    EXPECT_THAT(Read(bad), IsError(StatusCode::kInvalidArgument, "page_token"));
  }
  for (const std::string& bad :
       {std::string("x"), std::string(100'000, 'A'), std::string("\xff\xfe")}) {
    EXPECT_THAT(Read(bad), IsError(StatusCode::kInvalidArgument, "page_token"));
  }
  EXPECT_THAT(Read(WritePageToken(token_, "other key")),
              IsError(StatusCode::kInvalidArgument, "page_token"));
}

TEST_F(PageTokenTest, IsBoundToItsRequestItsCallAndItsTime) {
  const std::string text = WritePageToken(token_, "key");
  EXPECT_THAT(Read(text, 6),
              IsError(StatusCode::kInvalidArgument, "another request"));
  EXPECT_THAT(
      ReadPageToken(text, "key", 5, now_ + absl::Hours(1), absl::Seconds(10)),
      IsError(StatusCode::kAborted, "expired"));
  EXPECT_THAT(Read(WriteListToken("items", "x", "key")),
              IsError(StatusCode::kInvalidArgument, "another call"));
  EXPECT_THAT(
      ReadListToken(WriteListToken("items", "x", "key"), "users", "key"),
      IsError(StatusCode::kInvalidArgument, "another call"));
  EXPECT_EQ(*ReadListToken(WriteListToken("items", "x", "key"), "items", "key"),
            "x");
}

}  // namespace
}  // namespace nearline::server
