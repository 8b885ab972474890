#ifndef NEARLINE_SERVER_CHILD_H_
#define NEARLINE_SERVER_CHILD_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace nearline::server {

struct ChildOptions {
  std::vector<std::string> command;  // program and arguments
  std::string error_file;            // receives standard error
  int64_t memory_bytes = 0;          // of data and heap; 0: no limit
  // Held back as a whole while a quota of processor time is used up, so that
  // who shares the quota goes first; see Pacer.
  bool pace = false;
  // Processor time without a line, or as much wall time asleep without any
  // processor time, after which the child is taken for hung.
  absl::Duration hang_cpu = absl::Minutes(10);
  // Asked about once a second; true ends the child.
  std::function<bool()> stop;
};

// Idle priority does not protect those who share a quota of processor time: the
// kernel takes them all off together when it is used up. So a program is let
// run for a share of each moment, which is halved when that happened and grows
// while it does not.
class Pacer {
 public:
  static constexpr absl::Duration kTick = absl::Milliseconds(20);

  // `throttled` tells for how long the quota has held processes back, in all.
  explicit Pacer(std::function<absl::Duration()> throttled)
      : throttled_(std::move(throttled)), last_(throttled_()) {}

  // To be asked about once a tick: whether the program may run now.
  bool MayRun();
  double share() const { return share_; }

 private:
  static constexpr int kCycle = 20;  // ticks
  static constexpr double kLeast = 1.0 / kCycle;
  static constexpr double kGrowth = kLeast / 4;  // a cycle

  const std::function<absl::Duration()> throttled_;
  absl::Duration last_;
  double share_ = 1;
  int tick_ = 0;
};

// Runs a program at idle priority, for processor and disk, in a process that
// dies with this one, and calls `on_line` with every line of its standard
// output. Returns when it has ended. Errors: ABORTED when it was stopped,
// crashed, hung or exited with another code than 0, in words for an operator.
absl::Status RunChild(const ChildOptions& options,
                      const std::function<void(const std::string&)>& on_line);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CHILD_H_
