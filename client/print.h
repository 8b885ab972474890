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

// An item's title and genres, for people; empty where it has none.
std::pair<std::string, std::string> Describe(Client& client,
                                             const std::string& id);

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_PRINT_H_
