#include "client/top.h"

#include <google/protobuf/util/json_util.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/progress.h"
#include "client/commands.h"
#include "client/print.h"
#include "client/table.h"

namespace nearline::client {
namespace {

constexpr size_t kHistory = 60;  // looks

absl::Duration From(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

std::string Bytes(int64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  return mebibytes < 10'000 ? absl::StrFormat("%.0f MiB", mebibytes)
                            : absl::StrFormat("%.1f GiB", mebibytes / 1024);
}

std::string Rate(double a_second) {
  return a_second < 10 ? absl::StrFormat("%.1f", a_second)
                       : WithThousands(std::llround(a_second));
}

// Of a method that has not been called: nothing.
const api::MethodStatus& Find(const api::StatusResponse& status,
                              const std::string& method) {
  for (const api::MethodStatus& one : status.methods()) {
    if (one.method() == method) return one;
  }
  return api::MethodStatus::default_instance();
}

std::string ShareBar(double share) {
  constexpr int kWidth = 20;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kWidth);
  return absl::StrCat("[", std::string(static_cast<size_t>(full), '#'),
                      std::string(static_cast<size_t>(kWidth - full), '.'),
                      "]");
}

// Characters, not bytes.
std::string Cut(const std::string& line, int width) {
  int seen = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(line[i]) & 0xc0) != 0x80;
    if (begins && seen++ == width) return line.substr(0, i);
  }
  return line;
}

}  // namespace

std::string TimeWithin(double share, const std::vector<int64_t>& by_time,
                       const std::vector<double>& bounds) {
  int64_t all = 0;
  for (const int64_t n : by_time) all += n;
  if (all == 0) return "-";
  double wanted = share * static_cast<double>(all), low = 0;
  for (size_t i = 0; i < by_time.size(); ++i) {
    const auto here = static_cast<double>(by_time[i]);
    if (i == bounds.size()) break;
    if (wanted <= here && here > 0) {
      const double seconds = low + (bounds[i] - low) * wanted / here;
      return seconds < 1 ? absl::StrFormat("%.2g ms", seconds * 1e3)
                         : absl::StrFormat("%.2g s", seconds);
    }
    wanted -= here;
    low = bounds[i];
  }
  return absl::StrFormat("over %g s", bounds.empty() ? 0 : bounds.back());
}

std::string Bars(const std::deque<double>& values) {
  static constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄",
                                          "▅", "▆", "▇", "█"};
  double most = 0;
  for (const double value : values) most = std::max(most, value);
  std::string out;
  for (const double value : values) {
    const auto height =
        most <= 0 ? 0 : static_cast<size_t>(std::lround(value / most * 8));
    out +=
        kBars[std::min<size_t>(8, value > 0 ? std::max<size_t>(1, height) : 0)];
  }
  return out;
}

void Top::Add(const api::StatusResponse& status, absl::Time now) {
  before_ = std::exchange(now_, Look{status, now});
  if (before_.has_value() &&
      From(before_->status.uptime()) > From(status.uptime())) {
    before_.reset();
    calls_a_second_.clear();
  }
  if (!before_.has_value()) return;
  int64_t calls = 0;
  for (const api::MethodStatus& method : status.methods()) {
    calls += method.calls() - Find(before_->status, method.method()).calls();
  }
  calls_a_second_.push_back(static_cast<double>(calls) /
                            absl::ToDoubleSeconds(now - before_->time));
  if (calls_a_second_.size() > kHistory) calls_a_second_.pop_front();
}

