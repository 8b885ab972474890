#ifndef NEARLINE_MODEL_PARAMETERS_H_
#define NEARLINE_MODEL_PARAMETERS_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/status.h"
#include "base/text.h"

namespace nearline::model {

// One number that shapes a model or its training.
struct ParameterSpec {
  std::string name;
  double value = 0;  // the default
  double low = 0;
  double high = 0;
  bool whole = false;
  std::string what;  // for people, with its source
  // Where a tuner looks: between two values, evenly or by ratio; nowhere when
  // they are equal.
  struct Search {
    double low = 0;
    double high = 0;
    bool by_ratio = false;
  };
  Search search = {};
};

// A model's parameters: what it declares, and what a caller set.
class Parameters {
 public:
  explicit Parameters(std::vector<ParameterSpec> specs);

  // Errors: INVALID_ARGUMENT naming the parameters there are, or the range.
  absl::Status Set(absl::string_view name, double value);
  // "key=value".
  absl::Status SetText(absl::string_view assignment);
  // A YAML file of "key: value" lines; `keys` gets theirs. Errors: likewise,
  // with the line.
  absl::Status SetFile(const std::string& path, std::set<std::string>* keys);

  double operator[](const std::string& name) const { return values_.at(name); }
  bool Has(const std::string& name) const { return values_.contains(name); }
  int Int(const std::string& name) const {
    return static_cast<int>(values_.at(name));
  }
  const std::vector<ParameterSpec>& specs() const { return specs_; }
  Json ToJson() const { return Json(values_); }

 private:
  std::vector<ParameterSpec> specs_;
  std::map<std::string, double> values_;
};

// What `nearline-train` can train, with its parameters. Errors:
// INVALID_ARGUMENT listing the models there are.
absl::StatusOr<Parameters> ParametersOf(absl::string_view model);
const std::vector<std::string>& ModelNames();
// One line on a model and its source.
std::string DescribeModel(absl::string_view model);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PARAMETERS_H_
