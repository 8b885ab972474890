#include "client/bench.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "base/random.h"
#include "client/client.h"
#include "client/load.h"

namespace nearline::client {
namespace {

// Draws ranks 0 .. n - 1 with probability ~ 1 / (rank + 1)^skew.
class Zipf {
 public:
  Zipf(size_t n, double skew) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += std::pow(static_cast<double>(i + 1), -skew);
      cumulative_.push_back(sum);
    }
  }
  size_t Draw(Random* random) const {
    const double x = random->Uniform() * cumulative_.back();
    return static_cast<size_t>(
        std::lower_bound(cumulative_.begin(), cumulative_.end() - 1, x) -
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

const char* NameOf(Call call) {
  switch (call) {
    case Call::kEmpty:
      return "empty";
    case Call::kBatched:
      return "batched";
    case Call::kRecommend:
      return "recommend";
    case Call::kFeedback:
      return "feedback";
  }
  return "";
}

BenchReport::Ratio Spread(std::vector<double> ratios) {
  std::sort(ratios.begin(), ratios.end());
  const size_t n = ratios.size();
  return {(ratios[(n - 1) / 2] + ratios[n / 2]) / 2, ratios.front(),
          ratios.back()};
}

absl::Duration OwnTime() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// A slot's calls in flight, one at a time, with messages that keep their memory
// from call to call.
template <typename Request, typename Response>
struct Flight {
  std::optional<grpc::ClientContext> context;
  Request request;
  Response response;
};
struct Slot {
  explicit Slot(uint64_t seed) : random(seed) {}
  Random random;
  Flight<api::PingRequest, api::PingResponse> ping;
  Flight<api::RecommendRequest, api::RecommendResponse> recommend;
  Flight<api::FeedbackRequest, api::FeedbackResponse> feedback;
};

class Bench {
 public:
  Bench(const BenchOptions& options, std::function<void(double)> on_round)
      : options_(options),
        on_round_(std::move(on_round)),
        of_users_(1, 1),
        of_items_(1, 1) {
    for (int i = 0; i < options_.connections; ++i) {
      grpc::ChannelArguments arguments;
      arguments.SetInt("grpc.channel_id", i);  // else channels share a socket
      arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      stubs_.emplace_back(MakeChannel(options_.server, arguments));
    }
  }

  absl::StatusOr<BenchReport> Run() {
    {
      grpc::ClientContext probe;  // Begin would have nobody to tell
      RETURN_IF_ERROR(AddMetadata(options_.server, &probe));
    }
    RETURN_IF_ERROR(ReadIds());
    LoadOptions closed{
        .slots = options_.in_flight > 0 ? options_.in_flight : kInFlight,
        .seconds = options_.warm_up,
        .poisson = options_.arrivals == "poisson",
        .seed = options_.seed};
    LoadOptions open = closed;
    if (options_.in_flight == 0) open.slots = kMostInFlight;
    const bool is_open = options_.rate > 0 || options_.load > 0;
    const int slots = is_open ? open.slots : closed.slots;
    for (int i = 0; i < slots; ++i) {
      slots_.emplace_back(options_.seed + static_cast<uint64_t>(i));
    }
    const Load::Send measured = SenderOf(options_.what);
    if (options_.warm_up > 0) Load::Run(closed, measured);
    BenchReport report{.rate = options_.rate};
    if (options_.load > 0) {
      closed.seconds = options_.seconds;
      std::vector<BenchFigures> most;
      RETURN_IF_ERROR(Round(closed, measured, &most).status());
      for (const BenchFigures& f : most) {
        report.rate += options_.load * f.calls_a_second;
      }
    }
    LoadOptions load = is_open ? open : closed;
    load.rate = report.rate;
    load.seconds = options_.seconds;
    std::map<std::string, std::vector<double>> ratios;
    for (int i = 0; i < options_.repetitions; ++i) {
      Totals base;
      load.seed = options_.seed + static_cast<uint64_t>(i);
      if (options_.baseline != "none") {
        ASSIGN_OR_RETURN(
            base, Round(load, SenderOf(options_.baseline), &report.rounds));
      }
      ASSIGN_OR_RETURN(const Totals totals,
                       Round(load, measured, &report.rounds));
      if (on_round_) on_round_((i + 1.0) / options_.repetitions);
      if (options_.baseline == "none") continue;
      ratios["throughput"].push_back(totals.calls_a_second /
                                     base.calls_a_second);
      if (base.processor_us.has_value() && totals.processor_us.has_value()) {
        ratios["processor"].push_back(*base.processor_us /
                                      *totals.processor_us);
      }
      ratios["p99"].push_back(totals.p99_ms / base.p99_ms);
    }
    for (auto& [name, values] : ratios) {
      report.ratios[name] = Spread(std::move(values));
    }
    return report;
  }

 private:
  static constexpr int kInFlight = 128, kMostInFlight = 10'000;

  // Of all kinds of call in a round; the slower kind's percentile.
  struct Totals {
    double calls_a_second = 0, p99_ms = 0;
    std::optional<double> processor_us;
  };

  // Appends the round's figures, one a kind.
  absl::StatusOr<Totals> Round(const LoadOptions& options,
                               const Load::Send& send,
                               std::vector<BenchFigures>* rounds) {
    for (std::atomic<int64_t>& answers : served_by_) answers = 0;
    const std::optional<absl::Duration> server_before = ServerTime();
    const absl::Duration own_before = OwnTime();
    const std::unique_ptr<Load> load = Load::Run(options, send);
    const absl::Duration own = OwnTime() - own_before;
    const std::optional<absl::Duration> server_after = ServerTime();
    const size_t before = rounds->size();
    int64_t all = 0, answered = 0;
    for (const Call call : kEveryCall) {
      for (const auto& code : (*load)[call].codes) all += code;
      answered += (*load)[call].codes[0];
    }
    if (all == 0) {
      return absl::UnavailableError(
          "no call was answered; take more --seconds");
    }
    if (answered == 0) {
      const grpc::Status failure = load->failure();
      return Annotate(
          FromGrpc(failure),
          absl::StrCat("all ", all, " calls failed, the first with"));
    }
    const auto a_call = [&](absl::Duration time) {
      return absl::ToDoubleMicroseconds(time) / static_cast<double>(all);
    };
    Totals totals;
    std::optional<double> server;
    if (server_before.has_value() && server_after.has_value()) {
      server = a_call(*server_after - *server_before);
      totals.processor_us = a_call(own) + *server;
    }
    for (const Call call : kEveryCall) {
      BenchFigures figures = FiguresOf(*load, call);
      figures.processor_us = totals.processor_us;
      figures.server_us = server;
      if (figures.calls + figures.errors == 0) continue;
      if (rounds->size() == before) figures.not_begun = load->not_begun();
      totals.calls_a_second += figures.calls_a_second;
      totals.p99_ms = std::max(totals.p99_ms, figures.p99_ms);
      rounds->push_back(figures);
    }
    return totals;
  }

  BenchFigures FiguresOf(const Load& load, Call call) {
    const LoadCounts& counts = load[call];
    const auto ms = [](absl::Duration d) {
      return absl::ToDoubleMilliseconds(d);
    };
    BenchFigures figures{
        .call = NameOf(call),
        .calls = counts.latency.count(),
        .calls_a_second =
            static_cast<double>(counts.latency.count()) / load.seconds(),
        .mean_ms = ms(counts.latency.Mean()),
        .p50_ms = ms(counts.latency.Quantile(0.5)),
        .p90_ms = ms(counts.latency.Quantile(0.9)),
        .p99_ms = ms(counts.latency.Quantile(0.99)),
        .p999_ms = ms(counts.latency.Quantile(0.999)),
        .max_ms = ms(counts.latency.Max()),
        .by_second = {counts.by_second.begin(), counts.by_second.end()}};
    for (size_t code = 1; code < LoadCounts::kCodes; ++code) {
      if (counts.codes[code] == 0) continue;
      figures.errors += counts.codes[code];
      // The two have the same numbers and names.
      figures.codes[absl::StatusCodeToString(
          static_cast<absl::StatusCode>(code))] = counts.codes[code];
    }
    if (call != Call::kRecommend) return figures;
    for (size_t i = 0; i < served_by_.size(); ++i) {
      if (served_by_[i] == 0) continue;
      const std::string name = api::ServedBy_Name(static_cast<int>(i));
      figures.served_by[absl::AsciiStrToLower(
          absl::StripPrefix(name, "SERVED_BY_"))] = served_by_[i];
    }
    return figures;
  }

  // The server's processor time so far; none where it does not tell, as it may
  // be that only operators are told.
  std::optional<absl::Duration> ServerTime() {
    grpc::ClientContext context;
    AddMetadata(options_.server, &context).IgnoreError();
    api::StatusResponse status;
    if (!stubs_[0].admin->Status(&context, {}, &status).ok()) {
      return std::nullopt;
    }
    const auto& server = status.processor_time();
    return absl::Seconds(server.seconds()) + absl::Nanoseconds(server.nanos());
  }

  absl::Status ReadIds() {
    if (options_.what == "empty" || options_.what == "batched") {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(ReadUsers());
    if (users_.empty()) {
      return absl::FailedPreconditionError(
          "the server knows no user; import some data first");
    }
    of_users_ = Zipf(users_.size(), options_.skew);
    if (options_.what == "recommend") return absl::OkStatus();
    grpc::ClientContext context;
    RETURN_IF_ERROR(AddMetadata(options_.server, &context));
    api::ListItemsRequest request;
    request.set_count(1000);
    api::ListItemsResponse response;
    RETURN_IF_ERROR(
        FromGrpc(stubs_[0].catalog->ListItems(&context, request, &response)));
    for (const api::Item& item : response.items()) items_.push_back(item.id());
    if (items_.empty()) items_.push_back("bench-item");
    of_items_ = Zipf(items_.size(), options_.skew);
    return absl::OkStatus();
  }

  absl::Status ReadUsers() {
    std::string token;
    do {
      grpc::ClientContext context;
      RETURN_IF_ERROR(AddMetadata(options_.server, &context));
      api::ListUsersRequest request;
      request.set_count(
          std::min(1000, options_.users - static_cast<int>(users_.size())));
      request.set_page_token(token);
      api::ListUsersResponse response;
      RETURN_IF_ERROR(
          FromGrpc(stubs_[0].catalog->ListUsers(&context, request, &response)));
      for (const api::User& user : response.users()) {
        users_.push_back(user.id());
      }
      token = response.next_page_token();
    } while (!token.empty() &&
             users_.size() < static_cast<size_t>(options_.users));
    return absl::OkStatus();
  }

  Stubs& StubsOf(int slot) {
    return stubs_[static_cast<size_t>(slot) % stubs_.size()];
  }
  Slot& At(int slot) { return slots_[static_cast<size_t>(slot)]; }

  const std::string& DrawUser(Random* random) {
    return users_[of_users_.Draw(random)];
  }

  Load::Send SenderOf(const std::string& what) {
    if (what == "empty" || what == "batched") {
      return [this, batched = what == "batched"](int slot, Load* load) {
        SendPing(slot, batched, load);
      };
    }
    const double writes = what == "feedback" ? 1
                          : what == "mixed"  ? options_.writes
                                             : 0;
    return [this, writes](int slot, Load* load) {
      if (At(slot).random.Uniform() < writes) {
        SendFeedback(slot, load);
      } else {
        SendRecommend(slot, load);
      }
    };
  }

  // Begins a slot's call by `send`, a method of a stub.
  template <typename Flight, typename Send, typename Done>
  void Begin(Flight* flight, int slot, const Load& load, const Send& send,
             Done done) {
    flight->context.emplace();
    // Run has met any error.
    AddMetadata(options_.server, &*flight->context).IgnoreError();
    if (options_.deadline > 0) {
      flight->context->set_deadline(absl::ToChronoTime(
          load.began(slot) + absl::Seconds(options_.deadline)));
    }
    send(&*flight->context, &flight->request, &flight->response,
         std::move(done));
  }

  void SendPing(int slot, bool batched, Load* load) {
    auto* const flight = &At(slot).ping;
    flight->request.set_batched(batched);
    Begin(
        flight, slot, *load,
        [&](auto... call) { StubsOf(slot).admin->async()->Ping(call...); },
        [slot, load, batched](const grpc::Status& status) {
          load->Answered(slot, batched ? Call::kBatched : Call::kEmpty, status);
        });
  }

  void SendRecommend(int slot, Load* load) {
    auto* const flight = &At(slot).recommend;
    flight->request.set_user(DrawUser(&At(slot).random));
    flight->request.set_count(options_.count);
    Begin(
        flight, slot, *load,
        [&](auto... call) {
          StubsOf(slot).recommendation->async()->Recommend(call...);
        },
        [this, flight, slot, load](const grpc::Status& status) {
          const auto by = static_cast<size_t>(flight->response.served_by());
          if (status.ok() && by < served_by_.size()) {
            served_by_[by].fetch_add(1, std::memory_order_relaxed);
          }
          load->Answered(slot, Call::kRecommend, status);
        });
  }

  void SendFeedback(int slot, Load* load) {
    auto* const flight = &At(slot).feedback;
    Random* const random = &At(slot).random;
    flight->request.clear_events();
    for (int i = 0; i < options_.events; ++i) {
      api::Event* const event = flight->request.add_events();
      event->set_user(DrawUser(random));
      event->set_item(items_[of_items_.Draw(random)]);
      event->set_type("view");
      event->set_event_id(absl::StrCat(run_, "-", slot, "-", random->Next()));
    }
    Begin(
        flight, slot, *load,
        [&](auto... call) {
          StubsOf(slot).feedback->async()->Feedback(call...);
        },
        [slot, load](const grpc::Status& status) {
          load->Answered(slot, Call::kFeedback, status);
        });
  }

  static constexpr std::array<Call, kCalls> kEveryCall = {
      Call::kEmpty, Call::kBatched, Call::kRecommend, Call::kFeedback};

  const BenchOptions options_;
  const std::function<void(double)> on_round_;
  // In the ids of events, that those of another run are not taken for these.
  const int64_t run_ = absl::GetCurrentTimeNanos();
  std::vector<Stubs> stubs_;
  std::vector<std::string> users_, items_;
  Zipf of_users_, of_items_;
  std::deque<Slot> slots_;
  std::array<std::atomic<int64_t>, api::ServedBy_ARRAYSIZE> served_by_{};
};

}  // namespace

Json BenchFigures::ToJson() const {
  Json json = {{"call", call},           {"calls", calls},
               {"errors", errors},       {"codes", codes},
               {"not_begun", not_begun}, {"calls_per_second", calls_a_second},
               {"mean_ms", mean_ms},     {"p50_ms", p50_ms},
               {"p90_ms", p90_ms},       {"p99_ms", p99_ms},
               {"p999_ms", p999_ms},     {"max_ms", max_ms},
               {"by_second", by_second}};
  if (processor_us.has_value()) json["processor_us"] = *processor_us;
  if (server_us.has_value()) json["server_us"] = *server_us;
  if (!served_by.empty()) json["served_by"] = served_by;
  return json;
}

Json BenchReport::ToJson() const {
  Json json = {{"rounds", Json::array()}};
  if (rate > 0) json["rate"] = rate;
  for (const BenchFigures& figures : rounds) {
    json["rounds"].push_back(figures.ToJson());
  }
  for (const auto& [name, ratio] : ratios) {
    json[name + "_ratio"] = {
        {"median", ratio.median}, {"low", ratio.low}, {"high", ratio.high}};
  }
  return json;
}

absl::StatusOr<BenchReport> RunBench(
    const BenchOptions& options, std::function<void(double share)> on_round) {
  return Bench(options, std::move(on_round)).Run();
}

}  // namespace nearline::client
