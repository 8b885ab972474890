#include "model/autoencoder_step.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

// Users whose logits one thread makes at a time, and items whose weights it
// moves at a time: what they touch stays in the second-level cache.
constexpr int64_t kUsers = 128;
constexpr int64_t kItems = 256;

int64_t Pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

size_t Size(int64_t a, int64_t b = 1) { return static_cast<size_t>(a * b); }

// x of length `length`, in place of what it was, which is returned; 0 stays.
float Stretch(double length, size_t n, float* x) {
  const float was = std::sqrt(Dot(x, x, n));
  const double factor = was > 0 ? length / was : 0;
  for (size_t i = 0; i < n; ++i) x[i] *= static_cast<float>(factor);
  return was;
}

// From the gradient by y, a vector of this length, to that by the vector that
// was `was` long before Stretch made y of it.
void StretchGradient(const float* y, double length, float was, size_t n,
                     float* dy) {
  const double factor = was > 0 ? length / was : 1;  // any, to leave 0
  const double along = Dot(y, dy, n) / (length * length);
  Blend(static_cast<float>(factor), static_cast<float>(-factor * along), y, n,
        dy);
}

// Of a matrix whose rows follow each other.
MatrixView<Bfloat16> Rounded(const MatrixView<float>& x,
                             std::vector<Bfloat16>* to) {
  to->resize(Size(x.rows, x.columns));
  ToBfloat16(x.at, to->size(), to->data());
  return {to->data(), x.rows, x.columns, x.transpose};
}

}  // namespace

AutoencoderTrainer::AutoencoderTrainer(const AutoencoderWeights& weights,
                                       int threads, bool bfloat16)
    : w_(weights),
      items_(weights.items),
      width_(weights.width),
      latent_(weights.latent),
      bfloat16_(bfloat16),
      encoder_(w_.encoder, items_ * width_),
      encoder_bias_(w_.encoder_bias, cosine() ? 0 : width_),
      mean_(w_.mean, latent_ * width_),
      mean_bias_(w_.mean_bias, latent_),
      log_variance_(w_.log_variance, latent_ * width_),
      log_variance_bias_(w_.log_variance_bias, latent_),
      hidden_(w_.hidden, latent_ * width_),
      hidden_bias_(w_.hidden_bias, latent_ > 0 ? width_ : 0),
      decoder_(w_.decoder, items_ * width_),
      decoder_bias_(w_.decoder_bias, items_),
      workers_(threads) {
  if (cosine()) {
    unit_decoder_.resize(Size(items_, width_));
    decoder_lengths_.resize(Size(items_));
  }
  if (bfloat16_) decoder_half_.resize(Size(items_, width_));
  Unify(0, items_);
}

void AutoencoderTrainer::Keep(TrainingState* state) {
  state->Value("adam.steps", &steps_);
  const std::pair<const char*, Learned*> all[] = {
      {"encoder", &encoder_},
      {"encoder_bias", &encoder_bias_},
      {"mean", &mean_},
      {"mean_bias", &mean_bias_},
      {"log_variance", &log_variance_},
      {"log_variance_bias", &log_variance_bias_},
      {"hidden", &hidden_},
      {"hidden_bias", &hidden_bias_},
      {"decoder", &decoder_},
      {"decoder_bias", &decoder_bias_}};
  for (const auto& [name, learned] : all) {
    state->Values(absl::StrCat("adam.first.", name), &learned->first);
    state->Values(absl::StrCat("adam.second.", name), &learned->second);
  }
  if (state->restores()) Unify(0, items_);
}

