#ifndef NEARLINE_MODEL_CLUSTERS_H_
#define NEARLINE_MODEL_CLUSTERS_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace nearline::model {

struct ClusterOptions {
  int clusters = 512;  // at most 512, or a multiple of it; of 64 in any case
  int rounds = 6;
  int sample = 40;    // rows a cluster that the rounds look at
  double most = 2.0;  // times the mean size, of a cluster
  uint64_t seed = 1;
};

// Spherical k-means (Dhillon and Modha 2001) of rows [n, d], n >= clusters: for
// each row the cluster whose middle's direction is next to its own, or the next
// one that is not full. On the calling thread; the same options, the same
// clusters on one kind of processor.
absl::StatusOr<std::vector<uint32_t>> Cluster(const float* rows, size_t n,
                                              size_t d,
                                              const ClusterOptions& options);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CLUSTERS_H_
