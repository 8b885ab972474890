#include "base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>

namespace nearline {
namespace {

constexpr size_t kHuge = size_t{2} << 20;
constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers lack

size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

bool Allowed() {
  static const bool allowed = [] {
    std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
    std::string line;
    return std::getline(file, line) &&
           line.find("[never]") == std::string::npos;
  }();
  return allowed;
}

}  // namespace

// Advice: what cannot be done is not.
HugePages::HugePages(const void* data, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = RoundUp(at, kHuge);
  const uintptr_t end = (at + bytes) / kHuge * kHuge;
  if (begin >= end || !Allowed()) return;
  void* const from = reinterpret_cast<void*>(begin);
  if (madvise(from, end - begin, MADV_HUGEPAGE) != 0) return;
  begin_ = from;
  bytes_ = end - begin;
  (void)madvise(begin_, bytes_, kCollapse);
}

HugePages::~HugePages() {
  if (bytes_ > 0) (void)madvise(begin_, bytes_, MADV_NOHUGEPAGE);
}

HugeBuffer AllocateHuge(size_t bytes) {
  const size_t alignment = bytes < kHuge ? 64 : kHuge;
  void* const memory = std::aligned_alloc(alignment, RoundUp(bytes, alignment));
  if (memory == nullptr) throw std::bad_alloc();
  const size_t whole = bytes / kHuge * kHuge;
  if (whole > 0 && Allowed()) (void)madvise(memory, whole, MADV_HUGEPAGE);
  return HugeBuffer(static_cast<std::byte*>(memory), FreeHuge{whole});
}

void FreeHuge::operator()(std::byte* memory) const {
  if (memory != nullptr && bytes > 0) {
    (void)madvise(memory, bytes, MADV_NOHUGEPAGE);
  }
  std::free(memory);
}

}  // namespace nearline
