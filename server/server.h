#ifndef NEARLINE_SERVER_SERVER_H_
#define NEARLINE_SERVER_SERVER_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "server/config.h"

namespace nearline::server {

// The whole service in one object: store, model slot, retrainer, gRPC, metrics.
class Server {
 public:
  // Opens the store, loads the generation that was in service, and listens.
  // Errors: what is wrong with the configuration, the folder or the address.
  static absl::StatusOr<std::unique_ptr<Server>> Start(Config config);
  // Drains: no new calls, those under way have serving.drain.
  ~Server();

  int port() const;            // of gRPC
  std::string Scrape() const;  // what Prometheus gets

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_SERVER_H_
