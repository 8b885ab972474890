#include "client/import.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/delimited.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/progress.h"
#include "client/columns.h"
#include "client/records.h"
#include "client/sender.h"

namespace nearline::client {
namespace {

absl::Time ModificationTime(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 ? absl::FromTimeT(info.st_mtime)
                                        : absl::UnixEpoch();
}

// Ids for the events of one file; see Import.
class EventIds {
 public:
  // Once for every line.
  void Read(const DelimitedReader& reader) {
    line_ = reader.line();
    text_ = HashOf(reader.text());
    until_ = HashOf(absl::StrCat(absl::Hex(until_.high), absl::Hex(until_.low),
                                 "\n", reader.text()));
  }
  // Of the event of the line that was read last; once for each.
  std::string Get(bool has_time) {
    const Hash128& hash = has_time ? text_ : until_;
    int64_t number = line_;
    if (has_time) {
      if (seen_.size() >= kMostSeen) seen_.clear();
      number = seen_[text_.high]++;
    }
    return absl::StrCat(absl::Hex(hash.high, absl::kZeroPad16), ":", number);
  }

 private:
  static constexpr size_t kMostSeen = 1 << 20;

  Hash128 text_;   // hash of the line
  Hash128 until_;  // hash of the lines read so far
  int64_t line_ = 0;
  // How often a line has been there, of the last ones.
  absl::flat_hash_map<uint64_t, int64_t> seen_;
};

// The first two lines of a file; empty where there are none.
absl::Status Peek(const std::string& path, std::vector<std::string>* first,
                  std::vector<std::string>* second) {
  ASSIGN_OR_RETURN(DelimitedReader reader, DelimitedReader::Open(path));
  if (!reader.Next(first)) return reader.status();
  reader.Next(second);
  return absl::OkStatus();
}

class Importer {
 public:
  Importer(Client* client, const ImportOptions& options)
      : options_(options), sender_(client, options.skip_bad_lines) {}

