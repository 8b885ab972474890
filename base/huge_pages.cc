#include "base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace nearline {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers lack

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

void UseHugePages(const void* data, size_t bytes) {
  const auto begin = RoundUp(reinterpret_cast<uintptr_t>(data), kHuge);
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (begin >= end) return;
  void* const at = reinterpret_cast<void*>(begin);
  // Advice: what cannot be done is not.
  if (madvise(at, end - begin, MADV_HUGEPAGE) != 0) return;
  (void)madvise(at, end - begin, kCollapse);
}

HugeBuffer AllocateHuge(size_t bytes) {
  const size_t alignment = bytes < kHuge ? 64 : kHuge;
  void* const memory = std::aligned_alloc(alignment, RoundUp(bytes, alignment));
  if (memory == nullptr) throw std::bad_alloc();
  if (bytes >= kHuge) {
    (void)madvise(memory, bytes / kHuge * kHuge, MADV_HUGEPAGE);
  }
  return HugeBuffer(static_cast<std::byte*>(memory));
}

}  // namespace nearline
