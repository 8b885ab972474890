#ifndef NEARLINE_MODEL_ITEM_TABLE_H_
#define NEARLINE_MODEL_ITEM_TABLE_H_

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/huge_pages.h"
#include "model/top_k.h"

namespace nearline::model {

// One float32 row an item: an immutable base [N, D], and a tail of items that
// came after training. One thread appends; readers see the rows that were there
// when they asked for the tail's size (see Generation::tail_rows).
class ItemTable {
 public:
  static constexpr size_t kChunkRows = 1024;
  static constexpr size_t kMaxChunks = 4096;

  ItemTable(std::vector<float> base, size_t dim)
      : base_(std::move(base)),
        pages_(base_.data(), base_.size() * sizeof(float)),
        dim_(dim),
        base_rows_(base_.size() / dim) {}

  size_t dim() const { return dim_; }
  size_t base_rows() const { return base_rows_; }
  const std::vector<float>& base() const { return base_; }

  const float* operator[](Row row) const {
    if (row < base_rows_) return base_.data() + row * dim_;
    const size_t tail = row - base_rows_;
    return chunks_[tail / kChunkRows].load(std::memory_order_acquire) +
           tail % kChunkRows * dim_;
  }

  // The appending thread's. Returns false when the tail is full.
  bool SetTail(size_t index, const float* values) {
    const size_t chunk = index / kChunkRows;
    if (chunk >= kMaxChunks) return false;
    if (chunk == owned_.size()) {
      owned_.push_back(std::make_unique<float[]>(kChunkRows * dim_));
      chunks_[chunk].store(owned_.back().get(), std::memory_order_release);
    }
    std::memcpy(owned_[chunk].get() + index % kChunkRows * dim_, values,
                dim_ * sizeof(float));
    return true;
  }

 private:
  const std::vector<float> base_;
  const HugePages pages_;  // of base_
  const size_t dim_;
  const size_t base_rows_;
  std::vector<std::unique_ptr<float[]>> owned_;  // the appending thread's
  std::unique_ptr<std::atomic<float*>[]> chunks_ {
    new std::atomic<float*>[ kMaxChunks ]()
  };
};

// By tensor name.
using ItemTables = std::map<std::string, std::unique_ptr<ItemTable>>;

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ITEM_TABLE_H_
