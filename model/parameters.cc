#include "model/parameters.h"

#include <yaml-cpp/yaml.h>

#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "model/models.h"

namespace nearline::model {
namespace {

const Model* FindModel(absl::string_view name) {
  for (const Model& model : Models()) {
    if (model.name == name) return &model;
  }
  return nullptr;
}

}  // namespace

Parameters::Parameters(std::vector<ParameterSpec> specs)
    : specs_(std::move(specs)) {
  for (const ParameterSpec& spec : specs_) values_[spec.name] = spec.value;
}

absl::Status Parameters::Set(absl::string_view name, double value) {
  for (const ParameterSpec& spec : specs_) {
    if (spec.name != name) continue;
    if (!(value >= spec.low && value <= spec.high) ||
        (spec.whole && value != std::floor(value))) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " = ", value, ": expected ",
                       spec.whole ? "a whole number" : "a number", " in [",
                       spec.low, ", ", spec.high, "]"));
    }
    values_[spec.name] = value;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "no parameter ", Quoted(name), "; there are ",
      absl::StrJoin(values_, ", ", [](std::string* out, const auto& entry) {
        *out += entry.first;
      })));
}

absl::Status Parameters::SetText(absl::string_view assignment) {
  const size_t equals = assignment.find('=');
  double value = 0;
  if (equals == absl::string_view::npos ||
      !absl::SimpleAtod(assignment.substr(equals + 1), &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(assignment), ": expected name=number"));
  }
  return Set(assignment.substr(0, equals), value);
}

absl::Status Parameters::SetFile(const std::string& path,
                                 std::set<std::string>* keys) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": expected lines of \"parameter: number\""));
    }
    for (const auto& entry : root) {
      const std::string assignment =
          absl::StrCat(entry.first.Scalar(), "=", entry.second.Scalar());
      RETURN_IF_ERROR(
          Annotate(SetText(assignment),
                   absl::StrCat(path, ":", entry.first.Mark().line + 1)));
      if (!keys->insert(entry.first.Scalar()).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(path, ":", entry.first.Mark().line + 1, ": ",
                         Quoted(entry.first.Scalar()), " is there twice"));
      }
    }
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ":", e.mark.line + 1, ": ", e.msg));
  }
  return absl::OkStatus();
}

absl::StatusOr<Parameters> ParametersOf(absl::string_view name) {
  const Model* const model = FindModel(name);
  if (model != nullptr) return Parameters(model->parameters);
  return absl::InvalidArgumentError(
      absl::StrCat("no model ", Quoted(name), "; there are ",
                   absl::StrJoin(ModelNames(), ", ")));
}

const std::vector<std::string>& ModelNames() {
  static const auto* const names = [] {
    auto* out = new std::vector<std::string>;
    for (const Model& model : Models()) out->push_back(model.name);
    return out;
  }();
  return *names;
}

std::string DescribeModel(absl::string_view name) {
  const Model* const model = FindModel(name);
  return model == nullptr ? "" : model->what;
}

}  // namespace nearline::model
