#include "server/listener.h"

#include <sys/resource.h>

#include "base/mutex.h"
#include "tests/server/raw_connection.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

// Greets those who come in, and keeps their sockets until told.
class House {
 public:
  void Take(int fd) {
    MutexLock lock(&mu_);
    fds_.push_back(fd);
    EXPECT_EQ(send(fd, "!", 1, MSG_NOSIGNAL), 1);
  }
  void SendAway() {
    MutexLock lock(&mu_);
    for (const int fd : fds_) close(fd);
    fds_.clear();
  }

 private:
  Mutex mu_;
  std::vector<int> fds_ ABSL_GUARDED_BY(mu_);
};

TEST(Listener, TakesSoManyAndMoreWhenSomeHaveGone) {
  House house;
  auto listener = Listener::Bind("127.0.0.1:0", 3);
  ASSERT_THAT(listener, IsOk());
  (*listener)->Start([&](int, int fd) { house.Take(fd); });
  std::vector<RawConnection> callers;
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(callers.emplace_back((*listener)->port()).Hears());
  }
  EXPECT_FALSE(RawConnection((*listener)->port()).Hears());
  EXPECT_EQ((*listener)->refused(), 1);
  EXPECT_EQ((*listener)->connections(), 3);
  house.SendAway();
  // How long ago it has counted decides when it sees that.
  while (!RawConnection((*listener)->port()).Hears()) {
  }
  house.SendAway();
}

TEST(Listener, RefusesWithoutADescriptorAndRecovers) {
  House house;
  auto listener = Listener::Bind("127.0.0.1:0", 1000);
  ASSERT_THAT(listener, IsOk());
  (*listener)->Start([&](int, int fd) { house.Take(fd); });
  EXPECT_TRUE(RawConnection((*listener)->port()).Hears());
  RawConnection waits((*listener)->port());
  EXPECT_TRUE(waits.Hears());
  const int caller = socket(AF_INET, SOCK_STREAM, 0);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // Every descriptor below the limit is taken.
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(caller) + 1;
  std::vector<int> taken;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int fd = dup(0); fd >= 0; fd = dup(0)) taken.push_back(fd);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>((*listener)->port()));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(caller, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  char byte;
  EXPECT_LE(recv(caller, &byte, 1, 0), 0);  // hung up, not left waiting
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const int fd : taken) close(fd);
  close(caller);
  EXPECT_TRUE(RawConnection((*listener)->port()).Hears());
  EXPECT_GE((*listener)->refused(), 1);
  house.SendAway();
}

TEST(Listener, SaysWhyItCannotListen) {
  auto first = Listener::Bind("127.0.0.1:0", 3);
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(
      Listener::Bind(absl::StrCat("127.0.0.1:", (*first)->port()), 3).status(),
      IsError(absl::StatusCode::kUnavailable, "another server is there"));
  EXPECT_THAT(Listener::Bind("203.0.113.1:0", 3).status(),
              IsError(absl::StatusCode::kUnavailable, "203.0.113.1:0"));
  EXPECT_THAT(Listener::Bind("no.such.host.invalid:1", 3).status(),
              IsError(absl::StatusCode::kUnavailable, "no.such.host.invalid"));
}

TEST(Listener, NobodyIsLetInAfterItHasStopped) {
  auto listener = Listener::Bind("127.0.0.1:0", 3);
  ASSERT_THAT(listener, IsOk());
  (*listener)->Start([](int, int fd) { close(fd); });
  (*listener)->Stop();
  EXPECT_FALSE(RawConnection((*listener)->port()).connected());
}

}  // namespace
}  // namespace nearline::server
