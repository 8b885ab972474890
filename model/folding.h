// Users of matrix factorization: not in a generation, but computed from their
// histories (docs/decisions/0010).
#ifndef NEARLINE_MODEL_FOLDING_H_
#define NEARLINE_MODEL_FOLDING_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/status.h"
#include "model/item_table.h"
#include "model/scoring.h"
#include "model/tensors.h"

namespace nearline::model {

// How a user's vector follows from a weighted history of rows that are held
// still.
class Folding {
 public:
  virtual ~Folding() = default;
  virtual int dim() const = 0;
  // rows[h]: that of the h-th event, [D]; out: [D].
  virtual void Solve(absl::Span<const float* const> rows,
                     absl::Span<const float> weights, float* out) const = 0;
};

// How the users of a generation's model of D = `dim` are folded in, from the
// tensors named after it: least squares or, where it has these, by a
// LogisticFoldIn. Errors: those of Tensors::Get, INVALID_ARGUMENT naming what
// cannot be.
absl::StatusOr<std::unique_ptr<const Folding>> LoadFolding(
    const std::string& model, int64_t dim, const Tensors& tensors);

class FoldInEncoder final : public Encoder {
 public:
  // `rows` outlives this.
  FoldInEncoder(const ItemTable* rows, std::unique_ptr<const Folding> folding)
      : rows_(*rows), folding_(std::move(folding)) {}
  int dim() const override { return folding_->dim(); }
  absl::Status EncodeFrom(absl::Span<const float* const> sums,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override;

 private:
  const ItemTable& rows_;
  const std::unique_ptr<const Folding> folding_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_FOLDING_H_