// Makes of some rows of the decoder what logits are made with.
void AutoencoderTrainer::Unify(int64_t begin, int64_t end) {
  const size_t at = Size(begin, width_), size = Size(end - begin, width_);
  if (cosine()) {
    std::copy_n(w_.decoder + at, size, unit_decoder_.data() + at);
    for (int64_t i = begin; i < end; ++i) {
      decoder_lengths_[Size(i)] =
          Stretch(1, Size(width_), unit_decoder_.data() + i * width_);
    }
  }
  if (bfloat16_) ToBfloat16(decoder() + at, size, decoder_half_.data() + at);
}

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
  if (cosine()) encoded_lengths_.resize(Size(users));
  if (latent_ > 0) {
    for (auto* const rows : {&z_, &log_var_, &sample_, &d_z_, &d_log_var_}) {
      rows->resize(Size(users, latent_));
    }
    for (auto* const rows : {&decoded_, &d_decoded_}) {
      rows->resize(Size(users, width_));
    }
  }
  if (bfloat16_) {
    d_logits_half_.resize(Size(users, items_));
    last_half_.resize(Size(users, width_));
  } else {
    logits_.resize(Size(users, items_));
  }
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
  for (int64_t u = begin; u < end; ++u) {
    Encode(batch, u);
    losses_[Size(u)] = 0;
  }
  if (latent_ > 0) Sample(batch, rates.beta, begin, end);
  Decode(batch, begin, end);
  if (latent_ > 0) LatentGradient(batch, rates.beta, begin, end);
}

// From the last hidden layer to the logits, their gradient, and back.
void AutoencoderTrainer::Decode(const AutoencoderBatch& batch, int64_t begin,
                                int64_t end) {
  const int64_t n = end - begin;
  const bool deep = latent_ > 0;
  const float* const last =
      (deep ? decoded_ : encoded_).data() + begin * width_;
  float* const d_last =
      (deep ? d_decoded_ : d_encoded_).data() + begin * width_;
  if (bfloat16_) {
    Bfloat16* const half = last_half_.data() + begin * width_;
    Bfloat16* const d_logits = d_logits_half_.data() + begin * items_;
    thread_local std::vector<float> logits;
    logits.resize(Size(n, items_));
    ToBfloat16(last, Size(n, width_), half);
    Product({half, n, width_}, {decoder_half_.data(), items_, width_, true},
            logits.data());
    for (int64_t i = 0; i < n; ++i) {
      Score(batch, begin + i, logits.data() + i * items_);
    }
    ToBfloat16(logits.data(), logits.size(), d_logits);
    Product({d_logits, n, items_}, {decoder_half_.data(), items_, width_},
            d_last);
  } else {
    float* const logits = logits_.data() + begin * items_;
    Product({last, n, width_}, {decoder(), items_, width_, true}, logits);
    for (int64_t i = 0; i < n; ++i) {
      Score(batch, begin + i, logits + i * items_);
    }
    Product({logits, n, items_}, {decoder(), items_, width_}, d_last);
  }
  if (deep) {
    TanhGradient(last, Size(n, width_), d_last);
  } else {
    EncoderGradient(begin, end);
  }
}

// From the gradient by what is encoded to that by the encoder's sums.
void AutoencoderTrainer::EncoderGradient(int64_t begin, int64_t end) {
  const size_t width = Size(width_);
  const float* const encoded = encoded_.data() + begin * width_;
  float* const d_encoded = d_encoded_.data() + begin * width_;
  if (!cosine()) {
    TanhGradient(encoded, Size(end - begin, width_), d_encoded);
    return;
  }
  for (size_t i = 0; i < Size(end - begin); ++i) {
    StretchGradient(encoded + i * width, 1 / w_.temperature,
                    encoded_lengths_[Size(begin) + i], width,
                    d_encoded + i * width);
  }
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
  if (cosine()) {
    encoded_lengths_[Size(user)] =
        Stretch(1 / w_.temperature, Size(width_), out);
  } else {
    AddBiasTanh(w_.encoder_bias, Size(width_), out);
  }
}

// From the encoded to the decoded; adds the KL term to the losses.
void AutoencoderTrainer::Sample(const AutoencoderBatch& batch, double beta,
                                int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  const MatrixView<float> encoded{encoded_.data() + begin * width_, n, width_};
  float* const z = z_.data() + begin * latent_;
  float* const v = log_var_.data() + begin * latent_;
  float* const sample = sample_.data() + begin * latent_;
  const float* const noise = batch.noise + begin * latent_;
  Product(encoded, {w_.mean, latent_, width_, true}, z);
  Product(encoded, {w_.log_variance, latent_, width_, true}, v);
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
  Product({sample, n, latent_}, {w_.hidden, width_, latent_, true}, decoded);
  for (int64_t i = 0; i < n; ++i) {
    AddBiasTanh(w_.hidden_bias, Size(width_), decoded + i * width_);
  }
}

