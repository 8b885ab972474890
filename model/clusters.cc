#include "model/clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "model/kernels.h"
#include "model/packed_matrix.h"
#include "model/selection_kernels.h"

namespace nearline::model {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 64;  // of StridedMaxima

float Length(const float* x, size_t d) { return std::sqrt(Dot(x, x, d)); }

// Finds the nearest centres of rows, batch by batch.
class Nearest {
 public:
  explicit Nearest(size_t clusters)
      : closed_(clusters, 0.0f),
        all_(clusters / kLanes, ~uint64_t{0}),
        scores_(PackedMatrix::kMaxBatch * PackedMatrix::kBlockRows) {}

  // Rows are given no cluster that is closed.
  void Close(uint32_t cluster) { closed_[cluster] = kNone; }

  // For m <= kMaxBatch rows.
  void Of(const PackedMatrix& centres, const float* rows, int m,
          uint32_t* nearest) {
    float best[PackedMatrix::kMaxBatch];
    std::fill(best, best + m, kNone);
    std::fill(nearest, nearest + m, 0);
    centres.Prepare(rows, m, &queries_);
    for (int b = 0; b < centres.blocks(); ++b) {
      centres.MultiplyBlock(queries_, b, scores_.data());
      const auto first = static_cast<size_t>(b * centres.stride());
      const auto n = static_cast<size_t>(centres.BlockRows(b));
      for (int i = 0; i < m; ++i) {
        Improve(scores_.data() + i * centres.stride(), first, n, &best[i],
                &nearest[i]);
      }
    }
  }

 private:
  void Improve(const float* scores, size_t first, size_t n, float* best,
               uint32_t* nearest) const {
    float maxima[kLanes];
    std::fill(maxima, maxima + kLanes, kNone);
    const float* const closed = closed_.data() + first;
    StridedMaxima(scores, closed, all_.data(), n, maxima);
    const float most = *std::max_element(maxima, maxima + kLanes);
    if (!(most > *best)) return;
    *best = most;
    size_t at = 0;
    while (scores[at] + closed[at] != most) ++at;
    *nearest = static_cast<uint32_t>(first + at);
  }

  std::vector<float> closed_;
  const std::vector<uint64_t> all_;
  std::vector<float> scores_;
  PackedMatrix::Queries queries_;
};

// One round on a sample: centres become the mean directions of their rows. One
// without rows takes the place of a row.
absl::Status Move(const std::vector<float>& sample, size_t d, Random* random,
                  std::vector<float>* centres) {
  const size_t n = sample.size() / d, clusters = centres->size() / d;
  ASSIGN_OR_RETURN(
      const PackedMatrix packed,
      PackedMatrix::Create(centres->data(), static_cast<int>(clusters),
                           static_cast<int>(d), PackedMatrix::Fastest()));
  Nearest nearest(clusters);
  std::fill(centres->begin(), centres->end(), 0.0f);
  uint32_t of[PackedMatrix::kMaxBatch];
  for (size_t first = 0; first < n; first += PackedMatrix::kMaxBatch) {
    const size_t m = std::min<size_t>(PackedMatrix::kMaxBatch, n - first);
    nearest.Of(packed, sample.data() + first * d, static_cast<int>(m), of);
    for (size_t i = 0; i < m; ++i) {
      AddScaled(sample.data() + (first + i) * d, 1, d,
                centres->data() + of[i] * d);
    }
  }
  for (size_t c = 0; c < clusters; ++c) {
    float* const centre = centres->data() + c * d;
    const float length = Length(centre, d);
    if (length > 0) {
      for (size_t i = 0; i < d; ++i) centre[i] /= length;
    } else {
      std::copy_n(sample.data() + random->Below(n) * d, d, centre);
    }
  }
  return absl::OkStatus();
}

// Unit vectors of rows drawn at random, without repetition.
std::vector<float> Sample(const float* rows, size_t n, size_t d, size_t count,
                          Random* random) {
  std::vector<float> out;
  out.reserve(count * d);
  size_t left = count;
  for (size_t row = 0; row < n && left > 0; ++row) {
    if (random->Below(n - row) >= left) continue;
    --left;
    const float* const values = rows + row * d;
    const float length = Length(values, d);
    for (size_t i = 0; i < d; ++i) {
      out.push_back(length > 0 ? values[i] / length : 0.0f);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> Cluster(const float* rows, size_t n,
                                              size_t d,
                                              const ClusterOptions& options) {
  const auto clusters = static_cast<size_t>(options.clusters);
  Random random(options.seed);
  const std::vector<float> sample = Sample(
      rows, n, d, std::min(n, clusters * static_cast<size_t>(options.sample)),
      &random);
  // Every so many rows of the sample.
  std::vector<float> centres;
  const size_t apart = sample.size() / d / clusters;
  for (size_t c = 0; c < clusters; ++c) {
    const auto from =
        sample.begin() + static_cast<std::ptrdiff_t>(c * apart * d);
    centres.insert(centres.end(), from, from + static_cast<std::ptrdiff_t>(d));
  }
  for (int round = 0; round < options.rounds; ++round) {
    RETURN_IF_ERROR(Move(sample, d, &random, &centres));
  }
  ASSIGN_OR_RETURN(
      const PackedMatrix packed,
      PackedMatrix::Create(centres.data(), options.clusters,
                           static_cast<int>(d), PackedMatrix::Fastest()));
  Nearest nearest(clusters);
  const auto most = static_cast<uint32_t>(std::ceil(
      options.most * static_cast<double>(n) / static_cast<double>(clusters)));
  std::vector<uint32_t> sizes(clusters), of(n);
  for (size_t first = 0; first < n; first += PackedMatrix::kMaxBatch) {
    const size_t m = std::min<size_t>(PackedMatrix::kMaxBatch, n - first);
    nearest.Of(packed, rows + first * d, static_cast<int>(m), &of[first]);
    for (size_t i = first; i < first + m; ++i) {
      // Rows of the same batch may have filled it.
      if (sizes[of[i]] == most) nearest.Of(packed, rows + i * d, 1, &of[i]);
      if (++sizes[of[i]] == most) nearest.Close(of[i]);
    }
  }
  return of;
}

}  // namespace nearline::model
