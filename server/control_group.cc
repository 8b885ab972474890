#include "server/control_group.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace nearline::server {
namespace {

// Where there is no limit, version 1 writes a number near 2^63, version 2
// "max".
constexpr int64_t kNone = int64_t{1} << 60;

// `group` below `root`, and all above it.
void AddFolders(const std::string& root, std::string group,
                std::vector<std::string>* out) {
  while (group.size() > 1) {
    out->push_back(root + group);
    group.resize(group.rfind('/'));
  }
  out->push_back(root);
}

// The first number in a file; -1 when there is none.
int64_t Number(const std::string& path) {
  const auto text = ReadFile(path);
  int64_t number = -1;
  if (!text.ok()) return -1;
  const std::vector<absl::string_view> words =
      absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  return !words.empty() && absl::SimpleAtoi(words[0], &number) ? number : -1;
}

// The number after a name in a file of names and numbers; 0 without it.
int64_t Named(const std::string& path, absl::string_view name) {
  const std::string text = ReadFile(path).value_or("");
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    int64_t number = 0;
    if (words.size() == 2 && words[0] == name &&
        absl::SimpleAtoi(words[1], &number)) {
      return number;
    }
  }
  return 0;
}

}  // namespace

ControlGroup ControlGroup::Own() {
  return ControlGroup("/sys/fs/cgroup",
                      ReadFile("/proc/self/cgroup").value_or(""));
}

// Lines are "0::/system.slice/nearline.service" in version 2, and
// "4:cpu,cpuacct:/docker/1f" in version 1.
ControlGroup::ControlGroup(const std::string& root, const std::string& groups) {
  for (const absl::string_view line : absl::StrSplit(groups, '\n')) {
    const std::vector<std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const auto& controllers = parts[1];
    if (controllers.empty()) {
      AddFolders(root, parts[2], &memory_);
      AddFolders(root, parts[2], &cpu_);
      continue;
    }
    const std::string mounted = absl::StrCat(root, "/", controllers);
    for (const absl::string_view one : absl::StrSplit(controllers, ',')) {
      if (one == "memory") AddFolders(mounted, parts[2], &memory_);
      if (one == "cpu") AddFolders(mounted, parts[2], &cpu_);
    }
  }
}

ControlGroup::Memory ControlGroup::ReadMemory() const {
  Memory least{.limit = kNone};
  for (const std::string& folder : memory_) {
    const auto consider = [&](const char* limit, const char* used,
                              const char* inactive) {
      const int64_t bytes = Number(folder + limit);
      if (bytes <= 0 || bytes >= least.limit) return;
      const int64_t idle = Named(folder + "/memory.stat", inactive);
      least = {bytes, std::max<int64_t>(0, Number(folder + used) - idle)};
    };
    consider("/memory.max", "/memory.current", "inactive_file");
    consider("/memory.limit_in_bytes", "/memory.usage_in_bytes",
             "total_inactive_file");
  }
  return least.limit == kNone ? Memory() : least;
}

bool ControlGroup::HasCpuQuota() const {
  return std::any_of(cpu_.begin(), cpu_.end(), [](const std::string& folder) {
    return Number(folder + "/cpu.max") > 0 ||
           Number(folder + "/cpu.cfs_quota_us") > 0;
  });
}

absl::Duration ControlGroup::Throttled() const {
  absl::Duration sum;
  for (const std::string& folder : cpu_) {
    const std::string file = folder + "/cpu.stat";
    sum += absl::Microseconds(Named(file, "throttled_usec")) +
           absl::Nanoseconds(Named(file, "throttled_time"));
  }
  return sum;
}

}  // namespace nearline::server
