// What the NCF head of the joint model sees of a candidate beside user and item
// (docs/decisions/0018): what each path of the scan says of it.
#ifndef NEARLINE_MODEL_HEAD_H_
#define NEARLINE_MODEL_HEAD_H_

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/status.h"
#include "model/item_table.h"
#include "model/scoring.h"
#include "model/tensors.h"

namespace nearline::model {

// The ranker's name in a manifest, which begins those of its tensors.
inline constexpr char kHead[] = "head";
// Whether a model that was trained brings one.
inline bool HasHead(const Tensors& tensors) {
  return tensors.Has("head.mlp.last");
}

// Of its numbers, the first P + 2 are what a path's part of the score exceeds
// that of the mean item by, for P paths, then the item's popularity and the
// length of the history, both as logarithms, all brought to mean 0 and spread
// 1; then come the products of each path's with the length. Immutable.
class HeadInputs {
 public:
  struct Parts {
    std::vector<size_t> widths;       // of the query's parts, one a path, >= 2
    const ItemTable* rows = nullptr;  // scanned, [N, D]
    const ItemTable* bias = nullptr;  // [N, 1]; goes with the first path
    const ItemTable* popularity = nullptr;  // [N, 1]
    std::vector<float> mean_row;            // [D], of the base; see SetMeans
    float mean_bias = 0;
    std::vector<float> mean, scale;  // [P + 2]
    size_t least = 1;                // items of a history that it knows to read

    // The mean row and bias, of the tables that are there.
    void SetMeans();
  };
  explicit HeadInputs(Parts parts) : p_(std::move(parts)) {}
  // Of the retriever `model` and the tensors "head.*". The tables outlive this.
  // Errors: as Tensors::Get has them, and INVALID_ARGUMENT for what does not go
  // with the encoder's `dim`.
  static absl::StatusOr<HeadInputs> Load(const std::string& model, int dim,
                                         const ItemTables& tables,
                                         const Tensors& tensors);

  bool Knows(const History& history) const {
    return history.rows.size() >= p_.least;
  }
  size_t paths() const { return p_.widths.size(); }
  size_t size() const { return 2 * paths() + 2; }
  // Of a shortlist with the scan's scores, whose part that no other path has is
  // the second one's: [shortlist.size(), size()].
  void Of(const History& history, const float* query,
          absl::Span<const ScoredRow> shortlist, std::vector<float>* out) const;

  // The widths of the parts that a query of `model` has.
  static std::vector<size_t> WidthsOf(const std::string& model,
                                      const ItemTables& tables);

 private:
  Parts p_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_HEAD_H_
