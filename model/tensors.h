#ifndef NEARLINE_MODEL_TENSORS_H_
#define NEARLINE_MODEL_TENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"

namespace nearline::model {

// A float32 tensor, row-major.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;

  int64_t size() const {
    int64_t n = 1;
    for (const int64_t s : shape) n *= s;
    return n;
  }
};

// The weights of a generation by name. The file is safetensors: eight bytes of
// header size, a JSON header, the data. The reader takes any order of tensors
// and no alignment, checks every bound, and refuses overlap and non-finite
// values.
class Tensors {
 public:
  void Add(const std::string& name, std::vector<int64_t> shape,
           std::vector<float> values);
  // Errors: NOT_FOUND by name; INVALID_ARGUMENT when the shape is another. -1
  // in `shape` matches any positive size.
  absl::StatusOr<const Tensor*> Get(const std::string& name,
                                    const std::vector<int64_t>& shape) const;
  // The same, moved out.
  absl::StatusOr<Tensor> Take(const std::string& name,
                              const std::vector<int64_t>& shape);
  bool Has(const std::string& name) const { return tensors_.contains(name); }
  const std::map<std::string, Tensor>& all() const { return tensors_; }

  absl::Status Write(const std::string& path) const;
  // Errors: DATA_LOSS naming the tensor and what is wrong.
  static absl::StatusOr<Tensors> Read(const std::string& path);
  static absl::StatusOr<Tensors> Parse(absl::string_view file);

 private:
  std::map<std::string, Tensor> tensors_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TENSORS_H_
