// The commands of `nearline`. Each prints its answer and returns the exit code:
// 0 done, 1 failed, 2 wrong words, 3 no server, 4 the gate rejected.
#ifndef NEARLINE_CLIENT_COMMANDS_H_
#define NEARLINE_CLIENT_COMMANDS_H_

#include <memory>
#include <string>
#include <vector>

#include "client/bench.h"
#include "client/client.h"
#include "client/import.h"

namespace nearline::client {

// What every command may use.
struct Session {
  ClientOptions options;
  bool json = false;
  std::unique_ptr<Client> client;
};

struct RecommendFlags {
  std::string user;
  std::vector<std::string> history, candidates, exclude, filters;
  int count = 10;
  bool include_seen = false;
  std::string page;
};

struct FeedbackFlags {
  std::string user, type = "like", event_id;
  std::vector<std::string> items;
  double value = 0;
  bool retract = false;
};

int Recommend(Session& session, const RecommendFlags& flags);
int Similar(Session& session, const std::string& item, int count);
int Feedback(Session& session, const FeedbackFlags& flags);
int Retrain(Session& session, bool cold, bool detach);
int Models(Session& session);
int Rollback(Session& session, const std::string& generation);
int ShowStatus(Session& session);
// 0 only when it serves. `service` as in grpc.health.v1; empty: all of it.
int ShowHealth(Session& session, const std::string& service);
// Makes a token and shows what a server keeps of it. Talks to nobody.
int NewToken(const Session& session);
// `get` and `remove` name items; without either, lists `count`.
int Items(Session& session, const std::string& get,
          const std::vector<std::string>& remove, int count);
int Users(Session& session, const std::string& get, const std::string& history,
          const std::string& remove, int count);
// `columns` as "field=column,field=column".
int ImportCommand(Session& session, ImportOptions options,
                  const std::string& columns);
int ExportCommand(Session& session, const std::string& path);
// Makes a backup, or with `list` shows those that there are.
int BackupCommand(Session& session, bool verify, bool list);
// Until interrupted, or for `frames` (0: without end).
int TopCommand(Session& session, double seconds, int frames);
int BenchCommand(Session& session, BenchOptions options);
void PrintCompletion();

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_COMMANDS_H_
