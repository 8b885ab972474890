// Encoders and the ranker on the CPU.
#ifndef NEARLINE_MODEL_CPU_SCORING_H_
#define NEARLINE_MODEL_CPU_SCORING_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/head.h"
#include "model/item_table.h"
#include "model/packed_matrix.h"
#include "model/relu_layer.h"
#include "model/scoring.h"
#include "model/tensors.h"

namespace nearline::model {

// A constant query: popularity is its item table.
class ConstantEncoder final : public Encoder {
 public:
  int dim() const override { return 1; }
  absl::Status EncodeFrom(absl::Span<const float* const> /*sums*/,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override {
    queries->assign(histories.size(), 1.0f);
    return absl::OkStatus();
  }
};

// x -> scale * sum_i x_i E_i, out: [D]; E is `table`.
void GatherSum(const ItemTable& table, const History& history, float scale,
               float* out);

// x -> h = tanh(sum_i x_i E_i + b), x the L2-normalized weights, the first
// layer of an autoencoder over a history, as a gather of rows; or the sum's
// direction alone.
class HistoryLayer {
 public:
  // `table` [N, D] outlives this; bias is [D].
  HistoryLayer(const ItemTable* table, std::vector<float> bias)
      : table_(*table), bias_(std::move(bias)) {}
  // |h| = length, or 0 where the sum is.
  HistoryLayer(const ItemTable* table, float length)
      : table_(*table), length_(length) {}
  int dim() const { return static_cast<int>(table_.dim()); }
  const ItemTable* table() const { return &table_; }
  // `sum` is sum_i w_i E_i by the weights w as they are, or null; out: [D].
  void Apply(const History& history, const float* sum, float* out) const;

 private:
  const ItemTable& table_;
  const std::vector<float> bias_;  // empty: a direction
  const float length_ = 0;
};

// y = x W^T + b, W [out, in].
class DenseLayer {
 public:
  static absl::StatusOr<DenseLayer> Create(const std::vector<float>& weight,
                                           std::vector<float> bias, int in);
  int in() const { return matrix_.dim(); }
  int out() const { return matrix_.rows(); }
  // x [m, in] -> y [m, out], without the bias.
  void Product(const float* x, int m, float* y) const {
    matrix_.Multiply(x, m, y);
  }
  const std::vector<float>& bias() const { return bias_; }

 private:
  DenseLayer(PackedMatrix matrix, std::vector<float> bias)
      : matrix_(std::move(matrix)), bias_(std::move(bias)) {}
  PackedMatrix matrix_;
  std::vector<float> bias_;
};

// Mult-VAE (Liang 2018) up to the last hidden layer, at the mean:
//   h = tanh(sum_i x_i E_i + b1), mu = W2 h + b2, q = tanh(W3 mu + b3).
class MultVaeEncoder final : public Encoder {
 public:
  MultVaeEncoder(HistoryLayer first, DenseLayer mean, DenseLayer hidden)
      : first_(std::move(first)),
        mean_(std::move(mean)),
        hidden_(std::move(hidden)) {}
  int dim() const override { return hidden_.out(); }
  std::vector<const ItemTable*> summed() const override {
    return {first_.table()};
  }
  absl::Status EncodeFrom(absl::Span<const float* const> sums,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override;

 private:
  const HistoryLayer first_;
  const DenseLayer mean_;
  const DenseLayer hidden_;
};

// sum_l w_l * e_(l-th newest) / sqrt(n), element by element, over the n newest
// rows of a history, at most L: what it says of what comes next.
class RecentLayer {
 public:
  // `table` [N, D] outlives this; `positions` w are [L, D].
  RecentLayer(const ItemTable* table, std::vector<float> positions)
      : table_(*table), positions_(std::move(positions)) {}
  int dim() const { return static_cast<int>(table_.dim()); }
  void Apply(const History& history, float* out) const;  // out: [D]

