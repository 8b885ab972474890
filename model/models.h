#ifndef NEARLINE_MODEL_MODELS_H_
#define NEARLINE_MODEL_MODELS_H_

#include <string>
#include <vector>

#include "model/parameters.h"

namespace nearline::model {

// What can be trained.
struct Model {
  std::string name;
  std::string what;  // one line, with its source
  std::vector<ParameterSpec> parameters;
};

const std::vector<Model>& Models();

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_MODELS_H_
