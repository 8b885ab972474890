#ifndef NEARLINE_MODEL_DEVICES_H_
#define NEARLINE_MODEL_DEVICES_H_

#include <string>

#include "base/status.h"
#include "model/generation.h"

namespace nearline::model {

// Where served models compute, and how a generation's slots are built there.
struct Device {
  std::string name;  // "cpu", "cuda:0"
  ScoringFactory scoring;
};

// "cpu", "cuda:N", "auto" (cuda:0 when it is there), or "torch:cpu", LibTorch's
// CPU device, on which the CUDA path is tested. Errors: FAILED_PRECONDITION
// saying what is missing.
absl::StatusOr<Device> OpenDevice(const std::string& device);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_DEVICES_H_
