#include "model/synthesize.h"

#include <set>

#include "base/file.h"
#include "model/generation.h"
#include "model/recommender.h"
#include "tests/testing.h"

namespace nearline::model {
namespace {

SynthesizeOptions Small(const std::string& retriever,
                        const std::string& ranker = "") {
  return {.retriever = retriever,
          .ranker = ranker,
          .items = 900,
          .dim = 48,
          .latent = 24,
          .users = 20,
          .history = 30};
}

class SynthesizeTest
    : public testing::TestWithParam<std::pair<const char*, const char*>> {};
INSTANTIATE_TEST_SUITE_P(Models, SynthesizeTest,
                         testing::Values(std::pair("mult-vae", ""),
                                         std::pair("mult-vae", "neumf"),
                                         std::pair("elsa", "")));

// Items i and i + 30 are of one topic.
TEST_P(SynthesizeTest, AnswersWithTheTopicsOfTheHistory) {
  const auto [retriever, ranker] = GetParam();
  auto bundle = SynthesizeBundle(Small(retriever, ranker));
  ASSERT_THAT(bundle, IsOk());
  const auto generation = Generation::Create(*std::move(bundle));
  ASSERT_THAT(generation, IsOk());
  const History history{.rows = {7, 37, 67, 97, 127},
                        .weights = {1, 1, 1, 1, 1}};
  const RowMask mask(900, true);
  const Query query{&history, &mask, 20};
  std::vector<std::vector<ScoredRow>> lists;
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {.rank = false}, &lists),
              IsOk());
  int of_topic = 0;
  for (const ScoredRow& scored : lists[0]) of_topic += scored.row % 30 == 7;
  EXPECT_GE(of_topic, 15);
  ASSERT_THAT(Recommend(**generation, {&query, 1}, {}, &lists), IsOk());
  EXPECT_EQ(lists[0].size(), 20u);
}

TEST(Synthesize, TheSameSeedMakesTheSameFiles) {
  const TempDir dir;
  for (const char* name : {"a", "b"}) {
    ASSERT_THAT(Synthesize(Small("elsa"), dir / name), IsOk());
  }
  for (const char* file : {"import/items.jsonl", "import/users.jsonl",
                           "import/events.tsv", "generations/CURRENT",
                           "generations/g-synthetic-1/weights.safetensors"}) {
    const auto a = ReadFile(dir / (std::string("a/") + file));
    ASSERT_THAT(a, IsOk());
    EXPECT_EQ(*a, *ReadFile(dir / (std::string("b/") + file))) << file;
  }
}

TEST(Synthesize, RefusesHistoriesThatTheCatalogueCannotFill) {
  const TempDir dir;
  SynthesizeOptions options = Small("elsa");
  options.history = 451;
  EXPECT_THAT(Synthesize(options, dir / "x"),
              IsError(absl::StatusCode::kInvalidArgument, "--history 451"));
}

}  // namespace
}  // namespace nearline::model
