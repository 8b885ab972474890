#include "base/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace nearline {

ProgressBar::ProgressBar(absl::string_view label, Mode mode)
    : label_(label),
      terminal_(isatty(STDERR_FILENO) != 0),
      silent_(mode == Mode::kSilent),
      start_(absl::Now()),
      next_draw_(start_) {}

ProgressBar::~ProgressBar() {
  if (!finished_ && terminal_ && !silent_) std::fputc('\n', stderr);
}

void ProgressBar::Update(double share, absl::string_view detail) {
  if (silent_ || finished_) return;
  const absl::Time now = absl::Now();
  if (now < next_draw_) return;
  next_draw_ = now + (terminal_ ? absl::Milliseconds(100) : absl::Seconds(5));
  Draw(share, detail, false);
}

void ProgressBar::Say(absl::string_view line) {
  if (silent_ || finished_) return;
  std::fputs(absl::StrCat(terminal_ ? "\r\033[K" : "", line, "\n").c_str(),
             stderr);
}

void ProgressBar::Finish(absl::string_view detail) {
  if (silent_ || finished_) return;
  Draw(1.0, detail, true);
  finished_ = true;
}

void ProgressBar::Draw(double share, absl::string_view detail, bool last) {
  constexpr int kWidth = 24;
  share = std::clamp(share, 0.0, 1.0);
  const int filled = static_cast<int>(share * kWidth);
  const absl::Duration spent = absl::Now() - start_;
  std::string time;
  if (last) {
    time = absl::StrCat("in ", absl::FormatDuration(
                                   absl::Trunc(spent, absl::Milliseconds(10))));
  } else if (share > 0.01) {
    time = absl::StrCat(ShortDuration(spent * ((1 - share) / share)), " left");
  }
  std::fputs(absl::StrFormat("%s%-11s [%s%s] %3.0f %%  %s  %s%s",
                             terminal_ ? "\r\033[K" : "", label_,
                             std::string(filled, '#'),
                             std::string(kWidth - filled, '.'), share * 100,
                             detail, time, terminal_ && !last ? "" : "\n")
                 .c_str(),
             stderr);
  std::fflush(stderr);
}

std::string WithThousands(int64_t n) {
  std::string digits = std::to_string(n < 0 ? -n : n);
  for (int i = static_cast<int>(digits.size()) - 3; i > 0; i -= 3) {
    digits.insert(static_cast<size_t>(i), ",");
  }
  return n < 0 ? "-" + digits : digits;
}

std::string ShortDuration(absl::Duration d) {
  const int64_t s = std::max<int64_t>(0, absl::ToInt64Seconds(d));
  if (s >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
  }
  return absl::StrFormat("%d:%02d", s / 60, s % 60);
}

}  // namespace nearline
