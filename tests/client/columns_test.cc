#include "client/columns.h"

#include "client/records.h"
#include "tests/testing.h"

namespace nearline::client {
namespace {

using Fields = std::vector<std::string>;

// What the lines below a header come to.
std::vector<Json> Read(const Fields& header, const std::vector<Fields>& lines) {
  auto columns = RecordColumns::Choose(header, "items", {});
  EXPECT_THAT(columns, IsOk());
  for (const Fields& line : lines) columns->Observe(line);
  std::vector<Json> out;
  for (const Fields& line : lines) {
    api::Item item;
    std::string id;
    EXPECT_THAT(columns->Read(line, &id, item.mutable_attributes()), IsOk());
    item.set_id(id);
    out.push_back(ToJson(item));
  }
  return out;
}

TEST(RecordColumns, AColumnHoldsWhatAllItsFieldsAre) {
  const auto items =
      Read({"id", "title", "zip", "year", "code", "genres", "rank"},
           {{"1", "1984", "02134", "1949", "12e456", "Drama", "1.5"},
            {"2", "Heat", "90210", "1995", "17", "Crime|Drama", "-2e1"},
            {"3", "", "", "", "", "|", ""}});
  EXPECT_EQ(items[0]["attributes"],
            Json::parse(R"({"title": "1984", "zip": "02134", "year": 1949,
                            "code": "12e456", "genres": ["Drama"],
                            "rank": 1.5})"));
  EXPECT_EQ(items[1]["attributes"],
            Json::parse(R"({"title": "Heat", "zip": "90210", "year": 1995,
                            "code": "17", "genres": ["Crime", "Drama"],
                            "rank": -20})"));
  EXPECT_EQ(items[2], Json::parse(R"({"id": "3", "attributes": {}})"));
}

TEST(RecordColumns, AHeaderMaySayWhatAColumnHolds) {
  const auto items = Read({"id:token", "zip:token", "class:token_seq",
                           "price:float", "vector:float_seq", "odd:thing"},
                          {{"7", "90210", "a b", "3", "0.5 -1", "x"}});
  EXPECT_EQ(items[0], Json::parse(R"({"id": "7", "attributes": {
      "zip": "90210", "class": ["a", "b"], "price": 3, "vector": [0.5, -1],
      "odd:thing": "x"}})"));
  auto columns = RecordColumns::Choose({"id", "price:float"}, "items", {});
  ASSERT_THAT(columns, IsOk());
  api::Item item;
  std::string id;
  EXPECT_THAT(columns->Read({"7", "cheap"}, &id, item.mutable_attributes()),
              IsError(absl::StatusCode::kInvalidArgument,
                      "column 2, price, \"cheap\" is no number"));
}

TEST(RecordColumns, OnlyTheIdCanBeNamed) {
  EXPECT_THAT(
      RecordColumns::Choose({"sku", "name"}, "items", {{"item", "sku"}}),
      IsOk());
  EXPECT_THAT(RecordColumns::Choose({"sku", "name"}, "items",
                                    {{"item", "sku"}, {"time", "name"}})
                  .status(),
              IsError(absl::StatusCode::kInvalidArgument, "time=name"));
}

TEST(EventColumns, SayWhatOfAHeaderTheyDoNotRead) {
  const auto columns = EventColumns::Choose({"user", "item", "ts", "price"},
                                            {"a", "b", "1700000000", "3"}, {});
  ASSERT_THAT(columns, IsOk());
  EXPECT_EQ(columns->time, -1);
  EXPECT_EQ(columns->unread, (Fields{"ts", "price"}));
}

}  // namespace
}  // namespace nearline::client
