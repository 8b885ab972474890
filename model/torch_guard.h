// The one door to LibTorch: its headers, and its exceptions turned into Status.
#ifndef NEARLINE_MODEL_TORCH_GUARD_H_
#define NEARLINE_MODEL_TORCH_GUARD_H_

#include <torch/torch.h>

#include <exception>
#include <string>
#include <vector>

#include "base/status.h"
#include "features/dataset.h"
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

// A batch of histories for embedding_bag: L2-normalized weights, with dropout.
struct Bags {
  torch::Tensor items;    // int64 [nnz kept]
  torch::Tensor offsets;  // int64 [users]
  torch::Tensor weights;  // float32 [nnz kept]
  // All of the users' items, kept or not: what is to be predicted.
  torch::Tensor target_users;    // int64 [nnz], index in the batch
  torch::Tensor target_items;    // int64 [nnz]
  torch::Tensor target_weights;  // float32 [nnz]
};

// Drops each item of the input with probability `dropout`, and scales the rest
// by 1 / (1 - dropout).
Bags MakeBags(const features::Interactions& data,
              const std::vector<int64_t>& users, double dropout,
              torch::Generator* generator, torch::Device device);

// A permutation of 0 .. n - 1.
std::vector<int64_t> Shuffled(int64_t n, torch::Generator* generator);

// Users first .. first + count in order.
std::vector<int64_t> Range(int64_t first, int64_t count);

// Mean NDCG@100 of the target items in `logits` [users, items], in which the
// inputs are masked already.
double BatchNdcg(const torch::Tensor& logits,
                 const features::Interactions& target,
                 const std::vector<int64_t>& users);

// Sets the scores of the bags' items to minus infinity.
void MaskInputs(const Bags& bags, torch::Tensor* logits);

// The warm start's tensor when there is one of this shape, else `fresh`.
torch::Tensor WarmOr(const Tensors* warm, const std::string& name,
                     torch::Tensor fresh);

void SetRate(torch::optim::Adam* adam, double rate);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TORCH_GUARD_H_
