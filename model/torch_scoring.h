#ifndef NEARLINE_MODEL_TORCH_SCORING_H_
#define NEARLINE_MODEL_TORCH_SCORING_H_

#include <string>

#include "model/generation.h"

namespace nearline::model {

// The slots on a LibTorch device: weights and item rows live there, one
// transfer in and one out a batch. What came after training is scored on the
// CPU.
ScoringFactory TorchScoring(const std::string& device);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TORCH_SCORING_H_
