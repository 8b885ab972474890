#include "server/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace nearline::server {
namespace {

constexpr int kBacklog = 4096;  // the kernel's own limit is lower on most
constexpr absl::Duration kPause = absl::Milliseconds(100);

absl::Status Fail(const std::string& address, absl::string_view why) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address, ": ", why,
                   ". Set it to a free host:port of this machine"));
}

// Port 0 takes `*port`, or sets it.
absl::StatusOr<int> BindOne(const addrinfo& at, const std::string& address,
                            int* port) {
  const int fd =
      socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return Fail(address, std::strerror(errno));
  const int yes = 1, no = 0;
  // Not SO_REUSEPORT: two servers on one port would share its traffic in
  // silence.
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  sockaddr_storage name{};
  std::memcpy(&name, at.ai_addr, at.ai_addrlen);
  in_port_t* const name_port =
      at.ai_family == AF_INET6
          ? &reinterpret_cast<sockaddr_in6*>(&name)->sin6_port
          : &reinterpret_cast<sockaddr_in*>(&name)->sin_port;
  if (at.ai_family == AF_INET6) {
    // [::] is everyone, as operators mean it.
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
  }
  if (*name_port == 0) *name_port = htons(static_cast<uint16_t>(*port));
  socklen_t size = at.ai_addrlen;
  if (bind(fd, reinterpret_cast<sockaddr*>(&name), size) != 0 ||
      listen(fd, kBacklog) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) {
    const int error = errno;
    close(fd);
    errno = error;  // for who looks at why
    return Fail(address, error == EADDRINUSE ? "another server is there"
                                             : std::strerror(error));
  }
  *port = ntohs(*name_port);
  return fd;
}

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(
    const std::string& address, int max_connections) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  const std::string port = address.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
      error != 0) {
    return Fail(address, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(
      found, freeaddrinfo);
  std::unique_ptr<Listener> listener(new Listener(max_connections));
  absl::Status last;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    auto fd = BindOne(*at, address, &listener->port_);
    if (fd.ok()) {
      listener->sockets_.push_back(*fd);
    } else if (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT) {
      last = fd.status();  // a name may stand for what this machine has not
    } else {
      return fd.status();
    }
  }
  if (listener->sockets_.empty()) return last;
  listener->wake_ = eventfd(0, EFD_CLOEXEC);
  listener->spare_ = OpenSpare();
  if (listener->wake_ < 0) return Fail(address, std::strerror(errno));
  return listener;
}

Listener::~Listener() {
  Stop();
  for (const int fd : {wake_, spare_}) {
    if (fd >= 0) close(fd);
  }
}

void Listener::Start(Handler handler) {
  handler_ = std::move(handler);
  thread_ = std::thread([this] { Loop(); });
}

void Listener::Stop() {
  stopping_ = true;
  if (thread_.joinable()) {
    eventfd_write(wake_, 1);
    thread_.join();
  }
  for (const int fd : std::exchange(sockets_, {})) close(fd);
}

void Listener::Loop() {
  std::vector<pollfd> waiting;
  for (const int fd : sockets_) waiting.push_back({fd, POLLIN, 0});
  waiting.push_back({wake_, POLLIN, 0});
  while (!stopping_) {
    if (poll(waiting.data(), waiting.size(), -1) < 0) continue;
    for (size_t i = 0; i + 1 < waiting.size() && !stopping_; ++i) {
      if (waiting[i].revents != 0) Accept(waiting[i].fd);
    }
  }
}

void Listener::Accept(int listening_fd) {
  while (!stopping_) {
    const int fd =
        accept4(listening_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) {
        MakeRoomAndRefuse(listening_fd);
      }
      return;
    }
    struct stat identity {};
    if (!HasRoom() || fstat(fd, &identity) != 0) {
      ++refused_;
      close(fd);
      continue;
    }
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    {
      MutexLock lock(&mu_);
      handed_on_[fd] = identity.st_ino;
    }
    handler_(listening_fd, fd);
  }
}

bool Listener::HasRoom() {
  size_t open = 0;
  {
    MutexLock lock(&mu_);
    const auto most = static_cast<size_t>(most_);
    if (handed_on_.size() < most) return true;
    // Whoever is refused may ask again, and would make this a long way each
    // time.
    if (absl::Now() - counted_ < kPause) return false;
    Recount();
    open = handed_on_.size();
    if (open < most) return true;
  }
  if (TimeToComplain()) {
    spdlog::warn(
        "{} connections are open; more are refused. Find who keeps them, or "
        "raise limits.max_connections",
        open);
  }
  return false;
}

int64_t Listener::connections() {
  MutexLock lock(&mu_);
  if (absl::Now() - counted_ >= kPause) Recount();
  return static_cast<int64_t>(handed_on_.size());
}

void Listener::Recount() {
  absl::erase_if(handed_on_, [](const auto& one) {
    struct stat now {};
    return fstat(one.first, &now) != 0 || !S_ISSOCK(now.st_mode) ||
           now.st_ino != one.second;
  });
  counted_ = absl::Now();
}

bool Listener::TimeToComplain() {
  const absl::Time now = absl::Now();
  if (now - complained_ < absl::Seconds(10)) return false;
  complained_ = now;
  return true;
}

// The process, or the machine, has no descriptor left: the caller is turned
// away with the last one instead of waiting for an answer.
void Listener::MakeRoomAndRefuse(int listening_fd) {
  const int error = errno;
  if (TimeToComplain()) {
    spdlog::error(
        "a connection cannot be taken: {}. Raise the limit of open files "
        "(ulimit -n), or lower limits.max_connections",
        std::strerror(error));
  }
  if (spare_ >= 0) close(std::exchange(spare_, -1));
  const int fd = accept4(listening_fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0) {
    ++refused_;
    close(fd);
  }
  spare_ = OpenSpare();
  absl::SleepFor(kPause);
}

}  // namespace nearline::server
