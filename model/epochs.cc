#include "model/epochs.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace nearline::model {

namespace {

// Puts the loop where the checkpoint was taken, and tells of the epochs before.
absl::Status GoOn(const EpochLoop& loop, const TrainOptions& options,
                  Checkpoint* from) {
  if (from->reports.empty()) return absl::OkStatus();
  TrainingState state(std::move(from->state));
  loop.state(&state);
  if (!state.status().ok()) {
    return options.checkpoints->Unusable(loop.phase, state.status());
  }
  if (!options.on_epoch) return absl::OkStatus();
  for (const EpochReport& report : from->reports) options.on_epoch(report);
  return absl::OkStatus();
}

absl::Status Keep(const EpochLoop& loop, Checkpoints* checkpoints,
                  Checkpoint* checkpoint) {
  TrainingState state;
  loop.state(&state);
  checkpoint->state = state.TakeKept();
  const absl::Status written = checkpoints->Write(loop.phase, *checkpoint);
  checkpoint->state.clear();
  return written;
}

}  // namespace

absl::StatusOr<Tensors> RunEpochs(const EpochLoop& loop,
                                  const TrainOptions& options) {
  if (loop.epochs == 0) return loop.save();
  Checkpoint c;
  if (options.checkpoints != nullptr) {
    ASSIGN_OR_RETURN(c, options.checkpoints->Read(loop.phase));
    RETURN_IF_ERROR(GoOn(loop, options, &c));
  }
  for (int epoch = static_cast<int>(c.reports.size()) + 1;
       epoch <= loop.epochs && !c.finished; ++epoch) {
    EpochReport report{.phase = loop.phase,
                       .epoch = epoch,
                       .epochs = loop.epochs,
                       .share = static_cast<double>(epoch) / loop.epochs};
    ASSIGN_OR_RETURN(report.loss, loop.train(epoch));
    Tensors now;
    bool finite = std::isfinite(report.loss);
    if (finite && loop.validate) report.metric = loop.validate();
    const bool better =
        finite && (!loop.validate || report.metric > c.best_metric);
    if (better) {
      now = loop.save();
      finite = AllFinite(now);
    }
    if (!finite) report.note = KeptInstead(c.best_epoch);
    if (options.on_epoch) options.on_epoch(report);
    if (finite && better) {
      c.best = std::move(now);
      c.best_metric = report.metric;
      c.best_epoch = epoch;
    }
    c.reports.push_back(std::move(report));
    c.finished = !finite || epoch == loop.epochs ||
                 epoch - c.best_epoch >= std::max(1, loop.patience);
    if (options.checkpoints != nullptr && c.best_epoch > 0 &&
        (c.finished || options.checkpoints->IsDue())) {
      RETURN_IF_ERROR(Keep(loop, options.checkpoints, &c));
    }
  }
  if (c.best_epoch == 0) return Diverged(loop.phase);
  return std::move(c.best);
}

absl::Status Diverged(const std::string& phase) {
  return absl::OutOfRangeError(absl::StrCat(
      phase,
      " diverged: the loss or the weights are no finite numbers, and no epoch "
      "before could be kept; take a smaller learning rate, or events with "
      "smaller weights"));
}

std::string KeptInstead(int epoch) {
  return absl::StrCat(
      "diverged: the loss or the weights are no finite numbers any more; ",
      epoch > 0 ? absl::StrCat("epoch ", epoch, " is kept")
                : "no epoch before could be kept");
}

bool AllFinite(const Tensors& tensors) {
  for (const auto& [name, tensor] : tensors.all()) {
    for (const float value : tensor.values) {
      if (!std::isfinite(value)) return false;
    }
  }
  return true;
}

int EpochsFor(const TrainOptions& options, int epochs) {
  return options.warm_start == nullptr || epochs == 0 ? epochs
                                                      : std::max(1, epochs / 3);
}

double RateFor(const TrainOptions& options, double rate) {
  return options.warm_start == nullptr ? rate : 0.25 * rate;
}

OnEpoch PartOf(const OnEpoch& whole, double begin, double end) {
  if (!whole) return {};
  return [=](EpochReport report) {
    report.share = begin + (end - begin) * report.share;
    whole(report);
  };
}

}  // namespace nearline::model
