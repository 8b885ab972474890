#include "features/catalogue.h"

#include "tests/testing.h"

namespace nearline::features {
namespace {

using testing::ElementsAre;

class CatalogueTest : public testing::Test {
 protected:
  CatalogueTest() : catalogue_(2) {
    Put("b", {{"genres", std::vector<std::string>{"Drama", "War"}},
              {"year", 1995.0}});
    Put("a",
        {{"genres", std::vector<std::string>{"Comedy"}}, {"year", 2001.0}});
    Put("c", {{"language", std::string("de")}});
  }
  void Put(const std::string& id, Attributes attributes, bool listed = true) {
    const Ordinal known = catalogue_.Find(id);
    catalogue_.Put(
        known == kNoOrdinal ? catalogue_.size() : known,
        {.id = id, .attributes = std::move(attributes), .listed = listed});
  }
  std::vector<std::string> Ids(const Filter& filter) {
    std::vector<std::string> ids;
    for (const Ordinal i : Evaluate(filter, catalogue_)) {
      ids.push_back(catalogue_[i].id);
    }
    return ids;
  }
  static Filter Text(const std::string& name, const std::string& value) {
    return {.kind = Filter::Kind::kText, .attribute = name, .values = {value}};
  }
  Catalogue catalogue_;
};

TEST_F(CatalogueTest, ListsInByteOrder) {
  EXPECT_THAT(catalogue_.ListAfter("", 2), ElementsAre(1, 0));
  EXPECT_THAT(catalogue_.ListAfter("b", 2), ElementsAre(2));
}

TEST_F(CatalogueTest, FiltersByTextListAndRange) {
  EXPECT_THAT(Ids(Text("genres", "War")), ElementsAre("b"));
  EXPECT_THAT(Ids(Text("language", "de")), ElementsAre("c"));
  EXPECT_THAT(Ids({.kind = Filter::Kind::kRange,
                   .attribute = "year",
                   .low = 1995,
                   .high = 2000}),
              ElementsAre("b"));
}

TEST_F(CatalogueTest, CombinesFilters) {
  EXPECT_THAT(
      Ids({.kind = Filter::Kind::kNot, .children = {Text("genres", "War")}}),
      ElementsAre("a", "c"));
  EXPECT_THAT(
      Ids({.kind = Filter::Kind::kAny,
           .children = {Text("genres", "War"), Text("language", "de")}}),
      ElementsAre("b", "c"));
  EXPECT_THAT(Ids({.kind = Filter::Kind::kAll}), ElementsAre("b", "a", "c"));
  EXPECT_TRUE(Ids({.kind = Filter::Kind::kAny}).empty());
}

TEST_F(CatalogueTest, AChangedAttributeLeavesTheIndex) {
  Put("b", {{"genres", std::vector<std::string>{"Drama"}}});
  EXPECT_TRUE(Ids(Text("genres", "War")).empty());
  EXPECT_THAT(Ids(Text("genres", "Drama")), ElementsAre("b"));
}

TEST_F(CatalogueTest, AnUnlistedItemIsShownOnceEstablished) {
  catalogue_.Put(3, {.id = "d", .seen_by = {1}});
  EXPECT_FALSE(catalogue_.IsServable(3));
  catalogue_.Put(3, {.id = "d", .seen_by = {1, 2}});
  EXPECT_TRUE(catalogue_.IsServable(3));
  catalogue_.Put(3, {.id = "d", .deleted = true, .seen_by = {1, 2}});
  EXPECT_FALSE(catalogue_.IsServable(3));
}

}  // namespace
}  // namespace nearline::features
