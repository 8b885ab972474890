// Training that can be interrupted: what an epoch leaves behind is kept in a
// file, and the same training goes on from there.
#ifndef NEARLINE_MODEL_CHECKPOINT_H_
#define NEARLINE_MODEL_CHECKPOINT_H_

#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "model/tensors.h"
#include "model/train.h"

namespace nearline::model {

// Goes over all that the next epoch depends on, by name: to keep it, or to put
// back what was kept.
class TrainingState {
 public:
  using Kept = std::map<std::string, std::string>;

  TrainingState() = default;  // keeps
  explicit TrainingState(Kept kept) : kept_(std::move(kept)), restores_(true) {}

  // When something is put back, its length must be what it was.
  template <typename T>
  void Values(const std::string& name, T* at, size_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    Bytes(name, at, count * sizeof(T));
  }
  template <typename T>
  void Values(const std::string& name, std::vector<T>* values) {
    Values(name, values->data(), values->size());
  }
  template <typename T>
  void Value(const std::string& name, T* value) {
    Values(name, value, 1);
  }
  void Text(const std::string& name, std::string* text);

  bool restores() const { return restores_; }
  Kept TakeKept() { return std::move(kept_); }
  // Errors: DATA_LOSS naming what was not kept, or kept in another length.
  const absl::Status& status() const { return status_; }

 private:
  void Bytes(const std::string& name, void* at, size_t size);
  const std::string* Find(const std::string& name);

  Kept kept_;
  const bool restores_ = false;
  absl::Status status_;
};

// A phase of a training after an epoch.
struct Checkpoint {
  std::vector<EpochReport> reports;  // of all epochs so far
  int best_epoch = 0;                // 0: none yet
  double best_metric = -1;
  Tensors best;
  bool finished = false;
  TrainingState::Kept state;
};

// The checkpoints of one training. They lie in a folder that trainings share,
// in files that begin with the training's name.
class Checkpoints {
 public:
  // `training` is equal for the same model, parameters, seed and data, and for
  // nothing else. A phase is written not more often than `every`, but for its
  // last epoch.
  Checkpoints(std::string folder, std::string training,
              absl::Duration every = absl::Seconds(10))
      : folder_(std::move(folder)),
        training_(std::move(training)),
        every_(every) {}

  // Those of a training that is a part of this one, and goes with it.
  Checkpoints PartOf(const std::string& name) const {
    return {folder_, absl::StrCat(training_, ".", name), every_};
  }

  // One without epochs where there is none. Errors: DATA_LOSS naming the file.
  absl::StatusOr<Checkpoint> Read(const std::string& phase) const;
  absl::Status Write(const std::string& phase, const Checkpoint& checkpoint);
  // Whether it is time for the next one: when writing takes long, later.
  bool IsDue() const { return absl::Now() >= next_; }
  // DATA_LOSS that says why the phase cannot go on from its file, and what to
  // do.
  absl::Status Unusable(const std::string& phase,
                        const absl::Status& why) const;
  // What the training came to, when nothing else of it will be asked for: the
  // metric of each case that it was asked.
  absl::Status WriteValues(const std::vector<double>& by_case, double seconds);
  // As WriteValues had them; false when there are none.
  bool ReadValues(std::vector<double>* by_case, double* seconds) const;
  // Removes the phases; with `all`, the values too.
  absl::Status Remove(bool all) const;
  std::string PathOf(absl::string_view phase) const;

 private:
  const std::string folder_, training_;
  const absl::Duration every_;
  absl::Time next_ = absl::Now() + every_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_CHECKPOINT_H_
