// A server in the test process on a free port: each call, each limit at its
// edge and one past it, broken and hostile requests.
#include "server/server.h"

#include <grpcpp/generic/generic_stub.h>

#include <cmath>
#include <limits>
#include <set>

#include "client/client.h"
#include "client/records.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

namespace api = ::nearline::v1;
using absl::StatusCode;

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    config_.listen = "127.0.0.1:0";
    config_.metrics_listen = "";
    config_.data_dir = dir_ / "data";
    config_.store.database.free_space_reserve = 0;
    config_.serving.drain = absl::Milliseconds(100);
    model::LocalGenerationStore generations(dir_ / "data/generations");
    ASSERT_THAT(generations.Write(model::TinyBundle(100)), IsOk());
    ASSERT_THAT(generations.SetCurrent("g-tiny-1"), IsOk());
    Start();
    api::UpsertItemsRequest items;
    for (int i = 0; i < 100; ++i) {
      api::Item* const item = items.add_items();
      item->set_id(absl::StrFormat("i%03d", i));
      (*item->mutable_attributes())["year"].set_number(1950 + i);
    }
    ASSERT_THAT(client_->UpsertItems(items), IsOk());
  }
  void Start() {
    server_.reset();
    auto server = Server::Start(config_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
    client_ = std::make_unique<client::Client>(
        client::ClientOptions{.address = address_});
    channel_ =
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  }

  static api::Event Like(const std::string& user, const std::string& item) {
    api::Event event;
    event.set_user(user);
    event.set_item(item);
    event.set_type("like");
    return event;
  }
  absl::Status Feed(const api::Event& event) {
    api::FeedbackRequest request;
    *request.add_events() = event;
    return client_->Feedback(request).status();
  }
  absl::StatusOr<api::RecommendResponse> Ask(const std::string& user,
                                             int count = 10) {
    api::RecommendRequest request;
    request.set_user(user);
    request.set_count(count);
    return client_->Recommend(request);
  }
  // Sends bytes as they are; returns the status with its details.
  grpc::Status SendRaw(const std::string& method, const std::string& bytes) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::Status status;
    const auto call = stub.PrepareUnaryCall(&context, "/nearline.v1." + method,
                                            request, &queue);
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }

  const TempDir dir_;
  Config config_;
  std::unique_ptr<Server> server_;
  std::string address_;
  std::unique_ptr<client::Client> client_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServerTest, FeedbackChangesTheVeryNextAnswer) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  const auto before = Ask("ann");
  ASSERT_THAT(before, IsOk());
  EXPECT_EQ(before->items_size(), 10);
  EXPECT_EQ(before->served_by(), api::SERVED_BY_RANKED);
  EXPECT_EQ(before->generation(), "g-tiny-1");
  EXPECT_FALSE(before->request_id().empty());
  ASSERT_THAT(Feed(Like("ann", before->items(0).item())), IsOk());
  const auto after = Ask("ann");
  for (const auto& item : after->items()) {
    EXPECT_NE(item.item(), before->items(0).item());
  }
}

TEST_F(ServerTest, ARestartKeepsEventsAndGeneration) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  const auto before = Ask("ann");
  Start();
  const auto after = Ask("ann");
  ASSERT_THAT(after, IsOk());
  ASSERT_EQ(after->items_size(), before->items_size());
  for (int i = 0; i < after->items_size(); ++i) {
    EXPECT_EQ(after->items(i).item(), before->items(i).item());
  }
}

