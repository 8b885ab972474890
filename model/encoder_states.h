#ifndef NEARLINE_MODEL_ENCODER_STATES_H_
#define NEARLINE_MODEL_ENCODER_STATES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <list>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "model/item_table.h"
#include "model/scoring.h"

namespace nearline::model {

// The sums over users' histories that encoders and rankers begin with, kept by
// user: after an event the rows that came and went are added and subtracted,
// not all of them summed again. Caught up with when they are asked for, and
// made anew from time to time, so that a sum differs from a fresh one by no
// more than 1e-5 of what the weighted rows are long together. Under a byte
// budget, least recently used out first. Thread-safe.
class EncoderStates {
 public:
  // A shorter history is summed as fast as it is found.
  static constexpr size_t kShortest = 16;
  // A sum is made anew when so many rows have been added and subtracted, or so
  // many times the weight that there is has been.
  static constexpr size_t kMostChanges = 256;
  static constexpr float kMostMoved = 16;

  // The tables outlive this. A sum is [dim()], one table's behind the other's.
  EncoderStates(int64_t bytes, std::vector<const ItemTable*> tables);
  size_t dim() const { return dim_; }

  // Of each table the sum of history.weights[i] * row history.rows[i]. It is
  // kept unless Clear was called more than `clears` times.
  void Sum(uint32_t user, const History& history, float* sums,
           uint64_t clears = 0);

  void Clear();

  struct Stats {
    int64_t users = 0, bytes = 0;
    int64_t updated = 0, rebuilt = 0;  // sums
  };
  Stats stats() const;

 private:
  static constexpr size_t kShards = 16;

  struct State {
    uint32_t user = 0;
    std::vector<Row> rows;
    std::vector<float> weights;
    std::vector<float> sums;
    size_t changes = 0;  // since they were made
    float moved = 0;     // weight added and subtracted since
  };
  using States = std::list<State>;  // latest use first
  struct Shard {
    mutable Mutex mu;
    States states ABSL_GUARDED_BY(mu);
    absl::flat_hash_map<uint32_t, States::iterator> places ABSL_GUARDED_BY(mu);
    int64_t bytes ABSL_GUARDED_BY(mu) = 0;
    int64_t updated ABSL_GUARDED_BY(mu) = 0, rebuilt ABSL_GUARDED_BY(mu) = 0;
  };

  static int64_t BytesOf(const State& state);
  // False, and nothing done, where it is better made anew.
  bool CatchUp(const History& history, State* state) const;
  void Rebuild(const History& history, State* state) const;
  static void Drop(Shard* shard, States::iterator state)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard->mu);

  const std::vector<const ItemTable*> tables_;
  const size_t dim_;
  const int64_t shard_budget_;
  std::atomic<uint64_t> clears_{0};
  std::array<Shard, kShards> shards_;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ENCODER_STATES_H_
