#include "model/encoder_states.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "model/cpu_scoring.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

// What a history has that another has not.
struct Change {
  Row row;
  float weight;  // negative: it went
};

// What turns the history of `rows` and `weights` into another, false when that
// takes more than `most` changes, or seems to: items keep their order but for a
// few, which are taken out and put in again.
bool Difference(const std::vector<Row>& rows, const std::vector<float>& weights,
                const History& to, size_t most, std::vector<Change>* changes) {
  constexpr size_t kAhead = 8;
  changes->clear();
  // Places after which `row` comes in list, from `at` on; kAhead: not soon.
  const auto distance = [](const std::vector<Row>& list, size_t at, Row row) {
    size_t n = 0;
    while (n < kAhead && at + n < list.size() && list[at + n] != row) ++n;
    return at + n < list.size() ? n : kAhead;
  };
  size_t i = 0, j = 0;
  while (i < rows.size() || j < to.rows.size()) {
    if (i < rows.size() && j < to.rows.size() && rows[i] == to.rows[j]) {
      if (weights[i] != to.weights[j]) {
        changes->push_back({rows[i], to.weights[j] - weights[i]});
      }
      ++i;
      ++j;
    } else if (i == rows.size() ||
               (j < to.rows.size() && distance(to.rows, j, rows[i]) <
                                          distance(rows, i, to.rows[j]))) {
      changes->push_back({to.rows[j], to.weights[j]});
      ++j;
    } else {
      changes->push_back({rows[i], -weights[i]});
      ++i;
    }
    if (changes->size() > most) return false;
  }
  return true;
}

size_t WidthOf(const std::vector<const ItemTable*>& tables) {
  size_t width = 0;
  for (const ItemTable* table : tables) width += table->dim();
  return width;
}

}  // namespace

EncoderStates::EncoderStates(int64_t bytes,
                             std::vector<const ItemTable*> tables)
    : tables_(std::move(tables)),
      dim_(WidthOf(tables_)),
      shard_budget_(bytes / static_cast<int64_t>(kShards)) {}

int64_t EncoderStates::BytesOf(const State& state) {
  constexpr size_t kPlace = 112;  // list node, map slot, allocator
  return static_cast<int64_t>(kPlace + sizeof(State) +
                              state.rows.capacity() *
                                  (sizeof(Row) + sizeof(float)) +
                              state.sums.capacity() * sizeof(float));
}

void EncoderStates::Drop(Shard* shard, States::iterator state) {
  shard->bytes -= BytesOf(*state);
  shard->places.erase(state->user);
  shard->states.erase(state);
}

bool EncoderStates::CatchUp(const History& history, State* state) const {
  thread_local std::vector<Change> changes;
  if (!Difference(state->rows, state->weights, history, history.rows.size() / 2,
                  &changes)) {
    return false;
  }
  state->changes += changes.size();
  for (const Change& change : changes) state->moved += std::abs(change.weight);
  float present = 0;
  for (const float weight : history.weights) present += weight;
  if (state->changes > kMostChanges || state->moved > kMostMoved * present) {
    return false;
  }
  float* out = state->sums.data();
  for (const ItemTable* table : tables_) {
    for (const Change& change : changes) {
      AddScaled((*table)[change.row], change.weight, table->dim(), out);
    }
    out += table->dim();
  }
  return true;
}

void EncoderStates::Rebuild(const History& history, State* state) const {
  state->sums.resize(dim_);
  float* out = state->sums.data();
  for (const ItemTable* table : tables_) {
    GatherSum(*table, history, 1, out);
    out += table->dim();
  }
  state->changes = 0;
  state->moved = 0;
}

// Out of its shard while it is worked on: who asks for the same user meanwhile
// makes another.
void EncoderStates::Sum(uint32_t user, const History& history, float* sums,
                        uint64_t clears) {
  Shard& shard = shards_[user % kShards];
  States own;
  {
    MutexLock lock(&shard.mu);
    const auto place = shard.places.find(user);
    if (place != shard.places.end()) {
      shard.bytes -= BytesOf(*place->second);
      own.splice(own.begin(), shard.states, place->second);
      shard.places.erase(place);
    }
  }
  if (own.empty()) own.emplace_front().user = user;
  State& state = own.front();
  const bool updated = !state.sums.empty() && CatchUp(history, &state);
  if (!updated) Rebuild(history, &state);
  state.rows = history.rows;
  state.weights = history.weights;
  std::copy(state.sums.begin(), state.sums.end(), sums);

  MutexLock lock(&shard.mu);
  ++(updated ? shard.updated : shard.rebuilt);
  const int64_t bytes = BytesOf(state);
  // It would push out all others, or may be of somebody who was erased.
  if (bytes > shard_budget_ || clears != clears_) return;
  const auto other = shard.places.find(user);
  if (other != shard.places.end()) Drop(&shard, other->second);
  shard.bytes += bytes;
  shard.states.splice(shard.states.begin(), own);
  shard.places[user] = shard.states.begin();
  while (shard.bytes > shard_budget_) {
    Drop(&shard, std::prev(shard.states.end()));
  }
}

void EncoderStates::Clear() {
  ++clears_;
  for (Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    shard.places.clear();
    shard.states.clear();
    shard.bytes = 0;
  }
}

EncoderStates::Stats EncoderStates::stats() const {
  Stats sum;
  for (const Shard& shard : shards_) {
    MutexLock lock(&shard.mu);
    sum.users += static_cast<int64_t>(shard.states.size());
    sum.bytes += shard.bytes;
    sum.updated += shard.updated;
    sum.rebuilt += shard.rebuilt;
  }
  return sum;
}

}  // namespace nearline::model
