#include "model/autoencoder_step.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>

namespace nearline::model {
namespace {

// Users whose logits one thread makes at a time, and items whose weights it
// moves at a time: what they touch stays in the second-level cache.
constexpr int64_t kUsers = 128;
constexpr int64_t kItems = 256;

int64_t Pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

size_t Size(int64_t a, int64_t b = 1) { return static_cast<size_t>(a * b); }

}  // namespace

AutoencoderTrainer::AutoencoderTrainer(const AutoencoderWeights& weights,
                                       int threads)
    : w_(weights),
      items_(weights.items),
      width_(weights.width),
      latent_(weights.latent),
      encoder_(w_.encoder, items_ * width_),
      encoder_bias_(w_.encoder_bias, width_),
      mean_(w_.mean, latent_ * width_),
      mean_bias_(w_.mean_bias, latent_),
      log_variance_(w_.log_variance, latent_ * width_),
      log_variance_bias_(w_.log_variance_bias, latent_),
      hidden_(w_.hidden, latent_ * width_),
      hidden_bias_(w_.hidden_bias, latent_ > 0 ? width_ : 0),
      decoder_(w_.decoder, items_ * width_),
      decoder_bias_(w_.decoder_bias, items_),
      workers_(threads) {}

double AutoencoderTrainer::Step(const AutoencoderBatch& batch,
                                const AutoencoderRates& rates) {
  const int64_t users = batch.users();
  Resize(users);
  ByItem(batch);
  workers_.ForEach(Pieces(users, kUsers), [&](int64_t piece) {
    const int64_t begin = piece * kUsers;
    Users(batch, rates, begin, std::min(users, begin + kUsers));
  });
  ++steps_;
  const auto t = static_cast<double>(steps_);
  const AdamRates adam{
      .step = static_cast<float>(rates.learning /
                                 (1 - std::pow(AdamRates::kBeta1, t))),
      .unbiased =
          static_cast<float>(1 / std::sqrt(1 - std::pow(AdamRates::kBeta2, t))),
      .decay = static_cast<float>(rates.decay)};
  const int64_t pieces = Pieces(items_, kItems);
  workers_.ForEach(pieces + (latent_ > 0 ? 4 : 1), [&](int64_t piece) {
    if (piece < pieces) {
      const int64_t begin = piece * kItems;
      LearnItems(adam, users, begin, std::min(items_, begin + kItems));
    } else {
      LearnLayer(adam, users, static_cast<int>(piece - pieces));
    }
  });
  if (out_of_memory_) throw std::bad_alloc();
  double sum = 0;
  for (int64_t u = 0; u < users; ++u) sum += losses_[Size(u)];
  return sum / static_cast<double>(users);
}

void AutoencoderTrainer::Resize(int64_t users) {
  for (auto* const rows : {&encoded_, &d_encoded_}) {
    rows->resize(Size(users, width_));
  }
  if (latent_ > 0) {
    for (auto* const rows : {&z_, &log_var_, &sample_, &d_z_, &d_log_var_}) {
      rows->resize(Size(users, latent_));
    }
    for (auto* const rows : {&decoded_, &d_decoded_}) {
      rows->resize(Size(users, width_));
    }
  }
  logits_.resize(Size(users, items_));
  losses_.resize(Size(users));
}

// Whose gradients an item's encoder row is moved by.
void AutoencoderTrainer::ByItem(const AutoencoderBatch& batch) {
  item_begin_.assign(Size(items_ + 1), 0);
  for (size_t i = 0; i < batch.items.size(); ++i) {
    if (batch.weights[i] != 0) ++item_begin_[Size(batch.items[i]) + 1];
  }
  for (size_t i = 1; i < item_begin_.size(); ++i) {
    item_begin_[i] += item_begin_[i - 1];
  }
  item_rows_.resize(Size(item_begin_.back()));
  item_weights_.resize(Size(item_begin_.back()));
  std::vector<int64_t> next(item_begin_.begin(), item_begin_.end() - 1);
  for (int64_t u = 0; u < batch.users(); ++u) {
    for (size_t i = Size(batch.offsets[Size(u)]);
         i < Size(batch.offsets[Size(u + 1)]); ++i) {
      if (batch.weights[i] == 0) continue;
      const size_t at = Size(next[Size(batch.items[i])]++);
      item_rows_[at] = d_encoded_.data() + u * width_;
      item_weights_[at] = batch.weights[i];
    }
  }
}

// All of the step that is a user's own: forward, the loss, and the gradient
// down to the encoder's sums.
void AutoencoderTrainer::Users(const AutoencoderBatch& batch,
                               const AutoencoderRates& rates, int64_t begin,
                               int64_t end) {
  const int64_t n = end - begin;
  for (int64_t u = begin; u < end; ++u) {
    Encode(batch, u);
    losses_[Size(u)] = 0;
  }
  if (latent_ > 0) Sample(batch, rates.beta, begin, end);
  const bool deep = latent_ > 0;
  const float* const last =
      (deep ? decoded_ : encoded_).data() + begin * width_;
  float* const d_last =
      (deep ? d_decoded_ : d_encoded_).data() + begin * width_;
  float* const logits = logits_.data() + begin * items_;
  Multiply({last, n, width_}, {w_.decoder, items_, width_, true}, logits);
  for (int64_t u = begin; u < end; ++u) Score(batch, u);
  Multiply({logits, n, items_}, {w_.decoder, items_, width_}, d_last);
  TanhGradient(last, Size(n, width_), d_last);
  if (deep) LatentGradient(batch, rates.beta, begin, end);
}

void AutoencoderTrainer::Encode(const AutoencoderBatch& batch, int64_t user) {
  thread_local std::vector<const float*> rows;
  thread_local std::vector<float> weights;
  rows.clear();
  weights.clear();
  for (size_t i = Size(batch.offsets[Size(user)]);
       i < Size(batch.offsets[Size(user + 1)]); ++i) {
    if (batch.weights[i] == 0) continue;
    rows.push_back(w_.encoder + batch.items[i] * width_);
    weights.push_back(batch.weights[i]);
  }
  float* const out = encoded_.data() + user * width_;
  SumScaled(rows.data(), weights.data(), rows.size(), Size(width_), out);
  AddBiasTanh(w_.encoder_bias, Size(width_), out);
}

// From the encoded to the decoded; adds the KL term to the losses.
void AutoencoderTrainer::Sample(const AutoencoderBatch& batch, double beta,
                                int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  const Matrix encoded{encoded_.data() + begin * width_, n, width_};
  float* const z = z_.data() + begin * latent_;
  float* const v = log_var_.data() + begin * latent_;
  float* const sample = sample_.data() + begin * latent_;
  const float* const noise = batch.noise + begin * latent_;
  Multiply(encoded, {w_.mean, latent_, width_, true}, z);
  Multiply(encoded, {w_.log_variance, latent_, width_, true}, v);
  for (int64_t i = 0; i < n; ++i) {
    double kl = 0;
    for (int64_t j = 0; j < latent_; ++j) {
      const int64_t at = i * latent_ + j;
      z[at] += w_.mean_bias[j];
      v[at] += w_.log_variance_bias[j];
      const float spread = std::exp(0.5f * v[at]);
      sample[at] = z[at] + noise[at] * spread;
      kl += 0.5 * (spread * spread + z[at] * z[at] - 1 - v[at]);
    }
    losses_[Size(begin + i)] += beta * kl;
  }
  float* const decoded = decoded_.data() + begin * width_;
  Multiply({sample, n, latent_}, {w_.hidden, width_, latent_, true}, decoded);
  for (int64_t i = 0; i < n; ++i) {
    AddBiasTanh(w_.hidden_bias, Size(width_), decoded + i * width_);
  }
}

// Makes of a user's logits the gradient of the loss by them.
void AutoencoderTrainer::Score(const AutoencoderBatch& batch, int64_t user) {
  const size_t begin = Size(batch.offsets[Size(user)]);
  const size_t end = Size(batch.offsets[Size(user + 1)]);
  float* const logits = logits_.data() + user * items_;
  const auto share = 1.0f / static_cast<float>(batch.users());
  double total = 0, hits = 0;
  for (size_t i = begin; i < end; ++i) {
    const int64_t item = batch.items[i];
    total += batch.targets[i];
    hits += static_cast<double>(batch.targets[i]) *
            (logits[item] + w_.decoder_bias[item]);
  }
  const float log_sum = Softmax(
      w_.decoder_bias, static_cast<float>(total) * share, Size(items_), logits);
  for (size_t i = begin; i < end; ++i) {
    logits[batch.items[i]] -= batch.targets[i] * share;
  }
  losses_[Size(user)] += total * log_sum - hits;
}

// From the gradient before the decoded's tanh to that before the encoded's.
void AutoencoderTrainer::LatentGradient(const AutoencoderBatch& batch,
                                        double beta, int64_t begin,
                                        int64_t end) {
  const int64_t n = end - begin;
  const auto share =
      static_cast<float>(beta / static_cast<double>(batch.users()));
  const float* const z = z_.data() + begin * latent_;
  const float* const v = log_var_.data() + begin * latent_;
  const float* const noise = batch.noise + begin * latent_;
  float* const d_z = d_z_.data() + begin * latent_;
  float* const d_v = d_log_var_.data() + begin * latent_;
  Multiply({d_decoded_.data() + begin * width_, n, width_},
           {w_.hidden, width_, latent_}, d_z);
  for (int64_t i = 0; i < n * latent_; ++i) {
    const float spread = std::exp(0.5f * v[i]);
    d_v[i] =
        0.5f * (d_z[i] * noise[i] * spread + share * (spread * spread - 1));
    d_z[i] += share * z[i];
  }
  float* const d_encoded = d_encoded_.data() + begin * width_;
  Multiply({d_z, n, latent_}, {w_.mean, latent_, width_}, d_encoded);
  Multiply({d_v, n, latent_}, {w_.log_variance, latent_, width_}, d_encoded,
           /*add=*/true);
  TanhGradient(encoded_.data() + begin * width_, Size(n, width_), d_encoded);
}

// Moves what belongs to some items: rows of encoder and decoder, and biases.
void AutoencoderTrainer::LearnItems(const AdamRates& rates, int64_t users,
                                    int64_t begin, int64_t end) {
  thread_local std::vector<float> gradient;
  const int64_t n = end - begin;
  gradient.assign(Size(n), 0);
  for (int64_t u = 0; u < users; ++u) {
    AddScaled(logits_.data() + u * items_ + begin, 1, Size(n), gradient.data());
  }
  Move(rates, gradient, begin, &decoder_bias_);
  gradient.resize(Size(n, width_));
  Multiply({logits_.data() + begin, users, n, true, items_},
           {(latent_ > 0 ? decoded_ : encoded_).data(), users, width_},
           gradient.data());
  Move(rates, gradient, begin * width_, &decoder_);
  gradient.resize(Size(width_));
  for (int64_t i = begin; i < end; ++i) {
    const size_t first = Size(item_begin_[Size(i)]);
    SumScaled(item_rows_.data() + first, item_weights_.data() + first,
              Size(item_begin_[Size(i + 1)]) - first, Size(width_),
              gradient.data());
    Move(rates, gradient, i * width_, &encoder_);
  }
}

// Moves the encoder's bias (0), or a layer of the latent kind (1 to 3).
void AutoencoderTrainer::LearnLayer(const AdamRates& rates, int64_t users,
                                    int layer) {
  struct Layer {
    const std::vector<float>& d_out;
    int64_t out;
    const std::vector<float>& in;
    int64_t width;
    Learned* matrix;
    Learned* bias;
  };
  const Layer layers[] = {
      {d_encoded_, width_, encoded_, 0, nullptr, &encoder_bias_},
      {d_z_, latent_, encoded_, width_, &mean_, &mean_bias_},
      {d_log_var_, latent_, encoded_, width_, &log_variance_,
       &log_variance_bias_},
      {d_decoded_, width_, sample_, latent_, &hidden_, &hidden_bias_}};
  const Layer& it = layers[layer];
  std::vector<float> gradient(Size(it.out), 0);
  for (int64_t u = 0; u < users; ++u) {
    AddScaled(it.d_out.data() + u * it.out, 1, Size(it.out), gradient.data());
  }
  Move(rates, gradient, 0, it.bias);
  if (it.matrix == nullptr) return;
  gradient.resize(Size(it.out, it.width));
  Multiply({it.d_out.data(), users, it.out, true},
           {it.in.data(), users, it.width}, gradient.data());
  Move(rates, gradient, 0, it.matrix);
}

void AutoencoderTrainer::Move(const AdamRates& rates,
                              const std::vector<float>& gradient, int64_t begin,
                              Learned* what) {
  AdamStep(rates, gradient.data(), gradient.size(), what->weights + begin,
           what->first.data() + begin, what->second.data() + begin);
}

void AutoencoderTrainer::Multiply(const Matrix& a, const Matrix& b, float* out,
                                  bool add) {
  // This thread is one of ours; the others have their own products.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  const int64_t m = a.transpose ? a.columns : a.rows;
  const int64_t k = a.transpose ? a.rows : a.columns;
  const int64_t n = b.transpose ? b.rows : b.columns;
  const auto stride = [](const Matrix& x) {
    return x.stride > 0 ? x.stride : x.columns;
  };
  const auto status = dnnl::sgemm(
      a.transpose ? 'T' : 'N', b.transpose ? 'T' : 'N', m, n, k, 1.0f, a.at,
      stride(a), b.at, stride(b), add ? 1.0f : 0.0f, out, n);
  if (status != dnnl::status::success) out_of_memory_ = true;
}

}  // namespace nearline::model
