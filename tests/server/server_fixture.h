#ifndef NEARLINE_TESTS_SERVER_SERVER_FIXTURE_H_
#define NEARLINE_TESTS_SERVER_SERVER_FIXTURE_H_

#include <grpcpp/generic/generic_stub.h>

#include <memory>
#include <string>

#include "client/client.h"
#include "server/server.h"
#include "tests/model/tiny_model.h"
#include "tests/testing.h"

namespace nearline::server {

namespace api = ::nearline::v1;

// A server on a free port with a tiny model of 100 items, and a client.
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

}  // namespace nearline::server

#endif  // NEARLINE_TESTS_SERVER_SERVER_FIXTURE_H_
