#include <iostream>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/progress.h"
#include "client/print.h"
#include "client/records.h"
#include "client/table.h"

namespace nearline::client {

int Items(Session& session, const std::string& get,
          const std::vector<std::string>& remove, int count) {
  if (!remove.empty()) {
    api::DeleteItemsRequest request;
    request.mutable_items()->Add(remove.begin(), remove.end());
    const auto response = session.client->DeleteItems(request);
    if (!response.ok()) return Fail(session, response.status());
    if (session.json) {
      PrintJson({{"deleted", response->deleted()}});
    } else {
      std::cout << response->deleted() << " deleted\n";
    }
    return 0;
  }
  if (!get.empty()) {
    const auto item = session.client->GetItem(get);
    if (!item.ok()) return Fail(session, item.status());
    PrintJson(ToJson(*item));
    return 0;
  }
  api::ListItemsRequest request;
  request.set_count(count);
  const auto response = session.client->ListItems(request);
  if (!response.ok()) return Fail(session, response.status());
  Json out = Json::array();
  Table table({"item", "title"});
  for (const api::Item& item : response->items()) {
    out.push_back(ToJson(item));
    const auto it = item.attributes().find("title");
    table.Add(
        {item.id(), it == item.attributes().end() ? "" : it->second.text()});
  }
  if (session.json) {
    PrintJson(out);
  } else {
    std::cout << table.Render();
  }
  return 0;
}

int Users(Session& session, const std::string& get, const std::string& history,
          const std::string& remove, int count) {
  if (!remove.empty()) {
    const auto response = session.client->DeleteUser(remove);
    if (!response.ok()) return Fail(session, response.status());
    if (session.json) {
      PrintJson({{"events", response->events()}});
    } else {
      std::cout << "erased, with " << response->events() << " events\n";
    }
    return 0;
  }
  if (!get.empty()) {
    const auto user = session.client->GetUser(get);
    if (!user.ok()) return Fail(session, user.status());
    PrintJson(ToJson(*user));
    return 0;
  }
  if (!history.empty()) {
    api::GetHistoryRequest request;
    request.set_user(history);
    request.set_count(count);
    const auto response = session.client->GetHistory(request);
    if (!response.ok()) return Fail(session, response.status());
    Json out = Json::array();
    Describer describer(session.client.get());
    Table table({"time", "type", "item", "value", "title"});
    for (const api::Event& event : response->events()) {
      const Json json = ToJson(event);
      out.push_back(json);
      table.Add({json["time"].get<std::string>().substr(0, 19), event.type(),
                 event.item(), absl::StrFormat("%g", event.value()),
                 session.json ? "" : describer.Describe(event.item()).first});
    }
    if (session.json) {
      PrintJson(out);
    } else {
      std::cout << table.Render();
    }
    return 0;
  }
  api::ListUsersRequest request;
  request.set_count(count);
  const auto response = session.client->ListUsers(request);
  if (!response.ok()) return Fail(session, response.status());
  Json out = Json::array();
  for (const api::User& user : response->users()) out.push_back(ToJson(user));
  if (session.json) {
    PrintJson(out);
  } else {
    for (const api::User& user : response->users()) {
      std::cout << user.id() << "\n";
    }
  }
  return 0;
}

int ImportCommand(Session& session, ImportOptions options,
                  const std::string& columns) {
  for (const auto pair : absl::StrSplit(columns, ',', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(pair, '=');
    if (parts.size() != 2) {
      return Fail(session, absl::InvalidArgumentError(absl::StrCat(
                               "--columns ", Quoted(columns),
                               ": expected field=column,field=column")));
    }
    options.columns[parts[0]] = parts[1];
  }
  const auto result = Import(session.client.get(), options);
  if (!result.ok()) return Fail(session, result.status());
  if (session.json) {
    PrintJson({{"items", result->items},
               {"users", result->users},
               {"events", result->events},
               {"duplicates", result->duplicates},
               {"expired", result->expired},
               {"deleted_items", result->deleted},
               {"skipped_lines", result->skipped},
               {"wrong", result->wrong},
               {"remarks", result->remarks}});
    return 0;
  }
  for (const std::string& remark : result->remarks) {
    std::cerr << "note: " << remark << "\n";
  }
  for (const std::string& what : result->wrong) {
    std::cerr << "left out: " << what << "\n";
  }
  if (result->skipped > 0) {
    std::cerr << WithThousands(result->skipped) << " lines were left out\n";
  }
  std::cout << WithThousands(result->items) << " items, "
            << WithThousands(result->users) << " users, "
            << WithThousands(result->events) << " events";
  if (result->duplicates > 0) {
    std::cout << " (" << WithThousands(result->duplicates)
              << " were there before)";
  }
  if (result->expired > 0) {
    std::cout << ", " << WithThousands(result->expired)
              << " events older than the server keeps were left out";
  }
  if (result->deleted > 0) {
    std::cout << ", " << WithThousands(result->deleted) << " items deleted";
  }
  std::cout << "\n";
  return 0;
}

int ExportCommand(Session& session, const std::string& path) {
  const auto result = ExportTo(session.client.get(), path, session.json);
  if (!result.ok()) return Fail(session, result.status());
  if (path == "-") return 0;
  if (session.json) {
    PrintJson({{"items", result->items},
               {"users", result->users},
               {"events", result->events},
               {"deleted_items", result->deleted}});
    return 0;
  }
  std::cout << WithThousands(result->items) << " items, "
            << WithThousands(result->users) << " users, "
            << WithThousands(result->events) << " events, "
            << WithThousands(result->deleted) << " deleted items\n";
  return 0;
}

}  // namespace nearline::client
