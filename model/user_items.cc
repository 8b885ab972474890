#include "model/user_items.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/delimited.h"
#include "base/parse_time.h"
#include "base/text.h"

namespace nearline::model {
namespace {

// How a file is to be read.
struct Layout {
  std::string separator;   // empty: guessed
  bool adjacency = false;  // "user item item ..." lines; else one event a line
};

// Lines of spaces, and of nothing else that separates, are adjacency, unless
// all have three fields or all have four: user, item, value, time.
absl::StatusOr<Layout> GuessLayout(const std::string& path) {
  constexpr int kLines = 1000;
  // A separator that no file holds: the whole line is one field.
  ASSIGN_OR_RETURN(DelimitedReader reader,
                   DelimitedReader::Open(path, std::string(1, '\x01')));
  std::set<int64_t> lengths;
  std::vector<std::string> line;
  int lines = 0, of_others = 0;
  for (; lines < kLines && reader.Next(&line); ++lines) {
    const bool others = line[0].find_first_of("\t,;|") != std::string::npos ||
                        absl::StrContains(line[0], "::");
    const bool spaces = !others && absl::StrContains(line[0], ' ');
    if (!spaces && lines == 0) return Layout();
    of_others += others;
    lengths.insert(static_cast<int64_t>(
        std::vector<absl::string_view>(
            absl::StrSplit(line[0], ' ', absl::SkipEmpty()))
            .size()));
  }
  // A remark, or a title, before lines of another kind.
  if (2 * of_others > lines) return Layout();
  const bool columns =
      lengths == std::set<int64_t>{3} || lengths == std::set<int64_t>{4};
  return Layout{.separator = " ", .adjacency = !columns};
}

absl::StatusOr<Layout> LayoutOf(const std::string& format,
                                const std::string& path) {
  if (format.empty()) return GuessLayout(path);
  if (format == "tsv") return Layout{.separator = "\t"};
  if (format == "csv") return Layout{.separator = ","};
  if (format == "dat") return Layout{.separator = "::"};
  if (format == "spaces") return Layout{.separator = " "};
  if (format == "adjacency") return Layout{.separator = " ", .adjacency = true};
  return absl::InvalidArgumentError(
      absl::StrCat("format ", Quoted(format),
                   ": expected tsv, csv, dat, spaces or adjacency"));
}

// A column's name without what divides its words, and without a type, as in
// RecBole's "user_id:token". ("user:17" is a user.)
std::string ColumnName(absl::string_view field) {
  for (const char* type :
       {":token", ":float", ":token_seq", ":float_seq", ":int", ":string"}) {
    if (absl::ConsumeSuffix(&field, type)) break;
  }
  return absl::StrReplaceAll(absl::AsciiStrToLower(field),
                             {{"_", ""}, {" ", ""}, {"-", ""}});
}

bool IsHeader(const std::vector<std::string>& fields) {
  using Names = absl::flat_hash_set<std::string>;
  static const auto* const users =
      new Names({"user", "userid", "uid", "customer", "customerid", "session",
                 "sessionid", "visitor", "visitorid", "reviewer", "reviewerid",
                 "member", "memberid", "account", "accountid", "profileid"});
  static const auto* const items = new Names(
      {"item",     "itemid",     "iid",        "product",   "productid",
       "movie",    "movieid",    "article",    "articleid", "track",
       "trackid",  "song",       "songid",     "book",      "bookid",
       "isbn",     "asin",       "parentasin", "artist",    "artistid",
       "business", "businessid", "video",      "videoid",   "news",
       "newsid",   "game",       "gameid",     "sku",       "recipe",
       "recipeid", "post",       "postid",     "location",  "locationid"});
  const std::string name = ColumnName(fields[0]);
  if (fields.size() > 1 && items->contains(ColumnName(fields[1]))) {
    return users->contains(name);
  }
  return name == "user" || name == "userid";
}

// Fields that spaces divide, one or more, divided by tabs, too; the user's is
// never missing.
std::vector<std::string> Words(const std::vector<std::string>& fields) {
  std::vector<std::string> words;
  for (const std::string& field : fields) {
    for (const auto word : absl::StrSplit(field, '\t', absl::SkipEmpty())) {
      words.emplace_back(word);
    }
  }
  if (words.empty()) words.emplace_back();
  return words;
}

// In seconds, as far as a number's size tells its unit; nothing where a file
// has another thing in its fourth column.
std::optional<double> TimeOf(const std::string& field) {
  double number = 0;
  if (absl::SimpleAtod(field, &number)) {
    if (!std::isfinite(number)) return {};
    const double size = std::abs(number);
    return size < 1e11   ? number
           : size < 1e14 ? number / 1e3
           : size < 1e17 ? number / 1e6
                         : number / 1e9;
  }
  const auto time = ParseTime(field);
  if (!time.ok()) return {};
  return absl::ToDoubleSeconds(*time - absl::UnixEpoch());
}

class UserItemsBuilder {
 public:
  void Add(const std::string& user, const std::string& item,
           std::optional<double> value = {}, std::optional<double> time = {}) {
    const auto [it, added] = index_.try_emplace(user, out_.users.size());
    if (added) {
      out_.users.push_back(user);
      of_user_.emplace_back();
    }
    OfUser& of = of_user_[it->second];
    out_.rated &= value.has_value();
    timed_ &= time.has_value();
    if (!of.seen.insert(item).second) return;
    of.lines.push_back(
        {item, static_cast<float>(value.value_or(0)), time.value_or(0)});
  }

