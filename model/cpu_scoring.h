// Encoder, scanner and ranker on the CPU.
#ifndef NEARLINE_MODEL_CPU_SCORING_H_
#define NEARLINE_MODEL_CPU_SCORING_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
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

// Scanner::Score by rows [N, D] and bias [N, 1].
void ScoreRows(const ItemTable& table, const ItemTable& bias,
               const float* query, absl::Span<ScoredRow> rows);

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

// The matrix product over all items, base and tail, in blocks that stay in
// cache, top-k fused into it; what fills no block yet is scored row by row. All
// that is within the product's error of the k-th is scored again in float32; of
// a shortlist only what may or may not belong to it.
class MatrixScanner final : public Scanner {
 public:
  static constexpr Row kSmallestTailBlock = 8;
  // Where rounding takes more of the rows (a few values dwarf the rest), it
  // would nominate too many; 0.01 is usual.
  static constexpr float kMostLoss = 0.03f;

  // The tables outlive this: rows [N, D] and bias [N, 1].
  static absl::StatusOr<std::unique_ptr<MatrixScanner>> Create(
      const ItemTable* rows, const ItemTable* bias,
      PackedMatrix::Precision precision = PackedMatrix::Fastest());
  absl::Status Scan(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks,
                    absl::Span<const int> ks,
                    std::vector<std::vector<ScoredRow>>* best) const override;
  absl::Status Shortlist(
      absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
      absl::Span<const int> ks,
      std::vector<std::vector<ScoredRow>>* best) const override;
  // As Scan, among the rows that came after training alone.
  absl::Status ScanLater(absl::Span<const float> queries,
                         absl::Span<const RowMask* const> masks,
                         absl::Span<const int> ks,
                         std::vector<std::vector<ScoredRow>>* best) const;
  void Score(const float* query, absl::Span<ScoredRow> rows) const override {
    ScoreRows(rows_, bias_, query, rows);
  }
  void Extend(Row rows) override;
  ScanReport report() const override {
    return {.precision = precision_ == PackedMatrix::Precision::kFloat32
                             ? "float32"
                             : "int8"};
  }

 private:
  // Rows of the tail from `first` on.
  struct TailBlock {
    Row first;
    PackedMatrix matrix;
    std::vector<float> bias;
    float max_bias;  // by magnitude
    Row end() const { return first + static_cast<Row>(bias.size()); }
  };
  // In order of row, without gaps.
  using Tail = std::vector<std::shared_ptr<const TailBlock>>;
  // Rows that one product covers: a block of the base, or of the tail.
  struct Part {
    const PackedMatrix* matrix;
    int block;
    const float* bias;
    Row first;
  };

  struct Kind {
    bool base;     // all rows, or those that came after training
    bool ordered;  // Scan, or Shortlist
  };
  // Any number of queries.
  absl::Status ScanAll(Kind kind, absl::Span<const float> queries,
                       absl::Span<const RowMask* const> masks,
                       absl::Span<const int> ks,
                       std::vector<std::vector<ScoredRow>>* best) const;
  // At most kMaxBatch queries; appends to `best`.
  void ScanBatch(Kind kind, const float* queries,
                 absl::Span<const RowMask* const> masks,
                 absl::Span<const int> ks,
                 std::vector<std::vector<ScoredRow>>* best) const;
  std::vector<Part> Parts(bool base, const Tail& tail) const;
  void ScanParts(absl::Span<const Part> parts,
                 const PackedMatrix::Queries& queries,
                 std::vector<TopK>* top) const;
  void ScanRows(Row row, const float* queries,
                absl::Span<const RowMask* const> masks,
                std::vector<TopK>* top) const;
  absl::StatusOr<std::shared_ptr<const TailBlock>> Pack(Row first,
                                                        Row end) const;
  std::shared_ptr<const Tail> tail() const {
    MutexLock lock(&mu_);
    return tail_;
  }
  // The k best of the nominees, whose scores err by at most `bound` and the
  // first k of which have the k best, by exact score.
  std::vector<ScoredRow> Rescore(const float* query, size_t k, float bound,
                                 std::vector<ScoredRow> nominees) const;
  // The same rows, of which only those are scored again that need it.
  std::vector<ScoredRow> Choose(const float* query, size_t k, float bound,
                                std::vector<ScoredRow> nominees) const;

  MatrixScanner(const ItemTable* rows, const ItemTable* bias,
                PackedMatrix::Precision precision, PackedMatrix matrix);
  const ItemTable& rows_;
  const ItemTable& bias_;
  const float max_bias_;  // by magnitude
  const PackedMatrix::Precision precision_;
  const PackedMatrix matrix_;
  mutable Mutex mu_;
  std::shared_ptr<const Tail> tail_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<Tail>();
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CPU_SCORING_H_
