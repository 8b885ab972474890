#include "server/access.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "server/config_fields.h"

namespace nearline::server {
namespace {

constexpr size_t kMostCallers = 10'000;
constexpr char kHashForm[] = "64 hex digits, as `nearline token` prints";

std::string RoleNames(unsigned roles) {
  std::vector<std::string> names;
  if (roles & kRecommend) names.emplace_back("recommend");
  if (roles & kFeedback) names.emplace_back("feedback");
  if (roles & kManage) names.emplace_back("manage");
  return absl::StrJoin(names, ", ");
}

absl::StatusOr<unsigned> RoleOf(const std::string& name) {
  if (name == "recommend") return kRecommend;
  if (name == "feedback") return kFeedback;
  if (name == "manage") return kManage;
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(name), " is not allowed; expected one of ", RoleNames(kAnyRole)));
}

bool IsHash(absl::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
}

class CallersReader {
 public:
  explicit CallersReader(std::string name) : name_(std::move(name)) {}

  absl::StatusOr<std::vector<Caller>> Read(const YAML::Node& file) {
    if (!file.IsMap() || file.size() != 1 || !file["callers"]) {
      return At(file, "the file", "expected the key callers, and no other");
    }
    const YAML::Node list = file["callers"];
    if (!list.IsSequence() || list.size() > kMostCallers) {
      return At(list, "callers",
                absl::StrCat("expected a list of at most ", kMostCallers));
    }
    std::vector<Caller> callers;
    for (const auto& entry : list) {
      ASSIGN_OR_RETURN(callers.emplace_back(), ReadCaller(entry));
    }
    return callers;
  }

