#ifndef NEARLINE_TESTS_SERVER_RAW_CONNECTION_H_
#define NEARLINE_TESTS_SERVER_RAW_CONNECTION_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace nearline::server {

// A caller's end of a connection, below gRPC.
class RawConnection {
 public:
  explicit RawConnection(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ =
        connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0;
  }
  RawConnection(RawConnection&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), connected_(other.connected_) {}
  ~RawConnection() {
    if (fd_ >= 0) close(fd_);
  }
  bool Send(const std::string& bytes) const {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // Whether the server hangs up before `deadline`.
  bool HungUpBy(absl::Time deadline) const {
    char bytes[4096];
    while (true) {
      const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
      pollfd wait = {fd_, POLLIN, 0};
      if (left <= 0 || poll(&wait, 1, static_cast<int>(left)) <= 0)
        return false;
      if (recv(fd_, bytes, sizeof(bytes), 0) <= 0) return true;
    }
  }
  // Waits for a byte; false when the server hangs up first.
  bool Hears() const {
    char byte;
    return recv(fd_, &byte, 1, 0) == 1;
  }
  int fd() const { return fd_; }
  bool connected() const { return connected_; }

 private:
  int fd_;
  bool connected_;
};

}  // namespace nearline::server

#endif  // NEARLINE_TESTS_SERVER_RAW_CONNECTION_H_
