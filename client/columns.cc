#include "client/columns.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/parse_time.h"
#include "base/text.h"
#include "client/records.h"

namespace nearline::client {
namespace {

using Fields = std::vector<std::string>;

bool IsNumber(absl::string_view text) {
  double number = 0;
  return absl::SimpleAtod(text, &number);
}

// As one writes numbers: "02134" and "0x10" are names of something.
bool IsPlainNumber(absl::string_view text) {
  const bool zero_first =
      text.size() > 1 && text[0] == '0' &&
      absl::ascii_isdigit(static_cast<unsigned char>(text[1]));
  double number = 0;
  return !zero_first &&
         text.find_first_not_of("0123456789.-eE+") == absl::string_view::npos &&
         absl::SimpleAtod(text, &number) && std::isfinite(number);
}

// The column that `where` names: a name in the header, or a number from 1.
absl::StatusOr<int> ColumnOf(const std::string& where, const Fields& first) {
  int number = 0;
  if (absl::SimpleAtoi(where, &number)) {
    if (number >= 0 && static_cast<size_t>(number) <= first.size()) {
      return number - 1;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--columns: there is no column ", number,
                     "; the file has ", first.size()));
  }
  const auto it = std::find(first.begin(), first.end(), where);
  if (it != first.end()) return static_cast<int>(it - first.begin());
  return absl::InvalidArgumentError(
      absl::StrCat("--columns: no column ", Quoted(where), " in the header"));
}

// Whether a column holds a number below a first line that holds none.
bool NumberBelowAName(int column, const Fields& first, const Fields& second) {
  const auto at = static_cast<size_t>(column);
  return column >= 0 && at < first.size() && at < second.size() &&
         !IsNumber(first[at]) && IsNumber(second[at]);
}

absl::Status CheckId(const char* what, int column, const Fields& fields) {
  const auto at = static_cast<size_t>(column);
  if (at >= fields.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.size(), " fields; expected the ", what,
                     " in column ", column + 1));
  }
  if (fields[at].empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("column ", column + 1, ", the ", what, ", is empty"));
  }
  if (!IsUtf8(fields[at])) {
    return absl::InvalidArgumentError(
        absl::StrCat("column ", column + 1, ", the ", what, " ",
                     Quoted(fields[at]), ", is not UTF-8"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string FieldOf(absl::string_view name) {
  static const auto* const fields = new std::map<std::string, std::string>{
      {"user", "user"},          {"userid", "user"},
      {"uid", "user"},           {"visitorid", "user"},
      {"reviewerid", "user"},    {"customerid", "user"},
      {"item", "item"},          {"itemid", "item"},
      {"iid", "item"},           {"movieid", "item"},
      {"bookid", "item"},        {"isbn", "item"},
      {"asin", "item"},          {"parentasin", "item"},
      {"productid", "item"},     {"artistid", "item"},
      {"trackid", "item"},       {"songid", "item"},
      {"type", "type"},          {"event", "type"},
      {"eventtype", "type"},     {"value", "value"},
      {"rating", "value"},       {"bookrating", "value"},
      {"overall", "value"},      {"score", "value"},
      {"stars", "value"},        {"time", "time"},
      {"timestamp", "time"},     {"date", "time"},
      {"unixreviewtime", "time"}};
  std::string plain;
  for (const char c :
       name.substr(0, name.find(':'))) {  // RecBole: "user:token"
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) {
      plain.push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
    }
  }
  const auto it = fields->find(plain);
  return it == fields->end() ? "" : it->second;
}

const std::set<std::string>& EventFields() {
  static const auto* const fields =
      new std::set<std::string>{"user", "item", "type", "value", "time"};
  return *fields;
}

absl::StatusOr<EventColumns> EventColumns::Choose(const Fields& first,
                                                  const Fields& second,
                                                  const NamedColumns& named) {
  EventColumns c;
  const std::map<std::string, int*> places = {{"user", &c.user},
                                              {"item", &c.item},
                                              {"type", &c.type},
                                              {"value", &c.value},
                                              {"time", &c.time}};
  int known = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    const auto it = places.find(FieldOf(first[i]));
    if (it == places.end() || *it->second >= 0) continue;
    *it->second = static_cast<int>(i);
    ++known;
  }
  c.header = known >= 2 ||
             std::any_of(named.begin(), named.end(), [](const auto& entry) {
               int number = 0;
               return !absl::SimpleAtoi(entry.second, &number);
             });
  if (!c.header) {
    for (const auto& [field, place] : places) *place = -1;
    if (named.empty()) {
      c.value = first.size() > 2 ? 2 : -1;
      c.time = first.size() > 3 ? 3 : -1;
    }
  }
  for (const auto& [field, where] : named) {
    ASSIGN_OR_RETURN(*places.at(field), ColumnOf(where, first));
  }
  if (!c.header) {
    if (c.user < 0) c.user = 0;
    if (c.item < 0) c.item = 1;
    c.header = NumberBelowAName(c.value, first, second) ||
               NumberBelowAName(c.time, first, second);
  }
  if (c.user < 0 || c.item < 0 || c.user == c.item) {
    return absl::InvalidArgumentError(
        "which columns are user and item? Say --columns user=1,item=2, or name "
        "them as the header does");
  }
  if (!c.header) return c;
  for (size_t i = 0; i < first.size(); ++i) {
    const bool read =
        std::any_of(places.begin(), places.end(), [&](const auto& entry) {
          return *entry.second == static_cast<int>(i);
        });
    if (!read && !first[i].empty()) c.unread.push_back(first[i]);
  }
  return c;
}

absl::Status EventColumns::Read(const Fields& fields, const std::string& type,
                                absl::Time time, api::Event* event) const {
  RETURN_IF_ERROR(CheckId("user", user, fields));
  RETURN_IF_ERROR(CheckId("item", item, fields));
  // A column that is missing from a line would be made up below.
  const int last = std::max({this->type, value, this->time});
  if (last >= static_cast<int>(fields.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.size(), " fields; expected at least ", last + 1,
                     ", as many as the columns that are read"));
  }
  const auto at = [&](int column) -> const std::string& {
    return fields[static_cast<size_t>(column)];
  };
  event->set_user(at(user));
  event->set_item(at(item));
  event->set_type(this->type < 0 ? type : at(this->type));
  double number = 0;
  if (value >= 0 && !absl::SimpleAtod(at(value), &number)) {
    return absl::InvalidArgumentError(
        absl::StrCat("value ", Quoted(at(value)), " is no number"));
  }
  event->set_value(number);
  if (this->time >= 0) {
    ASSIGN_OR_RETURN(time, ParseTime(at(this->time)));
  }
  SetTime(time, event);
  return absl::OkStatus();
}

