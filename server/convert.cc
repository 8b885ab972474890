#include "server/convert.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/hash.h"
#include "base/text.h"

namespace nearline::server {
namespace {

constexpr int kMaxFilterDepth = 10;
constexpr int kMaxFilterNodes = 1000;

absl::Status CheckText(absl::string_view field, absl::string_view text,
                       size_t most) {
  if (text.size() <= most) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(text.size(), " bytes"),
                      absl::StrCat("at most ", most));
}

absl::Status CheckAttributeName(absl::string_view field,
                                absl::string_view name) {
  if (!name.empty() && name.size() <= 64) return absl::OkStatus();
  return InvalidField(field, Quoted(name),
                      "an attribute name of 1 to 64 bytes");
}

absl::StatusOr<features::Attribute> ConvertAttribute(const api::Attribute& in,
                                                     absl::string_view field) {
  constexpr size_t kMaxText = 64 * 1024;
  switch (in.kind_case()) {
    case api::Attribute::kText:
      RETURN_IF_ERROR(CheckText(field, in.text(), kMaxText));
      return features::Attribute(in.text());
    case api::Attribute::kTexts: {
      RETURN_IF_ERROR(CheckSize(field, in.texts().values_size(), 1000));
      std::vector<std::string> values;
      for (const std::string& value : in.texts().values()) {
        RETURN_IF_ERROR(CheckText(field, value, kMaxText));
        values.push_back(value);
      }
      return features::Attribute(std::move(values));
    }
    case api::Attribute::kNumber:
      if (!std::isfinite(in.number())) {
        return InvalidField(field, absl::StrCat(in.number()),
                            "a finite number");
      }
      return features::Attribute(in.number());
    case api::Attribute::kVector: {
      RETURN_IF_ERROR(CheckSize(field, in.vector().values_size(), 4096));
      if (in.vector().values().empty()) {
        return InvalidField(field, "an empty vector", "1 to 4096 numbers");
      }
      for (const float value : in.vector().values()) {
        if (!std::isfinite(value)) {
          return InvalidField(field, absl::StrCat(value), "finite numbers");
        }
      }
      return features::Attribute(std::vector<float>(
          in.vector().values().begin(), in.vector().values().end()));
    }
    case api::Attribute::KIND_NOT_SET:
      break;
  }
  return InvalidField(field, "nothing", "text, texts, number or vector");
}

absl::StatusOr<features::Attributes> ConvertAttributes(
    const google::protobuf::Map<std::string, api::Attribute>& in,
    absl::string_view field) {
  RETURN_IF_ERROR(CheckSize(absl::StrCat(field, ".attributes"),
                            static_cast<int>(in.size()), 100));
  features::Attributes out;
  for (const auto& [name, value] : in) {
    RETURN_IF_ERROR(
        CheckAttributeName(absl::StrCat(field, ".attributes"), name));
    const std::string path = absl::StrCat(field, ".attributes[", name, "]");
    ASSIGN_OR_RETURN(features::Attribute attribute,
                     ConvertAttribute(value, path));
    out.emplace(name, std::move(attribute));
  }
  return out;
}

// `path` names this node of the request's filter: "filter.all.filters[1]".
absl::StatusOr<features::Filter> ConvertFilter(const api::Filter& in,
                                               const std::string& path,
                                               int depth, int* nodes) {
  using Kind = features::Filter::Kind;
  if (depth > kMaxFilterDepth || ++*nodes > kMaxFilterNodes) {
    return InvalidField(
        path, depth > kMaxFilterDepth ? "too deep" : "too large",
        absl::StrCat("at most ", kMaxFilterDepth, " levels and ",
                     kMaxFilterNodes, " nodes"));
  }
  features::Filter out;
  const char* leaf = nullptr;
  const auto children =
      [&](const google::protobuf::RepeatedPtrField<api::Filter>& filters,
          const char* name) -> absl::Status {
    for (int i = 0; i < filters.size(); ++i) {
      ASSIGN_OR_RETURN(
          features::Filter converted,
          ConvertFilter(filters[i],
                        absl::StrCat(path, ".", name, ".filters[", i, "]"),
                        depth + 1, nodes));
      out.children.push_back(std::move(converted));
    }
    return absl::OkStatus();
  };
  switch (in.kind_case()) {
    case api::Filter::kAll:
      out.kind = Kind::kAll;
      RETURN_IF_ERROR(children(in.all().filters(), "all"));
      return out;
    case api::Filter::kAny:
      out.kind = Kind::kAny;
      RETURN_IF_ERROR(children(in.any().filters(), "any"));
      return out;
    case api::Filter::kNot: {
      out.kind = Kind::kNot;
      ASSIGN_OR_RETURN(features::Filter child,
                       ConvertFilter(in.not_(), absl::StrCat(path, ".not"),
                                     depth + 1, nodes));
      out.children.push_back(std::move(child));
      return out;
    }
    case api::Filter::kEquals:
      leaf = "equals";
      out.kind = Kind::kText;
      out.attribute = in.equals().attribute();
      out.values = {in.equals().value()};
      break;
    case api::Filter::kAnyOf:
      leaf = "any_of";
      out.kind = Kind::kText;
      out.attribute = in.any_of().attribute();
      RETURN_IF_ERROR(CheckSize(absl::StrCat(path, ".any_of.values"),
                                in.any_of().values_size(), 1000));
      out.values.assign(in.any_of().values().begin(),
                        in.any_of().values().end());
      break;
    case api::Filter::kRange:
      leaf = "range";
      out.kind = Kind::kRange;
      out.attribute = in.range().attribute();
      out.low = in.range().has_min() ? in.range().min() : -HUGE_VAL;
      out.high = in.range().has_max() ? in.range().max() : HUGE_VAL;
      if (std::isnan(out.low) || std::isnan(out.high)) {
        return InvalidField(absl::StrCat(path, ".range"), "NaN", "numbers");
      }
      break;
    case api::Filter::KIND_NOT_SET:
      return InvalidField(path, "nothing",
                          "all, any, not, equals, any_of or range");
  }
  RETURN_IF_ERROR(CheckAttributeName(
      absl::StrCat(path, ".", leaf, ".attribute"), out.attribute));
  return out;
}

absl::StatusOr<features::NewEvent> ConvertEvent(const api::Event& in,
                                                const std::string& field,
                                                absl::Time now,
                                                absl::Duration max_future) {
  RETURN_IF_ERROR(CheckId(field + ".user", in.user()));
  RETURN_IF_ERROR(CheckId(field + ".item", in.item()));
  if (!(in.value() >= -1e9 && in.value() <= 1e9)) {
    return InvalidField(field + ".value", absl::StrFormat("%.17g", in.value()),
                        "a finite number in [-1e9, 1e9]");
  }
  if (!in.event_id().empty()) {
    RETURN_IF_ERROR(CheckId(field + ".event_id", in.event_id()));
  }
  RETURN_IF_ERROR(
      CheckText(field + ".request_id", in.request_id(), kMaxIdBytes));
  RETURN_IF_ERROR(CheckText(field + ".context", in.context(), 4096));
  if (in.has_position() && in.position() < 0) {
    return InvalidField(field + ".position", absl::StrCat(in.position()),
                        "0 or more");
  }
  features::NewEvent event{.user = in.user(),
                           .item = in.item(),
                           .type = in.type(),
                           .value = in.value(),
                           .time_micros = absl::ToUnixMicros(now),
                           .time_must_match = in.has_time(),
                           .event_id = in.event_id(),
                           .request_id = in.request_id(),
                           .position = in.has_position() ? in.position() : -1,
                           .context = in.context()};
  if (in.has_time()) {
    const auto& t = in.time();
    const absl::Time time =
        absl::FromUnixSeconds(t.seconds()) + absl::Nanoseconds(t.nanos());
    if (t.nanos() < 0 || t.nanos() > 999'999'999 || t.seconds() < 0 ||
        time > now + max_future) {
      return InvalidField(
          field + ".time", absl::StrCat(t.seconds(), " s ", t.nanos(), " ns"),
          absl::StrCat("a time from 1970 to at most ",
                       absl::FormatDuration(max_future), " ahead of now"));
    }
    event.time_micros = absl::ToUnixMicros(time);
  }
  return event;
}

void SetTime(absl::Time time, google::protobuf::Timestamp* out) {
  const int64_t micros = absl::ToUnixMicros(time);
  out->set_seconds(micros / 1'000'000);
  out->set_nanos(static_cast<int32_t>(micros % 1'000'000 * 1000));
}

}  // namespace

