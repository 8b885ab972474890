#include "features/retention.h"

#include <algorithm>
#include <future>
#include <limits>
#include <utility>
#include <vector>

namespace nearline::features {
namespace {

constexpr int kReadEvents = 10'000;
constexpr int kReadUsers = 1000;
constexpr size_t kRetireEvents = 1000;  // the writer is held up for no longer

// One way through the log. Holds the times of one user's events at a time.
class Sweep {
 public:
  Sweep(Store* store, absl::Time now, const OnPart& on_part)
      : store_(*store), on_part_(on_part) {
    const RetentionOptions& retention = store->retention();
    if (retention.max_age > absl::ZeroDuration()) {
      oldest_micros_ = absl::ToUnixMicros(now - retention.max_age);
    }
    if (retention.max_events_per_user > 0) {
      most_ = static_cast<size_t>(retention.max_events_per_user);
    }
  }

  absl::StatusOr<RetireResult> Run() {
    RETURN_IF_ERROR(ReadLog());
    RETURN_IF_ERROR(ReadUsers());
    if (sum_.events + sum_.users > 0) RETURN_IF_ERROR(store_.Flush());
    return sum_;
  }

 private:
  struct Seen {
    int64_t time_micros = 0;
    Sequence sequence = 0;
    friend auto operator<=>(const Seen&, const Seen&) = default;
  };

  absl::Status ReadLog() {
    Sequence after = 0;
    while (true) {
      const absl::Time start = absl::Now();
      ASSIGN_OR_RETURN(const std::vector<Event> events,
                       store_.ReadEvents(user_, after, kReadEvents));
      if (events.empty()) break;
      for (const Event& event : events) {
        if (event.user != user_) RETURN_IF_ERROR(EndUser());
        user_ = event.user;
        events_.push_back({event.time_micros, event.sequence});
      }
      after = events.back().sequence;
      RETURN_IF_ERROR(EndPart({}, start));
    }
    RETURN_IF_ERROR(EndUser());
    return Flush();
  }

  // Picks from the user's events, which are all there now, those to retire.
  absl::Status EndUser() {
    std::sort(events_.begin(), events_.end());
    const auto young = std::lower_bound(events_.begin(), events_.end(),
                                        Seen{oldest_micros_, 0});
    size_t due = static_cast<size_t>(young - events_.begin());
    due += std::max(events_.size() - due, most_) - most_;
    for (size_t i = 0; i < due; ++i) {
      if (retire_.users.empty() || retire_.users.back().user != user_) {
        retire_.users.push_back({.user = user_});
      }
      retire_.users.back().sequences.push_back(events_[i].sequence);
      if (++size_ == kRetireEvents) RETURN_IF_ERROR(Flush());
    }
    events_.clear();
    return absl::OkStatus();
  }

  absl::Status ReadUsers() {
    Ordinal from = 0;
    while (from != kNoOrdinal) {
      const absl::Time start = absl::Now();
      Ordinal next = kNoOrdinal;
      ASSIGN_OR_RETURN(const std::vector<Ordinal> idle,
                       store_.UsersWithoutEvents(from, kReadUsers, &next));
      from = next;
      RETURN_IF_ERROR(EndPart({}, start));
      for (const Ordinal user : idle) {
        retire_.forget.push_back(user);
        if (++size_ == kRetireEvents) RETURN_IF_ERROR(Flush());
      }
    }
    return Flush();
  }

  absl::Status EndPart(const RetireResult& more, absl::Time start) {
    sum_.events += more.events;
    sum_.users += more.users;
    if (on_part_(more, absl::Now() - start)) return absl::OkStatus();
    return absl::CancelledError("the store is closing");
  }

  absl::Status Flush() {
    if (size_ == 0) return absl::OkStatus();
    const absl::Time start = absl::Now();
    std::promise<absl::StatusOr<RetireResult>> promise;
    retire_.done = [&](absl::StatusOr<RetireResult> done) {
      promise.set_value(std::move(done));
    };
    absl::Status submitted = store_.Submit(Retire(retire_));
    while (absl::IsResourceExhausted(submitted)) {  // feedback goes first
      RETURN_IF_ERROR(EndPart({}, absl::Now() - absl::Seconds(1)));
      submitted = store_.Submit(Retire(retire_));
    }
    RETURN_IF_ERROR(submitted);
    ASSIGN_OR_RETURN(const RetireResult done, promise.get_future().get());
    retire_ = {};
    size_ = 0;
    return EndPart(done, start);
  }

  Store& store_;
  const OnPart& on_part_;
  int64_t oldest_micros_ = std::numeric_limits<int64_t>::min();
  size_t most_ = std::numeric_limits<size_t>::max();
  Ordinal user_ = 0;
  std::vector<Seen> events_;  // of user_
  Retire retire_;
  size_t size_ = 0;  // events and users in it
  RetireResult sum_;
};

}  // namespace

absl::StatusOr<RetireResult> SweepOnce(Store* store, absl::Time now,
                                       const OnPart& on_part) {
  return Sweep(store, now, on_part).Run();
}

Retention::Retention(Store* store, const Clock* clock, OnSweep on_sweep)
    : store_(*store), clock_(*clock), on_sweep_(std::move(on_sweep)) {
  stats_.last_sweep = clock->Now();
  thread_ = std::thread([this] { Loop(); });
}

Retention::~Retention() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    cv_.SignalAll();
  }
  thread_.join();
}

Retention::Stats Retention::stats() const {
  MutexLock lock(&mu_);
  return stats_;
}

bool Retention::Wait(absl::Duration duration) {
  MutexLock lock(&mu_);
  const absl::Time end = absl::Now() + duration;
  while (!stopping_ && absl::Now() < end) {
    cv_.WaitFor(&mu_, end - absl::Now());
  }
  return !stopping_;
}

void Retention::Loop() {
  const absl::Duration interval = store_.retention().sweep_interval;
  // A server that is restarted every day sweeps, too; one that starts serves
  // first.
  absl::Duration wait = std::min(absl::Minutes(1), interval);
  while (Wait(wait)) {
    const absl::StatusOr<RetireResult> swept =
        SweepOnce(&store_, clock_.Now(),
                  [&](const RetireResult& more, absl::Duration took) {
                    {
                      MutexLock lock(&mu_);
                      stats_.events += more.events;
                      stats_.users += more.users;
                    }
                    return Wait(3 * took);
                  });
    if (absl::IsCancelled(swept.status())) return;
    {
      MutexLock lock(&mu_);
      if (swept.ok()) stats_.last_sweep = clock_.Now();
      stats_.failures += swept.ok() ? 0 : 1;
    }
    on_sweep_(swept);
    wait = swept.ok() ? interval : std::min(absl::Minutes(10), interval);
  }
}

}  // namespace nearline::features