TEST_F(ServerTest, EventLimitsHoldAtTheirEdges) {
  const auto with = [&](auto change) {
    api::Event event = Like("ann", "i001");
    change(&event);
    return Feed(event);
  };
  const auto good = [&](auto change) { EXPECT_THAT(with(change), IsOk()); };
  const auto bad = [&](const char* text, auto change) {
    EXPECT_THAT(with(change), IsError(StatusCode::kInvalidArgument, text));
  };
  good([](auto* e) { e->set_user(std::string(256, 'u')); });
  good([](auto* e) { e->set_user("a/b c\xc3\xa4"); });
  good([](auto* e) { e->set_value(1e9); });
  good([](auto* e) { e->set_context(std::string(4096, 'c')); });
  bad("events[0].user", [](auto* e) { e->set_user(std::string(257, 'u')); });
  bad("events[0].user", [](auto* e) { e->set_user(""); });
  bad("events[0].user", [](auto* e) { e->set_user(std::string("a\0b", 3)); });
  bad("events[0].item", [](auto* e) { e->set_item("a\nb"); });
  bad("events[0].item",
      [](auto* e) { e->set_item(std::string(10 << 20, 'x')); });
  bad("events[0].value", [](auto* e) { e->set_value(1.1e9); });
  bad("events[0].value", [](auto* e) { e->set_value(HUGE_VAL); });
  bad("events[0].value", [](auto* e) { e->set_value(std::nan("")); });
  bad("events[0].type", [](auto* e) { e->set_type(""); });
  bad("(cart, click", [](auto* e) { e->set_type("teleport"); });
  bad("events[0].time", [](auto* e) { e->mutable_time()->set_seconds(-1); });
  bad("events[0].time", [](auto* e) {
    e->mutable_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 600);
  });
  bad("events[0].time", [](auto* e) {
    e->mutable_time()->set_seconds(std::numeric_limits<int64_t>::max());
  });
  bad("events[0].position", [](auto* e) { e->set_position(-1); });
  bad("events[0].context",
      [](auto* e) { e->set_context(std::string(4097, 'c')); });
}

