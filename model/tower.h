// The content side of the item tower: rows for items that nobody has touched.
#ifndef NEARLINE_MODEL_TOWER_H_
#define NEARLINE_MODEL_TOWER_H_

#include "base/status.h"
#include "model/bundle.h"
#include "model/train.h"

namespace nearline::model {

// How wanted an untouched item is expected to be, beside 1 for the average item
// with events. Of items that have been there long enough to be touched, as many
// are overlooked as Chao's estimator says, f1^2 / (2 (f2 + 1)), f1 and f2 being
// how many items have one event and two; together they are wanted in f1 of all
// events (Good and Turing). Untouched items beyond these must be new, and are
// as wanted as the average.
double DemandForUntouched(const TrainingSet& set);

// Learns the map from attributes to the rows and biases that the bundle's
// retriever scans, on from the ridge regression of ItemFeatureMap::Fit, whose
// features and tensors it keeps. Ridge regression copies what rows of trained
// items are like on average, which says little of where a new one would stand
// among them. So here, while all else is held still, in each step a share of
// the items has its map alone and is missing from the histories, and the map
// follows the gradient of - sum_i y_i log softmax(e^s scores)_i over what some
// users did not show; s, a scale, is learned too, for scores that are no
// logits. At last the biases are lowered to the demand for untouched items.
// Does nothing where items share no attribute.
//
// `set` is what the retriever was trained on. Errors: as Generation::Create and
// the encoder have them.
absl::Status FitTower(const TrainingSet& set, const TrainOptions& options,
                      Bundle* bundle);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TOWER_H_
