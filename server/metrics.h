#ifndef NEARLINE_SERVER_METRICS_H_
#define NEARLINE_SERVER_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/registry.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/status.h"
#include "server/access.h"
#include "server/pipeline.h"

namespace nearline::server {

// What Prometheus scrapes. Label values come from fixed sets (methods, codes,
// stages, reasons), never from callers. Thread-safe.
class Metrics {
 public:
  // A number read when somebody scrapes.
  struct Reading {
    std::string name;
    std::string help;
    prometheus::MetricType type = prometheus::MetricType::Gauge;
    double value = 0;
    std::vector<std::pair<std::string, std::string>> labels;
  };
  using Reader = std::function<std::vector<Reading>()>;

  Metrics();
  ~Metrics();

  // Serves /metrics on "host:port" until this goes. Errors: UNAVAILABLE naming
  // the address. (prometheus-cpp's own exposer cannot start its threads in a
  // process with as much thread-local storage as LibTorch brings.)
  absl::Status Expose(const std::string& address);
  // Ends that; no scrape is under way after it.
  void StopExposing();
  void set_reader(Reader reader);

  void OnRpc(const std::string& method, int code, absl::Duration took);
  void OnBatch(const BatchReport& report);
  void OnAnswer(ServedBy served_by, const std::string& degraded_reason);
  void OnRefusal(Refusal refusal);
  // Events of a call, by what became of them.
  struct EventCounts {
    int64_t accepted = 0, duplicates = 0, expired = 0, refused = 0;
  };
  void OnFeedback(const EventCounts& counts);
  // Calls that have begun and not ended.
  void OnBegin() { in_flight_.fetch_add(1, std::memory_order_relaxed); }
  void OnEnd() { in_flight_.fetch_sub(1, std::memory_order_relaxed); }
  int64_t in_flight() const { return in_flight_.load(); }

  // Calls of a method since the start.
  struct MethodCounts {
    std::string method;
    int64_t calls = 0;
    int64_t failed = 0;            // by our fault
    std::vector<int64_t> by_time;  // one more than TimeBounds
  };
  std::vector<MethodCounts> ReadMethods() const;
  static const std::vector<double>& TimeBounds();  // seconds
  int64_t denied() const;

  // The text that a scrape gets.
  std::string Scrape() const;

 private:
  class Readings;
  class HttpServer;

  struct Method {
    prometheus::Histogram* duration = nullptr;
    std::array<std::atomic<prometheus::Counter*>, 17> codes{};
  };
  Method& MethodOf(const std::string& name);
  prometheus::Counter& CounterOf(const std::string& name, int code,
                                 Method* method);

  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<Readings> readings_;
  std::unique_ptr<HttpServer> http_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& durations_;
  prometheus::Family<prometheus::Counter>& answers_;
  prometheus::Family<prometheus::Counter>& degraded_;
  prometheus::Family<prometheus::Counter>& feedback_;
  prometheus::Family<prometheus::Counter>& denied_;
  prometheus::Family<prometheus::Counter>& stage_seconds_;
  prometheus::Histogram& batch_size_;
  prometheus::Counter& dropped_;
  prometheus::Counter& queue_;
  prometheus::Counter& encode_;
  prometheus::Counter& scan_;
  prometheus::Counter& rank_;
  std::array<prometheus::Counter*, kRefusals> refusals_{};
  std::array<prometheus::Counter*, 3> served_{};
  std::array<prometheus::Counter*, 4> events_{};
  std::atomic<int64_t> in_flight_{0};

  mutable Mutex mu_;
  std::map<std::string, std::unique_ptr<Method>> methods_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_METRICS_H_