TEST_F(ServerTest, BatchLimitsHoldAtTheirEdges) {
  api::FeedbackRequest request;
  EXPECT_THAT(client_->Feedback(request),
              IsError(StatusCode::kInvalidArgument, "events"));
  for (int i = 0; i < 10'000; ++i) {
    *request.add_events() = Like("ann", absl::StrFormat("i%03d", i % 100));
  }
  const auto full = client_->Feedback(request);
  ASSERT_THAT(full, IsOk());
  EXPECT_EQ(full->accepted(), 10'000);
  *request.add_events() = Like("ann", "i001");
  EXPECT_THAT(client_->Feedback(request),
              IsError(StatusCode::kInvalidArgument, "at most 10000"));
}

TEST_F(ServerTest, CountLimitsHoldAtTheirEdges) {
  for (const int count : {-1, 1001, 1'000'000'000}) {
    EXPECT_THAT(Ask("ann", count),
                IsError(StatusCode::kInvalidArgument, "1 to 1000"));
  }
  EXPECT_EQ(Ask("ann", 0)->items_size(), 10);
  EXPECT_EQ(Ask("ann", 1)->items_size(), 1);
  EXPECT_EQ(Ask("ann", 1000)->items_size(), 100);
}

TEST_F(ServerTest, AttributeLimitsHoldAtTheirEdges) {
  const auto with = [&](auto change) {
    api::UpsertItemsRequest request;
    api::Item* const item = request.add_items();
    item->set_id("i001");
    change(item->mutable_attributes());
    return client_->UpsertItems(request).status();
  };
  const auto good = [&](auto change) { EXPECT_THAT(with(change), IsOk()); };
  const auto bad = [&](const char* text, auto change) {
    EXPECT_THAT(with(change), IsError(StatusCode::kInvalidArgument, text));
  };
  const auto many = [](int n) {
    return [n](auto* a) {
      for (int i = 0; i < n; ++i) (*a)[absl::StrCat("a", i)].set_number(i);
    };
  };
  good(many(100));
  bad("items[0].attributes", many(101));
  const auto named = [](size_t bytes) {
    return [bytes](auto* a) { (*a)[std::string(bytes, 'n')].set_number(1); };
  };
  good(named(64));
  bad("1 to 64 bytes", named(65));
  bad("1 to 64 bytes", named(0));
  const auto text = [](size_t bytes) {
    return [bytes](auto* a) { (*a)["t"].set_text(std::string(bytes, 't')); };
  };
  good(text(64 * 1024));
  bad("items[0].attributes[t]", text(64 * 1024 + 1));
  const auto texts = [](int n) {
    return [n](auto* a) {
      for (int i = 0; i < n; ++i) (*a)["t"].mutable_texts()->add_values("x");
    };
  };
  good(texts(1000));
  bad("at most 1000", texts(1001));
  const auto vector = [](int n, float value) {
    return [n, value](auto* a) {
      for (int i = 0; i < n; ++i) {
        (*a)["v"].mutable_vector()->add_values(value);
      }
    };
  };
  good(vector(4096, 1));
  bad("at most 4096", vector(4097, 1));
  bad("finite", vector(1, HUGE_VALF));
  bad("finite", [](auto* a) { (*a)["n"].set_number(std::nan("")); });
  bad("text, texts, number or vector", [](auto* a) { (*a)["nothing"]; });
}

TEST_F(ServerTest, RequestLimitsHoldAtTheirEdges) {
  const auto with = [&](auto change) {
    api::RecommendRequest request;
    request.set_user("ann");
    change(&request);
    return client_->Recommend(request).status();
  };
  const auto good = [&](auto change) { EXPECT_THAT(with(change), IsOk()); };
  const auto bad = [&](const char* text, auto change) {
    EXPECT_THAT(with(change), IsError(StatusCode::kInvalidArgument, text));
  };
  const auto candidates = [](int n) {
    return [n](auto* r) {
      for (int i = 0; i < n; ++i) r->add_candidates("i001");
    };
  };
  good(candidates(10'000));
  bad("candidates", candidates(10'001));
  const auto exclude = [](int n) {
    return [n](auto* r) {
      for (int i = 0; i < n; ++i) r->add_exclude("i001");
    };
  };
  good(exclude(10'000));
  bad("exclude", exclude(10'001));
  const auto history = [](int n) {
    return [n](auto* r) {
      for (int i = 0; i < n; ++i) {
        r->mutable_history()->add_entries()->set_item("i001");
      }
    };
  };
  good(history(1000));
  bad("history.entries", history(1001));
  const auto values = [](int n) {
    return [n](auto* r) {
      auto* const any = r->mutable_filter()->mutable_any_of();
      any->set_attribute("half");
      for (int i = 0; i < n; ++i) any->add_values("x");
    };
  };
  good(values(1000));
  bad("filter.any_of.values", values(1001));
  const auto nodes = [](int n) {  // one of them holds the others
    return [n](auto* r) {
      auto* const all = r->mutable_filter()->mutable_all();
      for (int i = 1; i < n; ++i) {
        auto* const range = all->add_filters()->mutable_range();
        range->set_attribute("year");
        range->set_min(0);
      }
    };
  };
  good(nodes(1000));
  bad("filter", nodes(1001));
  const auto request_id = [](size_t bytes) {
    return [bytes](auto* r) { r->set_request_id(std::string(bytes, 'r')); };
  };
  good(request_id(256));
  bad("request_id", request_id(257));
}

TEST_F(ServerTest, AnEventIdWithAnotherContentIsRefusedAndCanBeRetracted) {
  api::Event event = Like("ann", "i001");
  event.set_event_id("once");
  ASSERT_THAT(Feed(event), IsOk());
  ASSERT_THAT(Feed(event), IsOk());  // a repeat
  event.set_item("i002");
  EXPECT_THAT(Feed(event), IsError(StatusCode::kAlreadyExists, "once"));
  api::RetractEventsRequest retract;
  retract.add_events()->set_user("ann");
  EXPECT_THAT(client_->RetractEvents(retract),
              IsError(StatusCode::kInvalidArgument, "events[0].event_id"));
  retract.mutable_events(0)->set_event_id("once");
  EXPECT_EQ(client_->RetractEvents(retract)->retracted(), 1);
  EXPECT_EQ(client_->RetractEvents(retract)->retracted(), 0);
  api::GetHistoryRequest history;
  history.set_user("ann");
  EXPECT_EQ(client_->GetHistory(history)->events_size(), 0);
}

TEST_F(ServerTest, RecommendRefusesWhatMakesNoSense) {
  api::RecommendRequest request;
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument, "user"));
  request.set_user("ann");
  request.set_page_token("forged");
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument, "page_token"));
  request.clear_page_token();
  request.mutable_filter();
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument, "filter"));
  api::Filter* deep = request.mutable_filter();
  for (int i = 0; i < 10; ++i) deep = deep->mutable_not_();
  deep->mutable_all();
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument, "too deep"));
  request.clear_filter();
  auto* const entry = request.mutable_history()->add_entries();
  entry->set_item("i001");
  entry->set_weight(0);
  EXPECT_THAT(
      client_->Recommend(request),
      IsError(StatusCode::kInvalidArgument, "history.entries[0].weight"));
}

TEST_F(ServerTest, BrokenBytesGetAClearAnswer) {
  api::FeedbackRequest request;
  *request.add_events() = Like("ann", "i001");
  *request.add_events() = Like("XXXX", "i001");
  std::string bytes = request.SerializeAsString();
  bytes[bytes.find("XXXX")] = '\xff';
  grpc::Status status = SendRaw("FeedbackService/Feedback", bytes);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              testing::HasSubstr("events[1].user is not valid UTF-8"));
  google::rpc::Status details;
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 1);
  ASSERT_TRUE(details.details(0).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "events[1].user");

  status = SendRaw("FeedbackService/Feedback",
                   request.SerializeAsString().substr(0, 9));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("cut"));
  status = SendRaw("RecommendationService/Recommend", std::string(50, '\x0b'));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
}

