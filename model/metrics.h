#ifndef NEARLINE_MODEL_METRICS_H_
#define NEARLINE_MODEL_METRICS_H_

#include <cstdint>
#include <vector>

namespace nearline::model {

// Metrics of one user's list, with binary relevance: hits[r] tells whether the
// item at rank r (from 0) is wanted, `positives` how many wanted items there
// are in all (> 0). A list shorter than k counts as one filled up with misses.

// sum 1/log2(r + 2) over hits in the first k / the same for min(k, positives)
// hits at the top (Liang 2018).
double Ndcg(const std::vector<bool>& hits, int positives, int k);
// Hits in the first k / min(k, positives) (Liang 2018).
double Recall(const std::vector<bool>& hits, int positives, int k);
// Hits in the first k / positives.
double PlainRecall(const std::vector<bool>& hits, int positives, int k);
// Hits in the first k / k.
double Precision(const std::vector<bool>& hits, int k);
// Harmonic mean of precision and plain recall.
double F1(const std::vector<bool>& hits, int positives, int k);
// 1 if there is a hit in the first k.
double HitRate(const std::vector<bool>& hits, int k);
// Mean over the hits in the first k, and over those missing there, of the
// precision at their rank / min(k, positives).
double AveragePrecision(const std::vector<bool>& hits, int positives, int k);
// 1 / rank (from 1) of the first hit among the first k, or 0.
double ReciprocalRank(const std::vector<bool>& hits, int k);
// Share of the pairs of a wanted and an unwanted candidate of which the wanted
// one comes first. `hits` covers all candidates; wanted ones that are not among
// them come last. 0.5 when there is no such pair.
double Auc(const std::vector<bool>& hits, int positives);
// 0 when the counts are even, near 1 when one has all; 0 without any.
double Gini(std::vector<int64_t> counts);

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
