// A server in the test process on a free port: each call.
#include "server/server.h"

#include <atomic>
#include <numeric>
#include <set>
#include <thread>

#include "base/file.h"
#include "client/records.h"
#include "model/packed_matrix.h"
#include "proto/google/rpc/status.pb.h"
#include "proto/grpc/health/v1/health.grpc.pb.h"
#include "server/wire.h"
#include "tests/server/server_fixture.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

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

TEST_F(ServerTest, AnImportIsToldWhatIsTooOldToKeep) {
  config_.store.retention.max_age = absl::Hours(24 * 100);
  Start();
  api::FeedbackRequest request;
  request.set_historical(true);
  request.set_partial(true);
  for (const int days : {101, 99}) {
    api::Event* const event = request.add_events();
    *event = Like("ann", "i003");
    event->set_event_id(absl::StrCat(days));
    event->mutable_time()->set_seconds(
        absl::ToUnixSeconds(absl::Now() - days * absl::Hours(24)));
  }
  const auto response = client_->Feedback(request);
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->accepted(), 1);
  EXPECT_EQ(response->expired(), 1);
  EXPECT_TRUE(response->results(0).expired());
  EXPECT_EQ(response->results(0).code(), 0);
  EXPECT_EQ(response->results(1).sequence(), 1u);
  const std::string metrics = server_->Scrape();
  for (const char* name :
       {"nearline_feedback_events_total{result=\"expired\"} 1",
        "nearline_retired_events_total 0", "nearline_retired_users_total 0",
        "nearline_retention_failures_total 0",
        "nearline_retention_last_sweep_timestamp_seconds",
        "nearline_retention_interval_seconds 86400"}) {
    EXPECT_THAT(metrics, testing::HasSubstr(name));
  }
}

