#include "model/attribute_features.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

using features::Attributes;

// Chosen from `all`.
AttributeFeatures Chosen(const std::vector<Attributes>& all,
                         const AttributeFeatures::Options& options = {}) {
  std::vector<const Attributes*> subjects;
  for (const Attributes& one : all) subjects.push_back(&one);
  return AttributeFeatures(subjects, options);
}

// How many features are of an attribute, and which of its elements.
std::map<std::string, std::vector<int>> ByAttribute(
    const AttributeFeatures& features) {
  std::map<std::string, std::vector<int>> out;
  for (const Json& feature : features.Describe()) {
    out[feature["attribute"].get<std::string>()].push_back(
        feature["index"].get<int>());
  }
  return out;
}

TEST(AttributeFeatures, OneSubjectCountsOnce) {
  const Attributes loud = {{"likes", std::vector<std::string>(20, "x")}};
  EXPECT_EQ(Chosen({loud}, {.min_count = 2}).width(), 1);
  EXPECT_THAT(
      Chosen({loud}, {.min_count = 1}).Of(loud),
      testing::ElementsAre(testing::Pair(0u, 1.0f), testing::Pair(1u, 1.0f)));
}

TEST(AttributeFeatures, ANumberLiesBetweenTwoKnotsOfEachOfFourSets) {
  std::vector<Attributes> all;
  for (int year = 1900; year <= 2000; ++year) {
    all.push_back({{"year", static_cast<double>(year)}});
  }
  const AttributeFeatures features = Chosen(all);
  constexpr uint32_t kConstant = 2 + 4 + 8 + 16;
  EXPECT_EQ(features.width(), kConstant + 1);
  double before = -1;
  for (double year = 1890; year <= 2010; year += 0.7) {
    double sum = 0, place = 0;
    const FeatureValues values = features.Of({{"year", year}});
    EXPECT_LE(values.size(), 4 * 2 + 1u);
    for (const auto& [feature, value] : values) {
      if (feature == kConstant) continue;
      EXPECT_GT(value, 0);
      sum += value;
      place += value * feature;
    }
    EXPECT_NEAR(sum, 4, 1e-6) << year;
    EXPECT_GE(place, before) << year;
    before = place;
  }
  EXPECT_NEAR(before, 1 + 5 + 13 + 29, 1e-6);  // the last of each
}

TEST(AttributeFeatures, ManyNumbersGetTwoHatsEach) {
  std::vector<Attributes> all(20);
  for (size_t i = 0; i < all.size(); ++i) {
    for (int n = 0; n < 100; ++n) {
      all[i][absl::StrCat("n", n)] = static_cast<double>(i * (n + 1));
    }
    all[i]["kind"] = std::string(i % 2 == 0 ? "even" : "odd");
  }
  auto of = ByAttribute(Chosen(all));
  EXPECT_EQ(of.size(), 64 + 1u);
  EXPECT_EQ(of["n0"].size(), 2u);
  EXPECT_EQ(of["kind"].size(), 2u);
  // Of two values there is one set of knots.
  std::vector<Attributes> two(10);
  for (size_t i = 0; i < two.size(); ++i)
    two[i]["new"] = i % 2 == 0 ? 1.0 : 0.0;
  EXPECT_EQ(ByAttribute(Chosen(two))["new"].size(), 2u);
}