// Makes of a user's logits the gradient of the loss by them.
void AutoencoderTrainer::Score(const AutoencoderBatch& batch, int64_t user,
                               float* logits) {
  const size_t begin = Size(batch.offsets[Size(user)]);
  const size_t end = Size(batch.offsets[Size(user + 1)]);
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
  Product({d_decoded_.data() + begin * width_, n, width_},
          {w_.hidden, width_, latent_}, d_z);
  for (int64_t i = 0; i < n * latent_; ++i) {
    const float spread = std::exp(0.5f * v[i]);
    d_v[i] =
        0.5f * (d_z[i] * noise[i] * spread + share * (spread * spread - 1));
    d_z[i] += share * z[i];
  }
  float* const d_encoded = d_encoded_.data() + begin * width_;
  Product({d_z, n, latent_}, {w_.mean, latent_, width_}, d_encoded);
  Product({d_v, n, latent_}, {w_.log_variance, latent_, width_}, d_encoded,
          /*add=*/true);
  EncoderGradient(begin, end);
}

// Moves what belongs to some items: rows of encoder and decoder, and biases.
void AutoencoderTrainer::LearnItems(const AdamRates& rates, int64_t users,
                                    int64_t begin, int64_t end) {
  thread_local std::vector<float> gradient;
  const int64_t n = end - begin;
  gradient.assign(Size(n), 0);
  for (int64_t u = 0; u < users; ++u) {
    const int64_t at = u * items_ + begin;
    if (bfloat16_) {
      AddBfloat16(d_logits_half_.data() + at, Size(n), gradient.data());
    } else {
      AddScaled(logits_.data() + at, 1, Size(n), gradient.data());
    }
  }
  Move(rates, gradient, begin, &decoder_bias_);
  gradient.resize(Size(n, width_));
  if (bfloat16_) {
    Product({d_logits_half_.data() + begin, users, n, true, items_},
            {last_half_.data(), users, width_}, gradient.data());
  } else {
    Product({logits_.data() + begin, users, n, true, items_},
            {(latent_ > 0 ? decoded_ : encoded_).data(), users, width_},
            gradient.data());
  }
  for (int64_t i = begin; i < end && cosine(); ++i) {
    StretchGradient(unit_decoder_.data() + i * width_, 1,
                    decoder_lengths_[Size(i)], Size(width_),
                    gradient.data() + (i - begin) * width_);
  }
  Move(rates, gradient, begin * width_, &decoder_);
  Unify(begin, end);
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
  if (layer == 0 && cosine()) return;
  std::vector<float> gradient(Size(it.out), 0);
  for (int64_t u = 0; u < users; ++u) {
    AddScaled(it.d_out.data() + u * it.out, 1, Size(it.out), gradient.data());
  }
  Move(rates, gradient, 0, it.bias);
  if (it.matrix == nullptr) return;
  gradient.resize(Size(it.out, it.width));
  Product({it.d_out.data(), users, it.out, true},
          {it.in.data(), users, it.width}, gradient.data());
  Move(rates, gradient, 0, it.matrix);
}

void AutoencoderTrainer::Move(const AdamRates& rates,
                              const std::vector<float>& gradient, int64_t begin,
                              Learned* what) {
  AdamStep(rates, gradient.data(), gradient.size(), what->weights + begin,
           what->first.data() + begin, what->second.data() + begin);
}

void AutoencoderTrainer::Product(const MatrixView<float>& a,
                                 const MatrixView<float>& b, float* out,
                                 bool add) {
  bool done = false;
  if (bfloat16_) {
    thread_local std::vector<Bfloat16> left, right;
    done = Multiply(Rounded(a, &left), Rounded(b, &right), out, add);
  } else {
    done = Multiply(a, b, out, add);
  }
  if (!done) out_of_memory_ = true;
}

void AutoencoderTrainer::Product(const MatrixView<Bfloat16>& a,
                                 const MatrixView<Bfloat16>& b, float* out) {
  if (!Multiply(a, b, out)) out_of_memory_ = true;
}

}  // namespace nearline::model
