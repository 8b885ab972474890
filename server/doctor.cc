#include "server/doctor.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "features/store_backups.h"
#include "model/bundle.h"
#include "model/devices.h"
#include "model/kernels.h"
#include "server/access.h"
#include "server/certificates.h"
#include "server/listener.h"
#include "server/retrainer.h"
#include "server/trainer_host.h"

namespace nearline::server {
namespace {

std::string Mebibytes(int64_t bytes) {
  return absl::StrCat(bytes >> 20, " MiB");
}

// The number in a file of the kernel's; none when there is no such file or
// number ("max").
std::optional<int64_t> NumberIn(const std::string& path) {
  const auto text = ReadFile(path);
  int64_t number = 0;
  if (!text.ok() || !absl::SimpleAtoi(*text, &number)) return std::nullopt;
  return number;
}

class Examination {
 public:
  explicit Examination(const Config& config) : config_(config) {}

  std::vector<Finding> Run() {
    Folder();
    Store();
    Generations();
    Ports();
    Tls();
    Callers();
    BackupFolder();
    Trainer();
    Processor();
    Memory();
    OpenFiles();
    TheClock();
    return std::move(findings_);
  }

 private:
  void Good(const char* about, std::string what) {
    findings_.push_back({Finding::Level::kGood, about, std::move(what)});
  }
  void Doubt(const char* about, std::string what) {
    findings_.push_back({Finding::Level::kDoubt, about, std::move(what)});
  }
  void Wrong(const char* about, std::string what) {
    findings_.push_back({Finding::Level::kWrong, about, std::move(what)});
  }
  void Wrong(const char* about, const absl::Status& status) {
    Wrong(about, std::string(status.message()));
  }

  // Sets `running_`.
  void Folder() {
    constexpr char kAbout[] = "data_dir";
    const std::string& path = config_.data_dir;
    std::error_code ignored;
    std::filesystem::path up = std::filesystem::absolute(path, ignored);
    while (up.has_relative_path() && !std::filesystem::exists(up, ignored)) {
      up = up.parent_path();  // the folder that would hold it
    }
    const std::string there = up.string();
    if (access(there.c_str(), W_OK | X_OK) != 0) {
      return Wrong(
          kAbout, absl::StrFormat("%s cannot be written by user %d: give it to "
                                  "them (chown), or set another data_dir",
                                  there, geteuid()));
    }
    if (FileExists(JoinPath(path, "LOCK"))) {
      const auto lock = FileLock::Acquire(JoinPath(path, "LOCK"));
      running_ = absl::IsFailedPrecondition(lock.status());
      if (!lock.ok() && !running_) {
        return Wrong(kAbout, absl::StrCat(lock.status().message(),
                                          ": give the folder's files to the "
                                          "server's user (chown -R)"));
      }
    }
    struct stat owner {};
    if (stat(path.c_str(), &owner) == 0 && owner.st_uid != geteuid()) {
      Doubt(kAbout,
            absl::StrFormat("%s is of user %d, and this is user %d: run "
                            "the doctor as the server's user",
                            path, owner.st_uid, geteuid()));
    }
    const auto free = FreeBytes(there);
    if (!free.ok()) return Wrong(kAbout, free.status());
    const int64_t reserve = config_.store.database.free_space_reserve;
    const std::string left =
        absl::StrCat(Mebibytes(*free), " left on the disk of ", path);
    if (*free < reserve) {
      Wrong(kAbout,
            absl::StrCat(left, ", less than store.free_space_reserve_mb (",
                         Mebibytes(reserve),
                         "): writes are refused; free some space"));
    } else if (*free < reserve + (int64_t{1} << 30)) {
      Doubt(kAbout, absl::StrCat(left, ": soon writes will be refused"));
    } else {
      Good(kAbout, absl::StrCat(left, running_ ? "; a server runs here" : ""));
    }
  }

  void Store() {
    constexpr char kAbout[] = "store";
    const std::string path = JoinPath(config_.data_dir, "store");
    if (!FileExists(path)) {
      return Good(kAbout, "none yet; it is made at the first start");
    }
    if (running_) return Good(kAbout, "in use by the server that runs here");
    features::StoreOptions options = config_.store;
    options.database.path = path;
    options.database.read_only = true;
    const auto store = features::Store::Open(options);
    if (!store.ok()) return Wrong(kAbout, store.status());
    Good(kAbout, absl::StrCat("log ", (*store)->log_id(), " to event ",
                              (*store)->sequence(), ", ", (*store)->users(),
                              " users, ", (*store)->ReadCatalogue()->listed(),
                              " items, ", Mebibytes(FolderBytes(path))));
  }

