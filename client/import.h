#ifndef NEARLINE_CLIENT_IMPORT_H_
#define NEARLINE_CLIENT_IMPORT_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "client/columns.h"

namespace nearline::client {

struct ImportOptions {
  // A file, or a folder in the layout of MovieLens 1M (ratings.dat or .tsv,
  // movies.dat, users.dat), of MovieLens 100K (u.data, u.item, u.user), of
  // MovieLens 20M, 25M and latest (ratings.csv, movies.csv), or of
  // `nearline-train generate` (items.jsonl, users.jsonl, events.tsv).
  std::string path;
  // Of a file: "events", "items" or "users"; empty: told by the file.
  std::string kind;
  // Of events, also keys of JSON lines; of items and users in columns only the
  // id, "item" or "user". Default: by header, else user, item, value, time.
  NamedColumns columns;
  std::string type = "rating";  // of events without a column for it
  // Leaves out lines that cannot be read, or that the server refuses; else the
  // first one ends the import.
  bool skip_bad_lines = false;
  bool quiet = false;
};

struct ImportResult {
  int64_t items = 0;
  int64_t users = 0;
  int64_t events = 0;
  int64_t duplicates = 0;  // imported before: a file can be imported again
  int64_t expired = 0;     // older than what the server keeps: not recorded
  int64_t deleted = 0;     // items
  int64_t skipped = 0;     // lines that were wrong
  std::vector<std::string> wrong;    // what, of the first of them
  std::vector<std::string> remarks;  // what one may want to know
};

// An import can be repeated or resumed: every event without an id gets one.
// With a time, it is of the line, and of how often the line has been there:
// what was imported before counts once, from whatever file. Without, it is of
// the lines up to the event's: of a file that has grown only the new lines
// count, of one that was changed those from the change on. Errors:
// INVALID_ARGUMENT "file:line: what is wrong".
absl::StatusOr<ImportResult> Import(Client* client,
                                    const ImportOptions& options);

// JSON lines {"item": ...}, {"user": ...}, {"event": ...}, {"deleted_item":
// id}, which Import reads.
absl::StatusOr<ImportResult> ExportTo(Client* client, const std::string& path,
                                      bool quiet);

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_IMPORT_H_
