// The trainers behind Train, one a family of models. They may throw what
// LibTorch throws, and use as many threads as it has been told.
#ifndef NEARLINE_MODEL_TRAINERS_H_
#define NEARLINE_MODEL_TRAINERS_H_

#include <string>
#include <vector>

#include "model/train.h"

namespace nearline::model {

// `model`, one of the family, begins the names of the tensors.
using Trainer = absl::StatusOr<Tensors>(const std::string& model,
                                        const TrainingSet& set,
                                        const Parameters& parameters,
                                        const TrainOptions& options);

// What "temperature" may mean for such a set, the likelier first; the better on
// validation data counts. More than one is tried where items have few events
// and it takes little time. 0: none.
std::vector<double> TemperaturesOf(const Parameters& parameters,
                                   const TrainingSet& set,
                                   const TrainOptions& options);

Trainer TrainPaths;
Trainer TrainPopularity;
// Mult-VAE, or Mult-DAE when the parameters have no "latent".
Trainer TrainAutoencoder;
Trainer TrainContent;
Trainer TrainElsa;
Trainer TrainHybrid;
Trainer TrainIals;
Trainer TrainJoint;
Trainer TrainLinear;  // "item-knn", "user-knn", or EASE
Trainer TrainMf;      // "mf" or "bpr-mf"
Trainer TrainRecent;
Trainer TrainNeuMf;  // "neumf", or "gmf" or "mlp", one of its branches

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TRAINERS_H_