absl::Status CheckId(absl::string_view field, absl::string_view id) {
  const auto control = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  if (id.empty() || id.size() > kMaxIdBytes || !IsUtf8(id)) {
    return InvalidField(field,
                        absl::StrCat(Quoted(id), " (", id.size(), " bytes)"),
                        "1 to 256 bytes of UTF-8");
  }
  for (const char c : id) {
    if (control(static_cast<unsigned char>(c))) {
      return InvalidField(field, Quoted(id), "no control characters");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> CheckCount(int count, int fallback) {
  if (count == 0) return fallback;
  if (count >= 1 && count <= kMaxCount) return count;
  return InvalidField("count", absl::StrCat(count),
                      absl::StrCat("1 to ", kMaxCount));
}

absl::Status CheckSize(absl::string_view field, int size, int most) {
  if (size <= most) return absl::OkStatus();
  return InvalidField(field, absl::StrCat(size, " entries"),
                      absl::StrCat("at most ", most));
}

absl::StatusOr<features::Filter> FromApi(const api::Filter& filter) {
  int nodes = 0;
  return ConvertFilter(filter, "filter", 1, &nodes);
}

absl::StatusOr<RecommendRequest> FromApi(api::RecommendRequest* in) {
  RecommendRequest out;
  ASSIGN_OR_RETURN(out.count, CheckCount(in->count(), 10));
  switch (in->who_case()) {
    case api::RecommendRequest::kUser:
      RETURN_IF_ERROR(CheckId("user", in->user()));
      out.user = in->user();
      break;
    case api::RecommendRequest::kHistory: {
      RETURN_IF_ERROR(
          CheckSize("history.entries", in->history().entries_size(), 1000));
      for (int i = 0; i < in->history().entries_size(); ++i) {
        const auto& entry = in->history().entries(i);
        const std::string field = absl::StrCat("history.entries[", i, "]");
        RETURN_IF_ERROR(CheckId(field + ".item", entry.item()));
        const double weight = entry.has_weight() ? entry.weight() : 1.0;
        if (!(weight > 0 && weight <= 1000)) {
          return InvalidField(field + ".weight", absl::StrCat(weight),
                              "a number in (0, 1000]");
        }
        out.history.push_back({entry.item(), static_cast<float>(weight)});
      }
      break;
    }
    case api::RecommendRequest::WHO_NOT_SET:
      return InvalidField("user", "nothing", "a user or a history");
  }
  RETURN_IF_ERROR(CheckSize("candidates", in->candidates_size(), kMaxBatch));
  RETURN_IF_ERROR(CheckSize("exclude", in->exclude_size(), kMaxBatch));
  for (int i = 0; i < in->candidates_size(); ++i) {
    RETURN_IF_ERROR(
        CheckId(absl::StrCat("candidates[", i, "]"), in->candidates(i)));
    out.candidates.push_back(in->candidates(i));
  }
  for (int i = 0; i < in->exclude_size(); ++i) {
    RETURN_IF_ERROR(CheckId(absl::StrCat("exclude[", i, "]"), in->exclude(i)));
    out.exclude.push_back(in->exclude(i));
  }
  if (in->has_filter()) {
    ASSIGN_OR_RETURN(out.filter, FromApi(in->filter()));
  }
  out.include_seen = in->include_seen();
  out.after = in->after();
  RETURN_IF_ERROR(CheckText("request_id", in->request_id(), kMaxIdBytes));
  out.request_id = in->request_id();
  out.page_token = in->page_token();
  in->clear_count();
  in->clear_page_token();
  in->clear_request_id();
  out.hash = StableHash(in->SerializeAsString());
  return out;
}

namespace {

absl::StatusOr<features::NewEvent> ConvertOne(
    const api::FeedbackRequest& request, int i, absl::Time now,
    absl::Duration max_future) {
  const std::string field = absl::StrCat("events[", i, "]");
  ASSIGN_OR_RETURN(features::NewEvent event,
                   ConvertEvent(request.events(i), field, now, max_future));
  // An import of a file without times makes them up, anew when it is touched.
  if (request.historical()) event.time_must_match = false;
  if (request.historical() && event.event_id.empty()) {
    return InvalidField(field + ".event_id", "\"\"",
                        "an id: historical events need one");
  }
  return event;
}

}  // namespace

absl::StatusOr<std::vector<features::NewEvent>> FromApi(
    const api::FeedbackRequest& request, absl::Time now,
    absl::Duration max_future, std::vector<absl::Status>* refused) {
  if (request.events_size() == 0) {
    return InvalidField("events", "nothing", absl::StrCat("1 to ", kMaxBatch));
  }
  RETURN_IF_ERROR(CheckSize("events", request.events_size(), kMaxBatch));
  std::vector<features::NewEvent> events;
  events.reserve(static_cast<size_t>(request.events_size()));
  for (int i = 0; i < request.events_size(); ++i) {
    auto event = ConvertOne(request, i, now, max_future);
    if (!event.ok() && !request.partial()) return event.status();
    refused->push_back(event.status());
    if (event.ok()) events.push_back(*std::move(event));
  }
  return events;
}

absl::StatusOr<features::Item> FromApi(const api::Item& item,
                                       absl::string_view field) {
  RETURN_IF_ERROR(CheckId(absl::StrCat(field, ".id"), item.id()));
  ASSIGN_OR_RETURN(features::Attributes attributes,
                   ConvertAttributes(item.attributes(), field));
  return features::Item{item.id(), std::move(attributes)};
}

absl::StatusOr<features::User> FromApi(const api::User& user,
                                       absl::string_view field) {
  RETURN_IF_ERROR(CheckId(absl::StrCat(field, ".id"), user.id()));
  ASSIGN_OR_RETURN(features::Attributes attributes,
                   ConvertAttributes(user.attributes(), field));
  return features::User{user.id(), std::move(attributes)};
}

void ToApi(const RecommendAnswer& answer, const std::string& log_id,
           const std::string& request_id, api::RecommendResponse* response) {
  response->mutable_items()->Reserve(static_cast<int>(answer.items.size()));
  for (size_t i = 0; i < answer.items.size(); ++i) {
    api::ScoredItem* const item = response->add_items();
    item->set_item(answer.items[i]);
    item->set_score(answer.scores[i]);
  }
  response->set_next_page_token(answer.next_page_token);
  response->set_request_id(request_id);
  response->set_generation(answer.generation);
  response->set_consistency_token(ConsistencyToken(log_id, answer.sequence));
  response->set_served_by(
      answer.served_by == ServedBy::kRanked      ? api::SERVED_BY_RANKED
      : answer.served_by == ServedBy::kShortlist ? api::SERVED_BY_SHORTLIST
                                                 : api::SERVED_BY_POPULAR);
  response->set_degraded_reason(answer.degraded_reason);
}

void ToApi(const features::Attributes& attributes,
           google::protobuf::Map<std::string, api::Attribute>* out) {
  for (const auto& [name, value] : attributes) {
    api::Attribute& to = (*out)[name];
    if (const auto* s = std::get_if<std::string>(&value)) {
      to.set_text(*s);
    } else if (const auto* l = std::get_if<std::vector<std::string>>(&value)) {
      to.mutable_texts();
      for (const std::string& text : *l) to.mutable_texts()->add_values(text);
    } else if (const auto* n = std::get_if<double>(&value)) {
      to.set_number(*n);
    } else if (const auto* v = std::get_if<std::vector<float>>(&value)) {
      to.mutable_vector()->mutable_values()->Add(v->begin(), v->end());
    }
  }
}

void ToApi(const model::Manifest& m, bool in_service, api::Generation* out) {
  out->set_id(m.id);
  out->set_model(m.Model());
  SetTime(absl::FromUnixMicros(m.created_micros), out->mutable_created());
  out->set_in_service(in_service);
  out->set_accepted(m.accepted);
  out->set_decision(m.decision);
  out->set_parent(m.parent);
  out->set_sequence(m.sequence);
  out->set_users(m.users);
  out->set_items(m.items);
  out->set_events(m.events);
  for (const auto& [name, value] : m.metrics) {
    api::Metric* const metric = out->add_metrics();
    metric->set_name(name);
    metric->set_value(value);
  }
}

void ToApi(const RunStatus& run, absl::Time now, api::RunProgress* out) {
  out->set_run_id(run.id);
  using State = RunStatus::State;
  out->set_state(run.state == State::kRunning     ? api::RUN_STATE_RUNNING
                 : run.state == State::kPublished ? api::RUN_STATE_PUBLISHED
                 : run.state == State::kRejected  ? api::RUN_STATE_REJECTED
                                                  : api::RUN_STATE_FAILED);
  out->set_phase(run.phase);
  out->set_epoch(run.epoch);
  out->set_epochs(run.epochs);
  out->set_loss(run.loss);
  out->set_share_done(run.share_done);
  out->set_seconds_left(absl::ToDoubleSeconds(run.TimeLeft(now)));
  out->set_message(run.message);
  out->set_generation(run.generation);
  out->set_first_generation(run.first);
  const auto metrics = [](const std::map<std::string, double>& from, auto* to) {
    for (const auto& [name, value] : from) {
      api::Metric* const metric = to->Add();
      metric->set_name(name);
      metric->set_value(value);
    }
  };
  metrics(run.candidate, out->mutable_candidate());
  metrics(run.incumbent, out->mutable_incumbent());
}

void ToApi(const features::Event& event, const std::string& user,
           const std::string& item, const std::string& type, api::Event* out) {
  out->set_user(user);
  out->set_item(item);
  out->set_type(type);
  out->set_value(event.value);
  SetTime(absl::FromUnixMicros(event.time_micros), out->mutable_time());
  out->set_event_id(event.event_id);
  out->set_request_id(event.request_id);
  if (event.position >= 0) out->set_position(event.position);
  out->set_context(event.context);
}

}  // namespace nearline::server