TEST(AttributeFeatures, FrequentValuesDoNotTakeAllKnots) {
  std::vector<Attributes> all(1000, {{"price", 0.0}});
  for (int i = 0; i < 100; ++i) all.push_back({{"price", 10.0 + i}});
  EXPECT_GT(ByAttribute(Chosen(all))["price"].size(), 20u);
  // Of few values each is a knot, however frequent.
  std::vector<Attributes> stars(10'000, {{"stars", 3.0}});
  for (const double rare : {1.0, 2.0, 5.0}) {
    for (int i = 0; i < 3; ++i) stars.push_back({{"stars", rare}});
  }
  const AttributeFeatures features = Chosen(stars);
  EXPECT_EQ(features.width(), 2 + 4 + 1);
  for (const auto& [stars, hat] : {std::pair(1.0, 2u), std::pair(2.0, 3u),
                                   std::pair(3.0, 4u), std::pair(5.0, 5u)}) {
    EXPECT_THAT(features.Of({{"stars", stars}}),
                testing::Contains(testing::Pair(hat, 1.0f)));
  }
  // What is always the same tells nobody apart.
  const std::vector<Attributes> same(10, {{"price", 3.0}});
  EXPECT_EQ(Chosen(same).width(), 1);
}

TEST(AttributeFeatures, AbsurdNumbersAreBounded) {
  const Attributes ann = {{"age", 30.0}, {"v", std::vector<float>{1, 2}}};
  const Attributes bob = {{"age", 50.0}, {"v", std::vector<float>{2, 2}}};
  for (const double absurd : {1e19, 1e38, 1e200, 1.7e308, -1.7e308}) {
    const float element = static_cast<float>(std::clamp(absurd, -3e38, 3e38));
    const Attributes far = {{"age", absurd},
                            {"v", std::vector<float>{element, 0}}};
    const AttributeFeatures known = Chosen({ann, bob, far}, {.min_count = 2});
    for (const Attributes& subject : {ann, bob, far}) {
      EXPECT_FALSE(known.Of(subject).empty());
      for (const auto& [feature, value] : known.Of(subject)) {
        EXPECT_TRUE(std::isfinite(value)) << absurd;
        EXPECT_LE(std::abs(value), 20) << absurd;
      }
    }
  }
}

// `dim` elements that hang on `rank` of them.
std::vector<Attributes> Embedded(size_t dim, size_t rank) {
  Random random(4);
  std::vector<float> mix(dim * rank);
  for (float& x : mix) x = static_cast<float>(random.Normal());
  std::vector<Attributes> all;
  for (int i = 0; i < 300; ++i) {
    std::vector<float> v(dim, 0.0f);
    for (size_t r = 0; r < rank; ++r) {
      const auto x = static_cast<float>(random.Normal());
      for (size_t c = 0; c < dim; ++c) v[c] += x * mix[c * rank + r];
    }
    all.push_back(
        {{"embedding", std::move(v)}, {"kind", absl::StrCat("k", i % 7)}});
  }
  return all;
}

TEST(AttributeFeatures, AVectorLeavesRoomAndHasNoMoreElementsThanItTakes) {
  auto of = ByAttribute(Chosen(Embedded(768, 20)));
  EXPECT_EQ(of["kind"].size(), 7u);
  EXPECT_EQ(of["embedding"].size(), 20u);  // which say all of the others
  EXPECT_EQ(ByAttribute(Chosen(Embedded(768, 200)))["embedding"].size(), 64u);
  // Two vectors halve what there is.
  std::vector<Attributes> two = Embedded(768, 200);
  for (Attributes& one : two) one["image"] = one["embedding"];
  of = ByAttribute(Chosen(two));
  EXPECT_EQ(of["embedding"].size(), 32u);
  EXPECT_EQ(of["image"].size(), 32u);
}

TEST(AttributeFeatures, ElementsThatSayNothingAreNotTaken) {
  std::vector<Attributes> all = Embedded(3, 3);
  for (Attributes& one : all) {
    auto& v = std::get<std::vector<float>>(one["embedding"]);
    v = {7, v[0], 5, v[0], v[1], 2 - v[1]};
  }
  const std::vector<int> taken = ByAttribute(Chosen(all))["embedding"];
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_TRUE(taken[0] == 1 || taken[0] == 3);
  EXPECT_TRUE(taken[1] == 4 || taken[1] == 5);
}

TEST(AttributeFeatures, VectorsAreShort) {
  const std::vector<Attributes> all = Embedded(768, 200);
  const AttributeFeatures features = Chosen(all);
  double squares = 0;
  for (const Attributes& one : all) {
    for (const auto& [feature, value] : features.Of(one)) {
      if (feature < 64) squares += value * value / 300;
    }
  }
  EXPECT_NEAR(std::sqrt(squares), 4, 0.1);
}

TEST(AttributeFeatures, AreReadAsTheyWereDescribed) {
  std::vector<Attributes> all = Embedded(16, 3);
  for (size_t i = 0; i < all.size(); ++i) {
    all[i]["year"] = static_cast<double>(i * i);
  }
  const AttributeFeatures features = Chosen(all);
  const auto again = AttributeFeatures::Load(
      *ParseJson(features.Describe().dump()), "features");
  ASSERT_THAT(again, IsOk());
  for (const Attributes& one : all) EXPECT_EQ(again->Of(one), features.Of(one));
}

TEST(AttributeFeatures, OlderBundlesStandardizeNumbers) {
  const auto features = AttributeFeatures::Load(
      Json::parse(R"([{"attribute": "age", "value": "", "index": -2,
                       "mean": 40.0, "scale": 0.1}])"),
      "features");
  ASSERT_THAT(features, IsOk());
  EXPECT_THAT(
      features->Of({{"age", 30.0}}),
      testing::ElementsAre(testing::Pair(0u, -1.0f), testing::Pair(1u, 1.0f)));
  EXPECT_EQ(features->Of({{"age", 1e9}})[0].second, 5.0f);
}

TEST(AttributeFeatures, WrongDescriptionsAreNamed) {
  const auto load = [](const char* text) {
    return AttributeFeatures::Load(Json::parse(text), "features").status();
  };
  const auto refusal = [](const char* what) {
    return IsError(absl::StatusCode::kInvalidArgument, what);
  };
  EXPECT_THAT(load("{}"), refusal("no array"));
  EXPECT_THAT(load(R"([{"attribute": "a", "value": "", "index": -4,
                        "mean": 0.0, "scale": 1.0}])"),
              refusal("index = -4"));
  EXPECT_THAT(load(R"([{"attribute": "a", "value": "", "index": -3,
                        "mean": 0.0, "low": 1.0, "high": 2.0, "scale": 1.0}])"),
              refusal("low = 1"));
  EXPECT_THAT(load(R"([{"attribute": "a", "value": "", "index": 0,
                        "mean": 0.0, "scale": 1.0, "most": -1.0}])"),
              refusal("most = -1"));
}

}  // namespace
}  // namespace nearline::model
