// The inner loops of serving, compiled for every instruction set that Highway
// knows and chosen at run time. Plain loops over float32; no alignment is
// asked.
#ifndef NEARLINE_MODEL_KERNELS_H_
#define NEARLINE_MODEL_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace nearline::model {

// out[i] += weight * row[i] for i in [0, n).
void AddScaled(const float* row, float weight, size_t n, float* out);

// out[i] = a * out[i] + b * x[i].
void Blend(float a, float b, const float* x, size_t n, float* out);

// out[i] = sum over j < m of weights[j] * rows[j][i], for i in [0, n).
void SumScaled(const float* const* rows, const float* weights, size_t m,
               size_t n, float* out);

// out[i * stride + j] += sum over h < m of weights[h] * rows[h][i] *
// rows[h][j], for j <= i < n. What `out` has beside, for j in (i, n), is
// undefined then.
void AddGram(const float* const* rows, const float* weights, size_t m, size_t n,
             size_t stride, float* out);

// Asks for a row of n values that will be read soon.
inline void Prefetch(const float* row, size_t n) {
  constexpr size_t kLine = 64 / sizeof(float);
  for (size_t at = 0; at < n; at += kLine) __builtin_prefetch(row + at);
}

// sum of a[i] * b[i].
float Dot(const float* a, const float* b, size_t n);

// out[j] = Dot(x, rows[j], n), bit for bit, for j in [0, m).
void DotRows(const float* x, const float* const* rows, size_t m, size_t n,
             float* out);

// x[i] = tanh(x[i] + bias[i]).
void AddBiasTanh(const float* bias, size_t n, float* x);

// x[i] = 1 / (1 + e^-x[i]); of NaN, what the processor makes of it.
void Sigmoid(size_t n, float* x);

// Rounds x to out[i] * scale, |out[i]| <= 127, with the smallest scale that
// holds all. Returns the length of what was rounded away; NaN, with a scale of
// NaN and zeros, when a value is not finite.
float QuantizeInt8(const float* x, size_t n, int8_t* out, float* scale);

// out[i] = in[i] * (factor * scales[i]).
void ScaleInt32(const int32_t* in, const float* scales, float factor, size_t n,
                float* out);

// The instruction set in use, for logs: "AVX3_SPR", ...
const char* KernelTarget();

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_KERNELS_H_
