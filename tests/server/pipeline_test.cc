#include "server/pipeline.h"

#include <functional>
#include <set>
#include <thread>

#include "server/batcher.h"
#include "tests/features/store_fixture.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

using absl::StatusCode;
using features::Do;
using features::Like;

class PipelineTest : public testing::Test {
 protected:
  void SetUp() override {
    store_ = features::OpenStore(dir_.path());
    std::vector<features::Item> items;
    for (int i = 0; i < 100; ++i) {
      items.push_back({absl::StrFormat("i%03d", i),
                       {{"half", std::string(i < 50 ? "low" : "high")}}});
    }
    ASSERT_THAT(Do<features::Sequence>(store_.get(),
                                       features::UpsertItems{.items = items}),
                IsOk());
    slot_ = std::make_unique<ModelSlot>(store_.get(), &generations_,
                                        model::CpuScoring, ModelSlotOptions{},
                                        Clock::Real());
    pipeline_ = std::make_unique<Pipeline>(store_.get(), slot_.get(),
                                           PipelineOptions{}, Clock::Real());
  }
  void Publish(uint64_t seed) {
    const model::Bundle bundle = model::TinyBundle(100, seed);
    ASSERT_THAT(generations_.Write(bundle), IsOk());
    ASSERT_THAT(slot_->Publish(bundle.manifest.id), IsOk());
  }
  absl::StatusOr<RecommendAnswer> Ask(RecommendRequest request,
                                      int still_queued = 0) {
    std::optional<absl::StatusOr<RecommendAnswer>> out;
    auto job = std::make_unique<RecommendJob>();
    job->request = std::move(request);
    job->done = [&](absl::StatusOr<RecommendAnswer> a) { out = std::move(a); };
    std::vector<std::unique_ptr<RecommendJob>> batch;
    batch.push_back(std::move(job));
    pipeline_->Run(std::move(batch), still_queued);
    return *out;
  }
  // The items of ann's pages of seven, of one generation; `between` is called
  // behind each page, counted from 1.
  std::vector<std::string> AllPages(const std::function<void(int)>& between) {
    std::vector<std::string> items;
    std::string token;
    for (int page = 1; page == 1 || !token.empty(); ++page) {
      const auto answer =
          Ask({.user = "ann", .count = 7, .page_token = token, .hash = 1});
      EXPECT_THAT(answer, IsOk());
      if (!answer.ok()) break;
      EXPECT_EQ(answer->generation, "g-tiny-1");
      items.insert(items.end(), answer->items.begin(), answer->items.end());
      token = answer->next_page_token;
      between(page);
    }
    return items;
  }
  void Feed(const std::string& user, const std::string& item,
            const std::string& type = "like") {
    features::NewEvent event = Like(user, item);
    event.type = type;
    ASSERT_THAT(features::AppendAll(store_.get(), {event}), IsOk());
  }

  const TempDir dir_;
  std::unique_ptr<features::Store> store_;
  model::LocalGenerationStore generations_{dir_ / "generations"};
  std::unique_ptr<ModelSlot> slot_;
  std::unique_ptr<Pipeline> pipeline_;
};

TEST_F(PipelineTest, WithoutAGenerationPopularItemsAreServedAndMarked) {
  Feed("bob", "i042");
  const auto answer = Ask({.user = "ann", .count = 3});
  ASSERT_THAT(answer, IsOk());
  EXPECT_THAT(answer->items, testing::ElementsAre("i042", "i000", "i001"));
  EXPECT_EQ(answer->served_by, ServedBy::kPopular);
  EXPECT_EQ(answer->degraded_reason, "no_generation");
}

TEST_F(PipelineTest, ANewUserIsPersonalAfterOneEvent) {
  Publish(1);
  const auto before = Ask({.user = "ann", .count = 5});
  EXPECT_EQ(before->served_by, ServedBy::kPopular);
  EXPECT_EQ(before->degraded_reason, "no_history");
  Feed("ann", "i003");
  const auto after = Ask({.user = "ann", .count = 5});
  EXPECT_EQ(after->served_by, ServedBy::kRanked);
  EXPECT_EQ(after->generation, "g-tiny-1");
  EXPECT_EQ(after->sequence, 1u);
}

