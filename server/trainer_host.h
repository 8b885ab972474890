// The trainer in a container of its own, so that its memory and processor time
// are not the server's: this side runs it, the other side asks for it.
#ifndef NEARLINE_SERVER_TRAINER_HOST_H_
#define NEARLINE_SERVER_TRAINER_HOST_H_

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/config.h"
#include "server/retrainer.h"

namespace nearline::server {

// Listens on training.socket, which only this user can reach, and runs
// RunTrainer for who asks, one run at a time. It shares data_dir with the
// server, and has its configuration.
class TrainerHost {
 public:
  // Errors: INVALID_ARGUMENT without a socket; UNAVAILABLE when it cannot be
  // listened on.
  static absl::StatusOr<std::unique_ptr<TrainerHost>> Start(Config config);
  // Ends a run under way.
  ~TrainerHost();

 private:
  struct Impl;
  explicit TrainerHost(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

// Whether a host listens on training.socket; asks for a second at most.
bool TrainerHostListens(const Config& config);

// RunTrainer by the host that listens on training.socket, which may take `wait`
// to be there. Errors: those of RunTrainer; UNAVAILABLE when no host listens,
// RESOURCE_EXHAUSTED when it is at another run, ABORTED when it goes away.
absl::Status RunTrainerByHost(const Config& config, const std::string& run_id,
                              const std::function<bool()>& stop,
                              const OnLine& on_line,
                              absl::Duration wait = absl::Minutes(2));

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_TRAINER_HOST_H_
