#include <cstring>
#include <fstream>

#include "base/delimited.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/huge_pages.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/text.h"
#include "base/varint.h"
#include "base/workers.h"
#include "tests/testing.h"

namespace nearline {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Utf8, AcceptsWhatTheStandardAllows) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("plain"));
  EXPECT_TRUE(IsUtf8("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x8e\xac"));
  EXPECT_TRUE(IsUtf8("\xf4\x8f\xbf\xbf"));
}

TEST(Utf8, RefusesBrokenOverlongAndSurrogateForms) {
  for (const char* bad : {"\xff", "\xc3", "\xc0\xaf", "\xe0\x80\xaf",
                          "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80"}) {
    EXPECT_FALSE(IsUtf8(bad)) << bad;
  }
}

TEST(Quoted, EscapesAndCuts) {
  EXPECT_EQ(Quoted("a\nb"), "\"a\\nb\"");
  EXPECT_THAT(Quoted(std::string(1000, 'x')), HasSubstr("\"..."));
  EXPECT_LT(Quoted(std::string(1000, 'x')).size(), 80u);
}

TEST(CopyFolder, LeavesWhatIsBeingWritten) {
  const TempDir dir;
  ASSERT_THAT(MakeDirs(dir / "from"), IsOk());
  ASSERT_THAT(WriteFileAtomic(dir / "from/whole", "1"), IsOk());
  ASSERT_THAT(WriteFileAtomic(dir / "from/half.tmp.7", "2"), IsOk());
  ASSERT_THAT(CopyFolder(dir / "from", dir / "to"), IsOk());
  const auto names = ListDir(dir / "to");
  ASSERT_THAT(names, IsOk());
  EXPECT_THAT(*names, ElementsAre("whole"));
}

TEST(HugePages, KeepWhatIsThere) {
  // Shorter than a large page, and longer than some, at any address.
  for (const size_t size : {size_t{100}, size_t{5} << 20, size_t{9} << 20}) {
    std::vector<uint32_t> values(size / sizeof(uint32_t));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<uint32_t>(i * i);
    }
    {
      const HugePages pages(values.data(), values.size() * sizeof(uint32_t));
      const HugePages of_the_same(values.data() + 1,
                                  (values.size() - 1) * sizeof(uint32_t));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], static_cast<uint32_t>(i * i));
    }
    const HugeBuffer buffer = AllocateHuge(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.get()) % 64, 0u);
    std::memset(buffer.get(), 1, size);
  }
  const HugePages of_nothing(nullptr, 0);
}

TEST(Latin1, BecomesUtf8) { EXPECT_EQ(Latin1ToUtf8("\xe9"), "\xc3\xa9"); }

