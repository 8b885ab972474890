#include "server/metrics.h"

#include <httplib.h>
#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/text_serializer.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/text.h"

namespace nearline::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;

constexpr std::array<const char*, 17> kCodes = {"OK",
                                                "CANCELLED",
                                                "UNKNOWN",
                                                "INVALID_ARGUMENT",
                                                "DEADLINE_EXCEEDED",
                                                "NOT_FOUND",
                                                "ALREADY_EXISTS",
                                                "PERMISSION_DENIED",
                                                "RESOURCE_EXHAUSTED",
                                                "FAILED_PRECONDITION",
                                                "ABORTED",
                                                "OUT_OF_RANGE",
                                                "UNIMPLEMENTED",
                                                "INTERNAL",
                                                "UNAVAILABLE",
                                                "DATA_LOSS",
                                                "UNAUTHENTICATED"};

// Codes that are our fault.
constexpr std::array<int, 6> kFaults = {2, 4, 8, 13, 14, 15};

}  // namespace

class Metrics::Readings final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    Reader reader;
    {
      MutexLock lock(&mu_);
      reader = reader_;
    }
    std::vector<prometheus::MetricFamily> families;
    if (!reader) return families;
    for (Reading& reading : reader()) {
      if (families.empty() || families.back().name != reading.name) {
        families.push_back({reading.name, reading.help, reading.type, {}});
      }
      prometheus::ClientMetric metric;
      for (auto& [name, value] : reading.labels) {
        metric.label.push_back({std::move(name), std::move(value)});
      }
      if (reading.type == prometheus::MetricType::Counter) {
        metric.counter.value = reading.value;
      } else {
        metric.gauge.value = reading.value;
      }
      families.back().metric.push_back(std::move(metric));
    }
    return families;
  }
  void set(Reader reader) {
    MutexLock lock(&mu_);
    reader_ = std::move(reader);
  }

 private:
  mutable Mutex mu_;
  Reader reader_ ABSL_GUARDED_BY(mu_);
};

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      readings_(std::make_shared<Readings>()),
      requests_(BuildCounter()
                    .Name("nearline_rpc_requests_total")
                    .Help("Calls let in and answered, by method and code.")
                    .Register(*registry_)),
      durations_(BuildHistogram()
                     .Name("nearline_rpc_duration_seconds")
                     .Help("Time from the request's arrival to its answer.")
                     .Register(*registry_)),
      answers_(BuildCounter()
                   .Name("nearline_answers_total")
                   .Help("Recommend answers, by how they were made.")
                   .Register(*registry_)),
      degraded_(BuildCounter()
                    .Name("nearline_degraded_answers_total")
                    .Help("Answers that were less than configured, by reason.")
                    .Register(*registry_)),
      feedback_(BuildCounter()
                    .Name("nearline_feedback_events_total")
                    .Help("Events received, by what became of them.")
                    .Register(*registry_)),
      denied_(BuildCounter()
                  .Name("nearline_calls_denied_total")
                  .Help("Calls not let in, by reason.")
                  .Register(*registry_)),
      stage_seconds_(BuildCounter()
                         .Name("nearline_stage_seconds_total")
                         .Help("Time spent in the stages of recommending.")
                         .Register(*registry_)),
      batch_size_(
          BuildHistogram()
              .Name("nearline_batch_requests")
              .Help("Requests computed together.")
              .Register(*registry_)
              .Add({}, prometheus::Histogram::BucketBoundaries{1, 2, 4, 8, 16,
                                                               32, 64, 128})),
      dropped_(BuildCounter()
                   .Name("nearline_dropped_requests_total")
                   .Help("Requests whose deadline had passed or whose caller "
                         "had gone before work began.")
                   .Register(*registry_)
                   .Add({})),
      queue_(BuildCounter()
                 .Name("nearline_queue_seconds_total")
                 .Help("Time that requests waited for their batch, summed.")
                 .Register(*registry_)
                 .Add({})),
      encode_(stage_seconds_.Add({{"stage", "encode"}})),
      scan_(stage_seconds_.Add({{"stage", "scan"}})),
      rank_(stage_seconds_.Add({{"stage", "rank"}})) {
  const char* const served[] = {"ranked", "shortlist", "popular"};
  for (size_t i = 0; i < served_.size(); ++i) {
    served_[i] = &answers_.Add({{"served_by", served[i]}});
  }
  const char* const events[] = {"accepted", "duplicate", "expired", "refused"};
  for (size_t i = 0; i < events_.size(); ++i) {
    events_[i] = &feedback_.Add({{"result", events[i]}});
  }
  for (size_t i = 0; i < refusals_.size(); ++i) {
    refusals_[i] = &denied_.Add({{"reason", kRefusalNames[i]}});
  }
  // From the start: what a rate is taken of must be there before it rises.
  for (const char* method : {"Recommend", "Feedback"}) {
    Method* const m = &MethodOf(method);
    CounterOf(method, 0, m);
    for (const int code : kFaults) CounterOf(method, code, m);
  }
  for (const char* reason : {"no_generation", "no_history", "overload"}) {
    degraded_.Add({{"reason", reason}});
  }
}

Metrics::~Metrics() = default;

