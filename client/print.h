// What the commands share in printing their answers.
#ifndef NEARLINE_CLIENT_PRINT_H_
#define NEARLINE_CLIENT_PRINT_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "base/text.h"
#include "client/commands.h"

namespace nearline::client {

// Says on stderr what went wrong; returns the exit code for it.
int Fail(const Session& session, const absl::Status& status);

void PrintJson(const Json& json);

// What people want to know of items.
class Describer {
 public:
  explicit Describer(Client* client) : client_(*client) {}
  // Title and genres; empty where there are none, or where the caller may not
  // read items.
  std::pair<std::string, std::string> Describe(const std::string& id);

 private:
  Client& client_;
  bool denied_ = false;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_PRINT_H_
