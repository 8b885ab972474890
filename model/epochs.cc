#include "model/epochs.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace nearline::model {

absl::StatusOr<Tensors> RunEpochs(const EpochLoop& loop,
                                  const OnEpoch& on_epoch) {
  if (loop.epochs == 0) return loop.save();
  Tensors best;
  double best_metric = -1;
  int best_epoch = 0;
  for (int epoch = 1; epoch <= loop.epochs; ++epoch) {
    EpochReport report{.phase = loop.phase,
                       .epoch = epoch,
                       .epochs = loop.epochs,
                       .share = static_cast<double>(epoch) / loop.epochs};
    report.loss = loop.train(epoch);
    Tensors now;
    bool finite = std::isfinite(report.loss);
    if (finite && loop.validate) report.metric = loop.validate();
    const bool better =
        finite && (!loop.validate || report.metric > best_metric);
    if (better) {
      now = loop.save();
      finite = AllFinite(now);
    }
    if (!finite) report.note = KeptInstead(best_epoch);
    if (on_epoch) on_epoch(report);
    if (!finite) break;
    if (better) {
      best = std::move(now);
      best_metric = report.metric;
      best_epoch = epoch;
    } else if (epoch - best_epoch >= loop.patience) {
      break;
    }
  }
  if (best_epoch == 0) return Diverged(loop.phase);
  return best;
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