absl::StatusOr<RecordColumns> RecordColumns::Choose(const Fields& header,
                                                    const std::string& kind,
                                                    const NamedColumns& named) {
  static const auto* const declared =
      new std::map<std::string, Kind>{{"token", Kind::kText},
                                      {"token_seq", Kind::kTexts},
                                      {"float", Kind::kNumber},
                                      {"float_seq", Kind::kVector}};
  RecordColumns c;
  const std::string field = kind == "users" ? "user" : "item";
  for (const auto& [name, where] : named) {
    if (name == field) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--columns ", name, "=", where, ": of ", kind, " only ",
                     field, "=... can be said; other columns are attributes"));
  }
  for (const std::string& title : header) {
    Column column{.name = title};
    const size_t colon = title.find(':');
    if (colon != std::string::npos) {
      const auto it = declared->find(title.substr(colon + 1));
      if (it != declared->end()) {
        column = {title.substr(0, colon), it->second, true, ' '};
      }
    }
    if (column.name == "title") {
      column.kind = Kind::kText;
      column.declared = true;
    }
    c.columns_.push_back(column);
  }
  for (size_t i = header.size(); i-- > 0;) {
    const std::string name = absl::AsciiStrToLower(c.columns_[i].name);
    if (FieldOf(name) == field || name == "id") c.id_ = static_cast<int>(i);
  }
  if (const auto it = named.find(field); it != named.end()) {
    ASSIGN_OR_RETURN(c.id_, ColumnOf(it->second, header));
  }
  if (c.id_ >= 0) return c;
  return absl::InvalidArgumentError(
      absl::StrCat("which column is the ", field,
                   "'s id? The first line must "
                   "name the columns, one of them \"id\" or \"",
                   field, "\"; or say --columns ", field, "=..."));
}

void RecordColumns::Observe(const Fields& fields) {
  for (size_t i = 0; i < std::min(fields.size(), columns_.size()); ++i) {
    Column& column = columns_[i];
    if (column.declared || fields[i].empty()) continue;
    if (absl::StrContains(fields[i], '|')) {
      column.kind = Kind::kTexts;
    } else if (column.kind == Kind::kNumber && !IsPlainNumber(fields[i])) {
      column.kind = Kind::kText;
    }
  }
}

absl::Status RecordColumns::Read(
    const Fields& fields, std::string* record_id,
    google::protobuf::Map<std::string, api::Attribute>* attributes) const {
  RETURN_IF_ERROR(CheckId("id", id_, fields));
  if (fields.size() > columns_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        fields.size(), " fields; the header names ", columns_.size()));
  }
  *record_id = fields[static_cast<size_t>(id_)];
  for (size_t i = 0; i < fields.size(); ++i) {
    if (static_cast<int>(i) == id_) continue;
    const Column& column = columns_[i];
    const std::string text =
        IsUtf8(fields[i]) ? fields[i] : Latin1ToUtf8(fields[i]);
    if (text.find_first_not_of(column.separator) == std::string::npos) continue;
    const auto number = [&](absl::string_view part, double* value) {
      return absl::SimpleAtod(part, value) && std::isfinite(*value)
                 ? absl::OkStatus()
                 : absl::InvalidArgumentError(
                       absl::StrCat("column ", i + 1, ", ", column.name, ", ",
                                    Quoted(part), " is no number"));
    };
    api::Attribute& to = (*attributes)[column.name];
    double value = 0;
    switch (column.kind) {
      case Kind::kText:
        to.set_text(text);
        break;
      case Kind::kNumber:
        RETURN_IF_ERROR(number(text, &value));
        to.set_number(value);
        break;
      case Kind::kTexts:
        for (const auto part :
             absl::StrSplit(text, column.separator, absl::SkipEmpty())) {
          to.mutable_texts()->add_values(std::string(part));
        }
        break;
      case Kind::kVector:
        for (const auto part :
             absl::StrSplit(text, column.separator, absl::SkipEmpty())) {
          RETURN_IF_ERROR(number(part, &value));
          to.mutable_vector()->add_values(static_cast<float>(value));
        }
        break;
    }
  }
  return absl::OkStatus();
}

}  // namespace nearline::client
