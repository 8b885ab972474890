// What operators ask: status, health, backups, tokens.
#include <iostream>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/progress.h"
#include "client/commands.h"
#include "client/print.h"
#include "client/table.h"

namespace nearline::client {

int ShowHealth(Session& session, const std::string& service) {
  const auto serving = session.client->IsServing(service);
  if (!serving.ok()) return Fail(session, serving.status());
  if (session.json) {
    PrintJson({{"serving", *serving}});
  } else {
    std::cout << (*serving ? "serving" : "not serving") << "\n";
  }
  return *serving ? 0 : 1;
}

int NewToken(const Session& session) {
  // 256 bits, in letters and digits that no shell or header minds.
  const std::string token = absl::WebSafeBase64Escape(RandomBytes(32));
  const std::string hash = HexDigest(Sha256(token));
  if (session.json) {
    PrintJson({{"token", token}, {"sha256", hash}});
    return 0;
  }
  std::cout << token << "\n";
  std::cerr
      << "\nThe token, on standard output, is the caller's: it is not kept "
         "anywhere.\nIts hash is for the server's access.file:\n\n"
         "callers:\n"
         "  - name: CALLER\n"
         "    tokens: ["
      << hash
      << "]\n"
         "    roles: [recommend, feedback]\n";
  return 0;
}

int ShowStatus(Session& session) {
  const auto s = session.client->Status();
  if (!s.ok()) return Fail(session, s.status());
  if (session.json) {
    PrintJson({{"version", s->version()},
               {"sequence", s->sequence()},
               {"users", s->users()},
               {"items", s->items()},
               {"generation", s->generation()},
               {"device", s->device()},
               {"hot_profiles", s->hot_profiles()},
               {"hot_profile_bytes", s->hot_profile_bytes()},
               {"queued_events", s->queued_events()},
               {"run_id", s->run_id()},
               {"metrics_address", s->metrics_address()}});
    return 0;
  }
  Table table({"server", session.options.address});
  table.Add({"version", s->version()});
  table.Add({"up", ShortDuration(absl::Seconds(s->uptime().seconds()))});
  table.Add({"sequence", WithThousands(static_cast<int64_t>(s->sequence()))});
  table.Add({"users", WithThousands(s->users())});
  table.Add({"items", WithThousands(s->items())});
  table.Add({"generation", s->generation().empty() ? "none: popular items serve"
                                                   : s->generation()});
  table.Add({"device", s->device()});
  table.Add({"hot profiles",
             absl::StrFormat(
                 "%d, %.1f MiB", s->hot_profiles(),
                 static_cast<double>(s->hot_profile_bytes()) / (1 << 20))});
  table.Add({"training", s->run_id().empty() ? "idle" : s->run_id()});
  table.Add({"metrics", s->metrics_address().empty()
                            ? "off"
                            : "http://" + s->metrics_address() + "/metrics"});
  std::cout << table.Render();
  return 0;
}

namespace {

Json ToJson(const api::BackupInfo& backup) {
  return {{"id", backup.id()},
          {"time", backup.time().seconds()},
          {"bytes", backup.bytes()},
          {"sequence", backup.sequence()},
          {"generation", backup.generation()},
          {"log_id", backup.log_id()}};
}

int ListBackups(Session& session) {
  const auto response = session.client->ListBackups();
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    Json out = Json::array();
    for (const auto& backup : response->backups()) {
      out.push_back(ToJson(backup));
    }
    PrintJson(out);
    return 0;
  }
  Table table({"backup", "made", "MiB", "to event", "generation"});
  for (const api::BackupInfo& backup : response->backups()) {
    table.Add({absl::StrCat(backup.id()),
               absl::FormatTime("%Y-%m-%d %H:%M:%S",
                                absl::FromUnixSeconds(backup.time().seconds()),
                                absl::LocalTimeZone()),
               WithThousands(backup.bytes() >> 20),
               WithThousands(static_cast<int64_t>(backup.sequence())),
               backup.generation()});
  }
  std::cout << table.Render();
  return 0;
}

}  // namespace

int BackupCommand(Session& session, bool verify, bool list) {
  if (list) return ListBackups(session);
  api::BackupRequest request;
  request.set_verify(verify);
  ProgressBar bar("Backing up", session.json ? ProgressBar::Mode::kSilent
                                             : ProgressBar::Mode::kAuto);
  const auto backup =
      session.client->Backup(request, [&](const api::BackupProgress& progress) {
        bar.Update(progress.share_done(), progress.phase());
      });
  bar.Finish(backup.ok() ? "done" : "failed");
  if (!backup.ok()) return Fail(session, backup.status());
  if (session.json) {
    PrintJson(ToJson(*backup));
    return 0;
  }
  std::cout << "backup " << backup->id() << " holds everything to event "
            << WithThousands(static_cast<int64_t>(backup->sequence()))
            << (backup->generation().empty()
                    ? ""
                    : absl::StrCat(" and ", backup->generation()))
            << "\n";
  return 0;
}

}  // namespace nearline::client