// Sums are of stored users as they are now.
TEST_F(PipelineTest, PagesAndHistoriesInRequestsLeaveKeptSumsAlone) {
  Publish(1);
  for (int i = 0; i < 20; ++i) Feed("ann", absl::StrFormat("i%03d", i));
  const auto stats = [&] { return slot_->Snapshot()->states()->stats(); };
  const auto first = Ask({.user = "ann", .count = 5, .hash = 1});
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(stats().rebuilt, 1);
  Feed("ann", "i050");
  const auto second = Ask({.user = "ann",
                           .count = 5,
                           .page_token = first->next_page_token,
                           .hash = 1});
  ASSERT_THAT(second, IsOk());
  RecommendRequest request{.count = 5};
  for (int i = 0; i < 30; ++i) {
    request.history.push_back({absl::StrFormat("i%03d", i), 1.0f});
  }
  ASSERT_THAT(Ask(request), IsOk());
  EXPECT_EQ(stats().updated, 0);
  EXPECT_EQ(stats().rebuilt, 1);
  ASSERT_THAT(Ask({.user = "ann", .count = 5}), IsOk());
  EXPECT_EQ(stats().updated, 1);
  EXPECT_EQ(stats().rebuilt, 1);
  // What is out of service has no use for them.
  const GenerationPtr before = slot_->Snapshot();
  Publish(2);
  EXPECT_EQ(before->states()->stats().users, 0);
  EXPECT_EQ(stats().users, 0);
  slot_->ForgetUsers();
  ASSERT_THAT(Ask({.user = "ann", .count = 5}), IsOk());
  EXPECT_EQ(stats().users, 1);
  slot_->ForgetUsers();
  EXPECT_EQ(stats().users, 0);
}

