// What the trainers share: batches of histories, validation, warm starts.
#ifndef NEARLINE_MODEL_TORCH_TRAINING_H_
#define NEARLINE_MODEL_TORCH_TRAINING_H_

#include <functional>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/corruption.h"
#include "model/epochs.h"
#include "model/torch_guard.h"
#include "model/train.h"

namespace nearline::model {

// A batch of histories: those of its user u are in [offsets[u],
// offsets[u + 1]).
struct Histories {
  std::vector<int64_t> offsets = {0};  // [users + 1]
  std::vector<int64_t> items;
  std::vector<float> weights;  // L2-normalized, with dropout; 0: dropped
  std::vector<float> targets;  // as they are
};

// The generator is not used without corruption.
Histories MakeHistories(const features::Interactions& data,
                        const std::vector<int64_t>& users,
                        const Corruption& corruption,
                        torch::Generator* generator);

// The same for embedding_bag.
struct Bags {
  torch::Tensor items;    // int64 [nnz kept]
  torch::Tensor offsets;  // int64 [users]
  torch::Tensor weights;  // float32 [nnz kept]
  // All of the users' items, kept or not: what is to be predicted.
  torch::Tensor target_users;    // int64 [nnz], index in the batch
  torch::Tensor target_items;    // int64 [nnz]
  torch::Tensor target_weights;  // float32 [nnz], as they are
};

Bags MakeBags(const features::Interactions& data,
              const std::vector<int64_t>& users, const Corruption& corruption,
              torch::Generator* generator, torch::Device device);

// tanh(sum_i x_i rows_i + bias) over the bags' normalized items: [users, dim].
torch::Tensor HiddenOf(const Bags& bags, const torch::Tensor& rows,
                       const torch::Tensor& bias);

// The same sum without bias, stretched or shrunk to `length`; 0 stays.
torch::Tensor DirectionOf(const Bags& bags, const torch::Tensor& rows,
                          double length);

// Rows over their lengths; 0 stays.
torch::Tensor UnitRows(const torch::Tensor& rows);

// A random rotation [n, n]. Two factors of low rank that both are turned by it
// have the same product, and values alike in size, which round to int8 well.
torch::Tensor Rotation(int64_t n, torch::Generator* generator);

// sum_i x_i rows_i over whole histories, weights as they are: [users, dim]. Of
// bags without corruption.
torch::Tensor SumOf(const Bags& bags, const torch::Tensor& rows);

// The queries [users, dim] of train_recent.cc. Of bags without corruption.
torch::Tensor RecentOf(const Bags& bags, const torch::Tensor& rows,
                       const torch::Tensor& positions);

// Fewer than 40 events an item.
bool IsSparse(const TrainingSet& set);

// The set with a fifth of the items of some users, at most some 500, as
// validation data: to be found by the rest of theirs, which is both in training
// and the input.
TrainingSet SetApart(const TrainingSet& set);

// A permutation of 0 .. n - 1 in pieces of `size`, the last one shorter.
std::vector<std::vector<int64_t>> ShuffledBatches(int64_t n, int64_t size,
                                                  torch::Generator* generator);

// Mean NDCG@100 over the validation users, `batch` at a time; 0 without any.
// `logits` gives the scores [users, items] of a batch.
double ValidationNdcg(const TrainingSet& set, int64_t batch,
                      torch::Device device,
                      const std::function<torch::Tensor(const Bags&)>& logits);

// The mean NDCG@100 of `logits` over the validation users when called; empty
// without any. `set` and `options` outlive it.
std::function<double()> Validation(
    const TrainingSet& set, const TrainOptions& options,
    std::function<torch::Tensor(const Bags&)> logits);

// The warm start's tensor when there is one of this shape, else `fresh`.
torch::Tensor WarmOr(const Tensors* warm, const std::string& name,
                     torch::Tensor fresh);

void SetRate(torch::optim::Adam* adam, double rate);

// Parts of a TrainingState, on any device.
void KeepTensor(const std::string& name, torch::Tensor tensor,
                TrainingState* state);
void KeepGenerator(torch::Generator* generator, TrainingState* state);
void KeepAdam(torch::optim::Adam* adam, TrainingState* state);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_TORCH_TRAINING_H_
