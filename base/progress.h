#ifndef NEARLINE_BASE_PROGRESS_H_
#define NEARLINE_BASE_PROGRESS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nearline {

// One line that tells how far long work has come: a bar rewritten in place on a
// terminal, a line every few seconds elsewhere, nothing when silent.
//   Importing  [##########..............]  42 %  420,000 rows  0:03 left
class ProgressBar {
 public:
  enum class Mode { kAuto, kSilent };

  ProgressBar(absl::string_view label, Mode mode = Mode::kAuto);
  ~ProgressBar();

  // `share` in [0, 1]; `detail` is free text. Cheap to call often.
  void Update(double share, absl::string_view detail);
  // A line of its own, above the bar.
  void Say(absl::string_view line);
  // Draws the final state and ends the line.
  void Finish(absl::string_view detail);

 private:
  void Draw(double share, absl::string_view detail, bool last);

  const std::string label_;
  const bool terminal_;
  const bool silent_;
  const absl::Time start_;
  absl::Time next_draw_;
  bool finished_ = false;
};

// 1234567 -> "1,234,567".
std::string WithThousands(int64_t n);
// Seconds as "0:03", "12:34" or "1:02:03".
std::string ShortDuration(absl::Duration d);

}  // namespace nearline

#endif  // NEARLINE_BASE_PROGRESS_H_
