#include "base/delimited.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace nearline {
namespace {

constexpr size_t kChunk = 1 << 16;
constexpr size_t kMostBytes = 16 << 20;  // of a line

absl::StatusOr<std::vector<std::string>> SplitQuoted(absl::string_view line,
                                                     char separator) {
  std::vector<std::string> fields;
  size_t i = 0;
  while (true) {
    while (i < line.size() && line[i] == ' ') ++i;
    std::string field;
    if (i < line.size() && line[i] == '"') {
      for (++i;; ++i) {
        if (i >= line.size()) {
          return absl::InvalidArgumentError(
              "a quote is not closed on its line; leave line breaks out of "
              "fields, and double a quote that is part of one");
        }
        if (line[i] != '"') {
          field.push_back(line[i]);
        } else if (i + 1 < line.size() && line[i + 1] == '"') {
          field.push_back('"');
          ++i;
        } else {
          break;
        }
      }
      for (++i; i < line.size() && line[i] == ' ';) ++i;
      if (i < line.size() && line[i] != separator) {
        return absl::InvalidArgumentError(
            "text behind a closing quote; double a quote that is part of a "
            "field");
      }
    } else {
      const size_t end = std::min(line.find(separator, i), line.size());
      field = std::string(
          absl::StripTrailingAsciiWhitespace(line.substr(i, end - i)));
      i = end;
    }
    fields.push_back(std::move(field));
    if (i >= line.size()) return fields;
    ++i;  // the separator
  }
}

// What a file is that begins so, when it is no text.
const char* NoText(absl::string_view begin) {
  if (absl::StartsWith(begin, "\x1f\x8b")) return "compressed by gzip";
  if (absl::StartsWith(begin, "PK\x03\x04")) return "a zip archive";
  if (absl::StartsWith(begin, "\x28\xb5\x2f\xfd")) return "compressed by zstd";
  if (absl::StartsWith(begin, "BZh")) return "compressed by bzip2";
  if (absl::StartsWith(begin, "\xfd\x37zXZ")) return "compressed by xz";
  if (absl::StartsWith(begin, "\xff\xfe") ||
      absl::StartsWith(begin, "\xfe\xff")) {
    return "UTF-16";
  }
  return nullptr;
}

// Into how many fields it divides every line alike; 0 if it does not.
size_t FieldsBy(absl::string_view separator,
                const std::vector<absl::string_view>& lines) {
  size_t fields = 0;
  for (const absl::string_view line : lines) {
    const auto split = SplitFields(line, separator);
    if (!split.ok() || split->size() < 2) return 0;
    if (fields != 0 && split->size() != fields) return 0;
    for (const std::string& field : *split) {
      // It stands within a quoted field of another separator.
      if (separator.size() == 1 && absl::StrContains(field, '"')) return 0;
    }
    fields = split->size();
  }
  return fields;
}

// The separator of a file that begins so: what divides the first lines alike
// into most fields, else what is in the first line.
std::string Guess(const std::string& path, const std::string& first_line,
                  absl::string_view begin) {
  constexpr size_t kLines = 50;
  std::vector<absl::string_view> lines = {first_line};
  for (size_t at = 0, end = 0;
       lines.size() < kLines &&
       (end = begin.find('\n', at)) != absl::string_view::npos;
       at = end + 1) {
    const auto line = absl::StripSuffix(begin.substr(at, end - at), "\r");
    if (!line.empty()) lines.push_back(line);
  }
  const bool csv = absl::EndsWithIgnoreCase(path, ".csv");
  if (!csv && absl::StrContains(first_line, '\t')) return "\t";
  std::vector<const char*> separators = {"\t", "::", "|", ";", ","};
  if (csv) separators = {"\t", ";", ",", "::", "|"};
  std::string best;
  size_t most = 0;
  for (const char* separator : separators) {
    const size_t fields = FieldsBy(separator, lines);
    if (fields <= most) continue;
    most = fields;
    best = separator;
  }
  if (most > 0) return best;
  for (const char* separator : separators) {
    if (absl::StrContains(first_line, separator)) return separator;
  }
  return "\t";
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SplitFields(
    absl::string_view line, absl::string_view separator) {
  if (separator == "," || separator == ";") {
    return SplitQuoted(line, separator[0]);
  }
  return std::vector<std::string>(absl::StrSplit(line, std::string(separator)));
}

absl::StatusOr<DelimitedReader> DelimitedReader::Open(const std::string& path,
                                                      std::string separator) {
  DelimitedReader reader;
  if (!FileExists(path)) {
    return absl::NotFoundError(absl::StrCat("there is no ", path));
  }
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no regular file; write it to one first"));
  }
  ASSIGN_OR_RETURN(reader.bytes_, FileSize(path));
  reader.path_ = path;
  reader.in_.open(path, std::ios::binary);
  if (!reader.in_) {
    return absl::NotFoundError(absl::StrCat("cannot open ", path));
  }
  reader.Fill();
  if (const char* const kind = NoText(reader.buffer_); kind != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is ", kind, "; a text file in UTF-8 is needed"));
  }
  if (absl::StartsWith(reader.buffer_, "\xef\xbb\xbf")) reader.at_ = 3;
  do {
    reader.peeked_ = reader.ReadLine();
  } while (reader.peeked_ && reader.text_.empty() && reader.status_.ok());
  reader.separator_ =
      separator.empty()
          ? Guess(path, reader.text_,
                  absl::string_view(reader.buffer_).substr(reader.at_))
          : std::move(separator);
  return reader;
}

bool DelimitedReader::Fill() {
  buffer_.resize(kChunk);
  in_.read(buffer_.data(), kChunk);
  buffer_.resize(static_cast<size_t>(in_.gcount()));
  at_ = 0;
  return !buffer_.empty();
}

// The next line into text_; false at the end of the file. Of one that is too
// long the beginning, with an error in status_.
bool DelimitedReader::ReadLine() {
  text_.clear();
  status_ = absl::OkStatus();
  bool any = false;
  while (at_ < buffer_.size() || Fill()) {
    any = true;
    const size_t end = std::min(buffer_.find('\n', at_), buffer_.size());
    bytes_read_ += static_cast<int64_t>(end - at_);
    if (text_.size() + end - at_ <= kMostBytes) {
      text_.append(buffer_, at_, end - at_);
    } else if (status_.ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("longer than ", kMostBytes, " bytes"));
    }
    at_ = end;
    if (end == buffer_.size()) continue;
    ++at_;
    ++bytes_read_;
    break;
  }
  if (any) ++line_;
  if (!text_.empty() && text_.back() == '\r') text_.pop_back();
  return any;
}

bool DelimitedReader::Next(std::vector<std::string>* fields) {
  while (std::exchange(peeked_, false) || ReadLine()) {
    if (status_.ok() && text_.empty()) continue;
    if (status_.ok() && absl::StrContains(text_, '\r')) {
      status_ = absl::InvalidArgumentError(
          "a carriage return within the line; end lines with \\n");
    }
    if (status_.ok()) {
      auto split = SplitFields(text_, separator_);
      if (split.ok()) {
        *fields = *std::move(split);
        return true;
      }
      status_ = split.status();
    }
    status_ = Error(status_.message());
    return false;
  }
  status_ = absl::OkStatus();
  return false;
}

absl::Status DelimitedReader::Error(absl::string_view what) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ":", line_, ": ", what));
}

}  // namespace nearline
