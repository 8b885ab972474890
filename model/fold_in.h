#ifndef NEARLINE_MODEL_FOLD_IN_H_
#define NEARLINE_MODEL_FOLD_IN_H_

#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "model/folding.h"

namespace nearline::model {

// The vector p that best explains a weighted history h under rows v that are
// held still: weighted least squares towards 1 for what is in the history, and
// towards t for everything, under a ridge that grows with the history (Hu et
// al., ICDM 2008; Rendle et al., RecSys 2022):
//   sum_h w_h (p . v_h - 1)^2 + sum_all a (p . v - t)^2
//     + ridge (W + base) |p|^2,
// W the sum of w_h. It is the solution of a linear system of D equations.
class FoldIn final : public Folding {
 public:
  // gram: a V^T V, [D, D]; pull: a t V^T 1, [D].
  FoldIn(std::vector<float> gram, std::vector<float> pull, double ridge,
         double base)
      : gram_(std::move(gram)),
        pull_(std::move(pull)),
        ridge_(ridge),
        base_(base) {}
  int dim() const override { return static_cast<int>(pull_.size()); }
  // O(n D^2 + D^3 / 3).
  void Solve(absl::Span<const float* const> rows,
             absl::Span<const float> weights, float* out) const override;
  // Brings `out`, which is anything, closer to the solution by steps of
  // conjugate gradients (Takacs et al., RecSys 2011): O(n D + D^2) each.
  void Approach(absl::Span<const float* const> rows,
                absl::Span<const float> weights, int steps, float* out) const;

  // Rows [n, D] whose sum over a history is near its solution, and is it where
  // the history explains away as much as `events` of the average do, of which
  // item i has `counts[i]`, > 0 in sum; without the pull. `rows` are [n, D].
  std::vector<float> Gathered(const std::vector<float>& rows,
                              const std::vector<float>& counts,
                              double events) const;

 private:
  // The sum of `weights` and base, times ridge.
  float Ridge(absl::Span<const float> weights) const;
  // out = (gram + sum_h w_h v_h v_h^T + ridge) x.
  void Apply(absl::Span<const float* const> rows,
             absl::Span<const float> weights, float ridge, const float* x,
             float* out) const;

  std::vector<float> gram_;
  std::vector<float> pull_;
  double ridge_;
  double base_;
};

// a V^T V, [D, D], of row-major rows [n, D].
std::vector<float> ScaledGram(const std::vector<float>& rows, int dim,
                              double a);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_FOLD_IN_H_