TEST_F(ServerTest, PagesContinueAndMayNotChangeTheRequest) {
  api::RecommendRequest request;
  request.set_user("ann");
  request.set_count(40);
  const auto first = client_->Recommend(request);
  ASSERT_THAT(first, IsOk());
  request.set_page_token(first->next_page_token());
  request.set_count(60);
  const auto second = client_->Recommend(request);
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(second->items_size(), 60);
  EXPECT_TRUE(second->next_page_token().empty());
  request.set_include_seen(true);
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument, "another request"));
}

TEST_F(ServerTest, PartialFeedbackTellsOfEachEvent) {
  api::FeedbackRequest request;
  request.set_partial(true);
  *request.add_events() = Like("ann", "i001");
  api::Event wrong = Like("ann", "i002");
  wrong.set_type("teleport");
  *request.add_events() = wrong;
  *request.add_events() = Like("", "i002");
  *request.add_events() = Like("ann", "i003");
  const auto response = client_->Feedback(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->accepted(), 2);
  ASSERT_EQ(response->results_size(), 4);
  EXPECT_EQ(response->results(0).code(), 0);
  EXPECT_EQ(response->results(1).code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(response->results(2).code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(response->results(2).message(),
              testing::HasSubstr("events[2].user"));
  EXPECT_EQ(response->results(3).sequence(), 2u);
}

TEST_F(ServerTest, StreamFeedbackAnswersInOrder) {
  const auto stub = api::FeedbackService::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->StreamFeedback(&context);
  for (int i = 0; i < 5; ++i) {
    api::FeedbackRequest request;
    *request.add_events() = Like("ann", absl::StrFormat("i%03d", i));
    ASSERT_TRUE(stream->Write(request));
    api::FeedbackResponse response;
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_THAT(response.consistency_token(),
                testing::EndsWith(absl::StrCat("-", i + 1)));
  }
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ServerTest, TheCatalogueCanBeWalkedAndChanged) {
  api::ListItemsRequest list;
  list.set_count(30);
  std::vector<std::string> ids;
  do {
    const auto page = client_->ListItems(list);
    ASSERT_THAT(page, IsOk());
    for (const auto& item : page->items()) ids.push_back(item.id());
    list.set_page_token(page->next_page_token());
  } while (!list.page_token().empty());
  EXPECT_EQ(ids.size(), 100u);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));

  EXPECT_EQ(client_->GetItem("i007")->attributes().at("year").number(), 1957);
  api::DeleteItemsRequest remove;
  remove.add_items("i007");
  EXPECT_EQ(client_->DeleteItems(remove)->deleted(), 1);
  EXPECT_THAT(client_->GetItem("i007"), IsError(StatusCode::kNotFound, "i007"));
  EXPECT_EQ(Ask("ann", 1000)->items_size(), 99);
}

TEST_F(ServerTest, UsersCanBeShownAndErased) {
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(Feed(Like("ann", absl::StrFormat("i%03d", i))), IsOk());
  }
  api::GetHistoryRequest history;
  history.set_user("ann");
  history.set_count(3);
  auto page = client_->GetHistory(history);
  ASSERT_THAT(page, IsOk());
  EXPECT_EQ(page->events(0).item(), "i004");
  history.set_page_token(page->next_page_token());
  page = client_->GetHistory(history);
  EXPECT_EQ(page->events_size(), 2);
  EXPECT_TRUE(page->next_page_token().empty());

  EXPECT_EQ(client_->DeleteUser("ann")->events(), 5);
  EXPECT_THAT(client_->GetUser("ann"), IsError(StatusCode::kNotFound, "ann"));
  EXPECT_THAT(client_->DeleteUser("ann"),
              IsError(StatusCode::kNotFound, "ann"));
}

TEST_F(ServerTest, ExportHoldsWhatCallersPutIn) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  int items = 0, users = 0, events = 0;
  ASSERT_THAT(client_->Export([&](const api::ExportResponse& chunk) {
    items += chunk.items_size();
    users += chunk.users_size();
    events += chunk.events_size();
    return absl::OkStatus();
  }),
              IsOk());
  EXPECT_EQ(items, 100);
  EXPECT_EQ(users, 1);
  EXPECT_EQ(events, 1);
}

