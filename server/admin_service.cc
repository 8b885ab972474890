#include <algorithm>
#include <utility>

#include "base/file.h"
#include "base/version.h"
#include "proto/nearline/v1/admin.grpc.pb.h"
#include "server/convert.h"
#include "server/methods.h"
#include "server/readings.h"
#include "server/services.h"
#include "server/stream_writer.h"

namespace nearline::server {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
using Base = api::AdminService::WithRawCallbackMethod_Ping<
    api::AdminService::WithRawCallbackMethod_Status<
        api::AdminService::WithRawCallbackMethod_Export<
            api::AdminService::WithRawCallbackMethod_Backup<
                api::AdminService::WithRawCallbackMethod_ListBackups<
                    api::AdminService::Service>>>>>;

// Walks items, users and events chunk by chunk, each when the one before has
// been written: memory stays bounded however slow the reader.
class Exporter : public std::enable_shared_from_this<Exporter> {
 public:
  Exporter(const Parts& parts, std::shared_ptr<StreamWriter> writer)
      : parts_(parts),
        writer_(std::move(writer)),
        newest_(parts.store->sequence()) {}

  void Next() {
    const auto writer = writer_.lock();
    if (writer == nullptr) return;
    api::ExportResponse chunk;
    bool filled = false;
    while (!filled && stage_ != kDone) {
      const absl::Status status = Fill(&chunk, &filled);
      if (!status.ok()) return writer->Close(status);
    }
    if (filled) {
      writer->Write(chunk);
    } else {
      writer->Close(absl::OkStatus());
    }
  }

 private:
  // Callers take 4 MB by default.
  static constexpr size_t kChunkBytes = 1 << 20;
  enum Stage { kItems, kUsers, kEvents, kDeleted, kDone };

  absl::Status Fill(api::ExportResponse* chunk, bool* filled) {
    constexpr int kChunk = 1000;
    if (stage_ == kItems) {
      const auto catalogue = parts_.store->ReadCatalogue();
      const auto items = catalogue->ListAfter(last_item_, kChunk);
      size_t bytes = 0;
      for (const features::Ordinal ordinal : items) {
        api::Item* const item = chunk->add_items();
        item->set_id((*catalogue)[ordinal].id);
        ToApi((*catalogue)[ordinal].attributes, item->mutable_attributes());
        last_item_ = item->id();
        bytes += item->ByteSizeLong();
        if (bytes > kChunkBytes) break;
      }
      *filled = !items.empty();
      if (!*filled) stage_ = kUsers;
    } else if (stage_ == kUsers) {
      if (next_user_ == features::kNoOrdinal) {
        stage_ = kEvents;
        return absl::OkStatus();
      }
      ASSIGN_OR_RETURN(
          const auto users,
          parts_.store->ListUsers(next_user_, kChunk / 10, &next_user_));
      for (const features::User& user : users) {
        api::User* const to = chunk->add_users();
        to->set_id(user.id);
        ToApi(user.attributes, to->mutable_attributes());
      }
      *filled = !users.empty();
    } else if (stage_ == kEvents) {
      ASSIGN_OR_RETURN(
          const auto events,
          parts_.store->ReadEvents(event_user_, event_sequence_, kChunk));
      if (events.empty()) {
        stage_ = kDeleted;
        return absl::OkStatus();
      }
      AddEvents(events, chunk);
      *filled = chunk->events_size() > 0;
    } else {
      AddDeletedItems(chunk);
      *filled = chunk->deleted_items_size() > 0;
      stage_ = *filled ? kDeleted : kDone;
    }
    return absl::OkStatus();
  }

  void AddEvents(const std::vector<features::Event>& events,
                 api::ExportResponse* chunk) {
    size_t bytes = 0;
    for (const features::Event& event : events) {
      if (event.user != event_user_ || event_user_id_.empty()) {
        event_user_id_ = parts_.store->UserId(event.user);
      }
      event_user_ = event.user;
      event_sequence_ = event.sequence;
      // What came while exporting is left to the next export.
      if (event_user_id_.empty() || event.sequence > newest_) continue;
      const auto catalogue = parts_.store->ReadCatalogue();
      api::Event* const to = chunk->add_events();
      ToApi(event, event_user_id_, (*catalogue)[event.item].id,
            parts_.store->event_types()[event.type].name, to);
      bytes += to->ByteSizeLong();
      if (bytes > kChunkBytes) return;
    }
  }

