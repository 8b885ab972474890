#include "base/parse_time.h"

#include <cmath>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace nearline {

absl::StatusOr<absl::Time> ParseTime(absl::string_view text) {
  double number = 0;
  if (absl::SimpleAtod(text, &number) && std::abs(number) < 1e17) {
    // Seconds reach the year 5138, milliseconds begin in 1973.
    const double size = std::abs(number);
    const double micros = size < 1e11   ? number * 1e6
                          : size < 1e14 ? number * 1e3
                                        : number;
    return absl::FromUnixMicros(static_cast<int64_t>(micros));
  }
  absl::Time time;
  std::string error;
  for (const char* format :
       {"%Y-%m-%d%ET%H:%M:%E*S%Ez", "%Y-%m-%d%ET%H:%M:%E*S",
        "%Y-%m-%d %H:%M:%E*S", "%Y-%m-%d"}) {
    if (absl::ParseTime(format, text, &time, &error)) return time;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "time ", Quoted(text),
      ": expected Unix seconds, RFC 3339, or 2010-10-19 23:55:27"));
}

}  // namespace nearline