TEST(Hash, MatchesTheStandard) {
  EXPECT_EQ(HexDigest(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Hash, MacDependsOnKeyAndData) {
  EXPECT_NE(ShortMac("k", "d"), ShortMac("l", "d"));
  EXPECT_NE(ShortMac("k", "d"), ShortMac("k", "e"));
  EXPECT_TRUE(EqualInConstantTime(ShortMac("k", "d"), ShortMac("k", "d")));
}

TEST(Varint, ReadsBackWhatWasWritten) {
  std::string bytes;
  const uint64_t values[] = {0, 1, 127, 128, 1u << 20, ~uint64_t{0}};
  for (const uint64_t v : values) PutVarint(&bytes, v);
  PutString(&bytes, "text");
  ByteReader in(bytes);
  for (const uint64_t v : values) EXPECT_EQ(in.Varint(), v);
  EXPECT_EQ(in.String(), "text");
  EXPECT_TRUE(in.ok() && in.done());
}

TEST(Varint, TruncationIsAnError) {
  std::string bytes;
  PutString(&bytes, "text");
  bytes.pop_back();
  ByteReader in(bytes);
  in.String();
  EXPECT_FALSE(in.ok());
}

TEST(Varint, BigEndianKeepsOrder) {
  std::string a, b;
  PutBigEndian<uint32_t>(&a, 255);
  PutBigEndian<uint32_t>(&b, 256);
  EXPECT_LT(a, b);
  EXPECT_EQ(GetBigEndian<uint32_t>(b), 256u);
}

TEST(File, AtomicWriteReplacesTheWholeFile) {
  const TempDir dir;
  ASSERT_THAT(WriteFileAtomic(dir / "f", "long old content"), IsOk());
  ASSERT_THAT(WriteFileAtomic(dir / "f", "new"), IsOk());
  EXPECT_EQ(*ReadFile(dir / "f"), "new");
  EXPECT_THAT(*ListDir(dir.path()), ElementsAre("f"));
}

TEST(File, ALockHasOneHolder) {
  const TempDir dir;
  const auto first = FileLock::Acquire(dir / "LOCK");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(
      FileLock::Acquire(dir / "LOCK"),
      IsError(absl::StatusCode::kFailedPrecondition, "another process"));
}

TEST(Delimited, ReadsEverySeparator) {
  EXPECT_THAT(*SplitFields("1::2::3", "::"), ElementsAre("1", "2", "3"));
  EXPECT_THAT(*SplitFields("a|b", "|"), ElementsAre("a", "b"));
  EXPECT_THAT(*SplitFields(R"(1, "Heat, ""the"" film" ,1995,)", ","),
              ElementsAre("1", "Heat, \"the\" film", "1995", ""));
  EXPECT_THAT(SplitFields(R"(1,"abc,4)", ","),
              IsError(absl::StatusCode::kInvalidArgument, "not closed"));
  EXPECT_THAT(SplitFields(R"("b"x,2)", ","),
              IsError(absl::StatusCode::kInvalidArgument, "closing quote"));
}

TEST(Delimited, TellsWhatIsNoTextAndGoesOnBehindABadLine) {
  const TempDir dir;
  const auto open = [&](const std::string& bytes) {
    std::ofstream(dir / "f") << bytes;
    return DelimitedReader::Open(dir / "f");
  };
  EXPECT_THAT(open("\x1f\x8b\x08"),
              IsError(absl::StatusCode::kInvalidArgument, "gzip"));
  EXPECT_THAT(DelimitedReader::Open(dir.path()),
              IsError(absl::StatusCode::kInvalidArgument, "regular file"));
  auto reader = open("\xef\xbb\xbfuser,item\r\n1,\"2\n" +
                     std::string((16 << 20) + 1, 'x') + "\n3,4\r5\n6,7");
  ASSERT_THAT(reader, IsOk());
  std::vector<std::string> fields;
  ASSERT_TRUE(reader->Next(&fields));
  EXPECT_THAT(fields, ElementsAre("user", "item"));
  for (const char* why : {"f:2: a quote", "f:3: longer", "f:4: a carriage"}) {
    EXPECT_FALSE(reader->Next(&fields));
    EXPECT_THAT(reader->status(),
                IsError(absl::StatusCode::kInvalidArgument, why));
  }
  ASSERT_TRUE(reader->Next(&fields));
  EXPECT_THAT(fields, ElementsAre("6", "7"));
  EXPECT_FALSE(reader->Next(&fields));
  EXPECT_THAT(reader->status(), IsOk());
}

TEST(Delimited, GuessesWhatDividesTheFirstLinesAlike) {
  const TempDir dir;
  const auto guess = [&](const char* name, const char* text) {
    std::ofstream(dir / name) << text;
    return DelimitedReader::Open(dir / name)->separator();
  };
  EXPECT_EQ(guess("a", "1,2\n3,4\n"), ",");
  EXPECT_EQ(guess("a", "1;2,5\n3;4,5\n"), ";");
  EXPECT_EQ(guess("a", "1::2\n3::4\n"), "::");
  EXPECT_EQ(guess("a", "1\t2|x\n3\t4\n"), "\t");
  // A comma in a name on each line, but not in as many fields.
  EXPECT_EQ(guess("a", "1|Heat, The\n2|Ronin, or, not\n"), "|");
  EXPECT_EQ(guess("a", "\"1\",\"Heat; 2\",\"3\"\n\"2\",\"x\",\"4\"\n"), ",");
  EXPECT_EQ(guess("a.csv", "u,a|i0,2\nv,b|i1,3\n"), ",");
  EXPECT_EQ(guess("a.csv", "u::x,i0\nv::y,i1\n"), ",");
  EXPECT_EQ(guess("a.csv", "u;i0\nv;i1\n"), ";");
  EXPECT_EQ(guess("a.csv", "u;Heat, The\nv;Ronin, The\n"), ";");
  EXPECT_EQ(guess("a.csv", "u;i1;4,5;1\nv;i2;3,5;2\n"), ";");
  EXPECT_EQ(guess("a.csv", "u,\"a;b\"\nv,\"c;d\"\n"), ",");
  EXPECT_EQ(guess("a.csv", "u\tHeat, The\nv\tRonin, The\n"), "\t");
  EXPECT_EQ(guess("a.csv", "u\ti0\nv\ti1\n"), "\t");
  EXPECT_EQ(guess("a", "nothing\n"), "\t");
}

TEST(Delimited, NamesFileAndLine) {
  const TempDir dir;
  std::ofstream(dir / "f.tsv") << "1\t2\r\n\n3\t4\n";
  auto reader = DelimitedReader::Open(dir / "f.tsv");
  ASSERT_THAT(reader, IsOk());
  std::vector<std::string> fields;
  ASSERT_TRUE(reader->Next(&fields));
  EXPECT_THAT(fields, ElementsAre("1", "2"));
  ASSERT_TRUE(reader->Next(&fields));
  EXPECT_THAT(reader->Error("what"),
              IsError(absl::StatusCode::kInvalidArgument, "f.tsv:3: what"));
  EXPECT_FALSE(reader->Next(&fields));
}

TEST(Json, ErrorsNameTheField) {
  const auto json = ParseJson(R"({"a": 1})");
  ASSERT_THAT(json, IsOk());
  JsonReader in(*json, "thing");
  in.String("a");
  EXPECT_THAT(in.status(), IsError(absl::StatusCode::kInvalidArgument,
                                   "thing: a is a number, expected a string"));
  EXPECT_THAT(ParseJson("{"),
              IsError(absl::StatusCode::kInvalidArgument, "not JSON"));
}

TEST(Random, IsTheSameEverywhere) {
  Random random(1);
  EXPECT_EQ(random.Next(), 10451216379200822465u);
}

TEST(Workers, EachTurnIsTakenOnceAndAllBeforeTheEnd) {
  for (const int threads : {1, 3}) {
    Workers workers(threads);
    for (const size_t n : {0u, 1u, 2u, 100u}) {
      std::vector<std::atomic<int>> taken(n);
      workers.ForEach(static_cast<int64_t>(n),
                      [&](int64_t i) { ++taken[static_cast<size_t>(i)]; });
      for (const auto& times : taken) EXPECT_EQ(times, 1);
    }
  }
}

TEST(Text, NumbersForPeople) {
  EXPECT_EQ(WithThousands(1234567), "1,234,567");
  EXPECT_EQ(WithThousands(-12), "-12");
  EXPECT_EQ(ShortDuration(absl::Seconds(3723)), "1:02:03");
}

}  // namespace
}  // namespace nearline