TEST_F(ServerTest, SimilarItemsExcludeTheItemItself) {
  api::SimilarItemsRequest request;
  request.set_item("i003");
  request.set_count(1000);
  const auto response = client_->SimilarItems(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->items_size(), 99);
  request.set_item("nothing");
  EXPECT_THAT(client_->SimilarItems(request),
              IsError(StatusCode::kNotFound, "nothing"));
}

TEST_F(ServerTest, RollbackGoesToANamedGenerationAndRefusesDamage) {
  model::LocalGenerationStore generations(dir_ / "data/generations");
  ASSERT_THAT(generations.Write(model::TinyBundle(100, 2)), IsOk());
  EXPECT_EQ(client_->Rollback("g-tiny-2")->previous(), "g-tiny-1");
  EXPECT_EQ(client_->Rollback("")->generation(), "g-tiny-1");
  EXPECT_THAT(client_->Rollback("g-none"),
              IsError(StatusCode::kNotFound, "g-none"));
  std::filesystem::resize_file(
      generations.FolderOf("g-tiny-2") + "/weights.safetensors", 64);
  EXPECT_THAT(client_->Rollback("g-tiny-2"),
              IsError(StatusCode::kFailedPrecondition, "stays"));
  EXPECT_EQ(Ask("ann")->degraded_reason(), "no_history");
}

TEST_F(ServerTest, AFailedRunIsReportedAndServingGoesOn) {
  config_.training.program = "/bin/false";
  Start();
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  const auto run = client_->Retrain({});
  ASSERT_THAT(run, IsOk());
  const auto end = client_->WatchRun(run->run_id(), [](const auto&) {});
  ASSERT_THAT(end, IsOk());
  EXPECT_EQ(end->state(), api::RUN_STATE_FAILED);
  EXPECT_THAT(end->message(), testing::HasSubstr("exited with code 1"));
  EXPECT_EQ(Ask("ann")->served_by(), api::SERVED_BY_RANKED);
  EXPECT_THAT(client_->WatchRun("run-none", [](const auto&) {}),
              IsError(StatusCode::kNotFound, "run-none"));
}

TEST_F(ServerTest, TwoServersCannotShareAFolderOrAPort) {
  EXPECT_THAT(Server::Start(config_),
              IsError(StatusCode::kFailedPrecondition, "another process"));
  Config other = config_;
  other.data_dir = dir_ / "other";
  other.listen = address_;
  EXPECT_THAT(Server::Start(other),
              IsError(StatusCode::kUnavailable, "cannot listen"));
}

TEST_F(ServerTest, CudaWithoutADeviceIsRefusedAtStart) {
  Config other = config_;
  other.data_dir = dir_ / "other";
  other.device = "cuda:63";
  EXPECT_THAT(Server::Start(other),
              IsError(StatusCode::kFailedPrecondition, "cuda:63"));
}

// Dashboards rest on these names.
TEST_F(ServerTest, TheListOfMetricsIsPinned) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  ASSERT_THAT(Ask("ann"), IsOk());
  std::set<std::string> names;
  std::istringstream text(server_->Scrape());
  for (std::string line; std::getline(text, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      names.insert(line.substr(7, line.rfind(' ') - 7));
    }
  }
  const std::set<std::string> expected = {
      "nearline_answers_total",
      "nearline_batch_requests",
      "nearline_degraded_answers_total",
      "nearline_dropped_requests_total",
      "nearline_feedback_events_total",
      "nearline_generation_age_seconds",
      "nearline_generation_in_service",
      "nearline_generation_quality",
      "nearline_hot_profile_bytes",
      "nearline_hot_profile_evictions_total",
      "nearline_hot_profile_hits_total",
      "nearline_hot_profile_misses_total",
      "nearline_hot_profiles",
      "nearline_queued_events",
      "nearline_queued_requests",
      "nearline_rpc_duration_seconds",
      "nearline_rpc_requests_total",
      "nearline_stage_seconds_total",
      "nearline_store_events",
      "nearline_store_failed_writes_total",
      "nearline_store_items",
      "nearline_store_sync_seconds_total",
      "nearline_store_syncs_total",
      "nearline_store_users",
      "nearline_training_last_duration_seconds",
      "nearline_training_running",
      "nearline_training_runs_total",
  };
  EXPECT_EQ(names, expected);
}

}  // namespace
}  // namespace nearline::server
