#include "server/audit.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <utility>

#include "base/text.h"

namespace nearline::server {

absl::StatusOr<std::unique_ptr<AuditLog>> AuditLog::Open(
    const std::string& path) {
  std::shared_ptr<spdlog::logger> logger;
  if (path.empty()) {
    const auto& sinks = spdlog::default_logger()->sinks();
    logger =
        std::make_shared<spdlog::logger>("audit", sinks.begin(), sinks.end());
  } else {
    try {
      logger = std::make_shared<spdlog::logger>(
          "audit", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    } catch (const spdlog::spdlog_ex& e) {
      return absl::UnavailableError(absl::StrCat(
          "log.audit: ", path, " cannot be written (", e.what(), ")"));
    }
    logger->set_pattern("%v");
  }
  logger->set_level(spdlog::level::info);
  logger->flush_on(spdlog::level::info);
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(logger)));
}

AuditLog::AuditLog(std::shared_ptr<spdlog::logger> logger)
    : logger_(std::move(logger)) {
  logger_->set_error_handler([this](const std::string& what) {
    if (lost_++ % 1000 == 0) spdlog::error("an audit line is lost: {}", what);
  });
}

void AuditLog::Record(const AuditEntry& entry) {
  const Json line = {
      {"audit", std::string(entry.method)},
      {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(),
                                absl::UTCTimeZone())},
      {"caller", std::string(entry.caller)},
      {"peer", std::string(entry.peer)},
      {"trace", std::string(entry.trace)},
      {"code", std::string(entry.code)},
      {"ms", absl::ToDoubleMilliseconds(entry.took)}};
  logger_->info(line.dump(-1, ' ', false, Json::error_handler_t::replace));
}

}  // namespace nearline::server