  absl::StatusOr<ImportResult> Run() {
    const std::string& path = options_.path;
    for (const auto& [field, where] : options_.columns) {
      if (EventFields().contains(field)) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--columns: no field ", Quoted(field), "; there are ",
                       absl::StrJoin(EventFields(), ", ")));
    }
    const auto has = [&](const char* name) {
      return FileExists(JoinPath(path, name));
    };
    if (!FileExists(path)) {
      return absl::NotFoundError(absl::StrCat("no file or folder ", path));
    }
    if (has("u.data")) {
      RETURN_IF_ERROR(MovieLens100k());
    } else if (has("movies.dat")) {
      RETURN_IF_ERROR(MovieLens1m());
    } else if (has("ratings.csv")) {
      if (has("movies.csv")) {
        RETURN_IF_ERROR(Records(JoinPath(path, "movies.csv"), "items"));
      }
      RETURN_IF_ERROR(Events(JoinPath(path, "ratings.csv")));
    } else if (has("events.tsv")) {
      RETURN_IF_ERROR(JsonLines(JoinPath(path, "items.jsonl"), "items"));
      RETURN_IF_ERROR(JsonLines(JoinPath(path, "users.jsonl"), "users"));
      RETURN_IF_ERROR(Events(JoinPath(path, "events.tsv")));
    } else if (ListDir(path).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path,
          ": no layout that is known (movies.dat, u.data, ratings.csv or "
          "events.tsv would tell); name a file instead"));
    } else {
      RETURN_IF_ERROR(OneFile());
    }
    ImportResult result = sender_.result();
    result.remarks = std::move(remarks_);
    return result;
  }

 private:
  absl::Status OneFile() {
    std::ifstream in(options_.path);
    std::string mark(3, '\0');
    in.read(mark.data(), 3);
    if (mark != "\xef\xbb\xbf") {
      in.clear();
      in.seekg(0);
    }
    char first = 0;
    in >> first;
    const bool events = options_.kind.empty() || options_.kind == "events";
    if (first == '{' && !events && !options_.columns.empty()) {
      return absl::InvalidArgumentError(
          "--columns: JSON lines of items and users are {\"id\": ..., "
          "\"attributes\": {...}}; only those of events can be renamed");
    }
    if (first == '{') return JsonLines(options_.path, options_.kind);
    if (first == '[') {
      return absl::InvalidArgumentError(absl::StrCat(
          options_.path,
          ": a JSON array; write one object a line (jq -c '.[]' does)"));
    }
    if (!events) {
      return Records(options_.path, options_.kind);
    }
    return Events(options_.path);
  }

  using OnLine =
      std::function<absl::Status(std::vector<std::string>&, DelimitedReader&)>;

  // Calls `line` for every line, with a progress bar. The first pass sends
  // nothing: a file with a line that is wrong leaves no trace, and can be
  // imported when it is mended. Of lines to skip the second pass leaves out
  // what is wrong.
  absl::Status ForEachLine(const std::string& path,
                           const std::string& separator,
                           const std::string& label, const OnLine& line) {
    if (!options_.skip_bad_lines) {
      sender_.Rehearse(true);
      RETURN_IF_ERROR(Pass(path, separator, "Checking", line));
      sender_.Rehearse(false);
    }
    return Pass(path, separator, label, line);
  }

  absl::Status Pass(const std::string& path, const std::string& separator,
                    const std::string& label, const OnLine& line) {
    ASSIGN_OR_RETURN(DelimitedReader reader,
                     DelimitedReader::Open(path, separator));
    ProgressBar bar(label, options_.quiet ? ProgressBar::Mode::kSilent
                                          : ProgressBar::Mode::kAuto);
    std::vector<std::string> fields;
    int64_t lines = 0;
    first_ = true;
    while (true) {
      absl::Status status;
      bool unreadable = false;  // the line; else a call has failed
      if (reader.Next(&fields)) {
        sender_.At(path, reader.line());
        status = line(fields, reader);
        first_ = false;
        // Errors of calls name the file themselves.
        unreadable = absl::IsInvalidArgument(status) &&
                     !absl::StartsWith(status.message(), path);
        if (unreadable) status = reader.Error(status.message());
      } else if (reader.status().ok()) {
        break;
      } else {
        status = reader.status();
        unreadable = true;
      }
      if (unreadable && options_.skip_bad_lines) {
        sender_.Skip(status);
        continue;
      }
      RETURN_IF_ERROR(status);
      ++lines;
      if (lines % 1000 == 0) {
        bar.Update(
            static_cast<double>(reader.bytes_read()) /
                static_cast<double>(std::max<int64_t>(1, reader.bytes())),
            WithThousands(lines) + " lines");
      }
    }
    RETURN_IF_ERROR(sender_.Finish());
    bar.Finish(WithThousands(lines) + " lines");
    return absl::OkStatus();
  }

  // "user item rating [time]" in every spelling.
  absl::Status Events(const std::string& path) {
    // Without times all events share one, and the same one when imported again.
    const absl::Time fallback = ModificationTime(path);
    std::vector<std::string> first, second;
    RETURN_IF_ERROR(Peek(path, &first, &second));
    if (first.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));
    }
    auto columns = EventColumns::Choose(first, second, options_.columns);
    if (!columns.ok()) return Annotate(columns.status(), path);
    if (!columns->unread.empty()) {
      remarks_.push_back(absl::StrCat(
          path, ": not read: ", absl::StrJoin(columns->unread, ", "),
          columns->time < 0 ? "; no column holds times (--columns time=...)"
                            : ""));
    }
    EventIds ids;
    return ForEachLine(
        path, "", "Events", [&](auto& fields, DelimitedReader& reader) {
          if (first_) ids = {};
          ids.Read(reader);
          if (first_ && columns->header) return absl::OkStatus();
          api::Event event;
          RETURN_IF_ERROR(
              columns->Read(fields, options_.type, fallback, &event));
          event.set_event_id(ids.Get(columns->time >= 0));
          return sender_.Add(std::move(event));
        });
  }

  // Items or users with a header that names their attributes.
  absl::Status Records(const std::string& path, const std::string& kind) {
    std::vector<std::string> first, second;
    RETURN_IF_ERROR(Peek(path, &first, &second));
    auto columns = RecordColumns::Choose(first, kind, options_.columns);
    if (!columns.ok()) return Annotate(columns.status(), path);
    RETURN_IF_ERROR(Observe(path, &*columns));
    return ForEachLine(
        path, "", kind == "users" ? "Users" : "Items",
        [&](auto& fields, DelimitedReader&) {
          if (first_) return absl::OkStatus();
          std::string id;
          if (kind == "users") {
            api::User user;
            RETURN_IF_ERROR(
                columns->Read(fields, &id, user.mutable_attributes()));
            user.set_id(id);
            return sender_.Add(std::move(user));
          }
          api::Item item;
          RETURN_IF_ERROR(
              columns->Read(fields, &id, item.mutable_attributes()));
          item.set_id(id);
          const auto title = item.attributes().find("title");
          if (title != item.attributes().end() && title->second.has_text()) {
            SetTitle(std::string(title->second.text()), &item);
          }
          return sender_.Add(std::move(item));
        });
  }

  // Lets `columns` see all lines that can be read.
  static absl::Status Observe(const std::string& path, RecordColumns* columns) {
    ASSIGN_OR_RETURN(DelimitedReader reader, DelimitedReader::Open(path));
    std::vector<std::string> fields;
    for (bool header = true;; header = false) {
      if (reader.Next(&fields)) {
        if (!header) columns->Observe(fields);
      } else if (reader.status().ok()) {
        return absl::OkStatus();
      }
    }
  }

  absl::Status JsonLines(const std::string& path, const std::string& kind) {
    EventIds ids;
    const std::string label = kind == "items"   ? "Items"
                              : kind == "users" ? "Users"
                                                : "Records";
    // A separator that no line of JSON holds: the whole line is one field.
    unseen_ = options_.columns;
    RETURN_IF_ERROR(
        ForEachLine(path, std::string(1, '\x01'), label,
                    [&](auto& fields, DelimitedReader& reader) -> absl::Status {
                      if (first_) ids = {};
                      ids.Read(reader);
                      ASSIGN_OR_RETURN(const Json json, ParseJson(fields[0]));
                      return AddJson(json, kind, &ids);
                    }));
    for (const auto& [field, key] : unseen_) {
      remarks_.push_back(absl::StrCat(path, ": --columns ", field, "=", key,
                                      ": no line has that key"));
    }
    return absl::OkStatus();
  }

  absl::Status AddJson(const Json& json, const std::string& kind,
                       EventIds* ids) {
    if (!json.is_object()) {
      return absl::InvalidArgumentError("expected a JSON object");
    }
    // An export wraps each record in its kind.
    for (const char* wrapped : {"item", "user", "event"}) {
      const auto inner = json.find(wrapped);
      if (inner != json.end() && inner->is_object()) {
        return AddJson(*inner, absl::StrCat(wrapped, "s"), ids);
      }
    }
    const auto deleted = json.find("deleted_item");
    if (deleted != json.end() && deleted->is_string()) {
      return sender_.Delete(deleted->get<std::string>());
    }
    if (kind == "events" || (kind.empty() && !options_.columns.empty())) {
      return AddEvent(json, ids);
    }
    if (kind.empty() && !json.contains("id") && !json.contains("item")) {
      return absl::InvalidArgumentError(
          "neither an item, which has an \"id\", nor an event, which has a "
          "\"user\" and an \"item\"");
    }
    if (kind == "items" || (kind.empty() && !json.contains("item"))) {
      api::Item item;
      RETURN_IF_ERROR(FromJson(json, &item));
      return sender_.Add(std::move(item));
    }
    if (kind == "users") {
      api::User user;
      RETURN_IF_ERROR(FromJson(json, &user));
      return sender_.Add(std::move(user));
    }
    return AddEvent(json, ids);
  }

  // Keys that `columns` names stand for their fields; then others are passed
  // over.
  absl::Status AddEvent(const Json& json, EventIds* ids) {
    api::Event event;
    if (options_.columns.empty()) {
      RETURN_IF_ERROR(FromJson(json, options_.type, &event));
    } else {
      Json renamed = Json::object();
      for (const std::string& field : EventFields()) {
        const auto named = options_.columns.find(field);
        const std::string key =
            named == options_.columns.end() ? field : named->second;
        if (!json.contains(key)) continue;
        renamed[field] = json[key];
        unseen_.erase(field);
      }
      RETURN_IF_ERROR(FromJson(renamed, options_.type, &event));
    }
    if (event.event_id().empty()) {
      event.set_event_id(ids->Get(event.has_time()));
    }
    if (!event.has_time()) SetTime(ModificationTime(options_.path), &event);
    return sender_.Add(std::move(event));
  }

  absl::Status MovieLens1m() {
    const std::string& folder = options_.path;
    RETURN_IF_ERROR(ForEachLine(
        JoinPath(folder, "movies.dat"), "::", "Items", [&](auto& f, auto&) {
          if (f.size() != 3) return Expected(f, "MovieID::Title::Genres");
          api::Item item;
          item.set_id(f[0]);
          SetTitle(Latin1ToUtf8(f[1]), &item);
          auto& genres = (*item.mutable_attributes())["genres"];
          for (const auto genre : absl::StrSplit(f[2], '|')) {
            genres.mutable_texts()->add_values(std::string(genre));
          }
          return sender_.Add(std::move(item));
        }));
    if (FileExists(JoinPath(folder, "users.dat"))) {
      RETURN_IF_ERROR(ForEachLine(
          JoinPath(folder, "users.dat"), "::", "Users", [&](auto& f, auto&) {
            if (f.size() != 5) {
              return Expected(f, "UserID::Gender::Age::Occupation::Zip");
            }
            return AddUser(f[0], {{"gender", f[1]},
                                  {"age", f[2]},
                                  {"occupation", f[3]},
                                  {"zip", f[4]}});
          }));
    }
    for (const char* name : {"ratings.dat", "ratings.tsv"}) {
      const std::string path = JoinPath(folder, name);
      if (FileExists(path)) return Events(path);
    }
    return absl::NotFoundError(
        absl::StrCat(folder, " has neither ratings.dat nor ratings.tsv"));
  }

  absl::Status MovieLens100k() {
    static constexpr const char* kGenres[] = {
        "unknown",   "Action",   "Adventure",   "Animation", "Children's",
        "Comedy",    "Crime",    "Documentary", "Drama",     "Fantasy",
        "Film-Noir", "Horror",   "Musical",     "Mystery",   "Romance",
        "Sci-Fi",    "Thriller", "War",         "Western"};
    const std::string& folder = options_.path;
    RETURN_IF_ERROR(ForEachLine(
        JoinPath(folder, "u.item"), "|", "Items", [&](auto& f, auto&) {
          if (f.size() != 24) return Expected(f, "24 fields of u.item");
          api::Item item;
          item.set_id(f[0]);
          SetTitle(Latin1ToUtf8(f[1]), &item);
          auto& genres = (*item.mutable_attributes())["genres"];
          genres.mutable_texts();
          for (size_t g = 0; g < 19; ++g) {
            if (f[5 + g] == "1") genres.mutable_texts()->add_values(kGenres[g]);
          }
          return sender_.Add(std::move(item));
        }));
    if (FileExists(JoinPath(folder, "u.user"))) {
      RETURN_IF_ERROR(ForEachLine(JoinPath(folder, "u.user"), "|", "Users",
                                  [&](auto& f, auto&) {
                                    if (f.size() != 5)
                                      return Expected(f, "5 fields of u.user");
                                    return AddUser(f[0], {{"age", f[1]},
                                                          {"gender", f[2]},
                                                          {"occupation", f[3]},
                                                          {"zip", f[4]}});
                                  }));
    }
    return Events(JoinPath(folder, "u.data"));
  }

  static absl::Status Expected(const std::vector<std::string>& fields,
                               const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.size(), " fields; expected ", what));
  }

  // "Heat (1995)" is a title and a year.
  static void SetTitle(const std::string& title, api::Item* item) {
    (*item->mutable_attributes())["title"].set_text(title);
    int year = 0;
    if (title.size() > 6 && title.back() == ')' &&
        absl::SimpleAtoi(title.substr(title.size() - 5, 4), &year)) {
      (*item->mutable_attributes())["year"].set_number(year);
    }
  }

  absl::Status AddUser(const std::string& id,
                       const std::map<std::string, std::string>& attributes) {
    api::User user;
    user.set_id(id);
    for (const auto& [name, value] : attributes) {
      (*user.mutable_attributes())[name].set_text(value);
    }
    return sender_.Add(std::move(user));
  }

  const ImportOptions& options_;
  Sender sender_;
  bool first_ = true;    // of the lines of a pass
  NamedColumns unseen_;  // keys of JSON lines that no line has had
  std::vector<std::string> remarks_;
};

}  // namespace