TEST_F(PipelineTest, AttributesMakeAUserPersonalBeforeAnyEvent) {
  const features::Attributes northern = {{"region", "north"}};
  model::Bundle bundle = model::TinyBundle(100, 1);
  // Two features and the constant say nothing; what empty histories have in
  // common is the row of i007.
  const std::vector<float>& rows =
      bundle.tensors.all().at("mult-vae.item.decoder").values;
  std::vector<float> map(2 * 24, 0.0f);
  for (size_t i = 0; i < 24; ++i) map.push_back(1000 * rows[7 * 24 + i]);
  bundle.manifest.parameters["user_features"] =
      model::UserFeatures(
          model::AttributeFeatures({&northern}, {.min_count = 1}), 24,
          std::move(map), {1})
          .Save(&bundle.tensors);
  ASSERT_THAT(generations_.Write(bundle), IsOk());
  ASSERT_THAT(slot_->Publish(bundle.manifest.id), IsOk());
  const auto upsert = [&](features::Attributes attributes) {
    ASSERT_THAT(
        Do<features::Sequence>(
            store_.get(),
            features::UpsertUsers{.users = {{"ann", std::move(attributes)}}}),
        IsOk());
  };
  upsert({{"region", "south"}});
  EXPECT_EQ(Ask({.user = "ann"})->degraded_reason, "no_history");
  upsert(northern);
  const auto answer = Ask({.user = "ann", .count = 5});
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->served_by, ServedBy::kShortlist);
  EXPECT_EQ(answer->degraded_reason, "");
  EXPECT_EQ(answer->items[0], "i007");
  // The ranker has nothing to look at, so overload takes nothing away.
  EXPECT_EQ(Ask({.user = "ann"}, /*still_queued=*/100'000)->degraded_reason,
            "");
  Feed("ann", "i003");
  EXPECT_EQ(Ask({.user = "ann"})->served_by, ServedBy::kRanked);
  EXPECT_EQ(Ask({.user = "ann"}, /*still_queued=*/100'000)->degraded_reason,
            "overload");
}

TEST_F(PipelineTest, ExactlyAsManyAsAreEligible) {
  Publish(1);
  Feed("ann", "i003");
  Feed("ann", "i004", "view");
  Feed("ann", "i005", "dislike");
  const auto all = Ask({.user = "ann", .count = 1000});
  ASSERT_THAT(all, IsOk());
  EXPECT_EQ(all->items.size(), 97u);
  const std::set<std::string> unique(all->items.begin(), all->items.end());
  EXPECT_EQ(unique.size(), 97u);
  for (const char* gone : {"i003", "i004", "i005"}) {
    EXPECT_FALSE(unique.contains(gone));
  }
  const auto seen = Ask({.user = "ann", .count = 1000, .include_seen = true});
  EXPECT_EQ(seen->items.size(), 99u);  // but for the disliked one
}

TEST_F(PipelineTest, RulesHoldWithAndWithoutAModel) {
  for (const bool trained : {false, true}) {
    if (trained) Publish(1);
    Feed("ann", trained ? "i010" : "i011");
    const auto answer =
        Ask({.user = "ann",
             .count = 1000,
             .candidates = {"i001", "i060", "i061", "nothing"},
             .exclude = {"i060"},
             .filter = features::Filter{.kind = features::Filter::Kind::kText,
                                        .attribute = "half",
                                        .values = {"high"}}});
    ASSERT_THAT(answer, IsOk());
    EXPECT_THAT(answer->items, testing::ElementsAre("i061"));
  }
}

TEST_F(PipelineTest, AHistoryInTheRequestIsAnsweredAndNotStored) {
  Publish(1);
  const auto stateless = Ask({.history = {{"i003", 1}}, .count = 10});
  ASSERT_THAT(stateless, IsOk());
  EXPECT_EQ(stateless->served_by, ServedBy::kRanked);
  EXPECT_EQ(store_->users(), 0);
  Feed("ann", "i003");
  const auto stored = Ask({.user = "ann", .count = 10});
  EXPECT_EQ(stored->items, stateless->items);
}

// As in a profile, whose last event on an item says where it stands.
TEST_F(PipelineTest, AnItemTwiceInAHistoryStandsWhereItCameLast) {
  model::Bundle bundle;
  bundle.manifest.id = "g-recent";
  bundle.manifest.retriever = "recent";
  bundle.manifest.accepted = true;
  for (int i = 0; i < 100; ++i) {
    bundle.items.push_back(absl::StrFormat("i%03d", i));
  }
  std::vector<float> same(100);
  for (size_t i = 0; i < 100; ++i) same[i] = static_cast<float>(i) + 1;
  bundle.tensors.Add("recent.item.recent", {100, 1}, same);
  bundle.tensors.Add("recent.item.decoder", {100, 1}, same);
  bundle.tensors.Add("recent.item.bias", {100, 1},
                     std::vector<float>(100, 0.0f));
  bundle.tensors.Add("recent.recent.positions", {1, 1}, {1});
  bundle.manifest.parameters["item_features"] = model::ItemFeatureMap::Fit(
      std::vector<const features::Attributes*>(100, nullptr), {},
      &bundle.tensors);
  ASSERT_THAT(generations_.Write(bundle), IsOk());
  ASSERT_THAT(slot_->Publish("g-recent"), IsOk());
  const auto answer =
      Ask({.history = {{"i009"}, {"i001"}, {"i009"}}, .count = 1});
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->items[0], "i099");
  EXPECT_FLOAT_EQ(answer->scores[0], 10 * 100);  // i009 is the newest
}

TEST_F(PipelineTest, PagesNeitherRepeatNorSkipWhateverHappensBetween) {
  Publish(1);
  Feed("ann", "i003");
  const auto whole = Ask({.user = "ann", .count = 1000, .hash = 1});
  // Between two pages: events of this user, and a swap.
  const auto paged = AllPages([&](int page) {
    if (page == 2) Feed("ann", whole->items[0]);
    if (page == 3) Publish(2);
    if (page == 4) Feed("ann", whole->items[60]);
  });
  EXPECT_EQ(paged, whole->items);
}

TEST_F(PipelineTest, PagesKeepTheirOrderWhileTheCatalogueChanges) {
  Publish(1);
  Feed("ann", "i003");
  const auto whole = Ask({.user = "ann", .count = 1000, .hash = 1});
  auto paged = AllPages([&](int page) {
    if (page == 2) {
      EXPECT_THAT(
          Do<features::Sequence>(store_.get(),
                                 features::UpsertItems{.items = {{"new", {}}}}),
          IsOk());
    }
    if (page == 4) {
      EXPECT_THAT(Do<int64_t>(store_.get(),
                              features::DeleteItems{.ids = {whole->items[60]}}),
                  IsOk());
    }
  });
  std::vector<std::string> expected = whole->items;
  expected.erase(expected.begin() + 60);
  std::erase(paged, "new");  // wherever it came in
  EXPECT_EQ(paged, expected);
}

