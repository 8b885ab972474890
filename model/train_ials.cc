// iALS (Hu et al., ICDM 2008; regularization and recipe of Rendle et al.,
// RecSys 2022): users' and items' vectors by turns, each led towards the
// solution of its least squares while the other side is held still. A user that
// is folded in gets the solution.
#include "model/factors.h"
#include "model/kernels.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

class Ials {
 public:
  Ials(const TrainingSet& set, const Parameters& p, const TrainOptions& options)
      : set_(set),
        p_(p),
        options_(options),
        rule_(IalsRule(set, p)),
        steps_(p.Int("steps")),
        users_of_(Transposed(set.train, set.items)),
        items_(StartItems("ials", set, p, options)) {}

  absl::StatusOr<Tensors> Run() {
    return RunEpochs(
        {.phase = "ials",
         .epochs = EpochsFor(options_, p_.Int("epochs")),
         .patience = p_.Int("patience"),
         .train = [&](int) { return RunEpoch(); },
         .validate = Validation(set_, options_,
                                [&](const Bags& bags) {
                                  return FoldedLogits(bags, items_,
                                                      rule_.Over(items_));
                                }),
         .save = [&] { return ExportFactors("ials", items_, rule_); },
         .state =
             [&](TrainingState* state) {
               if (state->restores()) {
                 users_ = RandomFactors(static_cast<size_t>(set_.train.users()),
                                        static_cast<int>(items_.dim), 0,
                                        options_.seed);
               }
               state->Values("users", &users_.values);
               state->Values("items", &items_.values);
             }},
        options_);
  }

 private:
  // The mean squared error of what users have, before items move.
  double RunEpoch() {
    FoldInAll(rule_.Over(items_), set_.train, items_, steps_, &users_);
    double squares = 0;
    for (int64_t user = 0; user < set_.train.users(); ++user) {
      const float* const p = users_[static_cast<size_t>(user)];
      for (const uint32_t item : set_.train.ItemsOf(user)) {
        const double error = 1 - Dot(p, items_[item], items_.dim);
        squares += error * error;
      }
    }
    FoldInAll(rule_.Over(users_), users_of_, users_, steps_, &items_);
    return squares / static_cast<double>(set_.train.size());
  }

  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions& options_;
  const FoldInRule rule_;
  const int steps_;  // of conjugate gradients; 0: solved exactly
  const features::Interactions users_of_;  // by item
  Factors users_, items_;
};

}  // namespace

absl::StatusOr<Tensors> TrainIals(const std::string& /*model*/,
                                  const TrainingSet& set,
                                  const Parameters& parameters,
                                  const TrainOptions& options) {
  return Ials(set, parameters, options).Run();
}

}  // namespace nearline::model