  // Last: an event would bring an item back that is not known yet.
  void AddDeletedItems(api::ExportResponse* chunk) {
    const auto catalogue = parts_.store->ReadCatalogue();
    size_t bytes = 0;
    for (; next_item_ < catalogue->size() && bytes < kChunkBytes;
         ++next_item_) {
      const features::ItemRecord& item = (*catalogue)[next_item_];
      if (!item.deleted) continue;
      chunk->add_deleted_items(item.id);
      bytes += item.id.size();
    }
  }

  const Parts& parts_;
  const std::weak_ptr<StreamWriter> writer_;
  const features::Sequence newest_;
  Stage stage_ = kItems;
  std::string last_item_;
  features::Ordinal next_user_ = 0, next_item_ = 0;
  features::Ordinal event_user_ = 0;
  features::Sequence event_sequence_ = 0;
  std::string event_user_id_;
};

class Service final : public Base {
 public:
  explicit Service(const Parts* parts) : parts_(*parts) {}

  ServerUnaryReactor* Ping(CallbackServerContext* context, const ByteBuffer* in,
                           ByteBuffer* out) override {
    if (in->Length() > 0 || parts_.rpc.access != nullptr ||
        parts_.rpc.shutdown->given()) {
      return PingInFull(context, in, out);
    }
    ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(SerializeMessage(api::PingResponse(), out)));
    return reactor;
  }

  ServerUnaryReactor* PingInFull(CallbackServerContext* context,
                                 const ByteBuffer* in, ByteBuffer* out) {
    using Call = UnaryCall<api::PingRequest, api::PingResponse>;
    return Call::Start(
        parts_.rpc, methods::kPing, context, in, out, [this](Call::Ptr call) {
          if (!call->request().batched()) return call->Finish(absl::OkStatus());
          auto job = std::make_unique<RecommendJob>();
          job->empty = true;
          job->admitted = call->started();
          job->deadline = call->deadline();
          job->done = [call](const absl::StatusOr<RecommendAnswer>& answer) {
            call->Finish(answer.status());
          };
          const Admission admission = {call->share(), call->deadline()};
          const absl::Status admitted =
              parts_.batcher->Submit(std::move(job), admission);
          if (!admitted.ok()) call->Finish(admitted);
        });
  }

  ServerUnaryReactor* Status(CallbackServerContext* context,
                             const ByteBuffer* in, ByteBuffer* out) override {
    using Call = UnaryCall<api::StatusRequest, api::StatusResponse>;
    return Call::Start(parts_.rpc, methods::kStatus, context, in, out,
                       [this](Call::Ptr call) {
                         Fill(&call->response());
                         call->Finish(absl::OkStatus());
                       });
  }

  grpc::ServerWriteReactor<ByteBuffer>* Export(CallbackServerContext* context,
                                               const ByteBuffer* in) override {
    api::ExportRequest request;
    const auto writer = StreamWriter::Make(parts_.rpc, methods::kExport,
                                           context, *in, &request);
    if (!writer->open()) return writer.get();
    const auto exporter = std::make_shared<Exporter>(parts_, writer);
    writer->set_callbacks({.on_room = [exporter] { exporter->Next(); }});
    exporter->Next();
    return writer.get();
  }

  grpc::ServerWriteReactor<ByteBuffer>* Backup(CallbackServerContext* context,
                                               const ByteBuffer* in) override {
    api::BackupRequest request;
    const auto writer = StreamWriter::Make(parts_.rpc, methods::kBackup,
                                           context, *in, &request);
    if (!writer->open()) return writer.get();
    const std::weak_ptr<StreamWriter> weak = writer;
    const absl::Status started =
        parts_.backups == nullptr
            ? NoBackups()
            : parts_.backups->Start(
                  request.verify(),
                  [weak](const BackupProgress& at) {
                    const auto w = weak.lock();
                    if (w == nullptr) return;  // the caller has gone
                    api::BackupProgress progress;
                    progress.set_phase(at.phase);
                    progress.set_share_done(at.share_done);
                    w->Write(progress);
                  },
                  [weak](const absl::StatusOr<features::BackupInfo>& made) {
                    const auto w = weak.lock();
                    if (w == nullptr) return;
                    if (absl::IsDataLoss(made.status())) {
                      // Whoever makes backups must read why.
                      return w->Close(absl::FailedPreconditionError(
                          made.status().message()));
                    }
                    if (!made.ok()) return w->Close(made.status());
                    api::BackupProgress progress;
                    progress.set_phase("done");
                    progress.set_share_done(1);
                    ToApi(*made, progress.mutable_backup());
                    w->Write(progress);
                    w->Close(absl::OkStatus());
                  });
    if (!started.ok()) writer->Close(started);
    return writer.get();
  }

