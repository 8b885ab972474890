#include "base/delimited.h"

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "base/file.h"

namespace nearline {
namespace {

std::string Guess(const std::string& line) {
  for (const char* separator : {"\t", "::", "|", ";", ","}) {
    if (absl::StrContains(line, separator)) return separator;
  }
  return "\t";
}

std::vector<std::string> SplitQuoted(absl::string_view line, char separator) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted) {
      if (c != '"') {
        fields.back().push_back(c);
      } else if (i + 1 < line.size() && line[i + 1] == '"') {
        fields.back().push_back('"');
        ++i;
      } else {
        quoted = false;
      }
    } else if (c == '"' && fields.back().empty()) {
      quoted = true;
    } else if (c == separator) {
      fields.emplace_back();
    } else {
      fields.back().push_back(c);
    }
  }
  return fields;
}

}  // namespace

std::vector<std::string> SplitFields(absl::string_view line,
                                     absl::string_view separator) {
  if (separator == "," || separator == ";") {
    return SplitQuoted(line, separator[0]);
  }
  return absl::StrSplit(line, std::string(separator));
}

absl::StatusOr<DelimitedReader> DelimitedReader::Open(const std::string& path,
                                                      std::string separator) {
  DelimitedReader reader;
  ASSIGN_OR_RETURN(reader.bytes_, FileSize(path));
  reader.path_ = path;
  reader.in_.open(path, std::ios::binary);
  if (!reader.in_)
    return absl::NotFoundError(absl::StrCat("cannot open ", path));
  if (separator.empty()) {
    std::string first;
    std::getline(reader.in_, first);
    separator = Guess(first);
    reader.in_.clear();
    reader.in_.seekg(0);
  }
  reader.separator_ = std::move(separator);
  return reader;
}

bool DelimitedReader::Next(std::vector<std::string>* fields) {
  while (std::getline(in_, text_)) {
    ++line_;
    bytes_read_ += static_cast<int64_t>(text_.size()) + 1;
    if (!text_.empty() && text_.back() == '\r') text_.pop_back();
    if (text_.empty()) continue;
    *fields = SplitFields(text_, separator_);
    return true;
  }
  return false;
}

absl::Status DelimitedReader::Error(absl::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ":", line_, ": ", what));
}

}  // namespace nearline
