// What earlier versions wrote is read; what later ones wrote is refused.
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/text.h"
#include "features/database.h"
#include "features/store_format.h"
#include "tests/server/server_fixture.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

// What a server of each format left behind, with the answers that it gave:
// data/ and answers.json. Made once for a format, and never again, by
//   server_test --gtest_also_run_disabled_tests
//       --gtest_filter=FormatTest.DISABLED_Write
std::string FixtureOf(int format) {
  return absl::StrCat(NEARLINE_FIXTURES, "/format-", format);
}

class FormatTest : public ServerTest {
 protected:
  static constexpr int kUsers = 10;

  Json Answers() {
    Json out = Json::array();
    for (int u = 0; u < kUsers; ++u) {
      const auto answer = Ask(absl::StrCat("user-", u), 5);
      EXPECT_THAT(answer, IsOk());
      Json items = Json::array();
      for (const api::ScoredItem& item : answer->items()) {
        items.push_back({{"item", item.item()}, {"score", item.score()}});
      }
      out.push_back({{"generation", answer->generation()}, {"items", items}});
    }
    return out;
  }
  void Serve(const std::string& data) {
    config_.data_dir = data;
    Start();
  }
};

TEST_F(FormatTest, DISABLED_Write) {
  for (int u = 0; u < kUsers; ++u) {
    for (int i = 0; i < 8; ++i) {
      ASSERT_THAT(Feed(Like(absl::StrCat("user-", u),
                            absl::StrFormat("i%03d", (u * 17 + i * 5) % 100))),
                  IsOk());
    }
  }
  const std::string fixture = FixtureOf(features::kStoreFormat);
  ASSERT_FALSE(FileExists(fixture)) << "it is there, and must stay as it is";
  ASSERT_THAT(MakeDirs(fixture), IsOk());
  ASSERT_THAT(WriteFileAtomic(fixture + "/answers.json", Answers().dump(1)),
              IsOk());
  server_.reset();
  std::filesystem::copy(config_.data_dir, fixture + "/data",
                        std::filesystem::copy_options::recursive);
}

TEST_F(FormatTest, WhatEveryFormatLeftGivesTheSameAnswers) {
  for (int format = 1; format <= features::kStoreFormat; ++format) {
    const std::string data = dir_ / absl::StrCat("format-", format);
    std::filesystem::copy(FixtureOf(format) + "/data", data,
                          std::filesystem::copy_options::recursive);
    Serve(data);
    const Json then =
        *ParseJson(*ReadFile(FixtureOf(format) + "/answers.json"));
    const Json now = Answers();
    ASSERT_EQ(now.size(), then.size());
    for (size_t u = 0; u < then.size(); ++u) {
      EXPECT_EQ(now[u]["generation"], then[u]["generation"]);
      ASSERT_EQ(now[u]["items"].size(), then[u]["items"].size());
      for (size_t i = 0; i < then[u]["items"].size(); ++i) {
        const Json& was = then[u]["items"][i];
        const Json& is = now[u]["items"][i];
        EXPECT_EQ(is["item"], was["item"]);
        EXPECT_NEAR(is["score"].get<double>(), was["score"].get<double>(),
                    1e-4);
      }
    }
    EXPECT_THAT(Feed(Like("user-0", "i001")), IsOk());
  }
}

TEST_F(FormatTest, AStoreOfALaterFormatIsRefusedAndLeftAlone) {
  server_.reset();
  {
    auto database =
        features::Database::Open({.path = config_.data_dir + "/store"});
    ASSERT_THAT(database, IsOk());
    rocksdb::WriteBatch batch;
    batch.Put((*database)->table(features::kMeta), "format",
              std::to_string(features::kStoreFormat + 1));
    ASSERT_THAT((*database)->Write(&batch), IsOk());
  }
  EXPECT_THAT(Server::Start(config_).status(),
              IsError(StatusCode::kFailedPrecondition, "or a newer one"));
}

TEST_F(FormatTest, AGenerationOfALaterFormatIsNotServedAndLeftAlone) {
  server_.reset();
  const std::string path =
      config_.data_dir + "/generations/g-tiny-1/manifest.json";
  Json manifest = *ParseJson(*ReadFile(path));
  manifest["format"] = manifest["format"].get<int>() + 1;
  ASSERT_THAT(WriteFileAtomic(path, manifest.dump()), IsOk());
  Start();
  EXPECT_EQ(client_->Status()->generation(), "");
  EXPECT_THAT(Ask("ann"), IsOk());  // popular items
  EXPECT_EQ(*ReadFile(path), manifest.dump());
}

}  // namespace
}  // namespace nearline::server
