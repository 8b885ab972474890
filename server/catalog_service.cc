#include <utility>

#include "absl/strings/numbers.h"
#include "base/text.h"
#include "proto/nearline/v1/catalog.grpc.pb.h"
#include "server/convert.h"
#include "server/methods.h"
#include "server/services.h"

namespace nearline::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Raw = api::CatalogService;
using Base = Raw::WithRawCallbackMethod_UpsertItems<
    Raw::WithRawCallbackMethod_DeleteItems<
        Raw::WithRawCallbackMethod_GetItem<Raw::WithRawCallbackMethod_ListItems<
            Raw::WithRawCallbackMethod_UpsertUsers<
                Raw::WithRawCallbackMethod_GetUser<
                    Raw::WithRawCallbackMethod_ListUsers<
                        Raw::WithRawCallbackMethod_GetHistory<
                            Raw::WithRawCallbackMethod_DeleteUser<
                                Raw::Service>>>>>>>>>;

absl::Status CheckBatch(absl::string_view field, int size) {
  if (size == 0) {
    return InvalidField(field, "nothing", absl::StrCat("1 to ", kMaxBatch));
  }
  return CheckSize(field, size, kMaxBatch);
}

class Service final : public Base {
 public:
  explicit Service(const Parts* parts) : parts_(*parts) {}

  ServerUnaryReactor* UpsertItems(CallbackServerContext* context,
                                  const ByteBuffer* in,
                                  ByteBuffer* out) override {
    using Call = UnaryCall<api::UpsertItemsRequest, api::UpsertItemsResponse>;
    return Call::Start(parts_.rpc, methods::kUpsertItems, context, in, out,
                       [this](Call::Ptr call) {
                         features::UpsertItems upsert;
                         const absl::Status checked = Convert(
                             "items", call->request().items(), &upsert.items);
                         if (!checked.ok()) return call->Finish(checked);
                         upsert.done = TokenAnswer(call);
                         Submit(std::move(upsert), call);
                       });
  }

  ServerUnaryReactor* UpsertUsers(CallbackServerContext* context,
                                  const ByteBuffer* in,
                                  ByteBuffer* out) override {
    using Call = UnaryCall<api::UpsertUsersRequest, api::UpsertUsersResponse>;
    return Call::Start(parts_.rpc, methods::kUpsertUsers, context, in, out,
                       [this](Call::Ptr call) {
                         features::UpsertUsers upsert;
                         const absl::Status checked = Convert(
                             "users", call->request().users(), &upsert.users);
                         if (!checked.ok()) return call->Finish(checked);
                         upsert.done = TokenAnswer(call);
                         Submit(std::move(upsert), call);
                       });
  }

  ServerUnaryReactor* DeleteItems(CallbackServerContext* context,
                                  const ByteBuffer* in,
                                  ByteBuffer* out) override {
    using Call = UnaryCall<api::DeleteItemsRequest, api::DeleteItemsResponse>;
    return Call::Start(
        parts_.rpc, methods::kDeleteItems, context, in, out,
        [this](Call::Ptr call) {
          const auto& ids = call->request().items();
          absl::Status checked = CheckBatch("items", ids.size());
          for (int i = 0; checked.ok() && i < ids.size(); ++i) {
            checked = CheckId(absl::StrCat("items[", i, "]"), ids[i]);
          }
          if (!checked.ok()) return call->Finish(checked);
          Submit(
              features::DeleteItems{
                  .ids = {ids.begin(), ids.end()},
                  .done =
                      [this, call](absl::StatusOr<int64_t> deleted) {
                        if (deleted.ok()) {
                          call->response().set_deleted(*deleted);
                          call->response().set_consistency_token(Token());
                        }
                        call->Finish(deleted.status());
                      }},
              call);
        });
  }

  ServerUnaryReactor* DeleteUser(CallbackServerContext* context,
                                 const ByteBuffer* in,
                                 ByteBuffer* out) override {
    using Call = UnaryCall<api::DeleteUserRequest, api::DeleteUserResponse>;
    return Call::Start(
        parts_.rpc, methods::kDeleteUser, context, in, out,
        [this](Call::Ptr call) {
          const std::string& user = call->request().user();
          absl::Status status = CheckId("user", user);
          if (status.ok()) status = parts_.store->GetUser(user).status();
          if (status.ok() && parts_.backups != nullptr) {
            status = parts_.backups->ErasureAsked(user);
          }
          if (!status.ok()) return call->Finish(status);
          status = parts_.store->Submit(features::DeleteUser{
              .id = user,
              .done = [this, call](const absl::StatusOr<int64_t>& events) {
                call->Finish(
                    Erased(call->request().user(), events, &call->response()));
              }});
          if (status.ok()) return;
          if (parts_.backups != nullptr) {
            status.Update(parts_.backups->ErasureEnded(user, false));
          }
          call->Finish(status);
        });
  }

