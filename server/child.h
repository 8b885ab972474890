#ifndef NEARLINE_SERVER_CHILD_H_
#define NEARLINE_SERVER_CHILD_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace nearline::server {

struct ChildOptions {
  std::vector<std::string> command;  // program and arguments
  std::string error_file;            // receives standard error
  int64_t memory_bytes = 0;          // of data and heap; 0: no limit
  // Processor time without a line, or as much wall time asleep without any
  // processor time, after which the child is taken for hung.
  absl::Duration hang_cpu = absl::Minutes(10);
  // Asked about once a second; true ends the child.
  std::function<bool()> stop;
};

// Runs a program at idle priority, for processor and disk, in a process that
// dies with this one, and calls `on_line` with every line of its standard
// output. Returns when it has ended. Errors: ABORTED when it was stopped,
// crashed, hung or exited with another code than 0, in words for an operator.
absl::Status RunChild(const ChildOptions& options,
                      const std::function<void(const std::string&)>& on_line);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CHILD_H_
