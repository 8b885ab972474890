#include "client/commands.h"

#include <cmath>
#include <iostream>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/progress.h"
#include "client/print.h"
#include "client/table.h"

namespace nearline::client {
namespace {

constexpr int kRejected = 4;  // an exit code; see commands.h

template <typename Items>
void PrintItems(Session& session, const Items& items) {
  Table table({"#", "item", "score", "title", "genres"});
  Describer describer(session.client.get());
  int rank = 0;
  for (const api::ScoredItem& item : items) {
    const auto [title, genres] = describer.Describe(item.item());
    table.Add({absl::StrCat(++rank), item.item(),
               absl::StrFormat("%.3f", item.score()), title, genres});
  }
  std::cout << table.Render();
}

template <typename Items>
Json ItemsToJson(const Items& items) {
  Json out = Json::array();
  for (const api::ScoredItem& item : items) {
    out.push_back({{"item", item.item()}, {"score", item.score()}});
  }
  return out;
}

// attribute=value, attribute=a|b, attribute=low..high, with "!" before it: not.
absl::StatusOr<api::Filter> ParseFilter(const std::string& text) {
  const bool negated = absl::StartsWith(text, "!");
  const std::string body = negated ? text.substr(1) : text;
  const size_t equals = body.find('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--filter ", Quoted(text),
                     ": expected attribute=value, attribute=a|b or "
                     "attribute=low..high, with ! before it for not"));
  }
  const std::string name = body.substr(0, equals);
  const std::string value = body.substr(equals + 1);
  api::Filter filter;
  const size_t dots = value.find("..");
  double low = 0, high = 0;
  const std::string from = value.substr(0, dots);
  const std::string to =
      dots == std::string::npos ? "" : value.substr(dots + 2);
  const bool numbers = (from.empty() || absl::SimpleAtod(from, &low)) &&
                       (to.empty() || absl::SimpleAtod(to, &high)) &&
                       !(from.empty() && to.empty());
  if (dots != std::string::npos && numbers) {
    auto* const range = filter.mutable_range();
    range->set_attribute(name);
    if (!from.empty()) range->set_min(low);
    if (!to.empty()) range->set_max(high);
  } else {
    auto* const texts = filter.mutable_any()->add_filters()->mutable_any_of();
    texts->set_attribute(name);
    for (const auto part : absl::StrSplit(value, '|')) {
      texts->add_values(std::string(part));
      double number = 0;
      if (!absl::SimpleAtod(part, &number) || !std::isfinite(number)) continue;
      // Whether the attribute is a number or a text that looks like one.
      auto* const equal = filter.mutable_any()->add_filters()->mutable_range();
      equal->set_attribute(name);
      equal->set_min(number);
      equal->set_max(number);
    }
  }
  if (!negated) return filter;
  api::Filter inverse;
  *inverse.mutable_not_() = std::move(filter);
  return inverse;
}

void PrintRunFigures(const api::RunProgress& run) {
  std::map<std::string, std::pair<std::string, std::string>> rows;
  for (const auto& m : run.candidate()) {
    rows[m.name()].first = absl::StrFormat("%.4f", m.value());
  }
  for (const auto& m : run.incumbent()) {
    rows[m.name()].second = absl::StrFormat("%.4f", m.value());
  }
  Table table({"holdout", "candidate", "in service", "popularity"});
  for (const auto& [name, values] : rows) {
    if (!absl::StrContains(name, "@") || absl::StartsWith(name, "popularity")) {
      continue;
    }
    const auto popularity = rows.find("popularity_" + name);
    table.Add({name, values.first, values.second.empty() ? "-" : values.second,
               popularity == rows.end() ? "-" : popularity->second.first});
  }
  std::cout << table.Render();
}

}  // namespace

