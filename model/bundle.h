#ifndef NEARLINE_MODEL_BUNDLE_H_
#define NEARLINE_MODEL_BUNDLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/text.h"
#include "model/tensors.h"

namespace nearline::model {

inline constexpr int kBundleFormat = 1;

// What a generation says of itself: manifest.json.
struct Manifest {
  std::string id;  // "g-20261122-064500-1a2b"; also the folder's name
  // The slots: a model that encodes and scans, one of ModelNames(); "neumf",
  // "mlp" or "" to rank.
  std::string retriever;
  std::string ranker;
  Json parameters = Json::object();  // of training, all of them
  Json event_weights = Json::object();
  std::string parent;  // the generation it was warm-started from
  std::string log_id;
  uint64_t sequence = 0;      // of the log, when the data was read
  int64_t cutoff_micros = 0;  // trained strictly before; 0: split by user
  int64_t created_micros = 0;
  int64_t users = 0;
  int64_t items = 0;
  int64_t events = 0;
  // On the holdout, as served: metric name to value.
  std::map<std::string, double> metrics;
  std::map<std::string, double> incumbent_metrics;
  bool accepted = false;
  std::string decision;  // the gate's words

  std::string Model() const {
    return ranker.empty() || ranker == retriever ? retriever
                                                 : retriever + " + " + ranker;
  }
  Json ToJson() const;
  static absl::StatusOr<Manifest> FromJson(const Json& json);
};

// A generation as it lies in its folder:
//   manifest.json         with size and SHA-256 of every other file
//   weights.safetensors   tensors "<model>.<name>"; those whose first dimension
//                         is the item are named "<model>.item.<name>"
//   items.json            ids in byte order; row order is tie order
struct Bundle {
  Manifest manifest;
  std::vector<std::string> items;
  Tensors tensors;

  // Writes aside, syncs, renames: the folder is there whole or not at all.
  absl::Status Write(const std::string& folder) const;
  // Errors: NOT_FOUND without the folder; DATA_LOSS naming what is damaged.
  static absl::StatusOr<Bundle> Read(const std::string& folder);
  static absl::StatusOr<Manifest> ReadManifest(const std::string& folder);
};

// A fresh id that sorts by time.
std::string NewGenerationId(int64_t now_micros);

// The generations of a server, one folder each, and which one serves. Reads may
// come from any thread or process; of the calls that change it (Write,
// UpdateManifest, SetCurrent, Prune) one at a time.
class GenerationStore {
 public:
  virtual ~GenerationStore() = default;

  // Newest first; damaged manifests are left out.
  virtual absl::StatusOr<std::vector<Manifest>> List() const = 0;
  virtual absl::StatusOr<Bundle> Read(const std::string& id) const = 0;
  virtual absl::Status Write(const Bundle& bundle) = 0;
  // Rewrites the manifest alone.
  virtual absl::Status UpdateManifest(const Manifest& manifest) = 0;
  // Empty when nothing serves yet.
  virtual absl::StatusOr<std::string> Current() const = 0;
  virtual absl::Status SetCurrent(const std::string& id) = 0;
  // Removes all but the newest `keep` accepted and refused ones each and the
  // one in service, and what a write that was cut short left. Not beside Write.
  virtual absl::Status Prune(int keep) = 0;
  virtual std::string FolderOf(const std::string& id) const = 0;
};

// In one folder of the local disk: <id>/, CURRENT.
class LocalGenerationStore final : public GenerationStore {
 public:
  explicit LocalGenerationStore(std::string folder)
      : folder_(std::move(folder)) {}

  absl::StatusOr<std::vector<Manifest>> List() const override;
  absl::StatusOr<Bundle> Read(const std::string& id) const override;
  absl::Status Write(const Bundle& bundle) override;
  absl::Status UpdateManifest(const Manifest& manifest) override;
  absl::StatusOr<std::string> Current() const override;
  absl::Status SetCurrent(const std::string& id) override;
  absl::Status Prune(int keep) override;
  std::string FolderOf(const std::string& id) const override;

 private:
  const std::string folder_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_BUNDLE_H_