class Metrics::HttpServer {
 public:
  HttpServer(const Metrics* metrics, const std::string& host, int port) {
    // Slow callers hold a thread each, for a second a read at most.
    server_.new_task_queue = [] { return new httplib::ThreadPool(16); };
    server_.set_read_timeout(1);
    server_.set_keep_alive_max_count(1);
    // The library's own lets two servers share a port in silence.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.Get("/metrics", [metrics](const httplib::Request&,
                                      httplib::Response& response) {
      response.set_content(metrics->Scrape(),
                           "text/plain; version=0.0.4; charset=utf-8");
    });
    bound_ = server_.bind_to_port(host, port);
    if (bound_) thread_ = std::thread([this] { server_.listen_after_bind(); });
  }
  ~HttpServer() {
    if (!bound_) return;
    // stop() before the loop has begun would be forgotten.
    while (!server_.is_running()) std::this_thread::yield();
    server_.stop();
    thread_.join();
  }
  bool bound() const { return bound_; }

 private:
  httplib::Server server_;
  bool bound_ = false;
  std::thread thread_;
};

absl::Status Metrics::Expose(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  errno = 0;
  if (colon != std::string::npos &&
      absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    std::string host = address.substr(0, colon);
    if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
      host = host.substr(1, host.size() - 2);
    }
    http_ = std::make_unique<HttpServer>(this, host, port);
    if (http_->bound()) return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(
      "cannot serve metrics on ", Quoted(address),
      errno == 0 ? "" : absl::StrCat(" (", std::strerror(errno), ")"),
      ". Set metrics_listen to a free host:port, or to \"\""));
}

void Metrics::StopExposing() { http_.reset(); }

void Metrics::set_reader(Reader reader) { readings_->set(std::move(reader)); }

Metrics::Method& Metrics::MethodOf(const std::string& name) {
  MutexLock lock(&mu_);
  std::unique_ptr<Method>& method = methods_[name];
  if (method == nullptr) {
    method = std::make_unique<Method>();
    method->duration = &durations_.Add({{"method", name}}, TimeBounds());
  }
  return *method;
}

prometheus::Counter& Metrics::CounterOf(const std::string& name, int code,
                                        Method* method) {
  const auto index = static_cast<size_t>(code < 0 || code > 16 ? 2 : code);
  std::atomic<prometheus::Counter*>& slot = method->codes[index];
  prometheus::Counter* counter = slot.load(std::memory_order_acquire);
  if (counter == nullptr) {
    counter = &requests_.Add({{"method", name}, {"code", kCodes[index]}});
    slot.store(counter, std::memory_order_release);
  }
  return *counter;
}

void Metrics::OnRpc(const std::string& method, int code, absl::Duration took) {
  Method& m = MethodOf(method);
  m.duration->Observe(absl::ToDoubleSeconds(took));
  CounterOf(method, code, &m).Increment();
}

void Metrics::OnBatch(const BatchReport& report) {
  batch_size_.Observe(report.jobs);
  if (report.dropped > 0) dropped_.Increment(report.dropped);
  queue_.Increment(absl::ToDoubleSeconds(report.queued));
  encode_.Increment(absl::ToDoubleSeconds(report.stages.encode));
  scan_.Increment(absl::ToDoubleSeconds(report.stages.scan));
  rank_.Increment(absl::ToDoubleSeconds(report.stages.rank));
}

void Metrics::OnAnswer(ServedBy served_by, const std::string& reason) {
  served_[static_cast<size_t>(served_by)]->Increment();
  if (!reason.empty()) degraded_.Add({{"reason", reason}}).Increment();
}

void Metrics::OnRefusal(Refusal refusal) {
  refusals_[static_cast<size_t>(refusal)]->Increment();
}

void Metrics::OnFeedback(const EventCounts& counts) {
  const int64_t all[] = {counts.accepted, counts.duplicates, counts.expired,
                         counts.refused};
  for (size_t i = 0; i < events_.size(); ++i) {
    if (all[i] > 0) events_[i]->Increment(static_cast<double>(all[i]));
  }
}

const std::vector<double>& Metrics::TimeBounds() {
  static const std::vector<double> bounds = {
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
      0.025,  0.05,    0.1,    0.25,  0.5,    1,     2.5};
  return bounds;
}

std::vector<Metrics::MethodCounts> Metrics::ReadMethods() const {
  std::vector<MethodCounts> out;
  MutexLock lock(&mu_);
  for (const auto& [name, method] : methods_) {
    MethodCounts& counts = out.emplace_back();
    counts.method = name;
    const prometheus::ClientMetric times = method->duration->Collect();
    uint64_t before = 0;
    for (const auto& bucket : times.histogram.bucket) {
      counts.by_time.push_back(
          static_cast<int64_t>(bucket.cumulative_count - before));
      before = bucket.cumulative_count;
    }
    counts.calls = static_cast<int64_t>(times.histogram.sample_count);
    for (const int code : kFaults) {
      const prometheus::Counter* const counter =
          method->codes[static_cast<size_t>(code)].load();
      if (counter != nullptr) {
        counts.failed += static_cast<int64_t>(counter->Value());
      }
    }
  }
  return out;
}

int64_t Metrics::denied() const {
  double sum = 0;
  for (const prometheus::Counter* counter : refusals_) sum += counter->Value();
  return static_cast<int64_t>(sum);
}

std::string Metrics::Scrape() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (auto& family : readings_->Collect()) {
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace nearline::server
