#include "client/client.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"

namespace nearline::client {
namespace {

// gRPC says RESOURCE_EXHAUSTED of a message that is too large, too, but only a
// server whose queue is full says that later may be better.
bool WorthRetrying(const grpc::Status& status) {
  if (status.error_code() == grpc::UNAVAILABLE) return true;
  google::rpc::Status details;
  if (status.error_code() != grpc::RESOURCE_EXHAUSTED ||
      !details.ParseFromString(status.error_details())) {
    return false;
  }
  return std::any_of(details.details().begin(), details.details().end(),
                     [](const google::protobuf::Any& detail) {
                       return detail.Is<google::rpc::RetryInfo>();
                     });
}

std::string MakeUpEventId(absl::BitGen* random) {
  const auto part = [&] {
    return absl::Hex(absl::Uniform<uint64_t>(*random), absl::kZeroPad16);
  };
  return absl::StrCat(part(), part());
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
}

Client::Client(ClientOptions options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  channel_ = grpc::CreateCustomChannel(
      options_.address, grpc::InsecureChannelCredentials(), arguments);
  recommendation_ = api::RecommendationService::NewStub(channel_);
  feedback_ = api::FeedbackService::NewStub(channel_);
  catalog_ = api::CatalogService::NewStub(channel_);
  model_ = api::ModelService::NewStub(channel_);
  admin_ = api::AdminService::NewStub(channel_);
}

template <typename Response, typename Call>
absl::StatusOr<Response> Client::Try(int attempts, Call call) {
  const absl::Time deadline = absl::Now() + options_.timeout;
  absl::Duration pause = options_.first_pause;
  absl::BitGen random;
  grpc::Status before;
  for (int attempt = 1;; ++attempt) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    Response response;
    const grpc::Status status = call(&context, &response);
    if (status.ok()) return response;
    // Why it was tried again says more than that time ran out then.
    if (status.error_code() == grpc::DEADLINE_EXCEEDED && !before.ok()) {
      return FromGrpc(before);
    }
    before = status;
    const bool last = attempt >= attempts || absl::Now() + pause >= deadline;
    if (!WorthRetrying(status) || last) return FromGrpc(status);
    std::this_thread::sleep_for(
        absl::ToChronoNanoseconds(pause * absl::Uniform(random, 0.5, 1.5)));
    pause = std::min(pause * 2, absl::Seconds(2));
  }
}

bool Client::WaitUntilReady(absl::Duration timeout) {
  return channel_->WaitForConnected(absl::ToChronoTime(absl::Now() + timeout));
}

absl::StatusOr<api::RecommendResponse> Client::Recommend(
    const api::RecommendRequest& request) {
  return Retry<api::RecommendResponse>([&](auto* context, auto* response) {
    return recommendation_->Recommend(context, request, response);
  });
}

absl::StatusOr<api::SimilarItemsResponse> Client::SimilarItems(
    const api::SimilarItemsRequest& request) {
  return Retry<api::SimilarItemsResponse>([&](auto* context, auto* response) {
    return recommendation_->SimilarItems(context, request, response);
  });
}

absl::StatusOr<api::FeedbackResponse> Client::Feedback(
    api::FeedbackRequest request) {
  absl::BitGen random;
  for (api::Event& event : *request.mutable_events()) {
    if (event.event_id().empty()) event.set_event_id(MakeUpEventId(&random));
  }
  return Retry<api::FeedbackResponse>([&](auto* context, auto* response) {
    return feedback_->Feedback(context, request, response);
  });
}

absl::StatusOr<api::RetractEventsResponse> Client::RetractEvents(
    const api::RetractEventsRequest& request) {
  return Retry<api::RetractEventsResponse>([&](auto* context, auto* response) {
    return feedback_->RetractEvents(context, request, response);
  });
}

absl::StatusOr<api::UpsertItemsResponse> Client::UpsertItems(
    const api::UpsertItemsRequest& request) {
  return Retry<api::UpsertItemsResponse>([&](auto* context, auto* response) {
    return catalog_->UpsertItems(context, request, response);
  });
}

absl::StatusOr<api::DeleteItemsResponse> Client::DeleteItems(
    const api::DeleteItemsRequest& request) {
  return Retry<api::DeleteItemsResponse>([&](auto* context, auto* response) {
    return catalog_->DeleteItems(context, request, response);
  });
}

absl::StatusOr<api::Item> Client::GetItem(const std::string& id) {
  api::GetItemRequest request;
  request.set_item(id);
  return Retry<api::Item>([&](auto* context, auto* response) {
    return catalog_->GetItem(context, request, response);
  });
}

absl::StatusOr<api::ListItemsResponse> Client::ListItems(
    const api::ListItemsRequest& request) {
  return Retry<api::ListItemsResponse>([&](auto* context, auto* response) {
    return catalog_->ListItems(context, request, response);
  });
}

absl::StatusOr<api::UpsertUsersResponse> Client::UpsertUsers(
    const api::UpsertUsersRequest& request) {
  return Retry<api::UpsertUsersResponse>([&](auto* context, auto* response) {
    return catalog_->UpsertUsers(context, request, response);
  });
}

absl::StatusOr<api::User> Client::GetUser(const std::string& id) {
  api::GetUserRequest request;
  request.set_user(id);
  return Retry<api::User>([&](auto* context, auto* response) {
    return catalog_->GetUser(context, request, response);
  });
}

absl::StatusOr<api::ListUsersResponse> Client::ListUsers(
    const api::ListUsersRequest& request) {
  return Retry<api::ListUsersResponse>([&](auto* context, auto* response) {
    return catalog_->ListUsers(context, request, response);
  });
}

absl::StatusOr<api::GetHistoryResponse> Client::GetHistory(
    const api::GetHistoryRequest& request) {
  return Retry<api::GetHistoryResponse>([&](auto* context, auto* response) {
    return catalog_->GetHistory(context, request, response);
  });
}

absl::StatusOr<api::DeleteUserResponse> Client::DeleteUser(
    const std::string& id) {
  api::DeleteUserRequest request;
  request.set_user(id);
  return Retry<api::DeleteUserResponse>([&](auto* context, auto* response) {
    return catalog_->DeleteUser(context, request, response);
  });
}

absl::StatusOr<api::RetrainResponse> Client::Retrain(
    const api::RetrainRequest& request) {
  return Retry<api::RetrainResponse>([&](auto* context, auto* response) {
    return model_->Retrain(context, request, response);
  });
}

absl::StatusOr<api::RunProgress> Client::WatchRun(
    const std::string& run_id,
    const std::function<void(const api::RunProgress&)>& on_progress) {
  grpc::ClientContext context;  // no deadline: a run takes what it takes
  api::WatchRunRequest request;
  request.set_run_id(run_id);
  const auto reader = model_->WatchRun(&context, request);
  api::RunProgress progress;
  while (reader->Read(&progress)) on_progress(progress);
  const absl::Status end = FromGrpc(reader->Finish());
  if (!end.ok()) return end;
  return progress;
}

absl::StatusOr<api::ListGenerationsResponse> Client::ListGenerations() {
  return Retry<api::ListGenerationsResponse>(
      [&](auto* context, auto* response) {
        return model_->ListGenerations(context, {}, response);
      });
}

absl::StatusOr<api::RollbackResponse> Client::Rollback(const std::string& id) {
  api::RollbackRequest request;
  request.set_generation(id);
  const int attempts = id.empty() ? 1 : options_.attempts;
  return Try<api::RollbackResponse>(
      attempts, [&](auto* context, auto* response) {
        return model_->Rollback(context, request, response);
      });
}

absl::StatusOr<api::StatusResponse> Client::Status() {
  return Retry<api::StatusResponse>([&](auto* context, auto* response) {
    return admin_->Status(context, {}, response);
  });
}

absl::Status Client::Export(
    const std::function<absl::Status(const api::ExportResponse&)>& on_chunk) {
  grpc::ClientContext context;
  const auto reader = admin_->Export(&context, {});
  api::ExportResponse chunk;
  while (reader->Read(&chunk)) {
    const absl::Status status = on_chunk(chunk);
    if (status.ok()) continue;
    context.TryCancel();
    return status;
  }
  return FromGrpc(reader->Finish());
}

}  // namespace nearline::client
