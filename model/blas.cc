#include "model/blas.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace nearline::model {

std::string BetterBlasCore(const std::string& core, bool avx2, bool avx512) {
  // Those without AVX2 that OpenBLAS falls back to.
  const bool old = core == "Prescott" || core == "Core2" || core == "Nehalem" ||
                   core == "Barcelona" || core == "Sandybridge";
  if (!old || !avx2) return "";
  return avx512 ? "SkylakeX" : "Haswell";
}

void StartWithFastBlas([[maybe_unused]] char** argv) {
  constexpr char kName[] = "OPENBLAS_CORETYPE";
  if (std::getenv(kName) != nullptr) return;
  void* const found = dlsym(RTLD_DEFAULT, "openblas_get_corename");
  if (found == nullptr) return;  // another library
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const std::string better = BetterBlasCore(
      reinterpret_cast<const char* (*)()>(found)(),
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx512);
  if (better.empty()) return;
  // By its own name, which a process goes by.
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || setenv(kName, better.c_str(), 0) != 0) return;
  execv(program.c_str(), argv);  // returns only when it fails
#endif
}

}  // namespace nearline::model
