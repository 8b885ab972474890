// The one door to LibTorch: its headers, and its exceptions turned into Status.
#ifndef NEARLINE_MODEL_TORCH_GUARD_H_
#define NEARLINE_MODEL_TORCH_GUARD_H_

#include <torch/torch.h>

#include <exception>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/tensors.h"

namespace nearline::model {

// Runs `f`, which returns a Status or StatusOr. Errors: INTERNAL with
// LibTorch's message, RESOURCE_EXHAUSTED when memory ran out.
template <typename F>
auto TorchGuard(F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const c10::Error& e) {
    return absl::InternalError(
        absl::StrCat("LibTorch: ", e.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("LibTorch: ", e.what()));
  }
}

// A copy of the values on the CPU, float32.
inline Tensor ToPlain(const torch::Tensor& t) {
  const torch::Tensor c =
      t.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  return {c.sizes().vec(), std::vector<float>(c.data_ptr<float>(),
                                              c.data_ptr<float>() + c.numel())};
}
inline torch::Tensor FromPlain(const Tensor& t) {
  return torch::from_blob(const_cast<float*>(t.values.data()), t.shape,
                          torch::kFloat32)
      .clone();
}
inline void AddTensor(Tensors* out, const std::string& name,
                      const torch::Tensor& t) {
  Tensor plain = ToPlain(t);
  out->Add(name, std::move(plain.shape), std::move(plain.values));
}

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TORCH_GUARD_H_
