#ifndef NEARLINE_MODEL_LOGISTIC_FOLD_IN_H_
#define NEARLINE_MODEL_LOGISTIC_FOLD_IN_H_

#include <vector>

#include "absl/types/span.h"
#include "model/folding.h"

namespace nearline::model {

// The vector p under which a weighted history h is likeliest against rows s
// drawn from all, each event against `negatives` of them (the loss of Rendle et
// al., RecSys 2020, with rows v held still):
//   1 / W sum_h w_h log(1 + e^(-p . v_h))
//     + negatives mean_s log(1 + e^(p . v_s)) + ridge n / (2 W) |p|^2,
// n the events and W the sum of w_h; 0 for no history. Found to some
// thousandths, by about ten products with all of the rows, O((n + S) D) each.
class LogisticFoldIn final : public Folding {
 public:
  // drawn: [S, D], S > 0; ridge > 0.
  LogisticFoldIn(std::vector<float> drawn, int dim, double negatives,
                 double ridge);
  int dim() const override { return dim_; }
  void Solve(absl::Span<const float* const> rows,
             absl::Span<const float> weights, float* out) const override;

 private:
  struct History {
    absl::Span<const float* const> rows;
    absl::Span<const float> shares;  // sum 1
    float ridge = 0;
  };
  // The gradient at p; `out` is not p.
  void Gradient(const History& history, const float* p, float* out) const;

  const int dim_;
  const std::vector<float> drawn_;
  const float negatives_, ridge_;
  // Cholesky's factor of the part of the second derivative that all users
  // share, nearly: the drawn rows' and the ridge, or more than it.
  std::vector<float> curvature_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_LOGISTIC_FOLD_IN_H_