  ServerUnaryReactor* GetItem(CallbackServerContext* context,
                              const ByteBuffer* in, ByteBuffer* out) override {
    return Simple<api::GetItemRequest, api::Item>(
        methods::kGetItem, context, in, out,
        [this](const auto& request, auto* item) { return Get(request, item); });
  }
  ServerUnaryReactor* GetUser(CallbackServerContext* context,
                              const ByteBuffer* in, ByteBuffer* out) override {
    return Simple<api::GetUserRequest, api::User>(
        methods::kGetUser, context, in, out,
        [this](const auto& request, auto* user) { return Get(request, user); });
  }
  ServerUnaryReactor* ListItems(CallbackServerContext* context,
                                const ByteBuffer* in,
                                ByteBuffer* out) override {
    return Simple<api::ListItemsRequest, api::ListItemsResponse>(
        methods::kListItems, context, in, out,
        [this](const auto& request, auto* response) {
          return List(request, response);
        });
  }
  ServerUnaryReactor* ListUsers(CallbackServerContext* context,
                                const ByteBuffer* in,
                                ByteBuffer* out) override {
    return Simple<api::ListUsersRequest, api::ListUsersResponse>(
        methods::kListUsers, context, in, out,
        [this](const auto& request, auto* response) {
          return List(request, response);
        });
  }
  ServerUnaryReactor* GetHistory(CallbackServerContext* context,
                                 const ByteBuffer* in,
                                 ByteBuffer* out) override {
    return Simple<api::GetHistoryRequest, api::GetHistoryResponse>(
        methods::kGetHistory, context, in, out,
        [this](const auto& request, auto* response) {
          return History(request, response);
        });
  }

 private:
  // A call that is answered on the spot.
  template <typename Request, typename Response, typename F>
  ServerUnaryReactor* Simple(const Method& method,
                             CallbackServerContext* context,
                             const ByteBuffer* in, ByteBuffer* out, F&& f) {
    using Call = UnaryCall<Request, Response>;
    return Call::Start(parts_.rpc, method, context, in, out,
                       [&](typename Call::Ptr call) {
                         call->Finish(f(call->request(), &call->response()));
                       });
  }

  // What is left to do when a user has been erased, or could not be.
  absl::Status Erased(const std::string& user,
                      const absl::StatusOr<int64_t>& events,
                      api::DeleteUserResponse* response) {
    // Gone from the log, even if not from old files yet.
    if (!absl::IsNotFound(events.status())) parts_.slot->ForgetUsers();
    if (parts_.backups != nullptr) {
      RETURN_IF_ERROR(parts_.backups->ErasureEnded(user, events.ok()));
    }
    RETURN_IF_ERROR(events.status());
    parts_.retrainer->AwaitNoCheckpoint();
    response->set_events(*events);
    response->set_consistency_token(Token());
    return absl::OkStatus();
  }

  template <typename Mutation, typename CallPtr>
  void Submit(Mutation mutation, const CallPtr& call) {
    const absl::Status submitted = parts_.store->Submit(std::move(mutation));
    if (!submitted.ok()) call->Finish(submitted);
  }

  // Of all that is written by now.
  std::string Token() const {
    return ConsistencyToken(parts_.store->log_id(), parts_.store->sequence());
  }

  template <typename CallPtr>
  features::Done<features::Sequence> TokenAnswer(const CallPtr& call) {
    return [this, call](absl::StatusOr<features::Sequence> sequence) {
      if (sequence.ok()) {
        call->response().set_consistency_token(
            ConsistencyToken(parts_.store->log_id(), *sequence));
      }
      call->Finish(sequence.status());
    };
  }

  template <typename From, typename To>
  static absl::Status Convert(absl::string_view field, const From& from,
                              std::vector<To>* to) {
    RETURN_IF_ERROR(CheckBatch(field, from.size()));
    for (int i = 0; i < from.size(); ++i) {
      ASSIGN_OR_RETURN(To converted,
                       FromApi(from[i], absl::StrCat(field, "[", i, "]")));
      to->push_back(std::move(converted));
    }
    return absl::OkStatus();
  }

