#include "client/client.h"

#include <grpcpp/generic/generic_stub.h>

#include <algorithm>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"

namespace nearline::client {
namespace {

// After how long a call that failed is worth another try; infinite: it is not.
// gRPC says RESOURCE_EXHAUSTED of a message that is too large, too, but only a
// server whose queue is full, or whose caller is too fast, says that later may
// be better. What is tried again is not cancelled here: a server that shuts
// down did that.
absl::Duration RetryAfter(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::RetryInfo retry;
  const bool unavailable = status.error_code() == grpc::UNAVAILABLE ||
                           status.error_code() == grpc::CANCELLED;
  if ((unavailable || status.error_code() == grpc::RESOURCE_EXHAUSTED) &&
      details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) {
      if (!detail.UnpackTo(&retry)) continue;
      return absl::Seconds(retry.retry_delay().seconds()) +
             absl::Nanoseconds(retry.retry_delay().nanos());
    }
  }
  return unavailable ? absl::ZeroDuration() : absl::InfiniteDuration();
}

// Whether only this machine can be meant by "host:port".
bool IsLoopback(absl::string_view address) {
  const absl::string_view host = address.substr(0, address.rfind(':'));
  const bool digits = std::all_of(host.begin(), host.end(), [](char c) {
    return absl::ascii_isdigit(c) || c == '.';
  });
  return (digits && absl::StartsWith(host, "127.")) || host == "localhost" ||
         host == "[::1]" || absl::StartsWith(address, "unix:");
}

bool UsesTls(const TlsOptions& tls) {
  return tls.on || !tls.ca.empty() || !tls.certificate.empty();
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

std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options,
                                           const grpc::ChannelArguments& how) {
  const TlsOptions& tls = options.tls;
  grpc::ChannelArguments arguments = how;
  if (!UsesTls(tls)) {
    return grpc::CreateCustomChannel(
        options.address, grpc::InsecureChannelCredentials(), arguments);
  }
  if (!tls.server_name.empty()) {
    arguments.SetSslTargetNameOverride(tls.server_name);
  }
  return grpc::CreateCustomChannel(
      options.address,
      grpc::SslCredentials({.pem_root_certs = tls.ca,
                            .pem_private_key = tls.key,
                            .pem_cert_chain = tls.certificate}),
      arguments);
}

absl::Status AddMetadata(const ClientOptions& options,
                         grpc::ClientContext* context) {
  if (options.token.empty()) return absl::OkStatus();
  if (!std::all_of(options.token.begin(), options.token.end(),
                   absl::ascii_isgraph)) {
    return absl::InvalidArgumentError(
        "the token: expected visible ASCII characters and no others");
  }
  if (!UsesTls(options.tls) && !IsLoopback(options.address) &&
      !options.plaintext_token) {
    return absl::FailedPreconditionError(
        absl::StrCat("the token could be read on its way to ", options.address,
                     ": use TLS (--tls, --ca), or say that the network may "
                     "be trusted (--allow-plaintext, plaintext_token)"));
  }
  context->AddMetadata("authorization", absl::StrCat("Bearer ", options.token));
  return absl::OkStatus();
}

Client::Client(ClientOptions options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A server that starts anew is found soon. (The second is how long a
  // connection may take.)
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  channel_ = MakeChannel(options_, arguments);
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
    const absl::Status added = AddMetadata(options_, &context);
    if (!added.ok()) return added;
    Response response;
    const grpc::Status status = call(&context, &response);
    if (status.ok()) return response;
    // Why it was tried again says more than that time ran out then.
    if (status.error_code() == grpc::DEADLINE_EXCEEDED && !before.ok()) {
      return FromGrpc(before);
    }
    before = status;
    const absl::Duration wait =
        std::max(pause * absl::Uniform(random, 0.5, 1.5), RetryAfter(status));
    const bool last =
        (attempts > 0 && attempt >= attempts) || absl::Now() + wait >= deadline;
    if (last) return FromGrpc(status);
    Pause(wait);
    pause = std::min(pause * 2, absl::Seconds(2));
  }
}

// gRPC gets on with a connection only while somebody waits for it: a thread
// that slept would find it where it was.
void Client::Pause(absl::Duration wait) {
  const absl::Time end = absl::Now() + wait;
  channel_->WaitForConnected(absl::ToChronoTime(end));
  std::this_thread::sleep_for(absl::ToChronoNanoseconds(
      std::max(absl::ZeroDuration(), end - absl::Now())));
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
  const absl::Status added = AddMetadata(options_, &context);
  if (!added.ok()) return added;
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

// Written out rather than generated: a program that links this may have its own
// grpc.health.v1. The request's field 1 is the service's name; the answer's is
// its state, of which 1 is SERVING.
absl::StatusOr<bool> Client::IsServing(const std::string& service) {
  grpc::ByteBuffer answer;
  std::string request;
  if (!service.empty()) {
    if (service.size() > 127) {
      return absl::InvalidArgumentError("service: expected at most 127 bytes");
    }
    request = absl::StrCat(
        "\x0a", std::string(1, static_cast<char>(service.size())), service);
  }
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + options_.timeout));
  const grpc::Slice slice(request);
  const grpc::ByteBuffer bytes(&slice, 1);
  std::promise<grpc::Status> done;
  stub.UnaryCall(
      &context, "/grpc.health.v1.Health/Check", {}, &bytes, &answer,
      [&](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) return FromGrpc(status);
  std::vector<grpc::Slice> slices;
  if (!answer.Dump(&slices).ok()) return absl::InternalError("a broken answer");
  std::string text;
  for (const grpc::Slice& part : slices) {
    text.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return text == "\x08\x01";
}

absl::Status Client::Export(
    const std::function<absl::Status(const api::ExportResponse&)>& on_chunk) {
  grpc::ClientContext context;
  const absl::Status added = AddMetadata(options_, &context);
  if (!added.ok()) return added;
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

absl::StatusOr<api::BackupInfo> Client::Backup(
    const api::BackupRequest& request,
    const std::function<void(const api::BackupProgress&)>& on_progress) {
  grpc::ClientContext context;  // no deadline: it takes what it takes
  const absl::Status added = AddMetadata(options_, &context);
  if (!added.ok()) return added;
  const auto reader = admin_->Backup(&context, request);
  api::BackupProgress progress;
  while (reader->Read(&progress)) on_progress(progress);
  const absl::Status end = FromGrpc(reader->Finish());
  if (!end.ok()) return end;
  return progress.backup();
}

absl::StatusOr<api::ListBackupsResponse> Client::ListBackups() {
  return Retry<api::ListBackupsResponse>([&](auto* context, auto* response) {
    return admin_->ListBackups(context, {}, response);
  });
}

}  // namespace nearline::client
