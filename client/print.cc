#include "client/print.h"

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace nearline::client {

int Fail(const Session& session, const absl::Status& status) {
  if (absl::IsUnavailable(status) && !session.client->connected()) {
    std::cerr << "nearline: no answer from " << session.options.address << ": "
              << status.message()
              << "\nIs the server running? Start nearline-server, or name "
                 "another with --server.\n";
    return 3;
  }
  std::cerr << "nearline: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? 2 : 1;
}

void PrintJson(const Json& json) { std::cout << json.dump(2) << "\n"; }

std::pair<std::string, std::string> Describer::Describe(const std::string& id) {
  if (denied_) return {};
  const auto item = client_.GetItem(id);
  denied_ = absl::IsPermissionDenied(item.status());
  if (!item.ok()) return {};
  std::string title, genres;
  const auto& attributes = item->attributes();
  if (const auto it = attributes.find("title"); it != attributes.end()) {
    title = it->second.text();
  }
  if (const auto it = attributes.find("genres"); it != attributes.end()) {
    genres = absl::StrJoin(it->second.texts().values(), ", ");
  }
  return {title, genres};
}

}  // namespace nearline::client
