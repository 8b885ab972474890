#ifndef NEARLINE_CLIENT_TOP_H_
#define NEARLINE_CLIENT_TOP_H_

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/client.h"

namespace nearline::client {

// What a server does, from one look at its status to the next.
class Top {
 public:
  explicit Top(std::string address) : address_(std::move(address)) {}

  // A server that has started anew is watched from its start.
  void Add(const api::StatusResponse& status, absl::Time now);
  // The picture after the last look, lines of at most `width` characters.
  std::string Render(int width) const;

 private:
  struct Look {
    api::StatusResponse status;
    absl::Time time;
  };
  void AddServer(std::vector<std::string>* lines) const;
  void AddMethods(std::vector<std::string>* lines) const;

  const std::string address_;
  std::optional<Look> before_, now_;
  std::deque<double> calls_a_second_;  // by look, newest last
};

// The time within which a share of the calls were answered, by how many took
// how long (see MethodStatus): "2.5 ms", "over 2.5 s", "-" without any. As fine
// as the bounds are.
std::string TimeWithin(double share, const std::vector<int64_t>& by_time,
                       const std::vector<double>& bounds);

// Numbers as a row of bars, one character each, the highest as high as a line.
std::string Bars(const std::deque<double>& values);

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_TOP_H_
