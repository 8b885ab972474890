#include "server/trainer_host.h"

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "base/version.h"
#include "proto/nearline/v1/trainer.grpc.pb.h"

namespace nearline::server {
namespace {

namespace api = ::nearline::v1;

constexpr absl::Duration kTick = absl::Milliseconds(200);

// gRPC takes a path of its own from "unix:" on.
std::string AddressOf(const Config& config) {
  std::error_code error;
  const auto path = std::filesystem::absolute(config.training.socket, error);
  return "unix:" + (error ? config.training.socket : path.string());
}

// Of what becomes part of a path.
bool IsRunId(const std::string& id) {
  return !id.empty() && id.size() <= 64 &&
         std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                  c == '-' || c == '_';
         });
}

grpc::Status ToWire(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()),
          std::string(status.message())};
}

absl::Status FromWire(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()),
          status.error_message()};
}

class Service final : public api::TrainerService::Service {
 public:
  explicit Service(const Config& config) : config_(config) {}

  void Stop() { stopping_ = true; }

  grpc::Status Run(grpc::ServerContext* context, const api::RunRequest* request,
                   grpc::ServerWriter<api::RunResponse>* writer) override {
    const std::string& id = request->run_id();
    absl::Status status = Check(*request);
    if (!status.ok()) return ToWire(status);
    spdlog::info("{} begins", id);
    const auto stop = [&] { return stopping_ || context->IsCancelled(); };
    status = RunTrainer(config_, id, stop, [&](const std::string& line) {
      api::RunResponse response;
      response.set_line(line);
      writer->Write(response);
    });
    running_ = false;
    if (status.ok()) {
      spdlog::info("{} has ended", id);
      return grpc::Status::OK;
    }
    if (stopping_) {
      status = absl::AbortedError("the trainer's container is stopping");
    }
    spdlog::error("{}: {}", id, std::string(status.message()));
    // Other codes say that it never began.
    return ToWire(absl::AbortedError(status.message()));
  }

 private:
  // When OK, the run is the one under way.
  absl::Status Check(const api::RunRequest& request) {
    if (request.version() != kVersion) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the server is Nearline ", request.version(), " and its trainer ",
          kVersion, "; run images of the same version"));
    }
    if (!IsRunId(request.run_id())) {
      return absl::InvalidArgumentError(
          absl::StrCat("run_id: ", Quoted(request.run_id()),
                       " is none; expected 1 to 64 letters, digits and -"));
    }
    if (running_.exchange(true)) {
      return absl::ResourceExhaustedError(
          "the trainer is at another run; has another server the same "
          "training.socket?");
    }
    return absl::OkStatus();
  }

  const Config& config_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> running_{false};
};

// Cancels a call once `stop` says so.
class Canceller {
 public:
  Canceller(grpc::ClientContext* context, const std::function<bool()>& stop)
      : thread_([this, context, &stop] {
          while (!done_) {
            if (stop()) return context->TryCancel();
            absl::SleepFor(kTick);
          }
        }) {}
  ~Canceller() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

absl::Status Stopped() {
  return absl::AbortedError(
      "the run was stopped because the server is stopping");
}

absl::Status Ask(const std::shared_ptr<grpc::Channel>& channel,
                 const std::string& run_id, const std::function<bool()>& stop,
                 const OnLine& on_line) {
  api::RunRequest request;
  request.set_run_id(run_id);
  request.set_version(kVersion);
  grpc::ClientContext context;
  const auto reader =
      api::TrainerService::NewStub(channel)->Run(&context, request);
  grpc::Status status;
  {
    const Canceller canceller(&context, stop);
    api::RunResponse response;
    while (reader->Read(&response)) on_line(response.line());
    status = reader->Finish();
  }
  if (status.error_code() == grpc::CANCELLED && stop()) return Stopped();
  if (status.error_code() == grpc::UNAVAILABLE) {
    return absl::AbortedError(
        "the trainer's container ended during the run; if it was killed for "
        "memory, raise its limit or lower training.memory_mb");
  }
  return FromWire(status);
}

}  // namespace

struct TrainerHost::Impl {
  Config config;
  Service service{config};
  std::unique_ptr<grpc::Server> grpc;
};

TrainerHost::TrainerHost(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<TrainerHost>> TrainerHost::Start(Config config) {
  if (config.training.socket.empty()) {
    return absl::InvalidArgumentError(
        "training.socket is empty; expected a path in a folder that the server "
        "and its trainer share");
  }
  auto impl = std::make_unique<Impl>();
  impl->config = std::move(config);
  const std::string address = AddressOf(impl->config);
  grpc::ServerBuilder builder;
  int bound = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &bound);
  builder.RegisterService(&impl->service);
  const mode_t before = umask(0077);  // nobody else may ask
  impl->grpc = builder.BuildAndStart();
  umask(before);
  if (impl->grpc == nullptr || bound == 0) {
    return absl::UnavailableError(absl::StrCat(
        "training.socket: ", impl->config.training.socket,
        " cannot be listened on. Set it to a path in a folder that exists and "
        "can be written to"));
  }
  spdlog::info("nearline {} trains for the server in {}, asked by {}", kVersion,
               impl->config.data_dir, address);
  return std::unique_ptr<TrainerHost>(new TrainerHost(std::move(impl)));
}

bool TrainerHostListens(const Config& config) {
  return grpc::CreateChannel(AddressOf(config),
                             grpc::InsecureChannelCredentials())
      ->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(1)));
}

TrainerHost::~TrainerHost() {
  impl_->service.Stop();
  impl_->grpc->Shutdown();
}

absl::Status RunTrainerByHost(const Config& config, const std::string& run_id,
                              const std::function<bool()>& stop,
                              const OnLine& on_line, absl::Duration wait) {
  const auto channel = grpc::CreateChannel(AddressOf(config),
                                           grpc::InsecureChannelCredentials());
  const absl::Time begin = absl::Now();
  while (!channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kTick))) {
    if (stop()) return Stopped();
    if (absl::Now() > begin + wait) {
      return absl::UnavailableError(absl::StrCat(
          "no trainer listens on training.socket, ", config.training.socket,
          ": is its container up, and does it share that folder?"));
    }
  }
  // The run of a server that has just ended is being ended.
  constexpr absl::Duration kBusy = absl::Seconds(10);
  const absl::Time until = absl::Now() + std::min(wait, kBusy);
  while (true) {
    const absl::Status status = Ask(channel, run_id, stop, on_line);
    if (!absl::IsResourceExhausted(status) || absl::Now() > until) {
      return status;
    }
    if (stop()) return Stopped();
    absl::SleepFor(kTick);
  }
}

}  // namespace nearline::server
