#ifndef NEARLINE_TESTS_SERVER_SLOW_SENDER_H_
#define NEARLINE_TESTS_SERVER_SLOW_SENDER_H_

#include <fcntl.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

#include "base/varint.h"
#include "tests/server/raw_connection.h"

namespace nearline::server {

// One HTTP/2 connection (RFC 9113) whose calls send the beginning of a message
// and never its end.
class SlowSender {
 public:
  // `calls` calls of `path`, which announce a message of `announced` bytes.
  SlowSender(int port, int calls, const std::string& path, uint32_t announced)
      : connection_(port) {
    fcntl(connection_.fd(), F_SETFL, O_NONBLOCK);
    out_ = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, 0, "");
    std::string prefix(1, '\0');
    PutBigEndian(&prefix, announced);
    for (uint32_t i = 0; i < static_cast<uint32_t>(calls); ++i) {
      const uint32_t stream = 2 * i + 1;
      constexpr uint8_t kEndHeaders = 4;
      out_ += Frame(kHeaders, kEndHeaders, stream,
                    Header(":method", "POST") + Header(":scheme", "http") +
                        Header(":path", path) + Header(":authority", "x") +
                        Header("te", "trailers") +
                        Header("content-type", "application/grpc"));
      out_ += Frame(kData, 0, stream, prefix);
      windows_[stream] = 65'535 - 5;
      window_ -= 5;
      held_[stream] = 5;
    }
  }

  // Sends what the server lets it, at most `most` bytes a call; false when
  // nothing moved.
  bool Go(int64_t most) {
    bool moved = Receive();
    for (auto& [stream, held] : held_) {
      const int64_t n =
          std::min({windows_[stream], window_, most - held, int64_t{16'384}});
      if (n <= 0 || out_.size() > 100'000) continue;
      out_ += Frame(kData, 0, stream, std::string(static_cast<size_t>(n), 'x'));
      windows_[stream] -= n;
      window_ -= n;
      held += n;
    }
    const ssize_t sent =
        send(connection_.fd(), out_.data(), out_.size(), MSG_NOSIGNAL);
    if (sent > 0) out_.erase(0, static_cast<size_t>(sent));
    return moved || sent > 0;
  }
  // Bytes of messages of calls that have not been ended.
  int64_t held() const {
    int64_t sum = 0;
    for (const auto& [stream, held] : held_) sum += held;
    return sum;
  }
  int ended() const { return ended_; }  // calls

 private:
  enum Type : uint8_t {
    kData = 0,
    kHeaders = 1,
    kReset = 3,
    kSettings = 4,
    kPing = 6,
    kGoAway = 7,
    kWindowUpdate = 8
  };

  static std::string Frame(uint8_t type, uint8_t flags, uint32_t stream,
                           const std::string& payload) {
    std::string out;
    PutBigEndian(&out, static_cast<uint32_t>(payload.size()));
    out.erase(0, 1);
    out += static_cast<char>(type);
    out += static_cast<char>(flags);
    PutBigEndian(&out, stream);
    return out + payload;
  }
  // RFC 7541: a literal that is never indexed; each part is shorter than 127.
  static std::string Header(const std::string& name, const std::string& value) {
    return std::string(1, '\x10') + static_cast<char>(name.size()) + name +
           static_cast<char>(value.size()) + value;
  }

  void End(uint32_t stream) { ended_ += static_cast<int>(held_.erase(stream)); }

  bool Receive() {
    char bytes[16'384];
    const ssize_t n = recv(connection_.fd(), bytes, sizeof(bytes), 0);
    if (n == 0) {
      ended_ += static_cast<int>(held_.size());
      held_.clear();
    }
    if (n <= 0) return false;
    in_.append(bytes, static_cast<size_t>(n));
    while (in_.size() >= 9) {
      const uint32_t size = GetBigEndian<uint32_t>('\0' + in_.substr(0, 3));
      if (in_.size() < 9 + size) break;
      OnFrame(static_cast<uint8_t>(in_[3]), static_cast<uint8_t>(in_[4]),
              GetBigEndian<uint32_t>(in_.substr(5, 4)), in_.substr(9, size));
      in_.erase(0, 9 + size);
    }
    return true;
  }

  void OnFrame(uint8_t type, uint8_t flags, uint32_t stream,
               const std::string& payload) {
    constexpr uint8_t kAck = 1, kEndStream = 1;
    if (type == kSettings && (flags & kAck) == 0) {
      for (size_t i = 0; i + 6 <= payload.size(); i += 6) {
        constexpr uint16_t kInitialWindow = 4;
        if (GetBigEndian<uint16_t>(payload.substr(i, 2)) != kInitialWindow) {
          continue;
        }
        const int64_t initial =
            GetBigEndian<uint32_t>(payload.substr(i + 2, 4));
        for (auto& [id, window] : windows_) window += initial - initial_;
        initial_ = initial;
      }
      out_ += Frame(kSettings, kAck, 0, "");
    } else if (type == kPing && (flags & kAck) == 0) {
      out_ += Frame(kPing, kAck, 0, payload);
    } else if (type == kWindowUpdate) {
      (stream == 0 ? window_ : windows_[stream]) +=
          GetBigEndian<uint32_t>(payload);
    } else if (type == kReset || (type == kHeaders && (flags & kEndStream))) {
      End(stream);
    }
  }

  const RawConnection connection_;
  std::string in_, out_;
  int64_t initial_ = 65'535, window_ = 65'535;
  std::map<uint32_t, int64_t> windows_, held_;  // by stream
  int ended_ = 0;
};

}  // namespace nearline::server

#endif  // NEARLINE_TESTS_SERVER_SLOW_SENDER_H_
