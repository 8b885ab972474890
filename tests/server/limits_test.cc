// Each limit at its edge and one past it.
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"
#include "tests/server/server_fixture.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

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
  good([](auto* e) { e->set_item(std::string(256, 'i')); });
  good([](auto* e) { e->set_event_id(std::string(256, 'e')); });
  good([](auto* e) { e->set_request_id(std::string(256, 'r')); });
  good([](auto* e) { e->set_value(1e9); });
  good([](auto* e) { e->set_value(-1e9); });
  good([](auto* e) {  // limits.max_future is 5 minutes
    e->mutable_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 299);
    e->mutable_time()->set_nanos(999'999'999);
  });
  good([](auto* e) { e->set_context(std::string(4096, 'c')); });
  bad("events[0].user", [](auto* e) { e->set_user(std::string(257, 'u')); });
  bad("events[0].user", [](auto* e) { e->set_user(""); });
  bad("events[0].user", [](auto* e) { e->set_user(std::string("a\0b", 3)); });
  bad("events[0].item", [](auto* e) { e->set_item("a\nb"); });
  bad("events[0].item",
      [](auto* e) { e->set_item(std::string(10 << 20, 'x')); });
  bad("events[0].item", [](auto* e) { e->set_item(std::string(257, 'i')); });
  bad("events[0].event_id",
      [](auto* e) { e->set_event_id(std::string(257, 'e')); });
  bad("events[0].request_id",
      [](auto* e) { e->set_request_id(std::string(257, 'r')); });
  bad("events[0].value",
      [](auto* e) { e->set_value(std::nextafter(1e9, 2e9)); });
  bad("events[0].value",
      [](auto* e) { e->set_value(std::nextafter(-1e9, -2e9)); });
  bad("events[0].value", [](auto* e) { e->set_value(HUGE_VAL); });
  bad("events[0].value", [](auto* e) { e->set_value(std::nan("")); });
  bad("events[0].type", [](auto* e) { e->set_type(""); });
  bad("(cart, click", [](auto* e) { e->set_type("teleport"); });
  bad("events[0].time", [](auto* e) { e->mutable_time()->set_seconds(-1); });
  bad("events[0].time", [](auto* e) {
    e->mutable_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) + 302);
  });
  bad("events[0].time", [](auto* e) { e->mutable_time()->set_nanos(-1); });
  bad("events[0].time",
      [](auto* e) { e->mutable_time()->set_nanos(1'000'000'000); });
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

TEST_F(ServerTest, EveryBatchAndReasonHasItsLimit) {
  const auto refused = [](const absl::Status& status, const char* text) {
    EXPECT_THAT(status, IsError(StatusCode::kInvalidArgument, text));
  };
  const auto check = [&](int n, const auto& test) {
    api::UpsertItemsRequest items;
    api::UpsertUsersRequest users;
    api::DeleteItemsRequest gone;
    api::RetractEventsRequest retract;
    for (int i = 0; i < n; ++i) {
      items.add_items()->set_id("i001");
      users.add_users()->set_id("ann");
      gone.add_items("i002");
      auto* const ref = retract.add_events();
      ref->set_user("ann");
      ref->set_event_id("none");
    }
    test(client_->UpsertItems(items).status(), "items");
    test(client_->UpsertUsers(users).status(), "users");
    test(client_->DeleteItems(gone).status(), "items");
    test(client_->RetractEvents(retract).status(), "events");
  };
  check(0, refused);
  check(10'000, [](const absl::Status& status, const char*) {
    EXPECT_THAT(status, IsOk());
  });
  check(10'001, refused);
  api::RetrainRequest retrain;
  retrain.set_reason(std::string(257, 'r'));
  refused(client_->Retrain(retrain).status(), "reason");
}

TEST_F(ServerTest, CountLimitsHoldAtTheirEdges) {
  ASSERT_THAT(Feed(Like("ann", "i001")), IsOk());
  const auto similar = [&](int count) {
    api::SimilarItemsRequest request;
    request.set_item("i001");
    request.set_count(count);
    return client_->SimilarItems(request).status();
  };
  const auto items = [&](int count) {
    api::ListItemsRequest request;
    request.set_count(count);
    return client_->ListItems(request).status();
  };
  const auto users = [&](int count) {
    api::ListUsersRequest request;
    request.set_count(count);
    return client_->ListUsers(request).status();
  };
  const auto history = [&](int count) {
    api::GetHistoryRequest request;
    request.set_user("ann");
    request.set_count(count);
    return client_->GetHistory(request).status();
  };
  for (const int count : {1, 1000}) {
    EXPECT_THAT(similar(count), IsOk());
    EXPECT_THAT(items(count), IsOk());
    EXPECT_THAT(users(count), IsOk());
    EXPECT_THAT(history(count), IsOk());
  }
  const auto refusal = IsError(StatusCode::kInvalidArgument, "1 to 1000");
  for (const int count : {-1, 1001, 1'000'000'000}) {
    EXPECT_THAT(Ask("ann", count), refusal);
    EXPECT_THAT(similar(count), refusal);
    EXPECT_THAT(items(count), refusal);
    EXPECT_THAT(users(count), refusal);
    EXPECT_THAT(history(count), refusal);
  }
  ASSERT_THAT(client_->DeleteUser("ann"), IsOk());
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
  bad("1 to 4096", [](auto* a) { (*a)["v"].mutable_vector(); });
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
  const auto weight = [](double value) {
    return [value](auto* r) {
      auto* const entry = r->mutable_history()->add_entries();
      entry->set_item("i001");
      entry->set_weight(value);
    };
  };
  good(weight(1000));
  good(weight(1e-300));
  bad("history.entries[0].weight", weight(std::nextafter(1000, 2000)));
  bad("history.entries[0].weight", weight(std::nan("")));
  const auto levels = [](int n) {
    return [n](auto* r) {
      api::Filter* deep = r->mutable_filter();
      for (int i = 1; i < n; ++i) deep = deep->mutable_not_();
      deep->mutable_all();
    };
  };
  good(levels(10));
  bad("too deep", levels(11));
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

TEST_F(ServerTest, AFilterIsNamedByItsPath) {
  api::RecommendRequest request;
  request.set_user("ann");
  auto* const all = request.mutable_filter()->mutable_all();
  all->add_filters()->mutable_equals()->set_attribute("year");
  all->add_filters()->mutable_not_()->mutable_range();
  EXPECT_THAT(client_->Recommend(request),
              IsError(StatusCode::kInvalidArgument,
                      "filter.all.filters[1].not.range.attribute"));
}

}  // namespace
}  // namespace nearline::server
