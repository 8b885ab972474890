#ifndef NEARLINE_CLIENT_CLIENT_H_
#define NEARLINE_CLIENT_CLIENT_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/nearline/v1/admin.grpc.pb.h"
#include "proto/nearline/v1/catalog.grpc.pb.h"
#include "proto/nearline/v1/feedback.grpc.pb.h"
#include "proto/nearline/v1/model.grpc.pb.h"
#include "proto/nearline/v1/recommendation.grpc.pb.h"

namespace nearline::client {

namespace api = ::nearline::v1;

// How the server is known, and the caller to it. All empty: no TLS.
struct TlsOptions {
  bool on = false;  // also when all below is empty: the system's authorities
  std::string ca;   // PEM: whom to believe
  std::string certificate, key;  // PEM: the caller's; empty: none is shown
  std::string server_name;       // in the server's certificate; empty: its host
};

struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  TlsOptions tls;
  // Sent with every call; only over TLS or within this machine, unless
  // `plaintext_token`.
  std::string token;
  bool plaintext_token = false;
  absl::Duration timeout = absl::Seconds(30);  // of a call with its retries
  int attempts = 0;                            // 0: until the timeout
  absl::Duration first_pause = absl::Milliseconds(50);  // doubles, with jitter
};

// The server's status with its message, as an absl::Status.
absl::Status FromGrpc(const grpc::Status& status);

// A channel to the server of `options`.
std::shared_ptr<grpc::Channel> MakeChannel(const ClientOptions& options,
                                           const grpc::ChannelArguments& how);
// What a call carries besides its message. Errors: FAILED_PRECONDITION when the
// token would be readable on its way.
absl::Status AddMetadata(const ClientOptions& options,
                         grpc::ClientContext* context);

// One server. Calls that fail with UNAVAILABLE, or because its queue is full,
// are tried again until the timeout. That is safe: feedback carries event ids,
// and the one call that would do more when it comes twice is made once.
// Thread-safe.
class Client {
 public:
  explicit Client(ClientOptions options);

  absl::StatusOr<api::RecommendResponse> Recommend(
      const api::RecommendRequest& request);
  absl::StatusOr<api::SimilarItemsResponse> SimilarItems(
      const api::SimilarItemsRequest& request);

  // Events without an id get one, so that a retry counts once.
  absl::StatusOr<api::FeedbackResponse> Feedback(api::FeedbackRequest request);
  absl::StatusOr<api::RetractEventsResponse> RetractEvents(
      const api::RetractEventsRequest& request);

  absl::StatusOr<api::UpsertItemsResponse> UpsertItems(
      const api::UpsertItemsRequest& request);
  absl::StatusOr<api::DeleteItemsResponse> DeleteItems(
      const api::DeleteItemsRequest& request);
  absl::StatusOr<api::Item> GetItem(const std::string& id);
  absl::StatusOr<api::ListItemsResponse> ListItems(
      const api::ListItemsRequest& request);
  absl::StatusOr<api::UpsertUsersResponse> UpsertUsers(
      const api::UpsertUsersRequest& request);
  absl::StatusOr<api::User> GetUser(const std::string& id);
  absl::StatusOr<api::ListUsersResponse> ListUsers(
      const api::ListUsersRequest& request);
  absl::StatusOr<api::GetHistoryResponse> GetHistory(
      const api::GetHistoryRequest& request);
  absl::StatusOr<api::DeleteUserResponse> DeleteUser(const std::string& id);

  absl::StatusOr<api::RetrainResponse> Retrain(
      const api::RetrainRequest& request);
  // Calls `on_progress` until the run ends; returns its last state.
  absl::StatusOr<api::RunProgress> WatchRun(
      const std::string& run_id,
      const std::function<void(const api::RunProgress&)>& on_progress);
  absl::StatusOr<api::ListGenerationsResponse> ListGenerations();
  // An empty id is the generation before the one in service; not retried.
  absl::StatusOr<api::RollbackResponse> Rollback(const std::string& id);

  // Whether the server has been reached.
  bool connected() const {
    return channel_->GetState(false) == GRPC_CHANNEL_READY;
  }
  absl::StatusOr<api::StatusResponse> Status();
  // By grpc.health.v1: "" for the whole server. Asked once; needs no role.
  absl::StatusOr<bool> IsServing(const std::string& service);
  absl::Status Export(
      const std::function<absl::Status(const api::ExportResponse&)>& on_chunk);

  // Calls `on_progress` until the backup is made; returns it.
  absl::StatusOr<api::BackupInfo> Backup(
      const api::BackupRequest& request,
      const std::function<void(const api::BackupProgress&)>& on_progress);
  absl::StatusOr<api::ListBackupsResponse> ListBackups();

  // True when the server answers within the timeout.
  bool WaitUntilReady(absl::Duration timeout);

 private:
  template <typename Response, typename Call>
  absl::StatusOr<Response> Retry(Call call) {
    return Try<Response>(options_.attempts, std::move(call));
  }
  template <typename Response, typename Call>
  absl::StatusOr<Response> Try(int attempts, Call call);
  void Pause(absl::Duration wait);

  const ClientOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<api::RecommendationService::Stub> recommendation_;
  std::unique_ptr<api::FeedbackService::Stub> feedback_;
  std::unique_ptr<api::CatalogService::Stub> catalog_;
  std::unique_ptr<api::ModelService::Stub> model_;
  std::unique_ptr<api::AdminService::Stub> admin_;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_CLIENT_H_