  void Generations() {
    constexpr char kAbout[] = "generations";
    const model::LocalGenerationStore store(
        JoinPath(config_.data_dir, "generations"));
    const auto current = store.Current();
    if (!current.ok()) return Wrong(kAbout, current.status());
    if (current->empty()) {
      return Good(kAbout, "none in service yet: popular items are served");
    }
    const auto bundle = store.Read(*current);  // every checksum
    if (!bundle.ok()) {
      return Wrong(kAbout, absl::StrCat(bundle.status().message(),
                                        ". Restore a backup, or remove CURRENT "
                                        "to serve popular items until the "
                                        "next training run"));
    }
    const model::Manifest& manifest = bundle->manifest;
    const absl::Duration age =
        absl::Now() - absl::FromUnixMicros(manifest.created_micros);
    if (age < -absl::Minutes(5)) {
      Wrong(kAbout,
            absl::StrCat(*current, " was made in the future: set the clock"));
    } else {
      Good(kAbout,
           absl::StrCat(*current, " (", manifest.Model(), ") is whole, ",
                        absl::ToInt64Hours(age), " hours old"));
    }
  }

  void Ports() {
    if (running_) {
      return Good("ports", "in use by the server that runs here, it seems");
    }
    for (const auto& [about, address] :
         {std::pair("listen", &config_.listen),
          std::pair("metrics_listen", &config_.metrics_listen),
          std::pair("health_listen", &config_.health_listen)}) {
      if (address->empty()) continue;
      const auto bound = Listener::Bind(*address, 1);
      if (bound.ok()) {
        Good(about, absl::StrCat(*address, " is free"));
      } else {
        Wrong(about, bound.status());
      }
    }
  }

  void Tls() {
    constexpr char kAbout[] = "tls";
    const TlsFiles& files = config_.tls.files;
    if (files.certificate.empty()) {
      if (IsLoopback(config_.listen)) {
        return Good(kAbout, "none; only this machine is listened to");
      }
      return Doubt(kAbout,
                   "none, and other machines may be listened to "
                   "(allow_plaintext): keep the network to those you trust");
    }
    const auto material = ReadTls(files, absl::Now());
    if (!material.ok()) return Wrong(kAbout, material.status());
    struct stat key {};
    if (stat(files.key.c_str(), &key) == 0 && (key.st_mode & S_IROTH) != 0) {
      Doubt(kAbout, absl::StrCat(files.key,
                                 " can be read by every user of this machine: "
                                 "chmod o-r"));
    }
    const absl::Duration left = material->expires - absl::Now();
    const std::string until = absl::StrCat(
        "the certificate is good for ", absl::ToInt64Hours(left) / 24, " days");
    if (left < absl::Hours(24 * 14)) {
      Doubt(kAbout, absl::StrCat(until,
                                 ": renew it; a running server takes "
                                 "the new one by itself"));
    } else {
      Good(kAbout, until);
    }
  }

  void Callers() {
    constexpr char kAbout[] = "access.file";
    const std::string& path = config_.access.file;
    if (path.empty()) {
      const std::string what =
          "none: whoever reaches the server may do everything";
      if (IsLoopback(config_.listen)) return Good(kAbout, what);
      return Doubt(kAbout, absl::StrCat(what, "; other machines do"));
    }
    const auto text = ReadFile(path);
    if (!text.ok()) return Wrong(kAbout, text.status());
    const auto callers = ParseCallers(*text, path);
    if (!callers.ok()) return Wrong(kAbout, callers.status());
    unsigned roles = 0;
    for (const Caller& caller : *callers) {
      roles |= caller.roles;
      if (caller.anonymous && (caller.roles & kManage) != 0) {
        Doubt(kAbout, absl::StrCat(Quoted(caller.name),
                                   " lets everyone manage, without a token"));
      }
      if (!caller.certificates.empty() && config_.tls.files.client_ca.empty()) {
        Doubt(kAbout, absl::StrCat(Quoted(caller.name),
                                   " is known by a certificate, and none is "
                                   "asked for: set tls.client_ca"));
      }
    }
    if ((roles & kManage) == 0) {
      Doubt(kAbout,
            "nobody has the role manage: who shall import and retrain?");
    }
    Good(kAbout, absl::StrCat(callers->size(), " callers"));
  }

  void BackupFolder() {
    constexpr char kAbout[] = "backup.dir";
    const std::string& path = config_.backup.dir;
    if (path.empty()) {
      return Doubt(kAbout, "none: what a lost disk takes is lost");
    }
    if (!FileExists(path)) {
      return Doubt(kAbout, absl::StrCat(path, " is not there yet"));
    }
    struct stat there {
    }, data{};
    if (stat(path.c_str(), &there) == 0 &&
        stat(config_.data_dir.c_str(), &data) == 0 &&
        there.st_dev == data.st_dev) {
      Doubt(kAbout, absl::StrCat(path,
                                 " is on the data's own disk: a lost "
                                 "disk takes both"));
    }
    if (access(path.c_str(), W_OK | X_OK) != 0) {
      return Wrong(kAbout, absl::StrFormat("%s cannot be written by user %d",
                                           path, geteuid()));
    }
    if (!FileExists(JoinPath(path, "store"))) {
      return Doubt(kAbout, "no backup yet: run `nearline backup`");
    }
    const auto backups =
        features::StoreBackups::Open({.path = path, .read_only = true});
    if (!backups.ok()) return Wrong(kAbout, backups.status());
    const auto all = (*backups)->List();
    const auto erasures = (*backups)->Erasures();
    if (!erasures.ok()) Wrong(kAbout, erasures.status());
    if (all.empty()) {
      return Doubt(kAbout, "no backup yet: run `nearline backup`");
    }
    const absl::Duration age = absl::Now() - all.back().time;
    const std::string newest =
        absl::StrCat(all.size(), " backups, the newest of ",
                     absl::ToInt64Hours(age), " hours ago");
    if (age > absl::Hours(48)) {
      Doubt(kAbout,
            absl::StrCat(newest, ": is what makes them still running?"));
    } else {
      Good(kAbout, newest);
    }
  }

