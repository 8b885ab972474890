#ifndef NEARLINE_MODEL_METRICS_H_
#define NEARLINE_MODEL_METRICS_H_

#include <vector>

namespace nearline::model {

// Metrics of one user's list, with binary relevance: hits[r] tells whether the
// item at rank r (from 0) is wanted, `positives` how many wanted items there
// are in all (> 0). Lists shorter than k are taken as they are.

// sum 1/log2(r + 2) over hits in the first k / the same for min(k, positives)
// hits at the top (Liang 2018).
double Ndcg(const std::vector<bool>& hits, int positives, int k);
// Hits in the first k / min(k, positives) (Liang 2018).
double Recall(const std::vector<bool>& hits, int positives, int k);
// 1 if there is a hit in the first k.
double HitRate(const std::vector<bool>& hits, int k);

struct Estimate {
  double mean = 0;
  double stderr_ = 0;  // of the mean, over users
};
Estimate MeanOf(const std::vector<double>& values);

// Paired bootstrap over users: the lower and upper end of the central interval
// of the mean of a[i] - b[i]. Deterministic by seed. Sizes are equal, > 0.
struct Interval {
  double low = 0;
  double high = 0;
};
Interval PairedBootstrap(const std::vector<double>& a,
                         const std::vector<double>& b, double confidence,
                         int rounds, unsigned seed);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_METRICS_H_
