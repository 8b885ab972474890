#include "model/bundle.h"

#include <fstream>
#include <limits>

#include "base/file.h"
#include "base/random.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

using absl::StatusCode;

class BundleTest : public testing::Test {
 protected:
  void SetUp() override {
    bundle_ = TinyBundle(20);
    ASSERT_THAT(store_.Write(bundle_), IsOk());
  }
  std::string File(const std::string& name) {
    return JoinPath(store_.FolderOf(bundle_.manifest.id), name);
  }
  const TempDir dir_;
  LocalGenerationStore store_{dir_.path()};
  Bundle bundle_;
};

TEST_F(BundleTest, ReadsBackWhatWasWritten) {
  const auto read = store_.Read(bundle_.manifest.id);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->items, bundle_.items);
  EXPECT_EQ(read->manifest.ToJson(), bundle_.manifest.ToJson());
  for (const auto& [name, tensor] : bundle_.tensors.all()) {
    EXPECT_EQ(read->tensors.all().at(name).values, tensor.values) << name;
  }
}

TEST_F(BundleTest, EveryFlippedByteIsFound) {
  Random random(4);
  for (const char* name : {"weights.safetensors", "items.json"}) {
    const std::string good = *ReadFile(File(name));
    for (int i = 0; i < 40; ++i) {
      std::string bad = good;
      bad[random.Below(bad.size())] ^= static_cast<char>(1 + random.Below(255));
      ASSERT_THAT(WriteFileAtomic(File(name), bad), IsOk());
      EXPECT_THAT(store_.Read(bundle_.manifest.id),
                  IsError(StatusCode::kDataLoss, name));
    }
    ASSERT_THAT(WriteFileAtomic(File(name), good), IsOk());
  }
}

TEST_F(BundleTest, TruncationAndAbsenceAreFound) {
  const std::string good = *ReadFile(File("weights.safetensors"));
  ASSERT_THAT(WriteFileAtomic(File("weights.safetensors"),
                              good.substr(0, good.size() / 2)),
              IsOk());
  EXPECT_THAT(store_.Read(bundle_.manifest.id),
              IsError(StatusCode::kDataLoss, "bytes"));
  ASSERT_THAT(RemoveAll(File("items.json")), IsOk());
  EXPECT_THAT(store_.Read(bundle_.manifest.id),
              IsError(StatusCode::kDataLoss, ""));
}

TEST_F(BundleTest, AnIdFromOutsideCannotLeaveTheFolder) {
  for (const char* id : {"", "..", "../x", "/etc"}) {
    EXPECT_THAT(store_.Read(id), IsError(StatusCode::kNotFound, ""));
  }
}

TEST_F(BundleTest, PruningKeepsTheNewestAndTheOneInService) {
  for (uint64_t seed = 2; seed <= 5; ++seed) {
    ASSERT_THAT(store_.Write(TinyBundle(5, seed)), IsOk());
  }
  for (uint64_t seed = 6; seed <= 8; ++seed) {
    Bundle refused = TinyBundle(5, seed);
    refused.manifest.accepted = false;
    ASSERT_THAT(store_.Write(refused), IsOk());
  }
  ASSERT_THAT(MakeDirs(store_.FolderOf("g-cut-short.tmp")), IsOk());
  ASSERT_THAT(store_.SetCurrent("g-tiny-1"), IsOk());
  ASSERT_THAT(store_.Prune(2), IsOk());
  EXPECT_FALSE(FileExists(store_.FolderOf("g-cut-short.tmp")));
  std::vector<std::string> ids;
  const std::vector<Manifest> listed = *store_.List();
  for (const Manifest& m : listed) ids.push_back(m.id);
  EXPECT_THAT(ids, testing::ElementsAre("g-tiny-8", "g-tiny-7", "g-tiny-5",
                                        "g-tiny-4", "g-tiny-1"));
}

std::string Safetensors(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), 8);
  return file + header + std::string(data_bytes, '\0');
}

TEST(Tensors, RefusesWhatDoesNotAddUp) {
  const auto entry = [](const char* type, const char* shape,
                        const char* offsets) {
    return absl::StrCat(R"({"dtype":")", type, R"(","shape":)", shape,
                        R"(,"data_offsets":)", offsets, "}");
  };
  const auto one = [&](const std::string& e) { return R"({"a":)" + e + "}"; };
  EXPECT_THAT(Tensors::Parse(Safetensors(one(entry("F32", "[2]", "[0,8]")), 8)),
              IsOk());
  for (const std::string& bad :
       {one(entry("F16", "[2]", "[0,8]")), one(entry("F32", "[3]", "[0,8]")),
        one(entry("F32", "[2]", "[0,9]")), one(entry("F32", "[2]", "[4,12]")),
        one(entry("F32", "[-2]", "[0,8]")),
        one(entry("F32", "[4611686018427387904,4]", "[0,8]")),
        one(entry("F32", "[2]", "[8,0]")), std::string("[]"), std::string("{"),
        R"({"a":)" + entry("F32", "[2]", "[0,8]") + R"(,"b":)" +
            entry("F32", "[1]", "[4,8]") + "}"}) {
    EXPECT_THAT(Tensors::Parse(Safetensors(bad, 8)),
                IsError(StatusCode::kDataLoss, ""))
        << bad;
  }
  EXPECT_THAT(Tensors::Parse("abc"), IsError(StatusCode::kDataLoss, "8 bytes"));
  std::string huge(8, '\xff');
  EXPECT_THAT(Tensors::Parse(huge), IsError(StatusCode::kDataLoss, "header"));
}

TEST(Tensors, RefusesValuesThatAreNotFinite) {
  const TempDir dir;
  Tensors tensors;
  tensors.Add("a", {1}, {std::numeric_limits<float>::infinity()});
  ASSERT_THAT(tensors.Write(dir / "t"), IsOk());
  EXPECT_THAT(Tensors::Read(dir / "t"),
              IsError(StatusCode::kDataLoss, "finite"));
}

}  // namespace
}  // namespace nearline::model
