#ifndef NEARLINE_BASE_DELIMITED_H_
#define NEARLINE_BASE_DELIMITED_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "base/status.h"

namespace nearline {

// Reads a text file of fields line by line: tabs, commas or semicolons (with
// RFC 4180 quotes and spaces around fields dropped; a quoted field ends on its
// line), "|", or MovieLens' "::". Empty lines are passed over; a byte order
// mark and a final "\r" are dropped. Every error can be named by file and line.
class DelimitedReader {
 public:
  // `separator` empty: guessed from the first lines. Errors: NOT_FOUND;
  // INVALID_ARGUMENT for what is no text file, or is compressed.
  static absl::StatusOr<DelimitedReader> Open(const std::string& path,
                                              std::string separator = "");

  // False at the end of the file, and at a line that cannot be split: then
  // `status` says why, and the next call goes on behind it.
  bool Next(std::vector<std::string>* fields);
  const absl::Status& status() const { return status_; }

  const std::string& text() const { return text_; }  // of the last Next
  int64_t line() const { return line_; }             // of the last Next, from 1
  int64_t bytes_read() const { return bytes_read_; }
  int64_t bytes() const { return bytes_; }  // of the file
  const std::string& separator() const { return separator_; }

  // INVALID_ARGUMENT "path:line: what".
  absl::Status Error(absl::string_view what) const;

 private:
  DelimitedReader() = default;
  bool ReadLine();
  bool Fill();

  std::string path_;
  std::ifstream in_;
  std::string buffer_;
  size_t at_ = 0;  // of buffer_
  std::string separator_;
  std::string text_;
  bool peeked_ = false;  // text_ holds a line that Next has not given yet
  int64_t line_ = 0;
  int64_t bytes_read_ = 0;
  int64_t bytes_ = 0;
  absl::Status status_;
};

// The fields of one line. Errors: INVALID_ARGUMENT for quotes that do not
// match.
absl::StatusOr<std::vector<std::string>> SplitFields(
    absl::string_view line, absl::string_view separator);

}  // namespace nearline

#endif  // NEARLINE_BASE_DELIMITED_H_
