// What the control groups of this process (cgroups(7), version 1 or 2) let it
// have.
#ifndef NEARLINE_SERVER_CONTROL_GROUP_H_
#define NEARLINE_SERVER_CONTROL_GROUP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace nearline::server {

class ControlGroup {
 public:
  // Of this process.
  static ControlGroup Own();
  // Of the text of /proc/self/cgroup, with the file systems below `root`.
  ControlGroup(const std::string& root, const std::string& groups);

  struct Memory {
    int64_t limit = 0;  // beyond, the kernel ends a process; 0: there is none
    // Of all processes of the group that has this limit, without what the
    // kernel would give up first.
    int64_t used = 0;
  };
  Memory ReadMemory() const;
  // Whether there is a quota of processor time.
  bool HasCpuQuota() const;
  // For how long the group's processes have been held back by it, in all.
  absl::Duration Throttled() const;

 private:
  // Folders from the process's group upwards; in a container, which sees its
  // own group as the root, that one alone.
  std::vector<std::string> memory_, cpu_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CONTROL_GROUP_H_
