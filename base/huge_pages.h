// Pages of 2 MiB for what is large and read here and there: of pages of 4 KiB
// the processor remembers too few, and walks the page table for most rows.
#ifndef NEARLINE_BASE_HUGE_PAGES_H_
#define NEARLINE_BASE_HUGE_PAGES_H_

#include <cstddef>
#include <cstdlib>
#include <memory>

namespace nearline {

// Moves what is there to large pages, as far as it fills whole ones, where the
// kernel does so at once (Linux 6.1 and later); an earlier one comes round to
// it. Contents stay, and so does the memory in use. For memory that is kept.
void UseHugePages(const void* data, size_t bytes);

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};
using HugeBuffer = std::unique_ptr<std::byte[], FreeMemory>;

// `bytes` of memory, aligned to 64 at least, which lie in large pages once
// touched if they fill one. Undefined contents; throws std::bad_alloc.
HugeBuffer AllocateHuge(size_t bytes);

}  // namespace nearline

#endif  // NEARLINE_BASE_HUGE_PAGES_H_
