#ifndef NEARLINE_CLIENT_BENCH_H_
#define NEARLINE_CLIENT_BENCH_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace nearline::client {

struct BenchOptions {
  std::string address;
  int connections = 2;
  int in_flight = 128;  // in all; half as many leave batches unfilled
  double seconds = 5;   // a repetition
  int repetitions = 5;
  int count = 10;    // items asked for
  int users = 1000;  // the first of the server's, drawn by Zipf's law
  int events = 100;  // a feedback call
  std::string what = "recommend";  // or "feedback"
};

struct BenchFigures {
  int64_t calls = 0;
  int64_t errors = 0;
  double calls_a_second = 0;
  // Processor time a call, of this process and of the server: what tells the
  // truth on a machine that is shared with others.
  double processor_us = 0;
  double p50_ms = 0, p90_ms = 0, p99_ms = 0, max_ms = 0;
};

struct BenchReport {
  // One a repetition, in turn: first the empty call, then the measured one.
  std::vector<BenchFigures> empty, measured;
  // Repetition by repetition: the measured call's throughput over the empty
  // call's, and the empty call's processor time over the measured one's.
  struct Ratio {
    double median = 0, low = 0, high = 0;
  };
  Ratio throughput, processor;
};

// A closed loop of calls over a few connections, in turn with empty calls over
// the same ones.
absl::StatusOr<BenchReport> RunBench(const BenchOptions& options);

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_BENCH_H_
