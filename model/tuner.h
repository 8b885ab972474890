#ifndef NEARLINE_MODEL_TUNER_H_
#define NEARLINE_MODEL_TUNER_H_

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/parameters.h"

namespace nearline::model {

// Searches a model's parameters where they say: what it is given first, then at
// random, and from a third of the trials on near the best so far, mostly. Same
// seed, same values: same trials.
class Tuner {
 public:
  // `fixed` names what stays as it is in `start`. Errors: INVALID_ARGUMENT when
  // nothing is left to search.
  static absl::StatusOr<Tuner> Create(Parameters start,
                                      const std::set<std::string>& fixed,
                                      int trials, uint64_t seed);

  // What to try next.
  Parameters Next();
  // What the last Next was worth; more is better.
  void Tell(double value);

 private:
  Tuner(Parameters start, std::vector<ParameterSpec> searched, int trials,
        uint64_t seed);
  double Draw(const ParameterSpec& spec, bool near);

  std::vector<ParameterSpec> searched_;
  const int trials_;
  Random random_;
  int told_ = 0;
  Parameters tried_;
  Parameters best_;
  double best_value_ = 0;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TUNER_H_