TEST_F(PipelineTest, AListWhoseGenerationIsGoneIsAborted) {
  Publish(1);
  Feed("ann", "i003");
  const auto first = Ask({.user = "ann", .count = 5, .hash = 1});
  for (uint64_t seed = 2; seed <= 5; ++seed) Publish(seed);
  EXPECT_THAT(Ask({.user = "ann",
                   .count = 5,
                   .page_token = first->next_page_token,
                   .hash = 1}),
              IsError(StatusCode::kAborted, "start again"));
}

TEST_F(PipelineTest, ANewItemCanBeRecommendedBeforeTheNextTraining) {
  Publish(1);
  Feed("ann", "i003");
  ASSERT_THAT(Do<features::Sequence>(
                  store_.get(), features::UpsertItems{.items = {{"new", {}}}}),
              IsOk());
  const auto answer = Ask({.user = "ann", .count = 1000});
  EXPECT_THAT(answer->items, testing::Contains("new"));
  EXPECT_EQ(answer->items.size(), 100u);
  ASSERT_THAT(Do<int64_t>(store_.get(), features::DeleteItems{.ids = {"new"}}),
              IsOk());
  EXPECT_THAT(Ask({.user = "ann", .count = 1000})->items,
              testing::Not(testing::Contains("new")));
}

// Items of one kind have one row, whenever they came.
TEST_F(PipelineTest, NewItemsTieById) {
  Publish(1);
  Feed("ann", "i003");
  std::vector<features::Item> items;
  for (int i = 0; i < 40; ++i) {
    items.push_back({absl::StrFormat("n%02d", (i * 7 + 20) % 40)});
  }
  ASSERT_THAT(Do<features::Sequence>(store_.get(),
                                     features::UpsertItems{.items = items}),
              IsOk());
  std::vector<std::string> candidates;
  for (const features::Item& item : items) candidates.push_back(item.id);
  const auto answer =
      Ask({.user = "ann", .count = 3, .candidates = candidates});
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(answer->served_by, ServedBy::kRanked);
  EXPECT_THAT(answer->items, testing::ElementsAre("n00", "n01", "n02"));
  const auto similar = pipeline_->SimilarItems("n05", 3, {}, std::nullopt);
  ASSERT_THAT(similar, IsOk());
  EXPECT_THAT(similar->items, testing::ElementsAre("n00", "n01", "n02"));
}

TEST_F(PipelineTest, ADamagedGenerationIsRefusedWhileTheOldOneServes) {
  Publish(1);
  const model::Bundle bundle = model::TinyBundle(100, 2);
  ASSERT_THAT(generations_.Write(bundle), IsOk());
  std::filesystem::resize_file(
      generations_.FolderOf(bundle.manifest.id) + "/weights.safetensors", 100);
  EXPECT_THAT(slot_->Publish(bundle.manifest.id),
              IsError(StatusCode::kDataLoss, "weights.safetensors"));
  EXPECT_EQ(slot_->Snapshot()->id(), "g-tiny-1");
  EXPECT_EQ(*generations_.Current(), "g-tiny-1");
}

TEST_F(PipelineTest, AGenerationWhoseScoresOverflowIsRefused) {
  Publish(1);
  model::Bundle bundle = model::TinyBundle(100, 2);
  model::Tensor huge = bundle.tensors.all().at("mult-vae.item.decoder");
  for (float& value : huge.values) value = 3e38f;
  model::Tensors tensors;
  for (const auto& [name, tensor] : bundle.tensors.all()) {
    tensors.Add(name, tensor.shape,
                name == "mult-vae.item.decoder" ? huge.values : tensor.values);
  }
  bundle.tensors = std::move(tensors);
  ASSERT_THAT(generations_.Write(bundle), IsOk());
  EXPECT_THAT(slot_->Publish(bundle.manifest.id),
              IsError(StatusCode::kDataLoss, "not finite"));
  EXPECT_EQ(slot_->Snapshot()->id(), "g-tiny-1");
}

