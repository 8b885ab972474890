// Training Mult-VAE and Mult-DAE (Liang et al., WWW 2018) on processors: the
// gradient by hand, so that inputs are gathered and never dense, the softmax is
// fused with the loss, and no gradient of a matrix of items is ever whole in
// memory. GMF over a history is the same network.
#ifndef NEARLINE_MODEL_AUTOENCODER_STEP_H_
#define NEARLINE_MODEL_AUTOENCODER_STEP_H_

#include <atomic>
#include <vector>

#include "absl/types/span.h"
#include "base/workers.h"
#include "model/checkpoint.h"
#include "model/product.h"
#include "model/training_kernels.h"

namespace nearline::model {

// Where the weights lie, row-major:
//   h = tanh(x encoder + encoder_bias)
//   with a latent layer: z = mean h + mean_bias, v = log_variance h + ..._bias,
//     h = tanh(hidden (z + noise e^(v / 2)) + hidden_bias)
//   logits = decoder h + decoder_bias
// or with a temperature t, and then without a latent layer,
//   h = x encoder, logits = cos(decoder, h) / t + decoder_bias.
struct AutoencoderWeights {
  int64_t items = 0;
  int64_t width = 0;
  int64_t latent = 0;             // 0: no latent layer
  double temperature = 0;         // 0: none
  float* encoder = nullptr;       // [items, width]
  float* encoder_bias = nullptr;  // [width]; unused with a temperature
  float* mean = nullptr;          // [latent, width]
  float* mean_bias = nullptr;     // [latent]
  float* log_variance = nullptr;  // [latent, width]
  float* log_variance_bias = nullptr;
  float* hidden = nullptr;        // [width, latent]
  float* hidden_bias = nullptr;   // [width]
  float* decoder = nullptr;       // [items, width]
  float* decoder_bias = nullptr;  // [items]
};

// Some users. Those of user u are in [offsets[u], offsets[u + 1]).
struct AutoencoderBatch {
  absl::Span<const int64_t> offsets;  // [users + 1]
  absl::Span<const int64_t> items;
  absl::Span<const float> weights;  // 0: not in the input
  // What is to be predicted; 0: is not.
  absl::Span<const float> targets;
  const float* noise = nullptr;  // [users, latent]

  int64_t users() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

struct AutoencoderRates {
  double learning = 0;
  double decay = 0;  // L2
  double beta = 0;   // weight of the KL term
};

class AutoencoderTrainer {
 public:
  // `weights` outlive this; meanwhile nobody else changes them. With `bfloat16`
  // products are made in it, sums and all that is kept in float32. Results do
  // not depend on the number of threads.
  AutoencoderTrainer(const AutoencoderWeights& weights, int threads,
                     bool bfloat16);

  // One step of Adam on the mean over the users of
  //   beta KL - sum_i target_i log softmax(logits)_i,
  // which is returned. Throws std::bad_alloc.
  double Step(const AutoencoderBatch& batch, const AutoencoderRates& rates);

  // What steps depend on, but for the weights. When something is put back, the
  // weights have been before.
  void Keep(TrainingState* state);

 private:
  // A matrix, or a vector, with Adam's means of its gradient.
  struct Learned {
    Learned(float* at, int64_t size)
        : weights(at),
          first(static_cast<size_t>(size)),
          second(static_cast<size_t>(size)) {}
    float* weights;
    std::vector<float> first, second;
  };

  void Resize(int64_t users);
  void ByItem(const AutoencoderBatch& batch);
  void Users(const AutoencoderBatch& batch, const AutoencoderRates& rates,
             int64_t begin, int64_t end);
  void Encode(const AutoencoderBatch& batch, int64_t user);
  void EncoderGradient(int64_t begin, int64_t end);
  void Sample(const AutoencoderBatch& batch, double beta, int64_t begin,
              int64_t end);
  void Decode(const AutoencoderBatch& batch, int64_t begin, int64_t end);
  void Score(const AutoencoderBatch& batch, int64_t user, float* logits);
  void LatentGradient(const AutoencoderBatch& batch, double beta, int64_t begin,
                      int64_t end);
  void LearnItems(const AdamRates& rates, int64_t users, int64_t begin,
                  int64_t end);
  void LearnLayer(const AdamRates& rates, int64_t users, int layer);
  void Unify(int64_t begin, int64_t end);
  // The decoder that logits are made with.
  const float* decoder() const {
    return cosine() ? unit_decoder_.data() : w_.decoder;
  }
  bool cosine() const { return w_.temperature > 0; }
  void Move(const AdamRates& rates, const std::vector<float>& gradient,
            int64_t begin, Learned* what);
  // As Multiply of product.h; a failure ends the step. With bfloat16_, what is
  // in float32 is rounded first.
  void Product(const MatrixView<float>& a, const MatrixView<float>& b,
               float* out, bool add = false);
  void Product(const MatrixView<Bfloat16>& a, const MatrixView<Bfloat16>& b,
               float* out);

  const AutoencoderWeights w_;
  const int64_t items_, width_, latent_;
  const bool bfloat16_;
  Learned encoder_, encoder_bias_, mean_, mean_bias_, log_variance_,
      log_variance_bias_, hidden_, hidden_bias_, decoder_, decoder_bias_;
  // With a temperature, the decoder's rows over their lengths.
  std::vector<float> unit_decoder_, decoder_lengths_;
  int64_t steps_ = 0;
  Workers workers_;
  std::atomic<bool> out_of_memory_{false};

  // Of the step under way; d_ begins a gradient of the loss. A row a user.
  std::vector<float> encoded_, d_encoded_;  // [width]
  std::vector<float> encoded_lengths_;      // with a temperature, before it
  std::vector<float> z_, log_var_, sample_, d_z_, d_log_var_;  // [latent]
  std::vector<float> decoded_, d_decoded_;  // [width]; with a latent layer
  std::vector<float> logits_;               // [items]; then their gradient
  // With bfloat16_, in its place; and of the last layer and of the decoder.
  std::vector<Bfloat16> d_logits_half_, last_half_, decoder_half_;
  std::vector<double> losses_;
  // Rows of d_encoded_ of those who have item i in the input, and its weights
  // there: [item_begin_[i], item_begin_[i + 1]).
  std::vector<int64_t> item_begin_;
  std::vector<const float*> item_rows_;
  std::vector<float> item_weights_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_AUTOENCODER_STEP_H_
