#include "server/readings.h"

#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/version.h"
#include "server/control_group.h"

namespace nearline::server {
namespace {

using prometheus::MetricType;
using Labels = std::vector<std::pair<std::string, std::string>>;

// Readings of one name follow each other; the first one's help is taken.
class Readings {
 public:
  template <typename T>
  void Gauge(const char* name, const char* help, T value, Labels labels = {}) {
    out_.push_back({name, help, MetricType::Gauge, static_cast<double>(value),
                    std::move(labels)});
  }
  template <typename T>
  void Counter(const char* name, const char* help, T value,
               Labels labels = {}) {
    out_.push_back({name, help, MetricType::Counter, static_cast<double>(value),
                    std::move(labels)});
  }
  std::vector<Metrics::Reading> Take() { return std::move(out_); }

 private:
  std::vector<Metrics::Reading> out_;
};

double SinceEpoch(absl::Time time) {
  return absl::ToDoubleSeconds(time - absl::UnixEpoch());
}

void ReadQueues(const Parts& parts, const features::Store::Stats& stats,
                Readings* out) {
  out->Gauge("nearline_calls_in_flight", "Calls begun and not ended.",
             parts.metrics->in_flight());
  out->Gauge("nearline_queued_requests", "Recommend calls waiting for a batch.",
             parts.batcher->queued());
  out->Gauge("nearline_queued_requests_limit", "Beyond, they are refused.",
             parts.config->serving.max_queued);
  out->Gauge("nearline_queued_events", "Events waiting for the disk.",
             stats.queued_events);
  out->Gauge("nearline_queued_events_limit", "Beyond, feedback is refused.",
             parts.config->store.max_queued_events);
}

void ReadStore(const Parts& parts, const features::Store::Stats& stats,
               Readings* out) {
  out->Counter("nearline_store_syncs_total", "Writes synced to disk.",
               stats.syncs);
  out->Counter("nearline_store_sync_seconds_total",
               "Time spent in synced writes.",
               absl::ToDoubleSeconds(stats.sync_time));
  out->Counter("nearline_store_failed_writes_total", "Writes that failed.",
               stats.failed_writes);
  out->Counter("nearline_store_synced_events_total", "Events in those writes.",
               stats.synced_events);
  out->Gauge("nearline_store_sequence", "Sequence of the newest event.",
             parts.store->sequence());
  out->Gauge("nearline_store_users", "Users known.", parts.store->users());
  out->Gauge("nearline_store_items", "Items in the catalogue.",
             parts.store->ReadCatalogue()->listed());
  const auto& profiles = stats.profiles;
  out->Gauge("nearline_hot_profiles", "Profiles in memory.", profiles.profiles);
  out->Gauge("nearline_hot_profile_bytes", "Memory of the profiles.",
             profiles.bytes);
  out->Counter("nearline_hot_profile_hits_total", "Profiles found in memory.",
               profiles.hits);
  out->Counter("nearline_hot_profile_misses_total",
               "Profiles read from the log.", profiles.misses);
  out->Counter("nearline_hot_profile_evictions_total", "Profiles pushed out.",
               profiles.evictions);
}

void ReadRetention(const Parts& parts, Readings* out) {
  if (parts.retention == nullptr) return;
  const features::Retention::Stats stats = parts.retention->stats();
  out->Counter("nearline_retired_events_total",
               "Events that were kept for long enough.", stats.events);
  out->Counter("nearline_retired_users_total",
               "Users of whom nothing was left then.", stats.users);
  out->Counter("nearline_retention_failures_total",
               "Sweeps that did not get through.", stats.failures);
  out->Gauge("nearline_retention_last_sweep_timestamp_seconds",
             "When the log was last swept; the start before that.",
             SinceEpoch(stats.last_sweep));
  out->Gauge(
      "nearline_retention_interval_seconds", "Between two sweeps.",
      absl::ToDoubleSeconds(parts.config->store.retention.sweep_interval));
}

void ReadDisk(const Config& config, Readings* out) {
  const auto free = FreeBytes(config.data_dir);
  if (free.ok()) {
    out->Gauge("nearline_disk_free_bytes", "Left on the data's disk.", *free);
  }
  out->Gauge("nearline_disk_reserve_bytes",
             "Writes are refused when less is left.",
             config.store.database.free_space_reserve);
  out->Gauge("nearline_store_disk_bytes", "Taken by the store.",
             FolderBytes(JoinPath(config.data_dir, "store")));
  out->Gauge("nearline_generations_disk_bytes", "Taken by the generations.",
             FolderBytes(JoinPath(config.data_dir, "generations")));
}

void ReadTraining(const Retrainer& retrainer, Readings* out) {
  const Retrainer::Stats r = retrainer.stats();
  constexpr char kRuns[] = "nearline_training_runs_total";
  constexpr char kRunsHelp[] = "Training runs, by outcome.";
  out->Counter(kRuns, kRunsHelp, r.published, {{"outcome", "published"}});
  out->Counter(kRuns, kRunsHelp, r.rejected, {{"outcome", "rejected"}});
  out->Counter(kRuns, kRunsHelp, r.failed, {{"outcome", "failed"}});
  constexpr char kInARow[] = "nearline_training_runs_in_a_row";
  constexpr char kInARowHelp[] = "The same since the last that was published.";
  out->Gauge(kInARow, kInARowHelp, r.rejected_in_a_row,
             {{"outcome", "rejected"}});
  out->Gauge(kInARow, kInARowHelp, r.failed_in_a_row, {{"outcome", "failed"}});
  out->Gauge("nearline_training_running", "1 while a run is under way.",
             retrainer.RunningId().empty() ? 0 : 1);
  out->Gauge("nearline_training_last_duration_seconds", "Of the last run.",
             absl::ToDoubleSeconds(r.last_duration));
}

void ReadGeneration(const Parts& parts, Readings* out) {
  const GenerationPtr g = parts.slot->Snapshot();
  out->Gauge("nearline_generation_in_service",
             "1 when a model serves, 0 when popular items do.",
             g == nullptr ? 0 : 1);
  if (g == nullptr) return;
  out->Gauge("nearline_generation_info", "1; the label says which serves.", 1,
             {{"generation", g->id()}});
  out->Gauge("nearline_generation_age_seconds", "Since the model was trained.",
             absl::ToDoubleSeconds(
                 parts.clock->Now() -
                 absl::FromUnixMicros(g->manifest().created_micros)));
  out->Gauge("nearline_index_recall",
             "Share of the 100 best that the approximate index found when it "
             "was tuned; 1 without one.",
             g->scanner().report().recall);
  out->Gauge(
      "nearline_scan_agreement",
      "Share of the places among a user's 10 best that the scan gives to "
      "the item that float32 scores of all do, when the model was loaded.",
      g->agreement());
  if (const model::QueryCache* const cache = g->queries(); cache != nullptr) {
    const model::QueryCache::Stats queries = cache->stats();
    out->Counter("nearline_query_cache_hits_total",
                 "Query vectors that did not have to be computed again, since "
                 "the generation came into service.",
                 queries.hits);
    out->Counter("nearline_query_cache_misses_total", "Those that had to.",
                 queries.misses);
  }
  if (const model::EncoderStates* const states = g->states();
      states != nullptr) {
    const model::EncoderStates::Stats sums = states->stats();
    out->Counter(
        "nearline_encoder_states_updated_total",
        "Sums over histories that took but the rows which had changed, "
        "since the generation came into service.",
        sums.updated);
    out->Counter("nearline_encoder_states_rebuilt_total",
                 "Those that took all rows.", sums.rebuilt);
    out->Gauge("nearline_encoder_states_bytes", "Memory of these sums.",
               sums.bytes);
  }
  for (const auto& [name, value] : g->manifest().metrics) {
    if (!absl::StrContains(name, "@") || absl::StartsWith(name, "popularity")) {
      continue;
    }
    out->Gauge("nearline_generation_quality",
               "Holdout metrics of the model in service.", value,
               {{"metric", name}});
  }
}

void ReadBackups(const Backups* backups, Readings* out) {
  if (backups == nullptr) return;
  out->Counter("nearline_backup_failures_total", "Backups that failed.",
               backups->failures());
  const std::vector<features::BackupInfo> all = backups->List();
  if (all.empty()) return;
  out->Gauge("nearline_backup_last_success_timestamp_seconds",
             "When the newest backup was made.", SinceEpoch(all.back().time));
  out->Gauge("nearline_backup_bytes", "Of the newest backup, as a whole.",
             all.back().bytes);
}

// As other programs name them.
void ReadProcess(const Parts& parts, Readings* out) {
  out->Gauge("nearline_build_info", "1; the version is in the label.", 1,
             {{"version", kVersion}});
  out->Gauge("process_start_time_seconds", "When the process began.",
             SinceEpoch(parts.started));
  rusage used;
  if (getrusage(RUSAGE_SELF, &used) == 0) {
    out->Counter(
        "process_cpu_seconds_total", "Processor time used.",
        absl::ToDoubleSeconds(absl::DurationFromTimeval(used.ru_utime) +
                              absl::DurationFromTimeval(used.ru_stime)));
  }
  out->Gauge("process_resident_memory_bytes", "Memory in use.",
             ResidentBytes());
  const ControlGroup::Memory memory = ControlGroup::Own().ReadMemory();
  if (memory.limit > 0) {
    out->Gauge("nearline_memory_limit_bytes",
               "Beyond, the kernel ends a process of the control group.",
               memory.limit);
    out->Gauge(
        "nearline_memory_used_bytes",
        "Of the control group: server, trainer, what is not written yet.",
        memory.used);
  }
  const auto open = ListDir("/proc/self/fd");
  if (open.ok()) {
    out->Gauge("process_open_fds", "Files and connections open.", open->size());
  }
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    out->Gauge("process_max_fds", "Most of them.", limit.rlim_cur);
  }
}

}  // namespace

std::vector<Metrics::Reading> ReadParts(const Parts& parts) {
  Readings out;
  const features::Store::Stats stats = parts.store->stats();
  ReadQueues(parts, stats, &out);
  ReadStore(parts, stats, &out);
  ReadRetention(parts, &out);
  ReadDisk(*parts.config, &out);
  ReadTraining(*parts.retrainer, &out);
  ReadGeneration(parts, &out);
  ReadBackups(parts.backups, &out);
  ReadProcess(parts, &out);
  return out.Take();
}

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  if (!(statm >> size >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

std::vector<Metrics::Reading> ReadListener(Listener* listener) {
  Readings out;
  out.Gauge("nearline_connections", "Connections open.",
            listener->connections());
  out.Counter("nearline_connections_refused_total",
              "Connections closed at once: there were too many.",
              listener->refused());
  return out.Take();
}

}  // namespace nearline::server
