#ifndef NEARLINE_BASE_DELIMITED_H_
#define NEARLINE_BASE_DELIMITED_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "base/status.h"

namespace nearline {

// Reads a text file of fields line by line: tabs, commas (with RFC 4180
// quotes), semicolons, "|", or MovieLens' "::". Empty lines are passed over; a
// final "\r" is dropped. Every error can be named by file and line.
class DelimitedReader {
 public:
  // `separator` empty: guessed from the first line.
  static absl::StatusOr<DelimitedReader> Open(const std::string& path,
                                              std::string separator = "");

  // False at the end of the file.
  bool Next(std::vector<std::string>* fields);

  const std::string& text() const { return text_; }  // of the last Next
  int64_t line() const { return line_; }             // of the last Next, from 1
  int64_t bytes_read() const { return bytes_read_; }
  int64_t bytes() const { return bytes_; }  // of the file
  const std::string& separator() const { return separator_; }

  // INVALID_ARGUMENT "path:line: what".
  absl::Status Error(absl::string_view what) const;

 private:
  DelimitedReader() = default;
  std::string path_;
  std::ifstream in_;
  std::string separator_;
  std::string text_;
  int64_t line_ = 0;
  int64_t bytes_read_ = 0;
  int64_t bytes_ = 0;
};

// The fields of one line.
std::vector<std::string> SplitFields(absl::string_view line,
                                     absl::string_view separator);

}  // namespace nearline

#endif  // NEARLINE_BASE_DELIMITED_H_
