// Which column of a delimited file means what.
#ifndef NEARLINE_CLIENT_COLUMNS_H_
#define NEARLINE_CLIENT_COLUMNS_H_

#include <map>
#include <set>
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

// The fields of an event that a column can hold.
const std::set<std::string>& EventFields();

// Field -> column name, or number from 1; 0: the file has none.
using NamedColumns = std::map<std::string, std::string>;

// Where each field of an event stands, from 0; -1: nowhere.
struct EventColumns {
  int user = -1, item = -1, type = -1, value = -1, time = -1;
  bool header = false;              // the first line is one
  std::vector<std::string> unread;  // the header's other columns

  // By the names in the first line; without them user, item, value, time. What
  // `named` says, of EventFields, comes first, and then nothing is told by
  // place but user and item. `second` is the line after the first, if there is
  // one. Errors: INVALID_ARGUMENT.
  static absl::StatusOr<EventColumns> Choose(
      const std::vector<std::string>& first,
      const std::vector<std::string>& second, const NamedColumns& named);

  // The event of a line; `type` and `time` when no column holds them. Errors:
  // INVALID_ARGUMENT saying what is wrong.
  absl::Status Read(const std::vector<std::string>& fields,
                    const std::string& type, absl::Time time,
                    api::Event* event) const;
};

// A record's id and attributes from a file with a header. A column holds
// numbers if all its fields are such as one writes numbers (no "007"), lists if
// any is "a|b", else texts; "title" is a text always. A header may say so
// itself, as RecBole's do: "zip:token", "genres:token_seq" (of words),
// "year:float", "embedding:float_seq". Empty fields are left out.
class RecordColumns {
 public:
  // `kind` is "items" or "users".
  static absl::StatusOr<RecordColumns> Choose(
      const std::vector<std::string>& header, const std::string& kind,
      const NamedColumns& named);
  // Learns from a line what its columns hold.
  void Observe(const std::vector<std::string>& fields);
  // Errors: INVALID_ARGUMENT saying what is wrong.
  absl::Status Read(
      const std::vector<std::string>& fields, std::string* record_id,
      google::protobuf::Map<std::string, api::Attribute>* attributes) const;

 private:
  enum class Kind { kText, kTexts, kNumber, kVector };
  struct Column {
    std::string name;
    Kind kind = Kind::kNumber;  // until a field is none
    bool declared = false;
    char separator = '|';  // of lists and vectors
  };

  int id_ = -1;
  std::vector<Column> columns_;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_COLUMNS_H_
