#ifndef NEARLINE_SERVER_LISTENER_H_
#define NEARLINE_SERVER_LISTENER_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "base/status.h"

namespace nearline::server {

// Takes connections, so many at a time, and hands them on. (gRPC's own listener
// knows no limit, and ends for good when the process has no file descriptor
// left.)
class Listener {
 public:
  // Owns `fd` from then on; called on the listener's thread.
  using Handler = std::function<void(int listening_fd, int fd)>;

  // Listens on "host:port" (IPv6 in brackets; port 0: a free one), on every
  // address of the host. Nobody is let in before Start. Errors: UNAVAILABLE
  // naming the address and why.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(
      const std::string& address, int max_connections);
  ~Listener();

  void Start(Handler handler);
  // Closes the door; no handler runs after it.
  void Stop();

  int port() const { return port_; }
  // Open ones, as of a tenth of a second ago.
  int64_t connections();
  int64_t refused() const { return refused_.load(); }

 private:
  explicit Listener(int max_connections) : most_(max_connections) {}
  void Loop();
  void Accept(int listening_fd);
  bool HasRoom();
  // Forgets those that have gone.
  void Recount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MakeRoomAndRefuse(int listening_fd);
  bool TimeToComplain();

  const int most_;
  int port_ = 0;
  std::vector<int> sockets_;
  int wake_ = -1;   // eventfd: stop
  int spare_ = -1;  // given up to refuse when no descriptor is left
  Handler handler_;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> refused_{0};
  absl::Time complained_ = absl::InfinitePast();  // the thread's
  Mutex mu_;
  // Descriptors handed on, with what tells whether they are still the same
  // socket.
  absl::flat_hash_map<int, uint64_t> handed_on_ ABSL_GUARDED_BY(mu_);
  absl::Time counted_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_LISTENER_H_
