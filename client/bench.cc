#include "client/bench.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/random.h"
#include "client/client.h"

namespace nearline::client {
namespace {

// Draws ranks 0 .. n - 1 with probability ~ 1 / (rank + 1).
class Zipf {
 public:
  explicit Zipf(size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += 1.0 / static_cast<double>(i + 1);
      cumulative_.push_back(sum);
    }
  }
  size_t Draw(Random* random) const {
    const double x = random->Uniform() * cumulative_.back();
    return static_cast<size_t>(
        std::lower_bound(cumulative_.begin(), cumulative_.end(), x) -
        cumulative_.begin());
  }

 private:
  std::vector<double> cumulative_;
};

struct Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : recommendation(api::RecommendationService::NewStub(channel)),
        feedback(api::FeedbackService::NewStub(channel)),
        catalog(api::CatalogService::NewStub(channel)),
        admin(api::AdminService::NewStub(channel)) {}
  std::unique_ptr<api::RecommendationService::Stub> recommendation;
  std::unique_ptr<api::FeedbackService::Stub> feedback;
  std::unique_ptr<api::CatalogService::Stub> catalog;
  std::unique_ptr<api::AdminService::Stub> admin;
};

// One round of a closed loop: every slot sends its next call when the one
// before has been answered.
class Loop {
 public:
  // Sends one call on a slot, whose answer ends in loop->Answered.
  using Send = std::function<void(int slot, Loop* loop)>;

  static BenchFigures Run(int slots, double seconds, const Send& send) {
    Loop loop(slots, seconds, send);
    for (int slot = 0; slot < slots; ++slot) loop.Next(slot);
    MutexLock lock(&loop.mu_);
    while (loop.active_ > 0) loop.cv_.Wait(&loop.mu_);
    return loop.Figures();
  }

  void Answered(int slot, const grpc::Status& status) {
    if (!status.ok()) ++errors_;
    Slot& s = slots_[static_cast<size_t>(slot)];
    s.latencies.push_back(
        static_cast<float>(absl::ToDoubleMilliseconds(absl::Now() - s.sent)));
    Next(slot);
  }

 private:
  struct Slot {
    absl::Time sent;
    std::vector<float> latencies;
  };

  Loop(int slots, double seconds, const Send& send)
      : send_(send),
        start_(absl::Now()),
        end_(start_ + absl::Seconds(seconds)),
        active_(slots),
        slots_(static_cast<size_t>(slots)) {}

  void Next(int slot) {
    absl::Time& sent = slots_[static_cast<size_t>(slot)].sent;
    sent = absl::Now();
    if (sent < end_) return send_(slot, this);
    MutexLock lock(&mu_);
    if (--active_ == 0) cv_.Signal();
  }

  BenchFigures Figures() {
    std::vector<float> all;
    for (const Slot& slot : slots_) {
      all.insert(all.end(), slot.latencies.begin(), slot.latencies.end());
    }
    BenchFigures figures{.calls = static_cast<int64_t>(all.size()),
                         .errors = errors_};
    if (all.empty()) return figures;
    std::sort(all.begin(), all.end());
    const auto at = [&](double share) {
      return static_cast<double>(all[static_cast<size_t>(
          share * static_cast<double>(all.size() - 1))]);
    };
    figures.calls_a_second = static_cast<double>(all.size()) /
                             absl::ToDoubleSeconds(absl::Now() - start_);
    figures.p50_ms = at(0.5);
    figures.p90_ms = at(0.9);
    figures.p99_ms = at(0.99);
    figures.max_ms = at(1);
    return figures;
  }

  const Send& send_;
  const absl::Time start_, end_;
  std::atomic<int64_t> errors_{0};
  Mutex mu_;
  CondVar cv_;
  int active_ ABSL_GUARDED_BY(mu_);
  std::vector<Slot> slots_;
};

BenchReport::Ratio Spread(std::vector<double> ratios) {
  std::sort(ratios.begin(), ratios.end());
  return {ratios[ratios.size() / 2], ratios.front(), ratios.back()};
}

absl::Duration OwnProcessorTime() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// A slot's call in flight, with messages that keep their memory from call to
// call.
template <typename Request, typename Response>
struct Flight {
  std::optional<grpc::ClientContext> context;
  Request request;
  Response response;
};
template <typename Request, typename Response>
using Flights = std::deque<Flight<Request, Response>>;  // by slot

class Bench {
 public:
  explicit Bench(const BenchOptions& options) : options_(options), zipf_(1) {}