 private:
  absl::Status At(const YAML::Node& node, const std::string& path,
                  absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ":", node.Mark().line + 1, ": ", path, ": ", what));
  }

  absl::StatusOr<Caller> ReadCaller(const YAML::Node& entry) {
    if (!entry.IsMap())
      return At(entry, "callers", "expected name, roles, ...");
    Caller caller;
    const std::vector<ConfigField> scalars = {
        Text("name", &caller.name, "a name", ""),
        Flag("anonymous", &caller.anonymous, ""),
        Real("calls_per_second", &caller.calls_per_second, 0, 1e9, ""),
        Real("burst", &caller.burst, 0, 1e9, ""),
        Whole("calls_per_day", &caller.calls_per_day, 0, 1'000'000'000'000,
              "")};
    std::set<std::string> seen;
    for (const auto& child : entry) {
      const std::string key = child.first.Scalar();
      const std::string path = "callers." + key;
      if (!seen.insert(key).second)
        return At(child.first, path, "stands twice");
      const auto field =
          std::find_if(scalars.begin(), scalars.end(),
                       [&](const ConfigField& f) { return f.path == key; });
      absl::Status status;
      if (field != scalars.end()) {
        status =
            field->set(child.second.IsScalar() ? child.second.Scalar() : "");
      } else {
        status = ReadList(key, child.second, &caller);
      }
      if (!status.ok()) return At(child.second, path, status.message());
    }
    RETURN_IF_ERROR(Check(entry, caller));
    return caller;
  }

  absl::Status ReadList(const std::string& key, const YAML::Node& node,
                        Caller* caller) {
    const bool known =
        key == "tokens" || key == "certificates" || key == "roles";
    if (!known) {
      return absl::InvalidArgumentError(
          "no such key; there are name, tokens, certificates, anonymous, "
          "roles, calls_per_second, burst, calls_per_day");
    }
    if (!node.IsSequence())
      return absl::InvalidArgumentError("expected a list");
    for (const auto& entry : node) {
      const std::string text = entry.IsScalar() ? entry.Scalar() : "";
      if (key == "roles") {
        ASSIGN_OR_RETURN(const unsigned role, RoleOf(text));
        caller->roles |= role;
      } else if (key == "certificates") {
        if (text.empty()) return absl::InvalidArgumentError("an empty name");
        caller->certificates.push_back(text);
      } else if (IsHash(text)) {
        caller->tokens.push_back(absl::AsciiStrToLower(text));
      } else {
        // Not repeated: it may be the token itself, put here by mistake.
        return absl::InvalidArgumentError(absl::StrCat(
            "an entry of ", text.size(), " characters; expected ", kHashForm));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Check(const YAML::Node& node, const Caller& caller) {
    if (caller.name.empty() || caller.name.size() > 64 ||
        !std::all_of(caller.name.begin(), caller.name.end(),
                     absl::ascii_isgraph)) {
      return At(node, "callers.name",
                absl::StrCat(Quoted(caller.name),
                             " is not allowed; expected 1 to 64 visible ASCII "
                             "characters"));
    }
    if (!names_.insert(caller.name).second) {
      return At(node, "callers.name",
                absl::StrCat(Quoted(caller.name), " stands twice"));
    }
    if (caller.roles == 0) {
      return At(
          node, "callers.roles",
          absl::StrCat(Quoted(caller.name), " has none; expected some of ",
                       RoleNames(kAnyRole)));
    }
    if (caller.tokens.empty() && caller.certificates.empty() &&
        !caller.anonymous) {
      return At(node, "callers",
                absl::StrCat(Quoted(caller.name),
                             " can never be recognized; expected tokens, "
                             "certificates, or anonymous: true"));
    }
    if (caller.burst > 0 && caller.burst < 1) {
      return At(node, "callers.burst",
                absl::StrCat(caller.burst,
                             " is not allowed; expected 0 (the "
                             "calls of a second) or at least 1"));
    }
    if (caller.burst > 0 && caller.calls_per_second <= 0) {
      return At(node, "callers.burst",
                "means nothing without calls_per_second");
    }
    if (caller.anonymous && std::exchange(anonymous_, true)) {
      return At(node, "callers.anonymous", "stands twice");
    }
    for (const auto* marks : {&caller.tokens, &caller.certificates}) {
      for (const std::string& mark : *marks) {
        if (!marks_.insert(mark).second) {
          return At(node, "callers",
                    absl::StrCat("a token or certificate of ",
                                 Quoted(caller.name), " stands twice"));
        }
      }
    }
    return absl::OkStatus();
  }

  const std::string name_;
  std::set<std::string> names_, marks_;
  bool anonymous_ = false;
};

absl::Status Refuse(Refusal why, absl::StatusCode code, std::string message,
                    Refusal* refusal) {
  *refusal = why;
  return absl::Status(code, message);
}

}  // namespace

absl::StatusOr<std::vector<Caller>> ParseCallers(const std::string& yaml,
                                                 const std::string& name) {
  try {
    return CallersReader(name).Read(YAML::Load(yaml));
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", e.mark.line + 1, ": not YAML: ", e.msg));
  }
}

std::string TokenHash(absl::string_view token) {
  return HexDigest(Sha256(token));
}

absl::StatusOr<std::unique_ptr<Access>> Access::Open(const std::string& path,
                                                     const Clock* clock) {
  std::unique_ptr<Access> access(new Access(path, clock));
  RETURN_IF_ERROR(access->Reload().status());
  return access;
}

absl::StatusOr<bool> Access::Reload() {
  ASSIGN_OR_RETURN(std::string text, ReadFile(path_));
  const auto before = table();
  if (before != nullptr) {
    MutexLock lock(&mu_);
    if (text == text_) return false;
  }
  ASSIGN_OR_RETURN(std::vector<Caller> callers, ParseCallers(text, path_));
  auto next = std::make_shared<Table>();
  for (Caller& caller : callers) {
    auto entry = std::make_shared<Entry>(std::move(caller));
    const Caller& c = entry->caller();
    if (before != nullptr) {
      const auto old = before->by_name.find(c.name);
      if (old != before->by_name.end()) {
        MutexLock from(&old->second->mu_);
        MutexLock to(&entry->mu_);
        entry->left_ = old->second->left_;
        entry->refilled_ = old->second->refilled_;
        entry->day_ = old->second->day_;
        entry->today_ = old->second->today_;
      }
    }
    for (const std::string& token : c.tokens) next->by_token[token] = entry;
    for (const std::string& name : c.certificates) {
      next->by_certificate[name] = entry;
    }
    if (c.anonymous) next->anonymous = entry;
    next->by_name[c.name] = std::move(entry);
  }
  MutexLock lock(&mu_);
  text_ = std::move(text);
  table_ = std::move(next);
  return true;
}

absl::Status Access::Admit(absl::string_view token,
                           const std::vector<std::string>& names,
                           const Method& method, EntryPtr* caller,
                           Refusal* refusal) {
  const auto known = table();
  EntryPtr entry;
  if (!token.empty()) {
    // Found by its hash, which who guesses at a token cannot steer: how long
    // the search takes says nothing of the tokens that there are.
    const std::string hash = TokenHash(token);
    const auto found = known->by_token.find(hash);
    if (found == known->by_token.end() ||
        !EqualInConstantTime(found->first, hash)) {
      return Refuse(Refusal::kUnauthenticated,
                    absl::StatusCode::kUnauthenticated,
                    "the token is no caller's", refusal);
    }
    entry = found->second;
  } else {
    for (const std::string& name : names) {
      const auto found = known->by_certificate.find(name);
      if (found == known->by_certificate.end()) continue;
      entry = found->second;
      break;
    }
    if (entry == nullptr) entry = known->anonymous;
  }
  if (entry == nullptr) {
    return Refuse(
        Refusal::kUnauthenticated, absl::StatusCode::kUnauthenticated,
        names.empty()
            ? "who calls? Send the metadata \"authorization: Bearer TOKEN\""
            : "no name in the certificate is a caller's",
        refusal);
  }
  *caller = entry;
  // Before its role is looked at: what is denied is not free either.
  RETURN_IF_ERROR(Count(entry.get(), refusal));
  const Caller& known_as = entry->caller();
  if ((known_as.roles & method.roles) != 0) return absl::OkStatus();
  return Refuse(
      Refusal::kPermission, absl::StatusCode::kPermissionDenied,
      absl::StrCat(method.name, " needs the role ", RoleNames(method.roles),
                   "; ", known_as.name, " has ", RoleNames(known_as.roles)),
      refusal);
}

absl::Status Access::Count(Entry* entry, Refusal* refusal) {
  const Caller& caller = entry->caller_;
  if (caller.calls_per_second <= 0 && caller.calls_per_day <= 0) {
    return absl::OkStatus();
  }
  const absl::Time now = clock_.Now();
  const int64_t day = absl::ToUnixSeconds(now) / (24 * 3600);
  MutexLock lock(&entry->mu_);
  if (day != entry->day_) {
    entry->day_ = day;
    entry->today_ = 0;
  }
  if (caller.calls_per_day > 0 && entry->today_ >= caller.calls_per_day) {
    return WithRetry(
        Refuse(Refusal::kQuota, absl::StatusCode::kResourceExhausted,
               absl::StrCat(caller.name, " has made its ", caller.calls_per_day,
                            " calls of today; more from midnight (UTC) on"),
               refusal),
        absl::InfiniteDuration());
  }
  if (caller.calls_per_second > 0) {
    const double burst = caller.burst > 0
                             ? caller.burst
                             : std::max(1.0, caller.calls_per_second);
    const double gained =
        std::max(0.0, absl::ToDoubleSeconds(now - entry->refilled_) *
                          caller.calls_per_second);
    entry->left_ =
        entry->left_ < 0 ? burst : std::min(burst, entry->left_ + gained);
    entry->refilled_ = now;
    if (entry->left_ < 1) {
      const double wait = (1 - entry->left_) / caller.calls_per_second;
      return WithRetry(
          Refuse(Refusal::kRate, absl::StatusCode::kResourceExhausted,
                 absl::StrCat(caller.name, " may make ",
                              caller.calls_per_second, " calls a second"),
                 refusal),
          absl::Seconds(wait));
    }
    entry->left_ -= 1;
  }
  ++entry->today_;
  return absl::OkStatus();
}

size_t Access::callers() const { return table()->by_name.size(); }

}  // namespace nearline::server
