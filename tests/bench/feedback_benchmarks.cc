// Durable feedback beside RocksDB alone and beside the disk:
//   build/release/bin/nearline_benchmarks --benchmark_filter='Feedback|Bare'
// Threads are callers, who wait for one call at a time.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/varint.h"
#include "features/store_format.h"
#include "tests/bench/bench_common.h"
#include "tests/features/store_fixture.h"

namespace nearline {
namespace {

constexpr int kUsers = 1000, kCatalogue = 3000;

// What the threads of one benchmark share, while it runs.
template <typename T>
class Shared {
 public:
  template <typename Make>
  void Open(const benchmark::State& state, const Make& make) {
    if (state.thread_index() == 0) one_ = make(dir_.emplace());
  }
  void Close(const benchmark::State& state) {
    if (state.thread_index() != 0) return;
    one_.reset();
    dir_.reset();
  }
  T* operator->() const { return one_.get(); }
  T* get() const { return one_.get(); }

 private:
  std::optional<TempDir> dir_;
  std::unique_ptr<T> one_;
};

void ByEvent(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void Sizes(benchmark::internal::Benchmark* b) {
  b->ArgName("events")->UseRealTime()->Arg(1)->Arg(100)->Arg(1000);
  b->Threads(1)->Threads(8)->Threads(64);
}

std::unique_ptr<features::Store> StoreWithItems(const TempDir& dir) {
  auto store = features::OpenStore(dir.path());
  std::vector<features::Item> items;
  for (int i = 0; i < kCatalogue; ++i) {
    items.push_back({absl::StrCat("i", i), {}});
  }
  if (!features::Do<features::Sequence>(
           store.get(), features::UpsertItems{.items = std::move(items)})
           .ok()) {
    std::abort();
  }
  return store;
}

// What Feedback does after parsing.
void BM_DurableFeedback(benchmark::State& state) {
  static Shared<features::Store> store;
  store.Open(state, StoreWithItems);
  Random random(static_cast<uint64_t>(state.thread_index()) + 1);
  for (auto _ : state) {
    std::vector<features::NewEvent> events;
    for (int64_t i = 0; i < state.range(0); ++i) {
      events.push_back(
          features::Like(absl::StrCat("u", random.Below(kUsers)),
                         absl::StrCat("i", random.Below(kCatalogue)),
                         absl::StrCat(random.Next())));
    }
    if (!features::AppendAll(store.get(), std::move(events)).ok()) std::abort();
  }
  ByEvent(state);
  store.Close(state);
}
BENCHMARK(BM_DurableFeedback)->Apply(Sizes);

// The rows that an event becomes.
void PutEvent(features::Database* database, features::Sequence sequence,
              Random* random, rocksdb::WriteBatch* batch) {
  features::Event event;
  event.user = static_cast<features::Ordinal>(random->Below(kUsers));
  event.item = static_cast<features::Ordinal>(random->Below(kCatalogue));
  event.sequence = sequence;
  event.time_micros = absl::GetCurrentTimeNanos() / 1000;
  event.event_id = absl::StrCat(random->Next());
  batch->Put(database->table(features::kEvents),
             features::EventKey(event.user, event.sequence),
             features::EncodeEvent(event));
  batch->Put(database->table(features::kSequences),
             features::SequenceKey(event.sequence),
             features::OrdinalKey(event.user));
  batch->Put(database->table(features::kEventIds),
             features::EventIdKey(event.user, {random->Next(), 0}),
             features::EncodeEventId({.sequence = event.sequence,
                                      .payload_hash = random->Next(),
                                      .time_micros = event.time_micros}));
  std::string count;
  PutRaw(&count, 1.0);
  batch->Put(database->table(features::kCounts),
             features::OrdinalKey(event.item), count);
}

// RocksDB alone with the same rows, tables, options and syncs: callers write,
// RocksDB gathers them.
void BM_BareRocksDb(benchmark::State& state) {
  static Shared<features::Database> database;
  static std::atomic<features::Sequence> sequence{0};
  database.Open(state, [](const TempDir& dir) {
    return *features::Database::Open(
        features::TestOptions(dir.path()).database);
  });
  Random random(static_cast<uint64_t>(state.thread_index()) + 1);
  for (auto _ : state) {
    rocksdb::WriteBatch batch;
    features::Sequence last = 0;
    for (int64_t i = 0; i < state.range(0); ++i) {
      last = ++sequence;
      PutEvent(database.get(), last, &random, &batch);
    }
    batch.Put(database->table(features::kMeta), "next_sequence",
              std::to_string(last));
    if (!database->Write(&batch).ok()) std::abort();
  }
  ByEvent(state);
  database.Close(state);
}
BENCHMARK(BM_BareRocksDb)->Apply(Sizes);

// One sync behind another, of 4 kB each.
void BM_BareSync(benchmark::State& state) {
  const TempDir dir;
  const int fd =
      open((dir / "file").c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
  const std::string bytes(4096, 'x');
  for (auto _ : state) {
    if (write(fd, bytes.data(), bytes.size()) < 0 || fdatasync(fd) != 0) {
      std::abort();
    }
  }
  close(fd);
}
BENCHMARK(BM_BareSync)->UseRealTime();

}  // namespace
}  // namespace nearline
