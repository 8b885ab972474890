#ifndef NEARLINE_SERVER_DOCTOR_H_
#define NEARLINE_SERVER_DOCTOR_H_

#include <string>
#include <vector>

#include "server/config.h"

namespace nearline::server {

// One thing that was looked at.
struct Finding {
  enum class Level { kGood, kDoubt, kWrong };
  Level level = Level::kGood;
  std::string about;  // data_dir, tls, clock, ...
  std::string what;   // was found, and what to do about it
};

// Looks at all that a server with this configuration needs: folders, store,
// generations, ports, certificates, callers, backups, trainer, processor,
// memory, clock. Changes nothing, and may run beside the server.
std::vector<Finding> Examine(const Config& config);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_DOCTOR_H_
