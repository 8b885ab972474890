#ifndef NEARLINE_MODEL_LEARN_JOB_H_
#define NEARLINE_MODEL_LEARN_JOB_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "features/dataset.h"
#include "features/event_types.h"
#include "features/profile.h"
#include "model/evaluate.h"

namespace nearline::model {

// One training run on a checkpoint of the log: all that the child process is
// told. Paths are absolute.
struct LearnJob {
  std::string checkpoint;   // a store's folder, opened for reading
  std::string generations;  // where the candidate is written
  std::string incumbent;    // a generation's id; empty: none
  bool warm_start = true;   // from the incumbent, where its model is the same
  std::string retriever = "mult-vae";
  std::string ranker = "neumf";                                     // or empty
  std::map<std::string, std::map<std::string, double>> parameters;  // by model
  std::vector<features::EventType> event_types;
  features::ProfileOptions profile;
  int established_after = 10;
  features::SplitOptions split;
  GateOptions gate;
  int shortlist = 200;
  int64_t index_items = 0;  // from how many on there is an index; 0: never
  uint64_t seed = 1;
  int threads = 1;
  std::string device = "cpu";  // cuda:N, or auto: cuda:0 where it is there

  Json ToJson() const;
  static absl::StatusOr<LearnJob> FromJson(const Json& json);
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_LEARN_JOB_H_
