#include "server/access.h"

#include <thread>
#include <vector>

#include "base/file.h"
#include "server/methods.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

const absl::Time kNow = absl::FromUnixSeconds(1'000'000'000);

class AccessTest : public testing::Test {
 protected:
  void Write(const std::string& yaml) {
    ASSERT_THAT(WriteFileAtomic(path_, yaml), IsOk());
  }
  void Open(const std::string& yaml) {
    Write(yaml);
    auto access = Access::Open(path_, &clock_);
    ASSERT_THAT(access, IsOk());
    access_ = *std::move(access);
  }
  // The name of who is let in.
  absl::StatusOr<std::string> Enter(
      const std::string& token, const Method& method = methods::kRecommend,
      const std::vector<std::string>& names = {}) {
    Access::EntryPtr entry;
    RETURN_IF_ERROR(access_->Admit(token, names, method, &entry, &refusal_));
    return entry->caller().name;
  }
  static std::string Hash(const std::string& token) { return TokenHash(token); }

  TempDir dir_;
  const std::string path_ = dir_ / "callers.yaml";
  ManualClock clock_{kNow};
  std::unique_ptr<Access> access_;
  Refusal refusal_{};
};

TEST_F(AccessTest, ATokenNamesItsCallerAndNothingElseDoes) {
  Open(absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash("one"), ", ",
                    Hash("two"), "], roles: [recommend]}\n"));
  EXPECT_THAT(*Enter("one"), "shop");
  EXPECT_THAT(*Enter("two"), "shop");  // while tokens are exchanged
  EXPECT_THAT(Enter("three"), IsError(StatusCode::kUnauthenticated, "token"));
  EXPECT_EQ(refusal_, Refusal::kUnauthenticated);
  EXPECT_THAT(Enter(Hash("one")),
              IsError(StatusCode::kUnauthenticated, "token"));
  EXPECT_THAT(Enter(""), IsError(StatusCode::kUnauthenticated, "Bearer"));
}

TEST_F(AccessTest, ACallerDoesWhatItsRolesAllow) {
  Open(absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash("s"),
                    "], roles: [recommend, feedback]}\n  - {name: ops, tokens: "
                    "[",
                    Hash("o"), "], roles: [manage]}\n"));
  EXPECT_THAT(Enter("s", methods::kFeedback), IsOk());
  EXPECT_THAT(Enter("s", methods::kRollback),
              IsError(StatusCode::kPermissionDenied,
                      "Rollback needs the role manage; shop has recommend, "
                      "feedback"));
  EXPECT_EQ(refusal_, Refusal::kPermission);
  EXPECT_THAT(Enter("o", methods::kRollback), IsOk());
  EXPECT_THAT(Enter("o", methods::kRecommend),
              IsError(StatusCode::kPermissionDenied, "recommend"));
  EXPECT_THAT(Enter("o", methods::kPing), IsOk());
  EXPECT_THAT(Enter("s", methods::kPing), IsOk());
}

TEST_F(AccessTest, TheFirstKnownNameOfACertificateDecidesWithoutAToken) {
  Open(absl::StrCat(
      "callers:\n  - {name: shop, certificates: [spiffe://a/shop, shop.local], "
      "roles: [recommend]}\n  - {name: ops, tokens: [",
      Hash("o"), "], roles: [recommend]}\n"));
  const Method& m = methods::kRecommend;
  EXPECT_THAT(*Enter("", m, {"other", "shop.local"}), "shop");
  EXPECT_THAT(*Enter("o", m, {"shop.local"}), "ops");
  EXPECT_THAT(Enter("wrong", m, {"shop.local"}),
              IsError(StatusCode::kUnauthenticated, "token"));
  EXPECT_THAT(Enter("", m, {"shop.local.evil"}),
              IsError(StatusCode::kUnauthenticated, "certificate"));
}

TEST_F(AccessTest, WhoShowsNothingIsAnonymousWhereThatIsAllowed) {
  Open("callers:\n  - {name: anyone, anonymous: true, roles: [recommend]}\n");
  EXPECT_THAT(*Enter(""), "anyone");
  EXPECT_THAT(*Enter("", methods::kRecommend, {"unknown"}), "anyone");
  EXPECT_THAT(Enter("bad"), IsError(StatusCode::kUnauthenticated, "token"));
}

TEST_F(AccessTest, ARateRefillsAndSaysWhenToComeAgain) {
  Open(absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash("s"),
                    "], roles: [recommend], calls_per_second: 2, burst: 3}\n"));
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Enter("s"), IsOk());
  const auto refused = Enter("s");
  EXPECT_THAT(refused, IsError(StatusCode::kResourceExhausted,
                               "shop may make 2 calls a second"));
  EXPECT_EQ(refusal_, Refusal::kRate);
  EXPECT_EQ(std::string(*refused.status().GetPayload(kRetryPayload)), "500ms");
  clock_.Advance(absl::Milliseconds(500));
  EXPECT_THAT(Enter("s"), IsOk());
  EXPECT_FALSE(Enter("s").ok());
  clock_.Advance(absl::Hours(1));  // no more than the burst is saved up
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Enter("s"), IsOk());
  EXPECT_FALSE(Enter("s").ok());
}

