// `nearline-train evaluate` and `compare`.
#ifndef NEARLINE_MODEL_EVALUATE_COMMAND_H_
#define NEARLINE_MODEL_EVALUATE_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/experiment.h"

namespace nearline::model {

struct EvaluateFlags {
  Experiment experiment;
  std::string metrics, tune_metric;   // empty: the protocol's
  std::vector<std::string> settings;  // parameter=value
  std::string parameters;             // a YAML file
  std::string report;                 // JSON
};
void AddEvaluate(CLI::App* app, EvaluateFlags* flags);
// Trains, measures, writes what was asked for, prints one table row.
absl::Status Evaluate(EvaluateFlags flags);

struct CompareFlags {
  std::vector<std::string> reports;
  std::string json, html;
};
void AddCompare(CLI::App* app, CompareFlags* flags);
absl::Status Compare(const CompareFlags& flags);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_EVALUATE_COMMAND_H_
