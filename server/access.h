#ifndef NEARLINE_SERVER_ACCESS_H_
#define NEARLINE_SERVER_ACCESS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"

namespace nearline::server {

// What a caller may do; a set of bits.
enum Roles : unsigned {
  kAnyone = 0,  // of a method: needs no role, nor a known caller
  kRecommend = 1,
  kFeedback = 2,
  kManage = 4,
  kAnyRole = kRecommend | kFeedback | kManage,
};

// One method of the API, by its last name.
struct Method {
  const char* name;
  unsigned roles;        // any one of them will do
  bool audited = false;  // written to the audit log
  bool streams = false;  // lasts as long as its caller likes
};

// One entry of the callers' file.
struct Caller {
  std::string name;
  std::vector<std::string> tokens;        // SHA-256, as 64 hex digits
  std::vector<std::string> certificates;  // names in a certificate
  bool anonymous = false;                 // whoever shows nothing
  unsigned roles = 0;
  double calls_per_second = 0;  // 0: no limit
  double burst = 0;             // calls at once; 0: a second's
  int64_t calls_per_day = 0;    // of UTC; 0: no limit
};

// Reads a callers' file. Errors: INVALID_ARGUMENT "name:line: key: what was
// there, what is allowed".
absl::StatusOr<std::vector<Caller>> ParseCallers(const std::string& yaml,
                                                 const std::string& name);

// What is kept of a token: 64 hex digits of its SHA-256. Tokens are long and
// random, so that a slow hash would add nothing.
std::string TokenHash(absl::string_view token);

// Why a call was not let in; the status of such a refusal carries it.
enum class Refusal { kUnauthenticated, kPermission, kRate, kQuota };
inline constexpr int kRefusals = 4;
inline constexpr const char* kRefusalNames[kRefusals] = {
    "unauthenticated", "permission", "rate", "quota"};

// Who may call, and how often. Thread-safe.
class Access {
 public:
  // A caller with what is left of its limits.
  class Entry {
   public:
    explicit Entry(Caller caller) : caller_(std::move(caller)) {}
    const Caller& caller() const { return caller_; }

   private:
    friend class Access;
    const Caller caller_;
    Mutex mu_;
    double left_ ABSL_GUARDED_BY(mu_) = -1;  // of the burst; -1: all
    absl::Time refilled_ ABSL_GUARDED_BY(mu_);
    int64_t day_ ABSL_GUARDED_BY(mu_) = 0;  // since 1970
    int64_t today_ ABSL_GUARDED_BY(mu_) = 0;
  };
  using EntryPtr = std::shared_ptr<Entry>;

  // Errors: those of the file. `clock` outlives this.
  static absl::StatusOr<std::unique_ptr<Access>> Open(const std::string& path,
                                                      const Clock* clock);

  // Takes the file as it is now; what callers have used is kept, by name. After
  // an error all is as it was. Returns whether anything changed.
  absl::StatusOr<bool> Reload();

  // Lets a call on `method` in, which counts against its caller's limits. A
  // token decides alone; without one, the first of the certificate's names that
  // is a caller's; then whoever may come without either. Errors:
  // UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED; `refusal` says why.
  // `caller` is set if known, refused or not.
  absl::Status Admit(absl::string_view token,
                     const std::vector<std::string>& names,
                     const Method& method, EntryPtr* caller, Refusal* refusal);
  size_t callers() const;

 private:
  struct Table {
    std::map<std::string, EntryPtr> by_name;
    absl::flat_hash_map<std::string, EntryPtr> by_token, by_certificate;
    EntryPtr anonymous;
  };

  Access(std::string path, const Clock* clock)
      : path_(std::move(path)), clock_(*clock) {}
  absl::Status Count(Entry* entry, Refusal* refusal);
  std::shared_ptr<const Table> table() const {
    MutexLock lock(&mu_);
    return table_;
  }

  const std::string path_;
  const Clock& clock_;
  mutable Mutex mu_;
  std::string text_ ABSL_GUARDED_BY(mu_);  // of the file
  std::shared_ptr<const Table> table_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_ACCESS_H_
