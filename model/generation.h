#ifndef NEARLINE_MODEL_GENERATION_H_
#define NEARLINE_MODEL_GENERATION_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "base/status.h"
#include "features/catalogue.h"
#include "features/profile.h"
#include "model/bundle.h"
#include "model/encoder_states.h"
#include "model/item_features.h"
#include "model/item_table.h"
#include "model/neighbours.h"
#include "model/query_cache.h"
#include "model/scoring.h"
#include "model/user_features.h"

namespace nearline::model {

// The slots of a loaded model; neighbours, which add to what the scanner says,
// and ranker may be null.
struct Scoring {
  std::unique_ptr<Encoder> encoder;
  std::unique_ptr<Scanner> scanner;
  std::unique_ptr<const Neighbours> neighbours;
  std::unique_ptr<Ranker> ranker;
};

// Builds the slots that the manifest names from the tables and the remaining
// tensors. CpuScoring is one; LibTorch devices have another.
using ScoringFactory = std::function<absl::StatusOr<Scoring>(
    const Manifest& manifest, const ItemTables& tables, Tensors* tensors)>;
absl::StatusOr<Scoring> CpuScoring(const Manifest& manifest,
                                   const ItemTables& tables, Tensors* tensors);

// How a retriever encodes, by its name.
enum class RetrieverKind {
  kConstant,  // popularity
  kMultVae,
  kGmf,      // NeuMF's GMF branch
  kFoldIn,   // matrix factorization
  kHistory,  // a neural part, a linear one, or both: see HistoryEncoder
};
RetrieverKind KindOf(const std::string& retriever);

// The tensors that a retriever's scan reads: what it knows of items [N, D], and
// a bias [N, 1].
std::string ScannedTable(const std::string& retriever);
std::string BiasTable(const std::string& retriever);

// A growing map from a small number to another, read without a lock.
class NumberMap {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;
  uint32_t operator[](uint32_t key) const {
    const size_t chunk = key / kChunk;
    if (chunk >= kChunks) return kNone;
    const auto* values = chunks_[chunk].load(std::memory_order_acquire);
    return values == nullptr
               ? kNone
               : values[key % kChunk].load(std::memory_order_relaxed);
  }
  // One thread at a time.
  void Set(uint32_t key, uint32_t value);
  ~NumberMap();

 private:
  static constexpr size_t kChunk = 1 << 14;
  static constexpr size_t kChunks = 1 << 14;
  std::unique_ptr<std::atomic<std::atomic<uint32_t>*>[]> chunks_ {
    new std::atomic<std::atomic<uint32_t>*>[ kChunks ]()
  };
};

// One published model with all that belongs to it, ready to serve. Readers take
// no lock; Bind, which lets later items in, is serialized. Thread-safe.
class Generation {
 public:
  // Errors: INVALID_ARGUMENT or NOT_FOUND naming the tensor that is wrong.
  static absl::StatusOr<std::shared_ptr<Generation>> Create(
      Bundle bundle, const ScoringFactory& factory = CpuScoring);

  const Manifest& manifest() const { return manifest_; }
  const std::string& id() const { return manifest_.id; }
  const Encoder& encoder() const { return *scoring_.encoder; }
  const Scanner& scanner() const { return *scoring_.scanner; }
  const Neighbours* neighbours() const { return scoring_.neighbours.get(); }
  const Ranker* ranker() const { return scoring_.ranker.get(); }
  const ItemTables& tables() const { return tables_; }

  // Keeps query vectors, in `bytes` of memory, from now on, and what the ranker
  // reads of users if it is in use. Before sharing.
  void KeepQueries(int64_t bytes, bool rank = true) {
    kept_dim_ = static_cast<size_t>(encoder().dim());
    if (rank && ranker() != nullptr) kept_dim_ += ranker()->user_dim();
    queries_ = std::make_unique<QueryCache>(bytes, kept_dim_);
  }
  // Keeps what encoder and ranker, if it is in use, sum over histories, in
  // `bytes` of memory. Before sharing.
  void KeepStates(int64_t bytes, bool rank = true);
  EncoderStates* states() const { return states_.get(); }  // may be null
  // Where in a state the ranker's sums begin, if they are there.
  std::optional<size_t> ranker_sums() const { return ranker_sums_; }
  // Drops all that is kept of histories, on behalf of a user who was erased;
  // and what comes of histories that were read before is not kept any more.
  void Forget() const;
  // Calls of Forget, for Query::forgets: read before the history is.
  uint64_t forgets() const { return forgets_; }
  // Scanner::Tune. Before sharing.
  absl::Status Tune(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks) {
    return scoring_.scanner->Tune(queries, masks);
  }
  // Share of the places among a user's 10 best that the scan gives to the item
  // that float32 scores of all rows do, for users such as will ask; 1 before it
  // is set, which is before sharing.
  void set_agreement(double share) { agreement_ = share; }
  double agreement() const { return agreement_; }
  QueryCache* queries() const { return queries_.get(); }  // may be null
  // Of what is kept: the query, and behind it what the ranker reads of a user.
  size_t kept_dim() const { return kept_dim_; }

  // Rows that can be read now; grows as items are bound.
  uint32_t rows() const { return rows_.load(std::memory_order_acquire); }
  uint32_t base_rows() const { return base_rows_; }
  // Changes whenever an item is connected to another row.
  uint64_t bindings() const {
    return bindings_.load(std::memory_order_acquire);
  }
  // kNoRow for an item that the generation cannot score.
  Row RowOf(features::Ordinal item) const { return row_of_[item]; }
  // kNoOrdinal for a row whose item the local store does not know.
  features::Ordinal OrdinalOf(Row row) const { return ordinal_of_[row]; }

  // Connects the store's ordinals to rows: by id where the item was trained; a
  // servable one that was not gets rows from its attributes. Call it for every
  // new or changed item.
  void Bind(const features::Catalogue& catalogue, features::Ordinal item);
  void BindAll(const features::Catalogue& catalogue);

  // The profile's history in this generation's rows, with its traits; unknown
  // items and attributes fall away.
  History HistoryOf(const features::Profile& profile, double max_weight) const;

  // Gives a history the traits of its user; null for none.
  void AddTraits(const features::Attributes* attributes,
                 History* history) const;

  // Rows whose cosine with the item's vector is greatest, best first, without
  // itself. Row must be < rows(); the mask must not cover more.
  std::vector<ScoredRow> Similar(Row row, const RowMask& mask, int k) const;

 private:
  Generation() = default;
  void BindLocked(const features::Catalogue& catalogue, features::Ordinal item)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Manifest manifest_;
  uint32_t base_rows_ = 0;
  ItemTables tables_;
  Scoring scoring_;
  std::shared_ptr<const UserFeatures> users_;  // null: attributes say nothing
  std::unique_ptr<QueryCache> queries_;
  size_t kept_dim_ = 0;
  std::unique_ptr<EncoderStates> states_;
  std::optional<size_t> ranker_sums_;
  mutable std::atomic<uint64_t> forgets_{0};
  double agreement_ = 1;
  const ItemTable* vectors_ = nullptr;  // what Similar compares
  std::atomic<uint32_t> rows_{0};
  std::atomic<uint64_t> bindings_{0};
  NumberMap row_of_;
  NumberMap ordinal_of_;

  Mutex mu_;
  std::vector<std::string> items_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<absl::string_view, Row> row_of_id_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<const ItemFeatureMap> features_ ABSL_GUARDED_BY(mu_);
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_GENERATION_H_