void Top::AddServer(std::vector<std::string>* lines) const {
  const api::StatusResponse& s = now_->status;
  std::string busy = "-";
  if (before_.has_value()) {
    busy = absl::StrFormat(
        "%.2f", absl::FDivDuration(From(s.processor_time()) -
                                       From(before_->status.processor_time()),
                                   now_->time - before_->time));
  }
  lines->push_back(absl::StrCat("nearline ", s.version(), " on ", address_,
                                ", up ", ShortDuration(From(s.uptime())), ", ",
                                s.device()));
  lines->push_back(absl::StrCat(
      "processors busy ", busy, "   memory ", Bytes(s.resident_bytes()),
      "   disk free ", Bytes(s.disk_free_bytes()), "   connections ",
      s.connections(), "   denied ", s.denied_calls()));
  lines->push_back(absl::StrCat(
      "users ", WithThousands(s.users()), "   items ", WithThousands(s.items()),
      "   events to ", WithThousands(static_cast<int64_t>(s.sequence())),
      "   waiting: ", s.queued_requests(), " requests, ", s.queued_events(),
      " events"));
  lines->push_back(s.generation().empty()
                       ? "model    none: popular items serve"
                       : absl::StrCat("model    ", s.generation(), ", ",
                                      ShortDuration(From(s.generation_age())),
                                      " old"));
  lines->push_back(s.run_id().empty()
                       ? "training idle"
                       : absl::StrFormat("training %s %3.0f %% %s, %s",
                                         ShareBar(s.run_share_done()),
                                         s.run_share_done() * 100,
                                         s.run_phase(), s.run_id()));
}

void Top::AddMethods(std::vector<std::string>* lines) const {
  if (!before_.has_value()) return;
  lines->push_back(absl::StrFormat(
      "calls/s  %s %s", Bars(calls_a_second_),
      calls_a_second_.empty() ? "" : Rate(calls_a_second_.back())));
  lines->emplace_back();
  const double seconds = absl::ToDoubleSeconds(now_->time - before_->time);
  const std::vector<double> bounds(now_->status.time_bounds().begin(),
                                   now_->status.time_bounds().end());
  Table table({"method", "calls/s", "p50", "p99", "failed/s", "calls"});
  for (const api::MethodStatus& method : now_->status.methods()) {
    const api::MethodStatus& old = Find(before_->status, method.method());
    if (method.calls() == 0) continue;
    std::vector<int64_t> by_time(method.calls_by_time().begin(),
                                 method.calls_by_time().end());
    for (int i = 0; i < old.calls_by_time_size(); ++i) {
      by_time[static_cast<size_t>(i)] -= old.calls_by_time(i);
    }
    const auto rate = [&](int64_t now, int64_t then) {
      return Rate(static_cast<double>(now - then) / seconds);
    };
    table.Add(
        {method.method(), rate(method.calls(), old.calls()),
         TimeWithin(0.5, by_time, bounds), TimeWithin(0.99, by_time, bounds),
         rate(method.failed(), old.failed()), WithThousands(method.calls())});
  }
  lines->push_back(table.Render());
}

std::string Top::Render(int width) const {
  if (!now_.has_value()) return "";
  std::vector<std::string> lines;
  AddServer(&lines);
  AddMethods(&lines);
  std::string out;
  for (const absl::string_view line :
       absl::StrSplit(absl::StrJoin(lines, "\n"), '\n')) {
    absl::StrAppend(&out, Cut(std::string(line), width), "\n");
  }
  return out;
}

int TopCommand(Session& session, double seconds, int frames) {
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  Top top(session.options.address);
  for (int frame = 0; frames == 0 || frame < frames; ++frame) {
    if (frame > 0) absl::SleepFor(absl::Seconds(seconds));
    const auto status = session.client->Status();
    if (!status.ok()) return Fail(session, status.status());
    if (session.json) {
      std::string line;
      google::protobuf::util::JsonPrintOptions how;
      how.preserve_proto_field_names = true;
      how.always_print_primitive_fields = true;
      const auto made =
          google::protobuf::util::MessageToJsonString(*status, &line, how);
      if (!made.ok()) {
        return Fail(session, absl::InternalError(made.ToString()));
      }
      std::cout << line << std::endl;
      continue;
    }
    top.Add(*status, absl::Now());
    int width = 1000;
    winsize size;
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 &&
        size.ws_col > 0) {
      width = size.ws_col;
    }
    // Written over what was there, then what is left of it removed: clearing
    // first would flicker.
    if (terminal) std::cout << "\033[H";
    for (const absl::string_view line :
         absl::StrSplit(top.Render(width), '\n')) {
      std::cout << line << (terminal ? "\033[K\n" : "\n");
    }
    std::cout << (terminal ? "\033[J" : "") << std::flush;
  }
  return 0;
}

}  // namespace nearline::client
