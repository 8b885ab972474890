// A dense layer over many rows at once, of sizes at which the way into a
// library's product costs more than the product.
#ifndef NEARLINE_MODEL_RELU_LAYER_H_
#define NEARLINE_MODEL_RELU_LAYER_H_

#include <cstddef>
#include <vector>

namespace nearline::model {

// y = max(0, x W^T + b). Immutable, thread-safe.
class ReluLayer {
 public:
  // weight: W, [out, in], row-major; in may be 0.
  ReluLayer(const std::vector<float>& weight, size_t out, size_t in);

  size_t in() const { return in_; }
  size_t out() const { return out_; }
  // Floats from one row of y to the next: out(), rounded up, with zeros.
  size_t stride() const { return stride_; }
  // Of n rows x, `x_stride` >= in() floats from one to the next; y has room for
  // n * stride(). bias: b, [stride()]; zeros beyond out(). To row i `more[i]`,
  // [out()], is added before the maximum, unless `more` is null. A row's result
  // does not depend on its place.
  void Apply(const float* x, size_t x_stride, size_t n, const float* bias,
             const float* const* more, float* y) const;

  // As Apply's, for the kernel.
  struct Args {
    const float* weight;
    size_t in, out, stride;
    const float* x;
    size_t x_stride;
    const float* bias;
    const float* const* more;
    float* y;
  };

 private:
  const size_t in_, out_, stride_;
  std::vector<float> weight_;  // W^T, [in, stride], padded with zeros
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_RELU_LAYER_H_
