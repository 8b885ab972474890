#include "model/metrics.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/random.h"

namespace nearline::model {

namespace {

int64_t HitsIn(const std::vector<bool>& hits, int k) {
  const auto ranks = static_cast<std::ptrdiff_t>(
      std::min<size_t>(hits.size(), static_cast<size_t>(k)));
  return std::count(hits.begin(), hits.begin() + ranks, true);
}

// 1 / log2(r + 2); most cutoffs are in the table.
double Discount(int r) {
  static const auto* const table = [] {
    auto* const values = new std::array<double, 1024>;
    for (size_t i = 0; i < values->size(); ++i) {
      (*values)[i] = 1 / std::log2(static_cast<double>(i) + 2);
    }
    return values;
  }();
  const auto i = static_cast<size_t>(r);
  return i < table->size() ? (*table)[i] : 1 / std::log2(r + 2.0);
}

}  // namespace

double Ndcg(const std::vector<bool>& hits, int positives, int k) {
  double gain = 0, ideal = 0;
  const int ranks = std::min(k, static_cast<int>(hits.size()));
  for (int r = 0; r < ranks; ++r) {
    if (hits[static_cast<size_t>(r)]) gain += Discount(r);
  }
  for (int r = 0; r < std::min(k, positives); ++r) ideal += Discount(r);
  return ideal > 0 ? gain / ideal : 0.0;
}

double Recall(const std::vector<bool>& hits, int positives, int k) {
  const int most = std::min(k, positives);
  return most > 0 ? static_cast<double>(HitsIn(hits, k)) / most : 0.0;
}

double PlainRecall(const std::vector<bool>& hits, int positives, int k) {
  return static_cast<double>(HitsIn(hits, k)) / positives;
}

double Precision(const std::vector<bool>& hits, int k) {
  return static_cast<double>(HitsIn(hits, k)) / k;
}

double F1(const std::vector<bool>& hits, int positives, int k) {
  // 2 p r / (p + r) with p = h / k and r = h / positives.
  return 2.0 * static_cast<double>(HitsIn(hits, k)) / (k + positives);
}

double HitRate(const std::vector<bool>& hits, int k) {
  return HitsIn(hits, k) > 0 ? 1.0 : 0.0;
}

double AveragePrecision(const std::vector<bool>& hits, int positives, int k) {
  double sum = 0, found = 0;
  const size_t ranks = std::min(hits.size(), static_cast<size_t>(k));
  for (size_t r = 0; r < ranks; ++r) {
    if (hits[r]) sum += ++found / static_cast<double>(r + 1);
  }
  return sum / std::min(k, positives);
}

double ReciprocalRank(const std::vector<bool>& hits, int k) {
  const auto first = std::find(hits.begin(), hits.end(), true) - hits.begin();
  return first < std::min<std::ptrdiff_t>(k, std::ssize(hits))
             ? 1.0 / static_cast<double>(first + 1)
             : 0.0;
}

double Auc(const std::vector<bool>& hits, int positives) {
  const auto wanted = static_cast<double>(positives);
  const auto found =
      static_cast<double>(std::count(hits.begin(), hits.end(), true));
  const double unwanted = static_cast<double>(hits.size()) - found;
  if (wanted == 0 || unwanted == 0) return 0.5;
  double before = 0, right = 0;  // unwanted ones so far; pairs in order
  for (const bool hit : hits) {
    if (hit) {
      right += unwanted - before;
    } else {
      ++before;
    }
  }
  return right / (wanted * unwanted);
}

double Gini(std::vector<int64_t> counts) {
  std::sort(counts.begin(), counts.end());
  const auto n = static_cast<double>(counts.size());
  double sum = 0, weighted = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const auto count = static_cast<double>(counts[i]);
    sum += count;
    weighted += (2 * static_cast<double>(i + 1) - n - 1) * count;
  }
  return sum > 0 ? weighted / (n * sum) : 0.0;
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
