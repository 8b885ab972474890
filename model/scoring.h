// The three slots of a served model. Implementations are thread-safe; one set
// runs on the CPU, one on LibTorch devices.
#ifndef NEARLINE_MODEL_SCORING_H_
#define NEARLINE_MODEL_SCORING_H_

#include <vector>

#include "absl/types/span.h"
#include "base/status.h"
#include "model/attribute_features.h"
#include "model/item_table.h"
#include "model/top_k.h"

namespace nearline::model {

// A user as models see one: distinct rows with weights > 0, oldest first, and
// features of attributes, if the model knows any of them.
struct History {
  std::vector<Row> rows;
  std::vector<float> weights;
  FeatureValues traits;
  bool empty() const { return rows.empty() && traits.empty(); }
  friend bool operator==(const History&, const History&) = default;
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual int dim() const = 0;
  // Tables whose rows it sums, weighted by the history, before anything else.
  virtual std::vector<const ItemTable*> summed() const { return {}; }
  // Query vectors, row-major [histories.size(), dim()]. `sums` has those of
  // summed(), one table's behind the other's, a pointer a history, null where
  // they are not known; or it is empty, and none are.
  virtual absl::Status EncodeFrom(absl::Span<const float* const> sums,
                                  absl::Span<const History* const> histories,
                                  std::vector<float>* queries) const = 0;
  absl::Status Encode(absl::Span<const History* const> histories,
                      std::vector<float>* queries) const {
    return EncodeFrom({}, histories, queries);
  }
};

// How a scan looks, for logs and metrics.
struct ScanReport {
  const char* precision = "float32";  // of the product, before exact scores
  int lists = 0;      // of an approximate index; 0: every row is looked at
  int probes = 0;     // lists looked at
  double recall = 1;  // of the 100 best, when it was last tuned
};

class Scanner {
 public:
  virtual ~Scanner() = default;
  // For query i, the ks[i] best rows under masks[i] by q . m_row + bias_row,
  // best first; fewer when fewer are eligible. queries is [masks.size(), dim].
  virtual absl::Status Scan(
      absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
      absl::Span<const int> ks,
      std::vector<std::vector<ScoredRow>>* best) const = 0;
  // The same rows, in no order and with scores that may err: for who orders
  // them by something else.
  virtual absl::Status Shortlist(
      absl::Span<const float> queries, absl::Span<const RowMask* const> masks,
      absl::Span<const int> ks,
      std::vector<std::vector<ScoredRow>>* best) const {
    return Scan(queries, masks, ks, best);
  }
  // The scores of these rows, exact in float32; -infinity for what is not a
  // number. query is [dim].
  virtual void Score(const float* query, absl::Span<ScoredRow> rows) const = 0;
  // Rows below `rows` are there for good; a scanner may lay them out for speed.
  // Called by one thread at a time, beside scans.
  virtual void Extend(Row /*rows*/) {}
  // Chooses how far to look by queries such as will be asked, row-major
  // [masks.size(), dim], and what may be answered to them. Before the first
  // scan.
  virtual absl::Status Tune(absl::Span<const float> /*queries*/,
                            absl::Span<const RowMask* const> /*masks*/) {
    return absl::OkStatus();
  }
  virtual ScanReport report() const { return {}; }
};

class Ranker {
 public:
  virtual ~Ranker() = default;
  // Whether it has a say in what this user gets; else the scan's order stands.
  virtual bool Ranks(const History& history) const {
    return !history.rows.empty();
  }
  // Whether Score reads the scores of the shortlist.
  virtual bool ReadsScores() const { return true; }
  // What Score needs of a user beside the query, [user_dim()]: worth keeping
  // until the history changes. As an encoder's, `sums` are those of summed(),
  // or null.
  virtual size_t user_dim() const { return 0; }
  virtual std::vector<const ItemTable*> summed() const { return {}; }
  virtual void ReadUser(const History& /*history*/, const float* /*sums*/,
                        float* /*user*/) const {}
  // One score a candidate, higher is better. `query` is the encoder's, `user`
  // what ReadUser says, and the shortlist has the scores of the scan, if they
  // are read.
  virtual absl::Status Score(const History& history, const float* query,
                             const float* user,
                             absl::Span<const ScoredRow> shortlist,
                             std::vector<float>* scores) const = 0;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SCORING_H_
