#include "server/visit.h"

#include <grpc/grpc_security_constants.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/hash.h"
#include "server/wire.h"

namespace nearline::server {
namespace {

// Empty when the call carries none.
absl::string_view MetadataOf(const grpc::CallbackServerContext& context,
                             const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return "";
  return {found->second.data(), found->second.size()};
}

// Of "Bearer TOKEN".
absl::string_view TokenOf(absl::string_view authorization) {
  constexpr absl::string_view kScheme = "bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return "";
  return absl::StripAsciiWhitespace(authorization.substr(kScheme.size()));
}

// The names in a verified certificate, those of hosts and URIs first.
std::vector<std::string> NamesOf(const grpc::CallbackServerContext& context) {
  std::vector<std::string> names;
  const auto auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return names;
  for (const char* property :
       {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const grpc::string_ref& name : auth->FindPropertyValues(property)) {
      names.emplace_back(name.data(), name.size());
    }
  }
  return names;
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
}

}  // namespace

Visit::Visit(const RpcEnvironment& environment, const Method& method,
             const grpc::CallbackServerContext* context)
    : environment_(environment),
      method_(method),
      context_(context),
      admitted_(CheckMetadata()) {
  if (admitted_.ok()) admitted_ = Admit();
  environment_.metrics->OnBegin();
}

// gRPC itself ends a connection, with all that is under way on it, for a call
// that is beyond what it lets in.
absl::Status Visit::CheckMetadata() const {
  constexpr size_t kOverhead = 32;  // of an entry, as HTTP/2 counts
  size_t bytes = 0;
  for (const auto& [key, value] : context_->client_metadata()) {
    bytes += key.size() + value.size() + kOverhead;
  }
  const auto most = static_cast<size_t>(environment_.max_metadata_bytes);
  if (bytes <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("metadata of ", bytes, " bytes: expected ", most,
                   " or less (limits.max_metadata_kb)"));
}

absl::Status Visit::Admit() {
  if (environment_.shutdown->given() && method_.roles != kAnyone) {
    absl::Status leaving = absl::UnavailableError(kLeaving);
    // Longer than from now until gRPC closes the connections.
    leaving.SetPayload(kRetryPayload, absl::Cord("1s"));
    return leaving;
  }
  if (environment_.access == nullptr || method_.roles == kAnyone) {
    return absl::OkStatus();
  }
  const absl::string_view token =
      TokenOf(MetadataOf(*context_, "authorization"));
  Refusal refusal{};
  absl::Status admitted = environment_.access->Admit(
      token, token.empty() ? NamesOf(*context_) : std::vector<std::string>(),
      method_, &caller_, &refusal);
  if (!admitted.ok()) environment_.metrics->OnRefusal(refusal);
  return admitted;
}

uint64_t Visit::share() const {
  const absl::string_view named = MetadataOf(*context_, "nearline-caller");
  if (caller_ != nullptr) {
    return absl::HashOf(absl::string_view(caller_->caller().name), named);
  }
  return named.empty() ? absl::HashOf(context_->peer()) : absl::HashOf(named);
}

// W3C Trace Context: "00-TRACE ID-SPAN ID-FLAGS".
std::string Visit::trace() const {
  const absl::string_view parent = MetadataOf(*context_, "traceparent");
  const std::vector<absl::string_view> parts = absl::StrSplit(parent, '-');
  const bool good = parts.size() >= 4 && parts[0].size() == 2 &&
                    parts[1].size() == 32 && IsHex(parts[1]);
  return good ? absl::AsciiStrToLower(parts[1]) : "";
}

grpc::Status Visit::ToWire(const absl::Status& status) const {
  return ToGrpc(status, status.ok() ? "" : trace());
}

void Visit::Ended(grpc::StatusCode code) const {
  const absl::Duration took = absl::Now() - started_;
  environment_.metrics->OnEnd();
  // Whom access did not let in is counted by why; see Metrics::OnRefusal.
  const bool refused = !admitted_.ok() && !absl::IsUnavailable(admitted_) &&
                       !absl::IsInvalidArgument(admitted_);
  if (!refused) environment_.metrics->OnRpc(method_.name, code, took);
  // What strangers do must not fill a disk.
  const bool known = caller_ != nullptr && !caller_->caller().anonymous;
  const bool audited =
      environment_.audit != nullptr &&
      (admitted_.ok() ? method_.audited
                      : known && code == grpc::PERMISSION_DENIED);
  const bool slow = admitted_.ok() && !method_.streams &&
                    environment_.slow_call > absl::ZeroDuration() &&
                    took > environment_.slow_call;
  if (!slow && !audited) return;
  const std::string caller =
      caller_ == nullptr ? "" : std::string(caller_->caller().name);
  const std::string trace_id = trace();
  const std::string name =
      absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
  if (slow) {
    spdlog::warn("slow call: {} took {}, {}, caller \"{}\", trace \"{}\"",
                 method_.name, absl::FormatDuration(took), name, caller,
                 trace_id);
  }
  if (audited) {
    environment_.audit->Record({.method = method_.name,
                                .caller = caller,
                                .peer = context_->peer(),
                                .trace = trace_id,
                                .code = name,
                                .took = took});
  }
}

}  // namespace nearline::server
