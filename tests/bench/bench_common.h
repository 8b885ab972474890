// What the benchmarks share.
#ifndef NEARLINE_TESTS_BENCH_BENCH_COMMON_H_
#define NEARLINE_TESTS_BENCH_BENCH_COMMON_H_

#include <benchmark/benchmark.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"

namespace nearline {

inline std::vector<float> RandomFloats(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = static_cast<float>(0.1 * random.Normal());
  return out;
}

// Reports processor seconds a query, of `queries` an iteration.
inline void ByQuery(benchmark::State& state, int queries) {
  state.counters["cpu_per_query"] = benchmark::Counter(
      static_cast<double>(state.iterations() * queries),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// What `make` makes of a key, once a run: repetitions do not make it again.
template <typename T, typename Key, typename Make>
const T& Once(const Key& key, const Make& make) {
  static std::map<Key, std::unique_ptr<const T>> made;
  auto& one = made[key];
  if (one == nullptr) one = std::make_unique<const T>(make());
  return *one;
}

}  // namespace nearline

#endif  // NEARLINE_TESTS_BENCH_BENCH_COMMON_H_
