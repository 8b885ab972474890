// Catalogues and queries that the benchmarks of scans share.
#ifndef NEARLINE_TESTS_BENCH_SCAN_BENCHMARKS_H_
#define NEARLINE_TESTS_BENCH_SCAN_BENCHMARKS_H_

#include <cstdint>
#include <vector>

#include "tests/bench/bench_common.h"

namespace nearline {

struct Shape {
  int items, dim;
  friend auto operator<=>(const Shape&, const Shape&) = default;
};
struct Vectors {
  std::vector<float> rows;     // [items, dim], in clusters
  std::vector<float> queries;  // [kQueries, dim], each near some rows
  // The 100 best rows of each query by their product alone; none in catalogues
  // of less than 100,000.
  std::vector<std::vector<uint32_t>> best;
};
inline constexpr int kQueries = 256;

// Made once.
const Vectors& VectorsOf(Shape shape);

}  // namespace nearline

#endif  // NEARLINE_TESTS_BENCH_SCAN_BENCHMARKS_H_
