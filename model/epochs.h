// Training by epochs: when it stops, and what is kept.
#ifndef NEARLINE_MODEL_EPOCHS_H_
#define NEARLINE_MODEL_EPOCHS_H_

#include <functional>
#include <string>

#include "model/checkpoint.h"
#include "model/train.h"

namespace nearline::model {

struct EpochLoop {
  std::string phase;
  int epochs = 0;    // at most
  int patience = 0;  // epochs without a better validation
  // The mean loss; an error ends the training.
  std::function<absl::StatusOr<double>(int epoch)> train;
  std::function<double()> validate;  // the better, the larger; or empty
  std::function<Tensors()> save;
  std::function<void(TrainingState*)> state;
};
// The tensors of the best epoch; without validation those of the last. When the
// loss or the weights are no finite numbers any more, training stops, a note
// says so, and an epoch before counts. With options.checkpoints it goes on from
// what is there, as if it had not stopped. Errors: OUT_OF_RANGE when no epoch
// counts; those of Checkpoints.
absl::StatusOr<Tensors> RunEpochs(const EpochLoop& loop,
                                  const TrainOptions& options);

// OUT_OF_RANGE: nothing that `phase` learned is of any use.
absl::Status Diverged(const std::string& phase);
// The note of a training that diverged after `epoch`; 0: after none.
std::string KeptInstead(int epoch);
bool AllFinite(const Tensors& tensors);

// A warm start knows its way; a third of the epochs, at a quarter of the rate,
// keep it fresh.
int EpochsFor(const TrainOptions& options, int epochs);
double RateFor(const TrainOptions& options, double rate);

// Reports of a part of a training as reports of the whole, of which it takes
// the shares from `begin` to `end`.
OnEpoch PartOf(const OnEpoch& whole, double begin, double end);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_EPOCHS_H_