TEST_F(ServerTest, StreamFeedbackAnswersInOrder) {
  // Answers of more than a few bytes are written in another way.
  api::FeedbackRequest before;
  for (int i = 0; i < 10'000; ++i) *before.add_events() = Like("bob", "i001");
  ASSERT_THAT(client_->Feedback(before), IsOk());
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
                testing::EndsWith(absl::StrCat("-", 10'001 + i)));
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

TEST_F(ServerTest, UsersAndGenerationsAreListed) {
  api::UpsertUsersRequest upsert;
  for (const char* id : {"zoe", "ann"}) {
    api::User* const user = upsert.add_users();
    user->set_id(id);
    (*user->mutable_attributes())["age"].set_number(40);
  }
  const auto upserted = client_->UpsertUsers(upsert);
  ASSERT_THAT(upserted, IsOk());
  EXPECT_FALSE(upserted->consistency_token().empty());
  EXPECT_EQ(client_->GetUser("zoe")->attributes().at("age").number(), 40);
  api::ListUsersRequest list;
  list.set_count(1);
  const auto first = client_->ListUsers(list);
  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(first->users(0).id(), "zoe");  // in order of first sight
  list.set_page_token(first->next_page_token());
  EXPECT_EQ(client_->ListUsers(list)->users(0).id(), "ann");
  const auto generations = client_->ListGenerations();
  ASSERT_THAT(generations, IsOk());
  ASSERT_EQ(generations->generations_size(), 1);
  EXPECT_EQ(generations->generations(0).id(), "g-tiny-1");
  EXPECT_TRUE(generations->generations(0).in_service());
  const auto admin = api::AdminService::NewStub(channel_);
  grpc::ClientContext context;
  api::PingResponse pong;
  EXPECT_TRUE(admin->Ping(&context, {}, &pong).ok());
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

TEST_F(ServerTest, AnExportThatIsCutBySizeLosesNothing) {
  // Several chunks for one user, and one that goes on with the next.
  constexpr int kEvents = 1200;
  const std::string context(3000, 'x');
  for (const char* const user : {"ann", "bob"}) {
    api::FeedbackRequest request;
    for (int i = 0; i < kEvents; ++i) {
      api::Event* const event = request.add_events();
      *event = Like(user, "i003");
      event->set_event_id(absl::StrCat(user, i));
      event->set_context(context);
    }
    ASSERT_THAT(client_->Feedback(request), IsOk());
  }
  std::set<std::string> ids;
  int chunks = 0, events = 0;
  const auto on_chunk = [&](const api::ExportResponse& chunk) {
    ++chunks;
    EXPECT_LT(chunk.ByteSizeLong(), 2u << 20);
    for (const api::Event& event : chunk.events()) {
      ++events;
      ids.insert(event.event_id());
    }
    return absl::OkStatus();
  };
  ASSERT_THAT(client_->Export(on_chunk), IsOk());
  EXPECT_GT(chunks, 6);
  EXPECT_EQ(events, 2 * kEvents);
  EXPECT_EQ(ids.size(), 2u * kEvents);
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

TEST_F(ServerTest, HealthIsToldOfEachServiceAndOfNoOther) {
  using grpc::health::v1::HealthCheckResponse;
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  const auto check = [&](const std::string& service,
                         HealthCheckResponse* answer) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    return stub->Check(&context, request, answer);
  };
  for (const char* service : {"", "nearline.v1.FeedbackService"}) {
    HealthCheckResponse answer;
    EXPECT_TRUE(check(service, &answer).ok());
    EXPECT_EQ(answer.status(), HealthCheckResponse::SERVING);
  }
  HealthCheckResponse answer;
  const grpc::Status unknown = check("nearline.v1.Feedback", &answer);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(unknown.error_message(),
              testing::HasSubstr("\"nearline.v1.Feedback\""));
}

// A hang here is a shutdown that waits for whoever watches.
TEST_F(ServerTest, ThoseWhoWatchTheHealthDoNotHoldAShutdownUp) {
  using grpc::health::v1::HealthCheckResponse;
  config_.serving.drain = absl::Hours(1);
  Start();
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context, other;
  const auto whole = stub->Watch(&context, {});
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("nothing");
  const auto unknown = stub->Watch(&other, request);
  HealthCheckResponse answer;
  ASSERT_TRUE(whole->Read(&answer));
  EXPECT_EQ(answer.status(), HealthCheckResponse::SERVING);
  ASSERT_TRUE(unknown->Read(&answer));
  EXPECT_EQ(answer.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  server_.reset();
  ASSERT_TRUE(whole->Read(&answer));
  EXPECT_EQ(answer.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(whole->Read(&answer));
  EXPECT_EQ(whole->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

// Under a sanitizer: the answer comes from a thread of the store.
TEST_F(ServerTest, StreamsEndWithWhatTheStoreRefuses) {
  config_.store.database.free_space_reserve = int64_t{1} << 60;
  Start();
  const auto stub = api::FeedbackService::NewStub(channel_);
  api::FeedbackRequest request;
  *request.add_events() = Like("ann", "i001");
  api::FeedbackResponse response;
  for (int i = 0; i < 50; ++i) {
    grpc::ClientContext context;
    const auto stream = stub->StreamFeedback(&context);
    stream->Write(request);
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  }
}

// A hang here is a shutdown that waits for streams.
TEST_F(ServerTest, OpenFeedbackStreamsDoNotHoldAShutdownUp) {
  config_.serving.drain = absl::Seconds(100);
  Start();
  const auto stub = api::FeedbackService::NewStub(channel_);
  grpc::ClientContext context;
  const auto stream = stub->StreamFeedback(&context);
  api::FeedbackRequest request;
  *request.add_events() = Like("ann", "i001");
  api::FeedbackResponse response;
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  const absl::Time start = absl::Now();
  server_.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(50));
  EXPECT_FALSE(stream->Read(&response));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "the server is shutting down");
}

// Callers that pause as they are told see nothing else.
TEST_F(ServerTest, WhileItShutsDownCallsAreToldSo) {
  config_.serving.drain = absl::Seconds(10);  // of which 200 ms for these
  Start();
  std::vector<std::thread> callers;
  std::atomic<int> began{0}, told{0};
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      const auto stub = api::AdminService::NewStub(channel_);
      for (int calls = 0;; ++calls) {
        grpc::ClientContext context;
        api::PingResponse response;
        const grpc::Status status = stub->Ping(&context, {}, &response);
        if (calls == 0) ++began;
        if (status.ok()) continue;
        // A bare one for whom the machine gave no time to be told.
        EXPECT_TRUE(status.error_code() == grpc::UNAVAILABLE ||
                    status.error_code() == grpc::CANCELLED);
        if (status.error_message() == "the server is shutting down") {
          google::rpc::Status details;
          EXPECT_TRUE(details.ParseFromString(status.error_details()));
          EXPECT_EQ(details.details_size(), 1);
          ++told;
        }
        return;
      }
    });
  }
  while (began < 4) std::this_thread::yield();
  server_.reset();
  for (std::thread& caller : callers) caller.join();
  EXPECT_GT(told, 0);
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

// Of a hundred items, lists that are passed over would cost some of the best
// hundred: the index looks at them all.
TEST_F(ServerTest, AnIndexThatCannotKeepItsPromiseLeavesAnswersAsTheyAre) {
  ASSERT_THAT(Feed(Like("ann", "i003")), IsOk());
  const auto without = Ask("ann", 20);
  ASSERT_THAT(without, IsOk());
  config_.serving.index_items = 100;
  Start();
  const auto with = Ask("ann", 20);
  ASSERT_THAT(with, IsOk());
  ASSERT_EQ(with->items_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(with->items(i).item(), without->items(i).item());
    EXPECT_EQ(with->items(i).score(), without->items(i).score());
  }
  EXPECT_THAT(server_->Scrape(), testing::HasSubstr("nearline_index_recall 1"));
  EXPECT_THAT(server_->Scrape(),
              testing::HasSubstr("nearline_scan_agreement 1"));
  const auto text = ReadFile(dir_ / "data/generations/g-tiny-1/warm-up.json");
  ASSERT_THAT(text, IsOk());
  const Json report = Json::parse(*text);
  EXPECT_EQ(report["places_as_in_float32"], 1);
  EXPECT_EQ(report["index"]["recall_of_100"], 1);
  // All lists are looked at, by the exact scan.
  EXPECT_EQ(report["scan"], model::PackedMatrix::Fastest() ==
                                    model::PackedMatrix::Precision::kInt8
                                ? "int8"
                                : "float32");
}

// As calls do that are taken back while they wait to be read.
TEST(Wire, ACallWithoutAMessageWasCancelled) {
  api::RecommendRequest request;
  EXPECT_THAT(ParseMessage(grpc::ByteBuffer(), &request),
              IsError(StatusCode::kCancelled, "before its message"));
  const grpc::Slice nothing;
  EXPECT_THAT(ParseMessage(grpc::ByteBuffer(&nothing, 1), &request), IsOk());
}

TEST_F(ServerTest, AnErasedUserLeavesNoSumBehind) {
  for (int i = 0; i < 20; ++i) {
    ASSERT_THAT(Feed(Like("ann", absl::StrFormat("i%03d", i))), IsOk());
  }
  ASSERT_THAT(Ask("ann"), IsOk());
  ASSERT_THAT(Feed(Like("ann", "i050")), IsOk());
  ASSERT_THAT(Ask("ann"), IsOk());
  using testing::HasSubstr;
  EXPECT_THAT(server_->Scrape(),
              HasSubstr("\nnearline_encoder_states_rebuilt_total 1\n"));
  EXPECT_THAT(server_->Scrape(),
              HasSubstr("\nnearline_encoder_states_updated_total 1\n"));
  EXPECT_THAT(server_->Scrape(),
              testing::Not(HasSubstr("\nnearline_encoder_states_bytes 0\n")));
  ASSERT_THAT(client_->DeleteUser("ann"), IsOk());
  EXPECT_THAT(server_->Scrape(),
              HasSubstr("\nnearline_encoder_states_bytes 0\n"));
}

// Dashboards rest on these names.
TEST_F(ServerTest, StatusTellsOfCallsAndConnections) {
  for (int i = 0; i < 3; ++i) ASSERT_THAT(Ask("ann"), IsOk());
  const auto status = client_->Status();
  ASSERT_THAT(status, IsOk());
  EXPECT_GE(status->connections(), 1);
  EXPECT_GT(status->resident_bytes(), 1 << 20);
  EXPECT_GT(status->disk_free_bytes(), 0);
  for (const api::MethodStatus& method : status->methods()) {
    if (method.method() != "Recommend") continue;
    EXPECT_EQ(method.calls(), 3);
    EXPECT_EQ(method.failed(), 0);
    EXPECT_EQ(method.calls_by_time_size(), status->time_bounds_size() + 1);
    EXPECT_EQ(std::accumulate(method.calls_by_time().begin(),
                              method.calls_by_time().end(), int64_t{0}),
              3);
  }
}

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
      "nearline_build_info",
      "nearline_calls_in_flight",
      "nearline_calls_denied_total",
      "nearline_connections",
      "nearline_connections_refused_total",
      "nearline_degraded_answers_total",
      "nearline_disk_free_bytes",
      "nearline_disk_reserve_bytes",
      "nearline_dropped_requests_total",
      "nearline_feedback_events_total",
      "nearline_generation_age_seconds",
      "nearline_generation_info",
      "nearline_generation_in_service",
      "nearline_generation_quality",
      "nearline_generations_disk_bytes",
      "nearline_encoder_states_bytes",
      "nearline_encoder_states_rebuilt_total",
      "nearline_encoder_states_updated_total",
      "nearline_hot_profile_bytes",
      "nearline_hot_profile_evictions_total",
      "nearline_hot_profile_hits_total",
      "nearline_hot_profile_misses_total",
      "nearline_hot_profiles",
      "nearline_index_recall",
      "nearline_query_cache_hits_total",
      "nearline_query_cache_misses_total",
      "nearline_queue_seconds_total",
      "nearline_queued_events",
      "nearline_queued_events_limit",
      "nearline_queued_requests",
      "nearline_queued_requests_limit",
      "nearline_reload_failures_total",
      "nearline_rpc_duration_seconds",
      "nearline_rpc_requests_total",
      "nearline_scan_agreement",
      "nearline_stage_seconds_total",
      "nearline_store_disk_bytes",
      "nearline_store_failed_writes_total",
      "nearline_store_items",
      "nearline_store_sequence",
      "nearline_store_sync_seconds_total",
      "nearline_store_syncs_total",
      "nearline_store_synced_events_total",
      "nearline_store_users",
      "nearline_training_last_duration_seconds",
      "nearline_training_running",
      "nearline_training_runs_in_a_row",
      "nearline_training_runs_total",
      "process_cpu_seconds_total",
      "process_max_fds",
      "process_open_fds",
      "process_resident_memory_bytes",
      "process_start_time_seconds",
  };
  // Only where there is a limit.
  names.erase("nearline_memory_limit_bytes");
  names.erase("nearline_memory_used_bytes");
  EXPECT_EQ(names, expected);
}

}  // namespace
}  // namespace nearline::server
