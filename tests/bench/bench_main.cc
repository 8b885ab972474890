// nearline_benchmarks: what the inner parts cost.
#include <benchmark/benchmark.h>

#include "model/blas.h"

int main(int argc, char** argv) {
  nearline::model::StartWithFastBlas(argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
