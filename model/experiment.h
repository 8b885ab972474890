#ifndef NEARLINE_MODEL_EXPERIMENT_H_
#define NEARLINE_MODEL_EXPERIMENT_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/evaluate.h"
#include "model/parameters.h"
#include "model/protocols.h"
#include "model/train.h"

namespace nearline::model {

// One model on one protocol's data.
struct Experiment {
  std::string model;
  ProtocolFiles files;
  std::vector<MetricSpec> metrics;
  std::vector<uint64_t> seeds = {1};
  int threads = 1;
  std::string device = "cpu";

  // Trials on validation data carved out of the training data; 0: none.
  int tune = 0;
  double validation_fraction = 0.1;
  MetricSpec tune_metric;
  std::set<std::string> fixed;  // parameters that tuning leaves alone

  std::string run_file;     // the first seed's ranked lists, as TSV
  std::string save_folder;  // where the first seed's generation goes
  // Where training keeps what it has, to go on from there; empty: nowhere.
  std::string checkpoint_folder;
};

struct Trial {
  Parameters parameters;
  double value = 0;  // of the tuning metric
  double seconds = 0;
  std::vector<double> by_case;  // of which `value` is the mean
};

// What one seed came to.
struct SeedResult {
  uint64_t seed = 0;
  CaseMetrics by_user;                  // of the metrics that users have
  std::map<std::string, double> means;  // of all metrics
  // As served: with the newest 500 items of a history, and the ranker ordering
  // a shortlist of 200.
  std::map<std::string, double> served;
  double train_seconds = 0;
  double evaluate_seconds = 0;
  std::vector<EpochReport> epochs;
};

struct ExperimentResult {
  Parameters parameters;  // that the seeds were run with
  // The first one is of the parameters that were given. Another one is taken
  // only if it is better by more than the difference's standard error.
  std::vector<Trial> trials;
  std::vector<SeedResult> seeds;
  int64_t train_users = 0;
  int64_t train_events = 0;
  int64_t items = 0;
  std::vector<std::string> users;    // tested
  std::vector<int> history_lengths;  // of the users
  uint64_t test_digest = 0;          // ProtocolData's
  std::vector<std::string> remarks;  // likewise
  // Whether what was to be written by the first seed was.
  absl::Status written;
  // Wanted items by the tenth of the catalogue's items that they belong to,
  // the most popular tenth first: how many there were, and how many the first
  // seed's lists held.
  std::vector<int64_t> wanted_by_tenth, found_by_tenth;
  double read_seconds = 0;
  double tune_seconds = 0;
};

// Hears of training: the trial (from 1; 0: none), the seed, the epoch.
struct ExperimentProgress {
  int trial = 0;
  uint64_t seed = 0;
  EpochReport epoch;
  double share = 0;  // of all trainings
};

// Errors: INVALID_ARGUMENT with file and line; whatever training says.
absl::StatusOr<ExperimentResult> RunExperiment(
    const Experiment& experiment, const Parameters& parameters,
    const std::function<void(const ExperimentProgress&)>& on_progress);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_EXPERIMENT_H_
