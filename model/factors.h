// What trainers of matrix factorizations share: who goes with whom, users
// folded in, and what a generation keeps of it.
#ifndef NEARLINE_MODEL_FACTORS_H_
#define NEARLINE_MODEL_FACTORS_H_

#include <optional>
#include <string>
#include <vector>

#include "model/fold_in.h"
#include "model/torch_training.h"

namespace nearline::model {

// For each row the others that it goes with: users' items, or items' users.
struct Links {
  std::vector<size_t> begins = {0};
  std::vector<uint32_t> others;
  std::vector<float> weights;

  size_t size() const { return begins.size() - 1; }
  absl::Span<const uint32_t> OthersOf(size_t row) const {
    return {others.data() + begins[row], begins[row + 1] - begins[row]};
  }
  absl::Span<const float> WeightsOf(size_t row) const {
    return {weights.data() + begins[row], begins[row + 1] - begins[row]};
  }
};
Links LinksOf(const features::Interactions& users);
// With `others` rows.
Links Transposed(const Links& links, size_t others);

// Vectors of one length, row after row.
struct Factors {
  std::vector<float> values;
  size_t dim = 0;

  size_t rows() const { return values.size() / dim; }
  const float* operator[](size_t row) const {
    return values.data() + row * dim;
  }
  float* operator[](size_t row) { return values.data() + row * dim; }
};
// Normal, of length `length` on average.
Factors RandomFactors(size_t rows, int dim, double length, uint64_t seed);
// Of the model's items: a warm start's, or else random ones.
Factors StartItems(const std::string& model, const TrainingSet& set,
                   const Parameters& parameters, const TrainOptions& options);

// The warm start's fold-in; none when there is none of this width.
std::optional<FoldIn> WarmFoldIn(const std::string& model, int64_t dim,
                                 const TrainOptions& options);

// How rows' vectors follow from the vectors they go with; see FoldIn.
struct FoldInRule {
  double unobserved_weight = 0;
  double unobserved_target = 0;
  double ridge = 0;

  double Base(size_t rows) const {
    return unobserved_weight * static_cast<double>(rows);
  }
  std::vector<float> Gram(const Factors& rows) const;
  std::vector<float> Pull(const Factors& rows) const;
  FoldIn Over(const Factors& rows) const {
    return {Gram(rows), Pull(rows), ridge, Base(rows.rows())};
  }
};

// One vector for each row of `links`, from `rows`, which are the others.
void FoldInAll(const FoldIn& fold_in, const Links& links, const Factors& rows,
               int threads, Factors* out);

// Logits [users, items] of a batch whose users are folded in.
torch::Tensor FoldedLogits(const Bags& bags, const Factors& items,
                           const FoldInRule& rule, int threads);

// A generation's tensors for FoldInEncoder and a scan over the items.
Tensors ExportFactors(const std::string& model, const Factors& items,
                      const FoldInRule& rule);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_FACTORS_H_
