#ifndef NEARLINE_MODEL_PROTOCOLS_H_
#define NEARLINE_MODEL_PROTOCOLS_H_

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/evaluate.h"
#include "model/parameters.h"
#include "model/train.h"

namespace nearline::model {

// An experiment on files of "user item [value [time]]" lines: further columns
// are ignored, a header is recognized; or of "user item item ..." lines.
struct Experiment {
  std::string model;
  // "strong": users of validation and test are not in training; their input
  // lines are folded in, their target lines are to be found (Liang 2018).
  // "full": every item that is not in the user's training lines is a candidate.
  // "sampled": one held-out item a user against the listed negatives (He 2017).
  std::string protocol;
  // "tsv", "csv", "dat" ("::"), "adjacency" (spaces, "user item item ..."); ""
  // by content.
  std::string format;
  std::string train, validation_input, validation_target, test_input,
      test_target, test, negatives;
  double min_value = -1e300;  // lines below it are left out
  std::vector<MetricSpec> metrics;
  std::vector<uint64_t> seeds = {1};
  int threads = 1;
  std::string device = "cpu";
  std::string run_file;  // ranked lists of the first seed, as TSV
};

struct ExperimentResult {
  int64_t users = 0;  // tested
  int64_t items = 0;
  // metric -> seed -> mean over users, and the standard error of the first.
  std::map<std::string, std::vector<double>> per_seed;
  std::map<std::string, double> standard_error;
  double train_seconds = 0;  // of all seeds
};

// Errors: INVALID_ARGUMENT with file and line.
absl::StatusOr<ExperimentResult> RunExperiment(const Experiment& experiment,
                                               const Parameters& parameters,
                                               const OnEpoch& on_epoch);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PROTOCOLS_H_
