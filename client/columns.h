// Which column of a delimited file means what.
#ifndef NEARLINE_CLIENT_COLUMNS_H_
#define NEARLINE_CLIENT_COLUMNS_H_

#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "proto/nearline/v1/common.pb.h"

namespace nearline::client {

namespace api = ::nearline::v1;

// "user", "item", "type", "value" or "time" for the names that public data sets
// give them, whatever their case and punctuation ("userId", "Book-Rating",
// "unixReviewTime"); empty for others.
std::string FieldOf(absl::string_view name);

// Field -> column name, or number from 1; 0: the file has none.
using NamedColumns = std::map<std::string, std::string>;

// Where each field of an event stands, from 0; -1: nowhere.
struct EventColumns {
  int user = -1, item = -1, type = -1, value = -1, time = -1;
  bool header = false;  // the first line is one

  // By the names in the first line; without them user, item, value, time. What
  // `named` says comes first, and then nothing is told by place but user and
  // item. `second` is the line after the first, if there is one. Errors:
  // INVALID_ARGUMENT.
  static absl::StatusOr<EventColumns> Choose(
      const std::vector<std::string>& first,
      const std::vector<std::string>& second, const NamedColumns& named);

  // The event of a line; `type` and `time` when no column holds them. Errors:
  // INVALID_ARGUMENT saying what is wrong.
  absl::Status Read(const std::vector<std::string>& fields,
                    const std::string& type, absl::Time time,
                    api::Event* event) const;
};

// A record's id and attributes from a file with a header: numbers are numbers,
// "a|b" is a list, empty fields are left out.
struct RecordColumns {
  int id = -1;
  std::vector<std::string> names;  // of all columns

  // `kind` is "items" or "users".
  static absl::StatusOr<RecordColumns> Choose(
      const std::vector<std::string>& header, const std::string& kind,
      const NamedColumns& named);
  absl::Status Read(
      const std::vector<std::string>& fields, std::string* record_id,
      google::protobuf::Map<std::string, api::Attribute>* attributes) const;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_COLUMNS_H_