// Decayed by hundreds of half-lives, which float32 does not tell from nothing.
TEST_F(PipelineTest, OldEventsStillRankPopularItems) {
  std::vector<features::NewEvent> events;
  for (int i = 0; i < 3; ++i) {
    events.push_back(Like(absl::StrCat("u", i), "i070", absl::StrCat("a", i)));
    events.push_back(Like(absl::StrCat("u", i), "i001", absl::StrCat("b", i)));
  }
  events.pop_back();
  for (features::NewEvent& event : events) event.time_micros = 1;
  ASSERT_THAT(features::AppendAll(store_.get(), events, /*historical=*/true),
              IsOk());
  Feed("now", "i099");
  EXPECT_THAT(Ask({.user = "ann", .count = 3})->items,
              testing::ElementsAre("i099", "i070", "i001"));
}

TEST_F(PipelineTest, ARestartServesTheGenerationThatWasInService) {
  Publish(1);
  Publish(2);
  ModelSlot restarted(store_.get(), &generations_, model::CpuScoring,
                      ModelSlotOptions{}, Clock::Real());
  ASSERT_THAT(restarted.LoadCurrent(), IsOk());
  EXPECT_EQ(restarted.Snapshot()->id(), "g-tiny-2");
}

TEST_F(PipelineTest, WorkWithoutACallerIsDropped) {
  absl::Status status;
  auto job = std::make_unique<RecommendJob>();
  job->request = {.user = "ann"};
  job->deadline = absl::Now() - absl::Seconds(1);
  job->done = [&](absl::StatusOr<RecommendAnswer> a) { status = a.status(); };
  std::vector<std::unique_ptr<RecommendJob>> batch;
  batch.push_back(std::move(job));
  pipeline_->Run(std::move(batch), 0);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
}

TEST_F(PipelineTest, ConsistencyTokensAreChecked) {
  EXPECT_THAT(Ask({.user = "ann", .after = "other-1"}),
              IsError(StatusCode::kFailedPrecondition, "another log"));
  EXPECT_THAT(
      Ask({.user = "ann", .after = ConsistencyToken(store_->log_id(), 99)}),
      IsError(StatusCode::kFailedPrecondition, "future"));
}

// No answer mixes generations, and no item comes twice, while everything moves.
TEST_F(PipelineTest, AnswersStayWholeWhileEverythingMoves) {
  Publish(1);
  Feed("ann", "i000");
  std::optional<Batcher<RecommendJob>> batcher;
  batcher.emplace(
      BatcherOptions{.max_batch = 8, .max_queued = 100000, .max_leaders = 2},
      [&](std::vector<std::unique_ptr<RecommendJob>> batch, int queued,
          const std::function<void()>& computed) {
        pipeline_->Run(std::move(batch), queued, computed);
      });
  std::atomic<bool> stop{false};
  std::atomic<int> answers{0}, wrong{0};
  const auto ask = [&] {
    while (!stop) {
      if (batcher->queued() > 64) {
        std::this_thread::yield();
        continue;
      }
      auto job = std::make_unique<RecommendJob>();
      job->request = {.user = "ann", .count = 20};
      job->done = [&](absl::StatusOr<RecommendAnswer> a) {
        ++answers;
        const bool good =
            a.ok() && a->items.size() == 20 && !a->generation.empty() &&
            std::set<std::string>(a->items.begin(), a->items.end()).size() ==
                20;
        if (!good) ++wrong;
      };
      if (!batcher->Submit(std::move(job)).ok()) ++wrong;
    }
  };
  std::thread one(ask), two(ask);
  for (uint64_t seed = 2; seed <= 6; ++seed) {
    Publish(seed);
    Feed("ann", absl::StrFormat("i%03d", seed));
    ASSERT_THAT(
        Do<features::Sequence>(
            store_.get(),
            features::UpsertItems{.items = {{absl::StrCat("new", seed), {}}}}),
        IsOk());
  }
  while (answers < 200) std::this_thread::yield();
  stop = true;
  one.join();
  two.join();
  batcher.reset();  // runs what is queued
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace nearline::server
