#ifndef NEARLINE_SERVER_FAIR_QUEUE_H_
#define NEARLINE_SERVER_FAIR_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace nearline::server {

// Jobs that wait, of several callers, who are served in turn: one that sends
// many waits for its own, and not others for it. Each caller's come in the
// order in which they came.
template <typename Job>
class FairQueue {
 public:
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // About how many will be served before the next job of `caller`.
  size_t Before(uint64_t caller) const {
    return std::min(size_, (Waiting(caller) + 1) * lines_.size());
  }

  void Push(uint64_t caller, std::unique_ptr<Job> job) {
    const auto [place, is_new] = places_.try_emplace(caller);
    if (is_new) place->second = lines_.insert(lines_.end(), {caller, {}});
    place->second->jobs.push_back(std::move(job));
    ++size_;
  }

  // The next; not when empty.
  std::unique_ptr<Job> Pop() {
    const auto line = lines_.begin();
    std::unique_ptr<Job> job = std::move(line->jobs.front());
    line->jobs.pop_front();
    --size_;
    if (line->jobs.empty()) {
      places_.erase(line->caller);
      lines_.erase(line);
    } else {
      lines_.splice(lines_.end(), lines_, line);
    }
    return job;
  }

  // Makes room for a job of `caller`: takes the last job of whoever has most
  // waiting, if these are more than the caller would have then; else null.
  std::unique_ptr<Job> Displace(uint64_t caller) {
    const auto longest = std::max_element(
        lines_.begin(), lines_.end(), [](const Line& a, const Line& b) {
          return a.jobs.size() < b.jobs.size();
        });
    if (longest == lines_.end() ||
        longest->jobs.size() <= Waiting(caller) + 1) {
      return nullptr;
    }
    std::unique_ptr<Job> job = std::move(longest->jobs.back());
    longest->jobs.pop_back();  // more than one
    --size_;
    return job;
  }

 private:
  struct Line {
    uint64_t caller;
    std::deque<std::unique_ptr<Job>> jobs;  // never empty
  };

  size_t Waiting(uint64_t caller) const {
    const auto place = places_.find(caller);
    return place == places_.end() ? 0 : place->second->jobs.size();
  }

  std::list<Line> lines_;  // the first is next
  absl::flat_hash_map<uint64_t, typename std::list<Line>::iterator> places_;
  size_t size_ = 0;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_FAIR_QUEUE_H_
