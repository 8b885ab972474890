#ifndef NEARLINE_SERVER_PIPELINE_H_
#define NEARLINE_SERVER_PIPELINE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/catalogue.h"
#include "features/store.h"
#include "model/recommender.h"
#include "server/model_slot.h"
#include "server/tokens.h"

namespace nearline::server {

enum class ServedBy { kRanked, kShortlist, kPopular };

// A checked request; see recommendation.proto for what the fields mean.
struct RecommendRequest {
  std::string user;  // empty: `history`
  struct Entry {
    std::string item;
    float weight = 1;
  };
  std::vector<Entry> history;
  int count = 10;
  std::string page_token;
  std::vector<std::string> candidates;
  std::vector<std::string> exclude;
  std::optional<features::Filter> filter;
  bool include_seen = false;
  std::string after;
  std::string request_id;
  // Of every field that a continued list must repeat.
  uint64_t hash = 0;
};

struct RecommendAnswer {
  std::vector<std::string> items;
  std::vector<float> scores;
  std::string next_page_token;
  std::string generation;
  features::Sequence sequence = 0;
  ServedBy served_by = ServedBy::kPopular;
  std::string degraded_reason;
};

// One request on its way through the pipeline.
struct RecommendJob {
  // An empty one asks for nothing, and gets it.
  bool empty = false;
  RecommendRequest request;
  absl::Time admitted;
  absl::Time deadline = absl::InfiniteFuture();
  std::function<bool()> cancelled;  // may be empty
  std::function<void(absl::StatusOr<RecommendAnswer>)> done;
};

struct PipelineOptions {
  model::RecommendOptions recommend;
  absl::Duration page_ttl = absl::Hours(1);
  int overload_queue = 500;  // with more still waiting, the ranker is left out
};

// What a batch took, for metrics.
struct BatchReport {
  int jobs = 0;
  int dropped = 0;        // deadline passed or caller gone
  absl::Duration queued;  // from admission to the batch, summed over its jobs
  model::StageTimes stages;
};

// profiles -> encode -> scan -> rank -> rules for a batch, on one snapshot of
// the generation. Knows no gRPC and starts no thread. Thread-safe.
class Pipeline {
 public:
  // The store and the slot outlive this.
  Pipeline(features::Store* store, ModelSlot* slot, PipelineOptions options,
           const Clock* clock,
           std::function<void(const BatchReport&)> on_batch = {});

  // Answers every job, by its `done`; calls `computed` when the answers are
  // known and only delivery is left.
  void Run(std::vector<std::unique_ptr<RecommendJob>> batch, int still_queued,
           const std::function<void()>& computed = {});

  struct Similar {
    std::vector<std::string> items;
    std::vector<float> scores;
    std::string generation;
  };
  // Errors: NOT_FOUND, FAILED_PRECONDITION without a generation.
  absl::StatusOr<Similar> SimilarItems(
      const std::string& item, int count,
      const std::vector<std::string>& exclude,
      const std::optional<features::Filter>& filter);

 private:
  struct Work;

  absl::Status Prepare(Work* work);
  void Mask(const features::Catalogue& catalogue, Work* work);
  std::shared_ptr<const model::RowMask> BaseMask(
      const model::Generation& generation,
      const features::Catalogue& catalogue);
  void Score(std::vector<Work*> works, bool rank, model::StageTimes* times);
  void ListPopular(Work* work);
  RecommendAnswer Finish(const features::Catalogue& catalogue, Work* work);

  features::Store& store_;
  ModelSlot& slot_;
  const PipelineOptions options_;
  const Clock& clock_;
  const std::function<void(const BatchReport&)> on_batch_;

  // The servable rows of the last generation asked for.
  Mutex mask_mu_;
  std::string mask_generation_ ABSL_GUARDED_BY(mask_mu_);
  uint64_t mask_version_ ABSL_GUARDED_BY(mask_mu_) = 0;   // of the catalogue
  uint64_t mask_bindings_ ABSL_GUARDED_BY(mask_mu_) = 0;  // of the generation
  std::shared_ptr<const model::RowMask> mask_ ABSL_GUARDED_BY(mask_mu_);
};

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_PIPELINE_H_