  ServerUnaryReactor* ListBackups(CallbackServerContext* context,
                                  const ByteBuffer* in,
                                  ByteBuffer* out) override {
    using Call = UnaryCall<api::ListBackupsRequest, api::ListBackupsResponse>;
    return Call::Start(parts_.rpc, methods::kListBackups, context, in, out,
                       [this](Call::Ptr call) {
                         if (parts_.backups == nullptr) {
                           return call->Finish(NoBackups());
                         }
                         auto backups = parts_.backups->List();
                         std::reverse(backups.begin(), backups.end());
                         for (const features::BackupInfo& backup : backups) {
                           ToApi(backup, call->response().add_backups());
                         }
                         call->Finish(absl::OkStatus());
                       });
  }

 private:
  static absl::Status NoBackups() {
    return absl::FailedPreconditionError(
        "the server has no backup.dir: set it, and start the server again");
  }

  static void ToApi(const features::BackupInfo& from, api::BackupInfo* to) {
    to->set_id(from.id);
    to->mutable_time()->set_seconds(absl::ToUnixSeconds(from.time));
    to->set_bytes(from.bytes);
    to->set_sequence(from.sequence);
    to->set_generation(from.generation);
    to->set_log_id(from.log_id);
  }

  void Fill(api::StatusResponse* out) {
    const absl::Time now = parts_.clock->Now();
    out->set_version(kVersion);
    SetDuration(now - parts_.started, out->mutable_uptime());
    timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    SetDuration(absl::DurationFromTimespec(used),
                out->mutable_processor_time());
    out->set_log_id(parts_.store->log_id());
    out->set_sequence(parts_.store->sequence());
    out->set_users(parts_.store->users());
    out->set_items(parts_.store->ReadCatalogue()->listed());
    if (const GenerationPtr g = parts_.slot->Snapshot(); g != nullptr) {
      out->set_generation(g->id());
      SetDuration(now - absl::FromUnixMicros(g->manifest().created_micros),
                  out->mutable_generation_age());
    }
    out->set_device(parts_.device);
    const features::Store::Stats stats = parts_.store->stats();
    out->set_hot_profiles(stats.profiles.profiles);
    out->set_hot_profile_bytes(stats.profiles.bytes);
    out->set_queued_events(stats.queued_events);
    out->set_run_id(parts_.retrainer->RunningId());
    out->set_metrics_address(parts_.config->metrics_listen);
    out->set_queued_requests(parts_.batcher->queued());
    out->set_connections(parts_.listener->connections());
    if (const auto run = parts_.retrainer->Running(); run.has_value()) {
      out->set_run_phase(run->phase);
      out->set_run_share_done(run->share_done);
    }
    for (const Metrics::MethodCounts& counts : parts_.metrics->ReadMethods()) {
      api::MethodStatus* const to = out->add_methods();
      to->set_method(counts.method);
      to->set_calls(counts.calls);
      to->set_failed(counts.failed);
      to->mutable_calls_by_time()->Add(counts.by_time.begin(),
                                       counts.by_time.end());
    }
    out->mutable_time_bounds()->Add(Metrics::TimeBounds().begin(),
                                    Metrics::TimeBounds().end());
    out->set_denied_calls(parts_.metrics->denied());
    out->set_resident_bytes(ResidentBytes());
    const auto free = FreeBytes(parts_.config->data_dir);
    if (free.ok()) out->set_disk_free_bytes(*free);
  }

  const Parts& parts_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const Parts* parts) {
  return std::make_unique<Service>(parts);
}

}  // namespace nearline::server
