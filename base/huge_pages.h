// Pages of 2 MiB for what is large and read here and there: of pages of 4 KiB
// the processor remembers too few, and walks the page table for most rows.
// Where /sys/kernel/mm/transparent_hugepage/enabled says "never", nothing is
// done.
#ifndef NEARLINE_BASE_HUGE_PAGES_H_
#define NEARLINE_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <memory>

namespace nearline {

// Moves what is there to large pages, as far as it fills whole ones, at once
// from Linux 6.1 on; an earlier kernel comes round to it. Contents stay, and so
// does the memory in use. What lies there afterwards is in small ones again.
class HugePages {
 public:
  // The memory outlives this.
  HugePages(const void* data, size_t bytes);
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

 private:
  void* begin_ = nullptr;
  size_t bytes_ = 0;
};

struct FreeHuge {
  size_t bytes = 0;
  void operator()(std::byte* memory) const;
};
using HugeBuffer = std::unique_ptr<std::byte[], FreeHuge>;

// `bytes` of memory, aligned to 64 at least, which lie in large pages once
// touched, as far as they fill whole ones. Undefined contents; throws
// std::bad_alloc.
HugeBuffer AllocateHuge(size_t bytes);

}  // namespace nearline

#endif  // NEARLINE_BASE_HUGE_PAGES_H_
