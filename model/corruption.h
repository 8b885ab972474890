#ifndef NEARLINE_MODEL_CORRUPTION_H_
#define NEARLINE_MODEL_CORRUPTION_H_

#include <vector>

#include "absl/types/span.h"
#include "base/random.h"

namespace nearline::model {

// What a training input keeps of a history.
struct Corruption {
  // Each item is dropped with this probability, the rest scaled by
  // 1 / (1 - dropout).
  double dropout = 0;
  // This share of the users keep 1 to kFew items instead, as if they had come
  // just now.
  double cold_share = 0;
  static constexpr int kFew = 10;

  bool draws() const { return dropout > 0 || cold_share > 0; }
};

// Draws what inputs keep.
class Corruptor {
 public:
  Corruptor(const Corruption& corruption, uint64_t seed)
      : corruption_(corruption), random_(seed) {}

  // The weights of the input by place in the history, L2-normalized; 0 for what
  // is dropped. Valid until the next call.
  const std::vector<float>& Normalized(absl::Span<const float> weights);

 private:
  void KeepFew();

  const Corruption corruption_;
  Random random_;
  std::vector<float> kept_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CORRUPTION_H_