TEST_F(AccessTest, AQuotaEndsAtMidnightAndIsNotWorthARetryBefore) {
  Open(absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash("s"),
                    "], roles: [recommend], calls_per_day: 2}\n"));
  for (int i = 0; i < 2; ++i) EXPECT_THAT(Enter("s"), IsOk());
  const auto refused = Enter("s");
  EXPECT_THAT(refused, IsError(StatusCode::kResourceExhausted, "midnight"));
  EXPECT_EQ(refusal_, Refusal::kQuota);
  EXPECT_EQ(std::string(*refused.status().GetPayload(kRetryPayload)), "inf");
  clock_.Advance(absl::Hours(24));
  EXPECT_THAT(Enter("s"), IsOk());
}

TEST_F(AccessTest, WhatIsDeniedIsNotFree) {
  Open(absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash("s"),
                    "], roles: [recommend], calls_per_day: 2}\n"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(Enter("s", methods::kRollback),
                IsError(StatusCode::kPermissionDenied, "manage"));
  }
  EXPECT_THAT(Enter("s", methods::kRollback),
              IsError(StatusCode::kResourceExhausted, "calls of today"));
}

TEST_F(AccessTest, AReloadKeepsWhatWasUsedAndABadFileChangesNothing) {
  const auto file = [](const std::string& token) {
    return absl::StrCat("callers:\n  - {name: shop, tokens: [", Hash(token),
                        "], roles: [recommend], calls_per_day: 3}\n");
  };
  Open(file("old"));
  EXPECT_THAT(Enter("old"), IsOk());
  EXPECT_THAT(Enter("old"), IsOk());
  EXPECT_FALSE(*access_->Reload());
  Write(file("new"));
  EXPECT_TRUE(*access_->Reload());
  EXPECT_THAT(Enter("old"), IsError(StatusCode::kUnauthenticated, "token"));
  EXPECT_THAT(Enter("new"), IsOk());
  EXPECT_THAT(Enter("new"), IsError(StatusCode::kResourceExhausted, "today"));

  Write("callers: 7");
  EXPECT_THAT(access_->Reload().status(),
              IsError(StatusCode::kInvalidArgument, "callers.yaml:1: callers"));
  EXPECT_THAT(Enter("new"), IsError(StatusCode::kResourceExhausted, "today"));
  ASSERT_THAT(RemoveAll(path_), IsOk());
  EXPECT_FALSE(access_->Reload().ok());
}

TEST_F(AccessTest, ErrorsNameTheLineAndNeverRepeatAToken) {
  const auto error = [&](const std::string& yaml) {
    return std::string(ParseCallers(yaml, "f").status().message());
  };
  const std::string head = "callers:\n  - name: shop\n    roles: [recommend]\n";
  EXPECT_THAT(error("callers:\n  - name: shop\n    tokens: [hunter2]\n"),
              testing::AllOf(HasSubstr("f:3: callers.tokens: an entry of 7"),
                             testing::Not(HasSubstr("hunter2"))));
  EXPECT_THAT(error(head + "    tokns: []\n"),
              HasSubstr("f:4: callers.tokns: no such key"));
  EXPECT_THAT(error(head), HasSubstr("\"shop\" can never be recognized"));
  EXPECT_THAT(error(head + "    anonymous: perhaps\n"),
              HasSubstr("f:4: callers.anonymous: \"perhaps\" is not allowed; "
                        "expected true or false"));
  EXPECT_THAT(error("callers:\n  - {name: a, roles: [rule]}\n"),
              HasSubstr("\"rule\" is not allowed; expected one of recommend, "
                        "feedback, manage"));
  EXPECT_THAT(error("callers:\n  - {name: \"a b\", roles: [manage]}\n"),
              HasSubstr("\"a b\" is not allowed"));
  EXPECT_THAT(error("callers:\n  - {name: a, anonymous: true}\n"),
              HasSubstr("\"a\" has none; expected some of"));
  EXPECT_THAT(error("callers:\n  - {name: a, anonymous: true, roles: "
                    "[manage]}\n  - {name: b, anonymous: true, roles: "
                    "[manage]}\n"),
              HasSubstr("f:3: callers.anonymous: stands twice"));
  EXPECT_THAT(error(head + "    anonymous: true\n    burst: 0.5\n"),
              HasSubstr("callers.burst: 0.5 is not allowed"));
  EXPECT_THAT(error(head + "    anonymous: true\n    burst: 5\n"),
              HasSubstr("means nothing without calls_per_second"));
  EXPECT_THAT(error(head + "    anonymous: true\n    calls_per_day: 0.5\n"),
              HasSubstr("expected a whole number"));
  EXPECT_THAT(error(head + "    certificates: [x, x]\n"),
              HasSubstr("stands twice"));
  EXPECT_THAT(error("callers: [\n"), HasSubstr("f:2: not YAML"));
  EXPECT_THAT(error("users: []\n"), HasSubstr("expected the key callers"));
  EXPECT_THAT(error(""), HasSubstr("expected the key callers"));
}

TEST_F(AccessTest, CallersAreAdmittedWhileTheFileIsTakenAnew) {
  const auto file = [](int version) {
    return absl::StrCat(
        "callers:\n  - {name: shop, tokens: [", Hash("s"),
        "], roles: [recommend], calls_per_day: ", 1'000'000 + version, "}\n");
  };
  Open(file(0));
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      Refusal refusal;
      Access::EntryPtr entry;
      for (int i = 0; i < 2000; ++i) {
        EXPECT_THAT(
            access_->Admit("s", {}, methods::kRecommend, &entry, &refusal),
            IsOk());
      }
    });
  }
  for (int i = 1; i < 20; ++i) {
    Write(file(i));
    EXPECT_TRUE(*access_->Reload());
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace nearline::server
