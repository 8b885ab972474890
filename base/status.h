#ifndef NEARLINE_BASE_STATUS_H_
#define NEARLINE_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace nearline {

// The same code and payloads, with "context: " before the message.
inline absl::Status Annotate(const absl::Status& status,
                             absl::string_view context) {
  if (status.ok()) return status;
  absl::Status out(status.code(),
                   absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&out](absl::string_view url, const absl::Cord& payload) {
        out.SetPayload(url, payload);
      });
  return out;
}

// The payload that names the field of a request which is at fault.
inline constexpr char kFieldPayload[] = "nearline/field";

inline absl::Status WithField(absl::Status status, absl::string_view field) {
  status.SetPayload(kFieldPayload, absl::Cord(field));
  return status;
}

// INVALID_ARGUMENT "field = value: expected allowed".
inline absl::Status InvalidField(absl::string_view field,
                                 absl::string_view value,
                                 absl::string_view allowed) {
  return WithField(absl::InvalidArgumentError(absl::StrCat(
                       field, " = ", value, ": expected ", allowed)),
                   field);
}

// The payload that says after how long a refused call is worth another try.
inline constexpr char kRetryPayload[] = "nearline/retry";

// Infinite: it is not.
inline absl::Status WithRetry(absl::Status status, absl::Duration after) {
  status.SetPayload(kRetryPayload, absl::Cord(absl::FormatDuration(after)));
  return status;
}

// The error of a part of a request as one of the whole: "value = ..." becomes
// "events[3].value = ...".
inline absl::Status InPart(const absl::Status& status, absl::string_view part) {
  absl::Status out(status.code(), absl::StrCat(part, ".", status.message()));
  const auto field = status.GetPayload(kFieldPayload);
  if (!field.has_value()) return out;
  return WithField(std::move(out),
                   absl::StrCat(part, ".", std::string(*field)));
}

}  // namespace nearline

#define NEARLINE_CONCAT_INNER_(a, b) a##b
#define NEARLINE_CONCAT_(a, b) NEARLINE_CONCAT_INNER_(a, b)

#define RETURN_IF_ERROR(expr)                                         \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()); the declaration must hold no bare comma.
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL_(NEARLINE_CONCAT_(status_or_, __LINE__), lhs, expr)

#define ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr)   \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)

#endif  // NEARLINE_BASE_STATUS_H_