int Recommend(Session& session, const RecommendFlags& flags) {
  api::RecommendRequest request;
  if (!flags.user.empty() && !flags.history.empty()) {
    return Fail(
        session,
        absl::InvalidArgumentError(
            "a user or --history, not both: which one shall be answered?"));
  }
  if (flags.history.empty()) {
    request.set_user(flags.user);
  } else {
    for (const std::string& item : flags.history) {
      request.mutable_history()->add_entries()->set_item(item);
    }
  }
  request.set_count(flags.count);
  request.set_page_token(flags.page);
  request.set_include_seen(flags.include_seen);
  request.mutable_candidates()->Add(flags.candidates.begin(),
                                    flags.candidates.end());
  request.mutable_exclude()->Add(flags.exclude.begin(), flags.exclude.end());
  for (const std::string& text : flags.filters) {
    auto filter = ParseFilter(text);
    if (!filter.ok()) return Fail(session, filter.status());
    *request.mutable_filter()->mutable_all()->add_filters() =
        *std::move(filter);
  }
  const auto response = session.client->Recommend(request);
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    PrintJson({{"items", ItemsToJson(response->items())},
               {"served_by", api::ServedBy_Name(response->served_by())},
               {"degraded_reason", response->degraded_reason()},
               {"generation", response->generation()},
               {"request_id", response->request_id()},
               {"consistency_token", response->consistency_token()},
               {"next_page_token", response->next_page_token()}});
    return 0;
  }
  PrintItems(session, response->items());
  const std::map<int, std::string> how = {
      {api::SERVED_BY_RANKED, "shortlisted and ranked"},
      {api::SERVED_BY_SHORTLIST, "shortlisted"},
      {api::SERVED_BY_POPULAR, "popular items"}};
  const auto known = how.find(response->served_by());
  std::cout << (known == how.end() ? "served in a newer way" : known->second);
  if (!response->generation().empty()) {
    std::cout << " by " << response->generation();
  }
  if (!response->degraded_reason().empty()) {
    std::cout << " (" << response->degraded_reason() << ")";
  }
  std::cout << "\n";
  return 0;
}

int Similar(Session& session, const std::string& item, int count) {
  api::SimilarItemsRequest request;
  request.set_item(item);
  request.set_count(count);
  const auto response = session.client->SimilarItems(request);
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    PrintJson(ItemsToJson(response->items()));
  } else {
    PrintItems(session, response->items());
  }
  return 0;
}

int Feedback(Session& session, const FeedbackFlags& flags) {
  if (flags.retract) {
    api::RetractEventsRequest request;
    auto* const ref = request.add_events();
    ref->set_user(flags.user);
    ref->set_event_id(flags.event_id);
    const auto response = session.client->RetractEvents(request);
    if (!response.ok()) return Fail(session, response.status());
    if (session.json) {
      PrintJson({{"retracted", response->retracted()}});
    } else {
      std::cout << response->retracted() << " retracted\n";
    }
    return 0;
  }
  api::FeedbackRequest request;
  for (const std::string& item : flags.items) {
    api::Event* const event = request.add_events();
    event->set_user(flags.user);
    event->set_item(item);
    event->set_type(flags.type);
    event->set_value(flags.value);
    event->set_event_id(flags.event_id);
  }
  const auto response = session.client->Feedback(std::move(request));
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    PrintJson({{"accepted", response->accepted()},
               {"duplicates", response->duplicates()},
               {"consistency_token", response->consistency_token()}});
  } else {
    std::cout << response->accepted() << " recorded, " << response->duplicates()
              << " known before\n";
  }
  return 0;
}

int Retrain(Session& session, bool cold, bool detach) {
  api::RetrainRequest request;
  request.set_cold(cold);
  request.set_reason("command line");
  const auto started = session.client->Retrain(request);
  if (!started.ok()) return Fail(session, started.status());
  if (detach) {
    if (session.json) {
      PrintJson({{"run_id", started->run_id()}, {"joined", started->joined()}});
    } else {
      std::cout << started->run_id() << (started->joined() ? " (joined)" : "")
                << "\n";
    }
    return 0;
  }
  ProgressBar bar("Training", session.json ? ProgressBar::Mode::kSilent
                                           : ProgressBar::Mode::kAuto);
  if (started->joined()) {
    bar.Say(absl::StrCat("joined ", started->run_id(),
                         ", which was under way, as it was asked for"));
  }
  bool first = true;
  const auto end = session.client->WatchRun(
      started->run_id(), [&](const api::RunProgress& run) {
        if (first && !run.first_generation().empty()) {
          first = false;
          bar.Say(absl::StrCat(run.first_generation(),
                               " is in service; a better one may follow"));
        }
        std::string detail = run.phase();
        if (run.epochs() > 0) {
          absl::StrAppendFormat(&detail, ", epoch %d/%d, loss %.3f",
                                run.epoch(), run.epochs(), run.loss());
        }
        bar.Update(run.share_done(), detail);
      });
  if (!end.ok()) return Fail(session, end.status());
  if (end->state() == api::RUN_STATE_FAILED) {
    bar.Update(end->share_done(), "failed");
  } else {
    bar.Finish(end->phase());
  }
  const bool good = end->state() == api::RUN_STATE_PUBLISHED;
  if (session.json) {
    Json out = {{"run_id", end->run_id()},
                {"joined", started->joined()},
                {"state", api::RunState_Name(end->state())},
                {"generation", end->generation()},
                {"first_generation", end->first_generation()},
                {"message", end->message()}};
    for (const auto& m : end->candidate())
      out["candidate"][m.name()] = m.value();
    for (const auto& m : end->incumbent())
      out["incumbent"][m.name()] = m.value();
    PrintJson(out);
  }
  if (end->state() == api::RUN_STATE_FAILED) {
    return Fail(session, absl::AbortedError(end->message()));
  }
  if (!session.json) {
    PrintRunFigures(*end);
    std::cout << end->generation() << ": " << end->message() << "\n"
              << (good ? "It is in service now.\n"
                       : "It is kept for inspection; the old one serves.\n");
  }
  return good ? 0 : kRejected;
}

