#ifndef NEARLINE_MODEL_REPORT_H_
#define NEARLINE_MODEL_REPORT_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "model/experiment.h"

namespace nearline::model {

// All of an experiment that somebody may want to know, repeat or compare; see
// docs/training.md.
Json ReportOf(const Experiment& experiment, const ExperimentResult& result);

// One table row: "model  ndcg@100 0.4322  recall@20 0.3667 ...", with the
// values of the seeds where there are more than one.
std::string RowOf(const Experiment& experiment, const ExperimentResult& result);

// A report as `compare` needs it.
struct Report {
  std::string name;  // the model's, with the file's where models repeat
  Json json;
};

// Errors: INVALID_ARGUMENT naming the file that is no report, or that was asked
// other users or by another protocol than the first.
absl::StatusOr<std::vector<Report>> ReadReports(
    const std::vector<std::string>& paths);

// What the reports share of one metric: every model's mean and standard error,
// and its difference from the first with a 95 % interval (paired bootstrap over
// users).
Json CompareReports(const std::vector<Report>& reports);
std::string ComparisonText(const Json& comparison);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_REPORT_H_
