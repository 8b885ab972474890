#ifndef NEARLINE_MODEL_USER_ITEMS_H_
#define NEARLINE_MODEL_USER_ITEMS_H_

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"

namespace nearline::model {

// A user's items, each once: in order of time where every line of the file has
// one, else in order of the file.
struct UserLines {
  std::vector<std::string> items;
  std::vector<float> values;  // 0 where a line has none
  std::vector<double>
      times;  // in Unix seconds; empty unless all lines have one
};
struct UserItems {
  std::vector<std::string> users;
  std::vector<UserLines> lines;  // by user
  bool rated = true;             // every line has a value
  // Every line has a time, and not nearly all of a user's have the same.
  bool timed = true;
};

// Reads "user item [value [time]]" lines; further columns are ignored, a header
// is recognized, times are numbers or as ParseTime reads them; or "user item
// item ..." lines.
//
// `format`: "tsv", "csv", "dat" ("::"), "spaces", "adjacency" (spaces, many
// items a line), "" by content. Lines with a value below `min_value` are left
// out. Errors: INVALID_ARGUMENT with file, line and what was expected;
// NOT_FOUND.
absl::StatusOr<UserItems> ReadUserItems(const std::string& path,
                                        const std::string& format,
                                        double min_value);

// What a user's item is asked against.
struct Negatives {
  std::string item;
  std::vector<std::string> items;  // as often as listed
  int64_t line = 0;                // of the file
};

// By user, from lines of "(user,item)<tab>negative<tab>..." (He 2017). Errors:
// likewise.
absl::StatusOr<absl::flat_hash_map<std::string, Negatives>> ReadNegatives(
    const std::string& path);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_USER_ITEMS_H_
