// Training with LibTorch, behind plain C++: no LibTorch header here.
#ifndef NEARLINE_MODEL_TRAIN_H_
#define NEARLINE_MODEL_TRAIN_H_

#include <functional>
#include <optional>
#include <string>

#include "base/status.h"
#include "features/dataset.h"
#include "features/types.h"
#include "model/parameters.h"
#include "model/tensors.h"

namespace nearline::model {

// What one epoch of training came to.
struct EpochReport {
  std::string phase;  // "mult-vae", "neumf GMF", ...
  int epoch = 0;      // from 1
  int epochs = 0;     // at most
  double loss = 0;    // mean a user
  double metric = 0;  // validation NDCG@100; 0 without validation
  double share = 0;   // of the whole training that is done
  std::string note;   // what whoever trains should know; mostly empty
};
using OnEpoch = std::function<void(const EpochReport&)>;

class Checkpoints;

struct TrainingSet {
  int64_t items = 0;  // rows; the ids in what follows are below it
  features::Interactions train;
  // By event of `train`, in Unix seconds; empty unless all have one.
  std::vector<double> times;
  // By row, null for none; empty when no item has any.
  std::vector<const features::Attributes*> attributes;
  // Items of the catalogue that have attributes and no row: nobody has touched
  // them.
  int64_t untouched = 0;
  // By user of `train`, null for none; may be empty when no user has any.
  std::vector<const features::Attributes*> user_attributes;
  // Whether the items of a user came in this order, so that the latest are best
  // told from those before. Else an order there is says nothing.
  bool in_order = false;
  // For early stopping; user i of `input` is user i of `target`. May be empty:
  // then all epochs are run.
  features::Interactions validation_input;
  features::Interactions validation_target;
};

// Whether the i-th of a user's `count` items, at least 5, belongs to the fifth
// that is to be found: the last ones of an order, else every fifth, from
// another one in each user.
inline bool IsToBeFound(const TrainingSet& set, size_t i, size_t count,
                        size_t user) {
  return set.in_order ? 5 * (count - i) <= count : (i + user) % 5 == 0;
}

struct TrainOptions {
  uint64_t seed = 1;
  int threads = 1;
  std::string device = "cpu";  // "cuda:N"
  // On the CPU, steps written by hand where a model has them; else LibTorch's.
  bool by_hand = true;
  // Those steps in bfloat16; by default where the processor multiplies it
  // faster. They fail where there is no such product.
  std::optional<bool> bfloat16;
  OnEpoch on_epoch;  // may be empty
  // Where training by epochs goes on from and leaves what it has; null:
  // nowhere.
  Checkpoints* checkpoints = nullptr;
  // Weights to start from, with the rows of this set's items; null: random.
  const Tensors* warm_start = nullptr;
};

// The tensors of a generation, without its item features. Errors:
// FAILED_PRECONDITION when there is nothing to learn from; OUT_OF_RANGE when
// training diverged before an epoch could be kept; INTERNAL with LibTorch's
// words.
absl::StatusOr<Tensors> Train(absl::string_view model, const TrainingSet& set,
                              const Parameters& parameters,
                              const TrainOptions& options);

// Whether the model can start from earlier weights; closed forms cannot.
bool StartsWarm(absl::string_view model);

// OK when LibTorch can compute on the device ("cpu", "cuda:N"). Errors:
// FAILED_PRECONDITION saying what is missing.
absl::Status CheckDevice(const std::string& device);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TRAIN_H_
