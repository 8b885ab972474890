#include "features/retention.h"

#include <algorithm>
#include <future>
#include <limits>
#include <utility>
#include <vector>

namespace nearline::features {
namespace {

constexpr int kReadEvents = 10'000;
constexpr size_t kRetireEvents = 1000;  // the writer is held up for no longer

class Sweep {
 public:
  Sweep(Store* store, absl::Time now,
        const std::function<bool(absl::Duration)>& pause)
      : store_(*store), pause_(pause) {
    const RetentionOptions& retention = store->retention();
    if (retention.max_age > absl::ZeroDuration()) {
      oldest_micros_ = absl::ToUnixMicros(now - retention.max_age);
    }
    if (retention.max_events_per_user > 0) {
      most_ = static_cast<size_t>(retention.max_events_per_user);
    }
  }

  absl::StatusOr<RetireResult> Run() {
    Sequence after = 0;
    while (true) {
      const absl::Time start = absl::Now();
      ASSIGN_OR_RETURN(const std::vector<Event> events,
                       store_.ReadEvents(user_, after, kReadEvents));
      if (events.empty()) break;
      for (const Event& event : events) {
        if (event.user != user_) RETURN_IF_ERROR(EndUser());
        user_ = event.user;
        events_.push_back({event.sequence, event.time_micros < oldest_micros_});
      }
      after = events.back().sequence;
      RETURN_IF_ERROR(Pause(absl::Now() - start));
    }
    RETURN_IF_ERROR(EndUser());
    RETURN_IF_ERROR(Flush());
    if (result_.events > 0) RETURN_IF_ERROR(store_.Flush());
    return result_;
  }

 private:
  struct Seen {
    Sequence sequence = 0;
    bool old = false;
  };

  absl::Status Pause(absl::Duration took) {
    if (pause_(took)) return absl::OkStatus();
    return absl::CancelledError("the store is closing");
  }

  // Picks from the user's events, which are all there now, those to retire.
  absl::Status EndUser() {
    const auto young = static_cast<size_t>(
        std::count_if(events_.begin(), events_.end(),
                      [](const Seen& event) { return !event.old; }));
    size_t beyond = young > most_ ? young - most_ : 0;
    std::vector<Sequence> due;
    for (const Seen& event : events_) {
      if (!event.old && beyond == 0) continue;
      if (!event.old) --beyond;
      due.push_back(event.sequence);
    }
    const bool all = due.size() == events_.size();
    events_.clear();
    for (size_t begin = 0; begin < due.size(); begin += kRetireEvents) {
      const size_t end = std::min(due.size(), begin + kRetireEvents);
      const auto at = [&](size_t i) {
        return due.begin() + static_cast<std::ptrdiff_t>(i);
      };
      retire_.users.push_back(
          {user_, {at(begin), at(end)}, all && end == due.size()});
      retiring_ += end - begin;
      if (retiring_ >= kRetireEvents) RETURN_IF_ERROR(Flush());
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (retire_.users.empty()) return absl::OkStatus();
    const absl::Time start = absl::Now();
    std::promise<absl::StatusOr<RetireResult>> promise;
    const auto submit = [&] {
      Retire mutation{.users = retire_.users,
                      .done = [&](absl::StatusOr<RetireResult> done) {
                        promise.set_value(std::move(done));
                      }};
      return store_.Submit(std::move(mutation));
    };
    absl::Status submitted = submit();
    while (absl::IsResourceExhausted(submitted)) {  // feedback goes first
      RETURN_IF_ERROR(Pause(absl::Seconds(1)));
      submitted = submit();
    }
    RETURN_IF_ERROR(submitted);
    ASSIGN_OR_RETURN(const RetireResult done, promise.get_future().get());
    result_.events += done.events;
    result_.users += done.users;
    retire_.users.clear();
    retiring_ = 0;
    return Pause(absl::Now() - start);
  }

  Store& store_;
  const std::function<bool(absl::Duration)>& pause_;
  int64_t oldest_micros_ = std::numeric_limits<int64_t>::min();
  size_t most_ = std::numeric_limits<size_t>::max();
  Ordinal user_ = 0;
  std::vector<Seen> events_;  // of user_
  Retire retire_;
  size_t retiring_ = 0;  // events in it
  RetireResult result_;
};

}  // namespace

absl::StatusOr<RetireResult> SweepOnce(
    Store* store, absl::Time now,
    const std::function<bool(absl::Duration took)>& pause) {
  return Sweep(store, now, pause).Run();
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
                  [&](absl::Duration took) { return Wait(3 * took); });
    if (absl::IsCancelled(swept.status())) return;
    if (swept.ok()) {
      MutexLock lock(&mu_);
      stats_.events += swept->events;
      stats_.users += swept->users;
      stats_.last_sweep = clock_.Now();
    }
    on_sweep_(swept);
    wait = swept.ok() ? interval : std::min(absl::Minutes(10), interval);
  }
}

}  // namespace nearline::features
