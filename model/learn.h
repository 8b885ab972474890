#ifndef NEARLINE_MODEL_LEARN_H_
#define NEARLINE_MODEL_LEARN_H_

#include <functional>
#include <string>

#include "base/status.h"
#include "model/bundle.h"
#include "model/learn_job.h"

namespace nearline::model {

struct LearnProgress {
  std::string phase;
  int epoch = 0;
  int epochs = 0;
  double loss = 0;
  double share_done = 0;  // of the run
  std::string note;       // see EpochReport
};

// Splits, trains, evaluates candidate and incumbent on the same holdout, lets
// the gate decide, and writes the candidate with the decision in its manifest.
// It does not publish. Errors: FAILED_PRECONDITION when there is nothing to
// learn from.
absl::StatusOr<Manifest> Learn(
    const LearnJob& job,
    const std::function<void(const LearnProgress&)>& on_progress);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_LEARN_H_
