#ifndef NEARLINE_BASE_PARSE_TIME_H_
#define NEARLINE_BASE_PARSE_TIME_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace nearline {

// Unix seconds, milliseconds or microseconds (told by their size); RFC 3339; or
// "2010-10-19[ 23:55:27]" in UTC. Errors: INVALID_ARGUMENT.
absl::StatusOr<absl::Time> ParseTime(absl::string_view text);

}  // namespace nearline

#endif  // NEARLINE_BASE_PARSE_TIME_H_
