#ifndef NEARLINE_MODEL_SYNTHESIZE_H_
#define NEARLINE_MODEL_SYNTHESIZE_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "model/bundle.h"

namespace nearline::model {

struct SynthesizeOptions {
  // mult-vae, of [items, dim] encoder and decoder rows and `latent` numbers
  // between, or elsa, one table of [items, dim].
  std::string retriever = "mult-vae";
  std::string ranker;  // neumf with the shapes of its defaults; empty: none
  int items = 3500;
  int dim = 600;
  int latent = 200;
  int users = 1000;
  int history = 100;  // events a user, on distinct items
  uint64_t seed = 1;
};

// A model that nobody trained, of any size, for measuring what serving costs.
// Items belong to topics, and topics to fields, so that vectors lie in clusters
// as those of trained models do; a user's history is of two topics, for the
// most part, and what the model answers is near them. The same seed gives the
// same bundle.
absl::StatusOr<Bundle> SynthesizeBundle(const SynthesizeOptions& options);

// Writes a folder that a server can be started on as its data_dir, with the
// bundle in service, and in its subfolder import/ what `nearline import` then
// takes: items.jsonl, users.jsonl, events.tsv.
absl::Status Synthesize(const SynthesizeOptions& options,
                        const std::string& folder);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SYNTHESIZE_H_