  absl::Status Get(const api::GetItemRequest& request, api::Item* item) {
    RETURN_IF_ERROR(CheckId("item", request.item()));
    const auto catalogue = parts_.store->ReadCatalogue();
    const features::Ordinal ordinal = catalogue->Find(request.item());
    if (ordinal == features::kNoOrdinal || (*catalogue)[ordinal].deleted) {
      return absl::NotFoundError(
          absl::StrCat("no item ", Quoted(request.item())));
    }
    item->set_id(request.item());
    ToApi((*catalogue)[ordinal].attributes, item->mutable_attributes());
    return absl::OkStatus();
  }

  absl::Status Get(const api::GetUserRequest& request, api::User* user) {
    RETURN_IF_ERROR(CheckId("user", request.user()));
    ASSIGN_OR_RETURN(const features::User found,
                     parts_.store->GetUser(request.user()));
    user->set_id(found.id);
    ToApi(found.attributes, user->mutable_attributes());
    return absl::OkStatus();
  }

  absl::Status List(const api::ListItemsRequest& request,
                    api::ListItemsResponse* response) {
    ASSIGN_OR_RETURN(const int count, CheckCount(request.count(), 100));
    ASSIGN_OR_RETURN(
        const std::string after,
        ReadListToken(request.page_token(), "items", parts_.store->secret()));
    const auto catalogue = parts_.store->ReadCatalogue();
    auto items = catalogue->ListAfter(after, count + 1);
    const bool more = static_cast<int>(items.size()) > count;
    if (more) items.pop_back();
    for (const features::Ordinal ordinal : items) {
      api::Item* const item = response->add_items();
      item->set_id((*catalogue)[ordinal].id);
      ToApi((*catalogue)[ordinal].attributes, item->mutable_attributes());
    }
    if (more) {
      response->set_next_page_token(WriteListToken(
          "items", (*catalogue)[items.back()].id, parts_.store->secret()));
    }
    return absl::OkStatus();
  }

  absl::Status List(const api::ListUsersRequest& request,
                    api::ListUsersResponse* response) {
    ASSIGN_OR_RETURN(const int count, CheckCount(request.count(), 100));
    ASSIGN_OR_RETURN(const uint64_t from,
                     NumberAt(request.page_token(), "users", 0));
    features::Ordinal next = features::kNoOrdinal;
    ASSIGN_OR_RETURN(const std::vector<features::User> users,
                     parts_.store->ListUsers(
                         static_cast<features::Ordinal>(from), count, &next));
    for (const features::User& user : users) {
      api::User* const to = response->add_users();
      to->set_id(user.id);
      ToApi(user.attributes, to->mutable_attributes());
    }
    if (next != features::kNoOrdinal) {
      response->set_next_page_token(
          WriteListToken("users", absl::StrCat(next), parts_.store->secret()));
    }
    return absl::OkStatus();
  }

  absl::Status History(const api::GetHistoryRequest& request,
                       api::GetHistoryResponse* response) {
    RETURN_IF_ERROR(CheckId("user", request.user()));
    ASSIGN_OR_RETURN(const int count, CheckCount(request.count(), 100));
    ASSIGN_OR_RETURN(
        const uint64_t before,
        NumberAt(request.page_token(), absl::StrCat("history/", request.user()),
                 ~uint64_t{0}));
    ASSIGN_OR_RETURN(
        const std::vector<features::Event> events,
        parts_.store->GetHistory(request.user(), before, count + 1));
    const auto catalogue = parts_.store->ReadCatalogue();
    for (const features::Event& event : events) {
      if (response->events_size() == count) {
        const uint64_t last = events[static_cast<size_t>(count) - 1].sequence;
        response->set_next_page_token(
            WriteListToken(absl::StrCat("history/", request.user()),
                           absl::StrCat(last), parts_.store->secret()));
        break;
      }
      ToApi(event, request.user(), (*catalogue)[event.item].id,
            parts_.store->event_types()[event.type].name,
            response->add_events());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> NumberAt(const std::string& token,
                                    absl::string_view kind, uint64_t first) {
    ASSIGN_OR_RETURN(const std::string position,
                     ReadListToken(token, kind, parts_.store->secret()));
    uint64_t number = first;
    if (!position.empty() && !absl::SimpleAtoi(position, &number)) {
      return absl::InternalError("a page token of ours holds no number");
    }
    return number;
  }

  const Parts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeCatalogService(const Parts* parts) {
  return std::make_unique<Service>(parts);
}

}  // namespace nearline::server