  absl::StatusOr<BenchReport> Run() {
    for (int i = 0; i < options_.connections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt("grpc.channel_id", i);  // else channels share a socket
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      stubs_.emplace_back(grpc::CreateCustomChannel(
          options_.address, grpc::InsecureChannelCredentials(), arguments));
    }
    RETURN_IF_ERROR(ReadUsers());
    const auto slots = static_cast<size_t>(options_.in_flight);
    for (size_t i = 0; i < slots; ++i) randoms_.emplace_back(i + 1);
    pings_.resize(slots);
    recommends_.resize(slots);
    feedbacks_.resize(slots);
    const bool writes = options_.what == "feedback";
    const Loop::Send measured = [this, writes](int slot, Loop* loop) {
      writes ? SendFeedback(slot, loop) : SendRecommend(slot, loop);
    };
    const Loop::Send empty = [this](int slot, Loop* loop) {
      SendPing(slot, loop);
    };
    Loop::Run(options_.in_flight, 1.0, measured);  // warm-up
    BenchReport report;
    std::vector<double> throughput, processor;
    for (int i = 0; i < options_.repetitions; ++i) {
      ASSIGN_OR_RETURN(const BenchFigures base, Round(empty));
      ASSIGN_OR_RETURN(const BenchFigures figures, Round(measured));
      throughput.push_back(figures.calls_a_second / base.calls_a_second);
      processor.push_back(base.processor_us / figures.processor_us);
      report.empty.push_back(base);
      report.measured.push_back(figures);
    }
    report.throughput = Spread(std::move(throughput));
    report.processor = Spread(std::move(processor));
    return report;
  }

 private:
  // Errors: UNAVAILABLE when no call was answered.
  absl::StatusOr<BenchFigures> Round(const Loop::Send& send) {
    ASSIGN_OR_RETURN(const absl::Duration before, ProcessorTime());
    BenchFigures figures =
        Loop::Run(options_.in_flight, options_.seconds, send);
    ASSIGN_OR_RETURN(const absl::Duration after, ProcessorTime());
    if (figures.calls == 0) {
      return absl::UnavailableError(
          "no call was answered; take more --seconds");
    }
    figures.processor_us = absl::ToDoubleMicroseconds(after - before) /
                           static_cast<double>(figures.calls);
    return figures;
  }

  absl::StatusOr<absl::Duration> ProcessorTime() {
    grpc::ClientContext context;
    api::StatusResponse status;
    RETURN_IF_ERROR(FromGrpc(stubs_[0].admin->Status(&context, {}, &status)));
    const auto& server = status.processor_time();
    return OwnProcessorTime() + absl::Seconds(server.seconds()) +
           absl::Nanoseconds(server.nanos());
  }

  Stubs& StubsOf(int slot) {
    return stubs_[static_cast<size_t>(slot) % stubs_.size()];
  }

  absl::Status ReadUsers() {
    std::string token;
    do {
      grpc::ClientContext context;
      api::ListUsersRequest request;
      request.set_count(
          std::min(1000, options_.users - static_cast<int>(users_.size())));
      request.set_page_token(token);
      api::ListUsersResponse response;
      RETURN_IF_ERROR(
          FromGrpc(stubs_[0].catalog->ListUsers(&context, request, &response)));
      for (const api::User& user : response.users())
        users_.push_back(user.id());
      token = response.next_page_token();
    } while (!token.empty() &&
             users_.size() < static_cast<size_t>(options_.users));
    if (users_.empty()) {
      return absl::FailedPreconditionError(
          "the server knows no user; import some data first");
    }
    zipf_ = Zipf(users_.size());
    return absl::OkStatus();
  }

  const std::string& DrawUser(int slot) {
    return users_[zipf_.Draw(&randoms_[static_cast<size_t>(slot)])];
  }

  // Begins a slot's call by `send`, a method of a stub.
  template <typename Flight, typename Send>
  void Begin(Flight* flight, int slot, Loop* loop, const Send& send) {
    flight->context.emplace();
    send(&*flight->context, &flight->request, &flight->response,
         [slot, loop](const grpc::Status& s) { loop->Answered(slot, s); });
  }

  void SendPing(int slot, Loop* loop) {
    Begin(&pings_[static_cast<size_t>(slot)], slot, loop,
          [&](auto... call) { StubsOf(slot).admin->async()->Ping(call...); });
  }

  void SendRecommend(int slot, Loop* loop) {
    auto* const flight = &recommends_[static_cast<size_t>(slot)];
    flight->request.set_user(DrawUser(slot));
    flight->request.set_count(options_.count);
    Begin(flight, slot, loop, [&](auto... call) {
      StubsOf(slot).recommendation->async()->Recommend(call...);
    });
  }

  void SendFeedback(int slot, Loop* loop) {
    auto* const flight = &feedbacks_[static_cast<size_t>(slot)];
    Random& random = randoms_[static_cast<size_t>(slot)];
    flight->request.clear_events();
    for (int i = 0; i < options_.events; ++i) {
      api::Event* const event = flight->request.add_events();
      event->set_user(DrawUser(slot));
      event->set_item(absl::StrCat("bench-item-", random.Below(1000)));
      event->set_type("view");
      event->set_event_id(absl::StrCat(slot, "-", random.Next()));
    }
    Begin(flight, slot, loop, [&](auto... call) {
      StubsOf(slot).feedback->async()->Feedback(call...);
    });
  }

  const BenchOptions options_;
  std::vector<Stubs> stubs_;
  std::vector<std::string> users_;
  Zipf zipf_;
  std::vector<Random> randoms_;
  Flights<api::PingRequest, api::PingResponse> pings_;
  Flights<api::RecommendRequest, api::RecommendResponse> recommends_;
  Flights<api::FeedbackRequest, api::FeedbackResponse> feedbacks_;
};

}  // namespace

absl::StatusOr<BenchReport> RunBench(const BenchOptions& options) {
  return Bench(options).Run();
}

}  // namespace nearline::client
