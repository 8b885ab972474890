#ifndef NEARLINE_SERVER_AUDIT_H_
#define NEARLINE_SERVER_AUDIT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace spdlog {
class logger;
}

namespace nearline::server {

// One call of management, once it is over. Ids and contents of what it was
// about are not among it: the log outlives users who are erased.
struct AuditEntry {
  absl::string_view method;
  absl::string_view caller;  // empty: the door stands open
  absl::string_view peer;    // its address
  absl::string_view trace;   // W3C trace id; empty: none was sent
  absl::string_view code;    // of the answer
  absl::Duration took;
};

// Who did what, one JSON object a line: time (UTC), method, caller, peer,
// trace, code, ms. Thread-safe.
class AuditLog {
 public:
  // Appends to the file; an empty path: to the server's own log, whatever its
  // level. Errors: the file cannot be written.
  static absl::StatusOr<std::unique_ptr<AuditLog>> Open(
      const std::string& path);
  void Record(const AuditEntry& entry);
  // Lines that could not be written, to a full disk for one; the server's own
  // log says why.
  int64_t lost() const { return lost_.load(); }

 private:
  explicit AuditLog(std::shared_ptr<spdlog::logger> logger);
  const std::shared_ptr<spdlog::logger> logger_;
  std::atomic<int64_t> lost_{0};
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_AUDIT_H_
