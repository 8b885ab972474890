#ifndef NEARLINE_CLIENT_BENCH_H_
#define NEARLINE_CLIENT_BENCH_H_

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "client/client.h"

namespace nearline::client {

struct BenchOptions {
  ClientOptions server;
  // recommend, feedback, mixed (both), empty, or batched: an empty call through
  // the queue that Recommend goes through.
  std::string what = "recommend";
  std::string baseline = "empty";  // or batched, or none
  int connections = 2;
  // In all. 0: 128, as half as many leave batches unfilled; in an open loop, as
  // many as come, up to 10,000.
  int in_flight = 0;
  // Of an open loop: calls a second, or a share of what a closed loop reached
  // in one round before. Both 0: a closed loop.
  double rate = 0, load = 0;
  std::string arrivals = "poisson";  // or constant
  double seconds = 5;                // a repetition
  double warm_up = 1;                // seconds before the first
  int repetitions = 5;
  double deadline = 0;  // seconds that a call may take; 0: any
  int count = 10;       // items asked for
  int users = 1000;     // the first of the server's
  double skew = 1;      // of users: the n-th is drawn by 1 / n^skew
  int events = 100;     // a feedback call
  double writes = 0.1;  // share of mixed calls that are feedback
  uint64_t seed = 1;
};

// One kind of call in one round.
struct BenchFigures {
  std::string call;
  int64_t calls = 0;      // answered with OK, as all that follows
  int64_t errors = 0;     // the rest, also by name
  int64_t not_begun = 0;  // of the round, an open loop's: late by then
  std::map<std::string, int64_t> codes;
  double calls_a_second = 0;
  // Processor time a call, of this process and of the server: what tells the
  // truth on a machine that is shared with others. Of all kinds in the round;
  // none where the caller may not ask for the server's.
  std::optional<double> processor_us;
  std::optional<double> server_us;  // of it, the server's
  double mean_ms = 0, p50_ms = 0, p90_ms = 0, p99_ms = 0, p999_ms = 0,
         max_ms = 0;
  std::vector<int64_t> by_second;
  // Of Recommend: answers by how they were made.
  std::map<std::string, int64_t> served_by;

  Json ToJson() const;
};

struct BenchReport {
  double rate = 0;  // of the open loop; 0: a closed one
  // In turn: the baseline, then what is measured.
  std::vector<BenchFigures> rounds;
  // Repetition by repetition: the measured calls' throughput over the
  // baseline's, the baseline's processor time over theirs, and their 99th
  // percentile over the baseline's. Empty without a baseline; no processor
  // where a round has none.
  struct Ratio {
    double median = 0, low = 0, high = 0;
  };
  std::map<std::string, Ratio> ratios;  // throughput, processor, p99

  Json ToJson() const;
};

// Loads a server with calls over a few connections, in turn with calls that do
// nothing over the same ones. Errors: FAILED_PRECONDITION when the server knows
// no user, UNAVAILABLE when no call was answered, or the first one's error when
// all calls of a round failed.
// `on_round`, told what share of the rounds is over, may be empty.
absl::StatusOr<BenchReport> RunBench(
    const BenchOptions& options,
    std::function<void(double share)> on_round = {});

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_BENCH_H_