  UserItems Take() {
    size_t lines = 0, ties = 0;
    for (OfUser& of : of_user_) {
      if (timed_) {
        std::stable_sort(
            of.lines.begin(), of.lines.end(),
            [](const Line& a, const Line& b) { return a.time < b.time; });
        lines += of.lines.size() - 1;
        for (size_t i = 1; i < of.lines.size(); ++i) {
          ties += of.lines[i].time == of.lines[i - 1].time;
        }
      }
      UserLines& to = out_.lines.emplace_back();
      for (Line& line : of.lines) {
        to.items.push_back(std::move(line.item));
        to.values.push_back(line.value);
        if (timed_) to.times.push_back(line.time);
      }
    }
    constexpr double kNearlyAll = 0.9;
    const bool told_apart =
        lines == 0 ||
        static_cast<double>(ties) < kNearlyAll * static_cast<double>(lines);
    out_.timed = timed_ && told_apart;
    return std::move(out_);
  }

 private:
  struct Line {
    std::string item;
    float value;
    double time;
  };
  struct OfUser {
    std::vector<Line> lines;
    absl::flat_hash_set<std::string> seen;
  };

  UserItems out_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::vector<OfUser> of_user_;
  bool timed_ = true;
};

// INVALID_ARGUMENT for an id that no catalogue would take.
absl::Status CheckId(const DelimitedReader& reader, const std::string& id,
                     const char* what) {
  if (!id.empty() && IsUtf8(id)) return absl::OkStatus();
  return reader.Error(absl::StrCat(what, " ", Quoted(id),
                                   ": expected an id of UTF-8, not empty"));
}

}  // namespace

absl::StatusOr<UserItems> ReadUserItems(const std::string& path,
                                        const std::string& format,
                                        double min_value) {
  ASSIGN_OR_RETURN(const Layout layout, LayoutOf(format, path));
  ASSIGN_OR_RETURN(DelimitedReader reader,
                   DelimitedReader::Open(path, layout.separator));
  UserItemsBuilder builder;
  std::vector<std::string> fields;
  bool first = true;
  while (reader.Next(&fields)) {
    if (layout.separator == " ") fields = Words(fields);
    const bool may_be_header = std::exchange(first, false);
    if (may_be_header && IsHeader(fields)) continue;
    RETURN_IF_ERROR(CheckId(reader, fields[0], "user"));
    if (layout.adjacency) {
      for (size_t i = 1; i < fields.size(); ++i) {
        RETURN_IF_ERROR(CheckId(reader, fields[i], "item"));
        builder.Add(fields[0], fields[i]);
      }
      continue;
    }
    if (fields.size() < 2) {
      return reader.Error("expected user, item [, value [, time]]");
    }
    double value = 0;
    if (fields.size() > 2 && !absl::SimpleAtod(fields[2], &value)) {
      if (may_be_header) continue;
      return reader.Error(
          absl::StrCat("value ", Quoted(fields[2]), " is no number"));
    }
    if (!std::isfinite(value)) {
      return reader.Error(
          absl::StrCat("value ", fields[2], ": expected a finite number"));
    }
    RETURN_IF_ERROR(CheckId(reader, fields[1], "item"));
    if (fields.size() > 2 && value < min_value) continue;
    builder.Add(fields[0], fields[1],
                fields.size() > 2 ? std::optional(value) : std::nullopt,
                fields.size() > 3 ? TimeOf(fields[3]) : std::nullopt);
  }
  RETURN_IF_ERROR(reader.status());
  return builder.Take();
}

absl::StatusOr<absl::flat_hash_map<std::string, Negatives>> ReadNegatives(
    const std::string& path) {
  ASSIGN_OR_RETURN(DelimitedReader reader, DelimitedReader::Open(path, "\t"));
  absl::flat_hash_map<std::string, Negatives> out;
  std::vector<std::string> fields;
  while (reader.Next(&fields)) {
    const std::vector<std::string> pair =
        absl::StrSplit(fields[0], absl::ByAnyChar("(),"), absl::SkipEmpty());
    if (pair.size() != 2 || fields.size() < 2) {
      return reader.Error("expected (user,item), negative, negative, ...");
    }
    out[pair[0]] = {.item = pair[1],
                    .items = {fields.begin() + 1, fields.end()},
                    .line = reader.line()};
  }
  RETURN_IF_ERROR(reader.status());
  return out;
}

}  // namespace nearline::model
