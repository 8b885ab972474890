#ifndef NEARLINE_SERVER_MODEL_SLOT_H_
#define NEARLINE_SERVER_MODEL_SLOT_H_

#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/store.h"
#include "model/bundle.h"
#include "model/generation.h"

namespace nearline::server {

using GenerationPtr = std::shared_ptr<const model::Generation>;

// In a generation's folder: how it was last loaded, and what the scan's
// precision costs here.
inline constexpr char kWarmUpReport[] = "warm-up.json";

struct ModelSlotOptions {
  absl::Duration keep_retired = absl::Hours(1);
  bool rank = true;                        // whether the ranker is in use
  int64_t query_cache_bytes = 16 << 20;    // 0: no query vector is kept
  int64_t encoder_state_bytes = 16 << 20;  // 0: no sum is kept
};

// The generation in service, swappable under traffic, and those lately retired,
// so that lists begun on them can be continued. Thread-safe.
class ModelSlot {
 public:
  // All outlive this.
  ModelSlot(features::Store* store, model::GenerationStore* generations,
            model::ScoringFactory factory, ModelSlotOptions options,
            const Clock* clock);
  ~ModelSlot();

  // One batch takes one snapshot; null before the first generation.
  GenerationPtr Snapshot() const;
  // The generation in service or a retired one; null when gone.
  GenerationPtr Find(const std::string& id) const;

  // Reads, checks, builds and binds the bundle, warms it up, and puts it into
  // service: CURRENT first, then the pointer. On error the old one stays.
  absl::Status Publish(const std::string& id);
  // What was in service before a restart. A damaged generation is passed over
  // for the newest accepted one that loads. OK when there is none.
  absl::Status LoadCurrent();

  // Generation::Forget of all: an erased user's history was in what they keep.
  void ForgetUsers();

  absl::Time in_service_since() const;

 private:
  absl::StatusOr<std::shared_ptr<model::Generation>> Load(
      const std::string& id);
  // Users such as will ask: their queries, row-major, and what may be answered.
  struct Sample {
    std::vector<float> queries;
    std::vector<model::RowMask> masks;
  };
  std::vector<model::History> SampleUsers(const model::Generation& generation,
                                          int64_t most);
  absl::StatusOr<Sample> SampleQueries(const model::Generation& generation,
                                       int64_t most);
  absl::Status Tune(model::Generation* generation);
  absl::Status Compare(model::Generation* generation);
  absl::Status WarmUp(const model::Generation& generation);
  // What loading found out on this processor, as JSON in kWarmUpReport.
  void Note(const model::Generation& generation, absl::Duration took) const;
  void Swap(std::shared_ptr<model::Generation> next);

  struct Retired {
    std::shared_ptr<model::Generation> generation;
    absl::Time until;
  };

  features::Store& store_;
  model::GenerationStore& generations_;
  const model::ScoringFactory factory_;
  const ModelSlotOptions options_;
  const Clock& clock_;
  mutable Mutex mu_;
  std::shared_ptr<model::Generation> current_ ABSL_GUARDED_BY(mu_);
  std::vector<Retired> retired_ ABSL_GUARDED_BY(mu_);
  absl::Time since_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  // Publications are one at a time; not held by readers.
  Mutex publish_mu_;
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_MODEL_SLOT_H_
