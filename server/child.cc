#include "server/child.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "server/control_group.h"

namespace nearline::server {
namespace {

// Between fork and exec: only calls that are safe there.
[[noreturn]] void BecomeChild(char* const* argv, int out, int error,
                              int64_t memory_bytes, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before the line above
  setpgid(0, 0);  // so that what it starts can be ended with it
  // Where memory runs out, the kernel is to end the trainer first.
  const int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0 && write(score, "1000", 4) < 0) {
    // Then as it was.
  }
  sched_param param{};
  sched_setscheduler(0, SCHED_IDLE, &param);
  constexpr int kIdleClass = 3 << 13;  // ioprio_set(2): IOPRIO_CLASS_IDLE
  syscall(SYS_ioprio_set, 1, 0, kIdleClass);
  if (memory_bytes > 0) {
    const rlimit limit{static_cast<rlim_t>(memory_bytes),
                       static_cast<rlim_t>(memory_bytes)};
    setrlimit(RLIMIT_DATA, &limit);
  }
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(error, STDERR_FILENO);
  signal(SIGXFSZ, SIG_DFL);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv);
  _exit(127);
}

struct ProcessState {
  char state = '?';
  absl::Duration cpu;
};

// From /proc/<pid>/stat; the name in parentheses may hold anything.
ProcessState ReadState(pid_t pid) {
  ProcessState out;
  const auto text = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!text.ok()) return out;
  const size_t end = text->rfind(')');
  if (end == std::string::npos) return out;
  const std::vector<std::string> fields =
      absl::StrSplit(text->substr(end + 2), ' ');
  int64_t user = 0, system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
      !absl::SimpleAtoi(fields[12], &system)) {
    return out;
  }
  out.state = fields[0][0];
  out.cpu = absl::Seconds(1) * (static_cast<double>(user + system) /
                                static_cast<double>(sysconf(_SC_CLK_TCK)));
  return out;
}

// Watches one child for lack of progress and for starvation.
class Watchdog {
 public:
  Watchdog(pid_t pid, absl::Duration hang_cpu)
      : pid_(pid), hang_cpu_(hang_cpu) {}

  void OnLine() { progressed_ = true; }

  // About once a second. True when the child is hung. Of one that is held back
  // on purpose it cannot be told whether it starves.
  bool Check(bool held_back) {
    const absl::Time now = absl::Now();
    const ProcessState state = ReadState(pid_);
    if (progressed_) {
      progressed_ = false;
      cpu_at_progress_ = state.cpu;
    }
    if (state.cpu != last_cpu_ || state.state == 'R') {
      last_cpu_ = state.cpu;
      last_alive_ = now;
    }
    if (now - sampled_ > absl::Seconds(30)) {
      // Runnable, yet nearly never run: the idle class starves on a busy
      // machine.
      if (!held_back && state.state == 'R' &&
          state.cpu - cpu_at_sample_ < absl::Seconds(1)) {
        sched_param param{};
        sched_setscheduler(pid_, SCHED_BATCH, &param);
        setpriority(PRIO_PROCESS, static_cast<id_t>(pid_), 19);
      }
      sampled_ = now;
      cpu_at_sample_ = state.cpu;
    }
    return state.cpu - cpu_at_progress_ > hang_cpu_ ||
           now - last_alive_ > hang_cpu_;
  }

 private:
  const pid_t pid_;
  const absl::Duration hang_cpu_;
  bool progressed_ = false;
  absl::Duration cpu_at_progress_, last_cpu_, cpu_at_sample_;
  absl::Time last_alive_ = absl::Now();
  absl::Time sampled_ = absl::Now();
};

// At most 500 bytes of the last line, as text whatever it holds.
std::string LastLine(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<int64_t>(in.tellg());
  std::string text(static_cast<size_t>(std::min<int64_t>(size, 4096)), '\0');
  in.seekg(size - static_cast<int64_t>(text.size()));
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  const std::string line(absl::StripTrailingAsciiWhitespace(text));
  const std::string last = line.substr(line.rfind('\n') + 1).substr(0, 500);
  return IsUtf8(last) ? last : absl::CHexEscape(last);
}

