// The inner loops of training, compiled and chosen as those of kernels.h.
#ifndef NEARLINE_MODEL_TRAINING_KERNELS_H_
#define NEARLINE_MODEL_TRAINING_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace nearline::model {

// dy[i] *= 1 - y[i]^2, the gradient before a tanh whose value was y[i].
void TanhGradient(const float* y, size_t n, float* dy);

// x[i] = scale * e^(x[i] + bias[i]) / S, S the sum of e^(x[i] + bias[i]).
// Returns log S; n > 0.
float Softmax(const float* bias, float scale, size_t n, float* x);

// A step of Adam (Kingma and Ba, ICLR 2015), its means corrected for their
// start.
struct AdamRates {
  static constexpr float kBeta1 = 0.9f, kBeta2 = 0.999f, kEpsilon = 1e-8f;
  float step = 0;      // rate / (1 - beta1^t)
  float unbiased = 1;  // 1 / sqrt(1 - beta2^t)
  float decay = 0;     // L2, added to the gradient
};
// Moves n weights and their two moments.
void AdamStep(const AdamRates& rates, const float* gradient, size_t n,
              float* weights, float* first, float* second);

// p[i], q[i] = keep * p[i] + step * q[i], keep * q[i] + step * p[i]: a step of
// two vectors towards each other.
void Approach(float keep, float step, size_t n, float* p, float* q);

// The upper half of a float32.
using Bfloat16 = uint16_t;

// out[i] = x[i], rounded to the nearest, of two the even one.
void ToBfloat16(const float* x, size_t n, Bfloat16* out);

// out[i] += x[i].
void AddBfloat16(const Bfloat16* x, size_t n, float* out);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TRAINING_KERNELS_H_
