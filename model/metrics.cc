#include "model/metrics.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace nearline::model {

double Ndcg(const std::vector<bool>& hits, int positives, int k) {
  double gain = 0, ideal = 0;
  const int ranks = std::min(k, static_cast<int>(hits.size()));
  for (int r = 0; r < ranks; ++r) {
    if (hits[static_cast<size_t>(r)]) gain += 1.0 / std::log2(r + 2.0);
  }
  for (int r = 0; r < std::min(k, positives); ++r) {
    ideal += 1.0 / std::log2(r + 2.0);
  }
  return ideal > 0 ? gain / ideal : 0.0;
}

double Recall(const std::vector<bool>& hits, int positives, int k) {
  const auto ranks = static_cast<std::ptrdiff_t>(
      std::min<size_t>(hits.size(), static_cast<size_t>(k)));
  const auto found = std::count(hits.begin(), hits.begin() + ranks, true);
  const int most = std::min(k, positives);
  return most > 0 ? static_cast<double>(found) / most : 0.0;
}

double HitRate(const std::vector<bool>& hits, int k) {
  const auto ranks = static_cast<std::ptrdiff_t>(
      std::min<size_t>(hits.size(), static_cast<size_t>(k)));
  return std::any_of(hits.begin(), hits.begin() + ranks,
                     [](bool hit) { return hit; })
             ? 1.0
             : 0.0;
}

Estimate MeanOf(const std::vector<double>& values) {
  Estimate out;
  if (values.empty()) return out;
  const auto n = static_cast<double>(values.size());
  for (const double v : values) out.mean += v / n;
  double squares = 0;
  for (const double v : values) squares += (v - out.mean) * (v - out.mean);
  out.stderr_ = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
  return out;
}

Interval PairedBootstrap(const std::vector<double>& a,
                         const std::vector<double>& b, double confidence,
                         int rounds, unsigned seed) {
  Random random(seed);
  std::vector<double> means;
  for (int round = 0; round < rounds; ++round) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const size_t j = random.Below(a.size());
      sum += a[j] - b[j];
    }
    means.push_back(sum / static_cast<double>(a.size()));
  }
  std::sort(means.begin(), means.end());
  const double tail = (1.0 - confidence) / 2;
  const auto at = [&](double share) {
    const auto i = static_cast<size_t>(
        share * static_cast<double>(means.size() - 1) + 0.5);
    return means[std::min(i, means.size() - 1)];
  };
  return {at(tail), at(1.0 - tail)};
}

}  // namespace nearline::model