int Models(Session& session) {
  const auto response = session.client->ListGenerations();
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    Json out = Json::array();
    for (const api::Generation& g : response->generations()) {
      Json metrics = Json::object();
      for (const auto& m : g.metrics()) metrics[m.name()] = m.value();
      out.push_back({{"id", g.id()},
                     {"model", g.model()},
                     {"in_service", g.in_service()},
                     {"accepted", g.accepted()},
                     {"decision", g.decision()},
                     {"parent", g.parent()},
                     {"metrics", metrics}});
    }
    PrintJson(out);
    return 0;
  }
  Table table({"generation", "model", "items", "users", "", "decision"});
  for (const api::Generation& g : response->generations()) {
    table.Add({g.id(), g.model(), absl::StrCat(g.items()),
               absl::StrCat(g.users()), g.in_service() ? "serves" : "",
               g.decision()});
  }
  std::cout << table.Render();
  return 0;
}

int BenchCommand(Session& session, BenchOptions options) {
  options.server = session.options;
  ProgressBar bar("Measuring", session.json ? ProgressBar::Mode::kSilent
                                            : ProgressBar::Mode::kAuto);
  bar.Update(0, options.what);
  const auto report =
      RunBench(options, [&](double share) { bar.Update(share, options.what); });
  bar.Finish(options.what);
  if (!report.ok()) return Fail(session, report.status());
  if (session.json) {
    PrintJson(report->ToJson());
    return 0;
  }
  Table table({"call", "calls/s", "cpu us", "of it server", "p50 ms", "p90 ms",
               "p99 ms", "p99.9 ms", "max ms", "errors"});
  for (const BenchFigures& f : report->rounds) {
    const auto ms = [](double x) { return absl::StrFormat("%.2f", x); };
    const auto us = [](const std::optional<double>& x) {
      return x.has_value() ? absl::StrFormat("%.0f", *x) : "-";
    };
    table.Add({f.call, absl::StrFormat("%.0f", f.calls_a_second),
               us(f.processor_us), us(f.server_us), ms(f.p50_ms), ms(f.p90_ms),
               ms(f.p99_ms), ms(f.p999_ms), ms(f.max_ms),
               absl::StrCat(f.errors)});
  }
  if (report->rate > 0) {
    std::cout << absl::StrFormat("%.0f calls a second, by the clock\n",
                                 report->rate);
  }
  std::cout << table.Render();
  const auto say = [&](const char* ratio, const char* words) {
    const auto found = report->ratios.find(ratio);
    if (found == report->ratios.end()) return;
    const BenchReport::Ratio& r = found->second;
    std::cout << absl::StrFormat("  %s %.2f (%.2f to %.2f)\n", words, r.median,
                                 r.low, r.high);
  };
  if (options.baseline == "none") return 0;
  std::cout << "against the " << options.baseline << " call:\n";
  if (report->rate == 0) say("throughput", "throughput, share of it:    ");
  say("processor", "by processor time, likewise:");
  say("p99", "99th percentile, times it:  ");
  return 0;
}

// Completes commands, then their options, as `nearline --help` lists them.
void PrintCompletion() {
  std::cout << R"(_nearline() {
  local current=${COMP_WORDS[COMP_CWORD]} words
  if [ "$COMP_CWORD" = 1 ]; then
    words="$(nearline --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p') --server --json --help"
  else
    words=$(nearline "${COMP_WORDS[1]}" --help 2>/dev/null | grep -oE -- '--[a-z-]+' | sort -u)
  fi
  COMPREPLY=($(compgen -W "$words" -f -- "$current"))
}
complete -F _nearline nearline
)";
}

int Rollback(Session& session, const std::string& generation) {
  const auto response = session.client->Rollback(generation);
  if (!response.ok()) return Fail(session, response.status());
  if (session.json) {
    PrintJson({{"generation", response->generation()},
               {"previous", response->previous()}});
    return 0;
  }
  std::cout << response->generation() << " is in service; before it was "
            << response->previous() << "\n";
  return 0;
}

}  // namespace nearline::client