  void Trainer() {
    constexpr char kAbout[] = "trainer";
    if (const std::string& socket = config_.training.socket; !socket.empty()) {
      if (TrainerHostListens(config_)) {
        return Good(kAbout,
                    absl::StrCat("in a container of its own, ", socket));
      }
      return Doubt(kAbout,
                   absl::StrCat("nothing listens on training.socket, ", socket,
                                ": start `nearline-server trainer` beside the "
                                "server"));
    }
    const std::string program = TrainerProgram(config_);
    if (access(program.c_str(), X_OK) != 0) {
      return Wrong(kAbout, absl::StrCat(program,
                                        " cannot be run: nothing will be "
                                        "trained. Set training.program"));
    }
    Good(kAbout, program);
  }

  void Processor() {
    const auto device = model::OpenDevice(config_.device);
    if (!device.ok()) {
      Wrong("device", device.status());
    } else {
      Good("device", device->name);
    }
    const std::string kernels = model::KernelTarget();
    const std::string cores =
        absl::StrCat(std::thread::hardware_concurrency(), " processors, ",
                     kernels, " kernels");
    if (absl::StartsWith(kernels, "SSE") || absl::StartsWith(kernels, "EMU")) {
      Doubt("processor",
            absl::StrCat(cores,
                         ": without AVX2 scans are several times "
                         "slower; choose a newer kind of machine"));
    } else {
      Good("processor", cores);
    }
    // "max 100000" or "QUOTA PERIOD", of this container.
    std::ifstream quota("/sys/fs/cgroup/cpu.max");
    int64_t most = 0, period = 0;
    if (quota >> most >> period && period > 0 && most < period) {
      Doubt("processor",
            absl::StrFormat(
                "this container may use %.2f of a processor: "
                "training will slow down what is served; allow at "
                "least 2",
                static_cast<double>(most) / static_cast<double>(period)));
    }
  }

  void Memory() {
    constexpr char kAbout[] = "memory";
    int64_t there = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    for (const char* path : {"/sys/fs/cgroup/memory.max",
                             "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
      there = std::min(there, NumberIn(path).value_or(there));
    }
    const int64_t needed = (config_.training.memory_mb << 20) +
                           config_.store.hot_profile_bytes +
                           config_.store.database.block_cache_bytes +
                           config_.store.database.write_buffer_bytes;
    const std::string both =
        absl::StrCat(Mebibytes(there), " for training.memory_mb and caches of ",
                     Mebibytes(needed));
    if (there < needed) {
      Doubt(kAbout, absl::StrCat(both,
                                 ", the models not counted: a training "
                                 "run may bring the server down; lower "
                                 "training.memory_mb"));
    } else {
      Good(kAbout, both);
    }
  }

  void OpenFiles() {
    constexpr char kAbout[] = "open files";
    constexpr rlim_t kOwn = 1000;  // of the store
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    const rlim_t needed =
        static_cast<rlim_t>(config_.limits.max_connections) + kOwn;
    if (limit.rlim_max < needed) {
      Doubt(kAbout, absl::StrCat(
                        "at most ", limit.rlim_max, ", and with ",
                        config_.limits.max_connections, " connections ", needed,
                        " may be needed: raise it (ulimit -Hn, LimitNOFILE), "
                        "or lower limits.max_connections"));
    } else {
      Good(kAbout, "enough for limits.max_connections");
    }
  }

  void TheClock() {
    timex state{};
    const int kept = adjtimex(&state);
    if (kept == -1) return Doubt("clock", "the kernel does not tell how it is");
    if (kept == TIME_ERROR || (state.status & STA_UNSYNC) != 0) {
      return Doubt("clock",
                   "not kept by a time service, as far as the kernel knows: "
                   "events of the future are refused, and ids are kept by "
                   "time; run chrony or systemd-timesyncd on the host");
    }
    Good("clock", "kept by a time service");
  }

  const Config& config_;
  std::vector<Finding> findings_;
  bool running_ = false;  // a server holds the data_dir
};

}  // namespace

std::vector<Finding> Examine(const Config& config) {
  return Examination(config).Run();
}

}  // namespace nearline::server