 private:
  const ItemTable& table_;
  const std::vector<float> positions_;
};

// A neural part h = tanh(sum_i x_i E_i + b) over the normalized history, a
// linear part sum_i x_i L_i over the history as it is, a part of the newest
// items, or several side by side:
// - Mult-DAE, which is the first alone; with a temperature t, a direction of
//   length 1 / t;
// - NeuMF's user side (docs/decisions/0003), the first, or both: its GMF branch
//   is the dot product of h * w with an item's row, and w is folded into the
//   rows;
// - EASE, ELSA and nearest neighbours, which are the second alone;
// - the joint model, which is both, with the third where it helps.
class HistoryEncoder final : public Encoder {
 public:
  // `linear`, when there is one, outlives this.
  HistoryEncoder(std::optional<HistoryLayer> neural, const ItemTable* linear,
                 std::optional<RecentLayer> recent = {})
      : neural_(std::move(neural)),
        linear_(linear),
        recent_(std::move(recent)) {}
  int dim() const override {
    return (neural_ ? neural_->dim() : 0) +
           (linear_ ? static_cast<int>(linear_->dim()) : 0) +
           (recent_ ? recent_->dim() : 0);
  }
  std::vector<const ItemTable*> summed() const override;
  absl::Status EncodeFrom(absl::Span<const float* const> sums,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override;

 private:
  const std::optional<HistoryLayer> neural_;
  const ItemTable* const linear_;
  const std::optional<RecentLayer> recent_;
};

// The layer of the newest items of a model, none when it has no such table.
// Errors: as Tensors::Get has them.
absl::StatusOr<std::optional<RecentLayer>> LoadRecent(const std::string& model,
                                                      const ItemTables& tables,
                                                      const Tensors& tensors);

// The whole network: GMF branch plus an MLP whose first layer is split into a
// user part, computed once, and an item part, computed at load:
//   score = g . v_i + c_i + w . relu(... relu(W2 relu(U h + b + a_i) + b2) ...)
// where g is h, or h and beside it the sum of the history's rows of a table.
// As the head of the joint model, the scan's score is in the place of g . v_i +
// c_i, and what its paths say, x, in the first layer: U h + b + a_i + P x.
class NeuMfRanker final : public Ranker {
 public:
  struct Parts {
    // v, [N, D], and c, [N, 1]; both null: the MLP alone.
    const ItemTable* gmf = nullptr;
    const ItemTable* gmf_bias = nullptr;
    const ItemTable* linear = nullptr;  // whose rows are summed; may be null
    const ItemTable* mlp;               // a, [N, H1]
    std::optional<HeadInputs> inputs;   // x; or none
  };
  // A layer of the MLP, with its bias.
  struct Layer {
    ReluLayer matrix;
    std::vector<float> bias;  // [matrix.out()]
  };
  // layers: P, [H1, inputs], or [H1, 0] without, whose bias is the user's; W2,
  // W3, ... last: w, [H_last].
  NeuMfRanker(HistoryLayer first, DenseLayer user, std::vector<Layer> layers,
              std::vector<float> last, Parts parts);
  bool Ranks(const History& history) const override {
    return parts_.inputs.has_value() ? parts_.inputs->Knows(history)
                                     : Ranker::Ranks(history);
  }
  bool ReadsScores() const override { return parts_.inputs.has_value(); }
  absl::Status Score(const History& history, const float* query,
                     const float* user, absl::Span<const ScoredRow> shortlist,
                     std::vector<float>* scores) const override;
  // U h + b, padded as rows of the first layer are, then what g . v_i reads.
  size_t user_dim() const override { return layers_[0].matrix.stride() + gmf_; }
  std::vector<const ItemTable*> summed() const override;
  void ReadUser(const History& history, const float* sums,
                float* user) const override;

 private:
  const HistoryLayer first_;
  const DenseLayer user_;      // U, b
  std::vector<Layer> layers_;  // biases and last_ padded as rows are
  std::vector<float> last_;
  const Parts parts_;
  const size_t gmf_;  // length of g; 0: the MLP alone
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CPU_SCORING_H_
