// Training the head of the joint model (docs/decisions/0018).
#ifndef NEARLINE_MODEL_TRAIN_HEAD_H_
#define NEARLINE_MODEL_TRAIN_HEAD_H_

#include <vector>

#include "model/train.h"

namespace nearline::model {

// Paths of the joint model, as they are scanned, and users that these have not
// seen: what they say of the users' items is what they would say of anybody's.
struct HeadFold {
  Tensors paths;
  features::Interactions users;
};

// Learns to order the shortlists that the folds' paths hand to most of their
// users, and is judged on the others': with `share` of its say in a candidate's
// score, or below 0 with the best of a few shares. The tensors "head.*", for
// `paths`, which serve; none when the order of the scan is as good. Errors: as
// Train, but what diverges is none.
absl::StatusOr<Tensors> TrainHead(const TrainingSet& set, const Tensors& paths,
                                  const std::vector<HeadFold>& folds,
                                  double share, const TrainOptions& options);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TRAIN_HEAD_H_
