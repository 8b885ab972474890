#include "model/devices.h"

#include "base/text.h"
#ifdef NEARLINE_WITH_TORCH
#include "model/torch_scoring.h"
#include "model/train.h"
#endif

namespace nearline::model {

absl::StatusOr<Device> OpenDevice(const std::string& device) {
  if (device == "cpu") return Device{"cpu", CpuScoring};
#ifdef NEARLINE_WITH_TORCH
  if (device == "auto") {
    if (!CheckDevice("cuda:0").ok()) return Device{"cpu", CpuScoring};
    return Device{"cuda:0", TorchScoring("cuda:0")};
  }
  const std::string torch_name = device == "torch:cpu" ? "cpu" : device;
  RETURN_IF_ERROR(CheckDevice(torch_name));
  return Device{device, TorchScoring(torch_name)};
#else
  if (device == "auto") return Device{"cpu", CpuScoring};
  return absl::FailedPreconditionError(absl::StrCat(
      "device ", Quoted(device),
      " needs LibTorch, and this build has none; set the device to cpu"));
#endif
}

}  // namespace nearline::model
