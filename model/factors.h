// What trainers of matrix factorizations share: vectors, users folded in, and
// what a generation keeps of it.
#ifndef NEARLINE_MODEL_FACTORS_H_
#define NEARLINE_MODEL_FACTORS_H_

#include <memory>
#include <string>
#include <vector>

#include "model/fold_in.h"
#include "model/torch_training.h"

namespace nearline::model {

// Items' users in place of users' items: `items` rows.
features::Interactions Transposed(const features::Interactions& data,
                                  int64_t items);

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

// The warm start's; none when there is none of this width.
std::unique_ptr<const Folding> WarmFolding(const std::string& model,
                                           int64_t dim,
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

// iALS's, of its parameters.
FoldInRule IalsRule(const TrainingSet& set, const Parameters& parameters);

// One vector for each user of `data`, from the `rows` of what they have: those
// of `out`, where it has any, brought closer by `steps`; with 0 the solutions.
void FoldInAll(const FoldIn& fold_in, const features::Interactions& data,
               const Factors& rows, int steps, Factors* out);
void FoldInAll(const Folding& folding, const features::Interactions& data,
               const Factors& rows, Factors* out);

// Logits [users, items] of a batch whose users are folded in.
torch::Tensor FoldedLogits(const Bags& bags, const Factors& items,
                           const Folding& folding);

// A generation's tensors for FoldInEncoder and a scan over the items: these,
// and what loads as the rule, or as a LogisticFoldIn of `drawn` rows.
Tensors ExportFactors(const std::string& model, const Factors& items,
                      const FoldInRule& rule);
Tensors ExportFactors(const std::string& model, const Factors& items,
                      const std::vector<float>& drawn, double negatives,
                      double ridge);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_FACTORS_H_