std::string DescribeEnd(int status, const std::string& error_file) {
  std::string how;
  if (WIFSIGNALED(status)) {
    how = absl::StrCat("was killed by signal ", WTERMSIG(status), " (",
                       strsignal(WTERMSIG(status)), ")");
  } else {
    how = absl::StrCat("exited with code ", WEXITSTATUS(status));
    if (WEXITSTATUS(status) == 127) how += ": the program could not be started";
  }
  // The last line usually says why.
  const std::string last = LastLine(error_file);
  return absl::StrCat("the trainer ", how, last.empty() ? "" : ": ", last,
                      "; its messages are in ", error_file);
}

// Stops and continues a child as a pacer says. Without one, does nothing.
class Brake {
 public:
  Brake(pid_t pid, std::optional<Pacer> pacer)
      : pid_(pid), pacer_(std::move(pacer)) {}

  // How long to wait for the next call, at most.
  absl::Duration interval() const {
    return pacer_.has_value() ? Pacer::kTick : absl::Seconds(1);
  }
  bool holds_back() const { return pacer_.has_value() && pacer_->share() < 1; }
  void Tick() {
    if (pacer_.has_value()) Let(pacer_->MayRun());
  }
  void Let(bool may_run) {
    if (may_run != std::exchange(running_, may_run)) {
      kill(-pid_, may_run ? SIGCONT : SIGSTOP);
    }
  }

 private:
  const pid_t pid_;
  std::optional<Pacer> pacer_;
  bool running_ = true;
};

std::optional<Pacer> PacerOf(const ChildOptions& options) {
  const ControlGroup group = ControlGroup::Own();
  if (!options.pace || !group.HasCpuQuota()) return std::nullopt;
  return Pacer([group] { return group.Throttled(); });
}

}  // namespace

bool Pacer::MayRun() {
  if (tick_ == kCycle) {
    tick_ = 0;
    const absl::Duration now = throttled_();
    const bool held_back =
        now - std::exchange(last_, now) > absl::ZeroDuration();
    share_ = held_back ? std::max(kLeast, share_ / 2)
                       : std::min(1.0, share_ + kGrowth);
  }
  return tick_++ < share_ * kCycle;
}

absl::Status RunChild(const ChildOptions& options,
                      const std::function<void(const std::string&)>& on_line) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
    return absl::ErrnoToStatus(errno, "cannot make a pipe");
  }
  const int error = open(options.error_file.c_str(),
                         O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (error < 0) {
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return absl::ErrnoToStatus(errno, options.error_file);
  }
  std::vector<char*> argv;
  for (const std::string& word : options.command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeChild(argv.data(), pipe_fds[1], error, options.memory_bytes, parent);
  }
  close(pipe_fds[1]);
  close(error);
  if (pid < 0) {
    close(pipe_fds[0]);
    return absl::ErrnoToStatus(errno, "cannot start the trainer");
  }

  Watchdog watchdog(pid, options.hang_cpu);
  Brake brake(pid, PacerOf(options));
  constexpr absl::Duration kLookEvery = absl::Milliseconds(900);
  absl::Time looked = absl::Now();
  std::string buffer, verdict;
  while (true) {
    pollfd poller{pipe_fds[0], POLLIN, 0};
    const int ready =
        poll(&poller, 1,
             static_cast<int>(absl::ToInt64Milliseconds(brake.interval())));
    if (ready > 0) {
      char chunk[4096];
      const ssize_t n = read(pipe_fds[0], chunk, sizeof(chunk));
      if (n <= 0) break;  // it closed its output: it has ended
      buffer.append(chunk, static_cast<size_t>(n));
      for (size_t end; (end = buffer.find('\n')) != std::string::npos;) {
        watchdog.OnLine();
        on_line(buffer.substr(0, end));
        buffer.erase(0, end + 1);
      }
      if (buffer.size() > (1 << 20)) buffer.clear();  // no line is so long
    }
    brake.Tick();
    if (absl::Now() - looked < kLookEvery) continue;
    looked = absl::Now();
    if (options.stop && options.stop()) {
      verdict = "the run was stopped because the server is stopping";
    } else if (watchdog.Check(brake.holds_back())) {
      verdict = absl::StrCat("the trainer hung: no progress for ",
                             absl::FormatDuration(options.hang_cpu),
                             " of processor time, or asleep for as long");
    }
    if (!verdict.empty()) {
      // The group is not there before the child has made it.
      if (kill(-pid, SIGKILL) != 0) kill(pid, SIGKILL);
      break;
    }
  }
  close(pipe_fds[0]);
  brake.Let(true);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!verdict.empty()) return absl::AbortedError(verdict);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::AbortedError(DescribeEnd(status, options.error_file));
}

}  // namespace nearline::server