absl::StatusOr<ImportResult> Import(Client* client,
                                    const ImportOptions& options) {
  return Importer(client, options).Run();
}

namespace {

// `path` is for errors.
absl::StatusOr<ImportResult> ExportInto(Client* client, const std::string& path,
                                        bool quiet, std::ostream* into) {
  std::ostream& out = *into;
  ImportResult result;
  ASSIGN_OR_RETURN(const api::StatusResponse status, client->Status());
  const double all = static_cast<double>(status.items()) +
                     static_cast<double>(status.users()) +
                     static_cast<double>(status.sequence()) + 1;
  ProgressBar bar(
      "Export", quiet ? ProgressBar::Mode::kSilent : ProgressBar::Mode::kAuto);
  RETURN_IF_ERROR(client->Export([&](const api::ExportResponse& chunk) {
    for (const api::Item& item : chunk.items()) {
      out << Json{{"item", ToJson(item)}}.dump() << "\n";
    }
    for (const api::User& user : chunk.users()) {
      out << Json{{"user", ToJson(user)}}.dump() << "\n";
    }
    for (const api::Event& event : chunk.events()) {
      out << Json{{"event", ToJson(event)}}.dump() << "\n";
    }
    for (const std::string& item : chunk.deleted_items()) {
      out << Json{{"deleted_item", item}}.dump() << "\n";
    }
    result.items += chunk.items_size();
    result.users += chunk.users_size();
    result.events += chunk.events_size();
    result.deleted += chunk.deleted_items_size();
    const int64_t rows = result.items + result.users + result.events;
    bar.Update(static_cast<double>(rows) / all,
               WithThousands(rows) + " records");
    return out ? absl::OkStatus()
               : absl::ResourceExhaustedError(absl::StrCat(
                     "cannot write ", path, "; is the disk full?"));
  }));
  if (!out.flush()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot write ", path, "; is the disk full?"));
  }
  bar.Finish(WithThousands(result.items + result.users + result.events) +
             " records");
  return result;
}

}  // namespace

absl::StatusOr<ImportResult> ExportTo(Client* client, const std::string& path,
                                      bool quiet) {
  if (path == "-") {
    return ExportInto(client, "standard output", quiet, &std::cout);
  }
  // A file that is there stays until the new one is whole. What is no file,
  // such as a pipe, is written to as it is.
  std::error_code error;
  const bool replaces = !std::filesystem::exists(path, error) ||
                        std::filesystem::is_regular_file(path, error);
  const std::string aside = replaces ? absl::StrCat(path, ".partial") : path;
  std::ofstream out(aside, std::ios::binary | std::ios::trunc);
  if (!out) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot write ", aside, ": ", std::strerror(errno)));
  }
  auto result = ExportInto(client, aside, quiet, &out);
  out.close();
  if (result.ok() && !out) {
    result = absl::ResourceExhaustedError(
        absl::StrCat("cannot write ", aside, "; is the disk full?"));
  }
  if (!replaces) return result;
  if (result.ok()) {
    RETURN_IF_ERROR(RenameDurably(aside, path));
  } else {
    std::filesystem::remove(aside, error);
  }
  return result;
}

}  // namespace nearline::client
