#include "model/report_page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace nearline::model {
namespace {

constexpr double kWidth = 640, kHeight = 260, kLeft = 60, kBottom = 36;
constexpr std::array<const char*, 8> kColours = {
    "#1f6feb", "#d1242f", "#1a7f37", "#9a6700",
    "#8250df", "#bf3989", "#0a7d91", "#57606a"};

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of models</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto;
       padding: 0 1rem; color: #1f2328; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #d0d7de }
td:first-child, th:first-child { text-align: left }
svg { width: 100%; height: auto; max-width: 640px } svg text { font-size: 12px; fill: #57606a }
.better { color: #1a7f37 } .worse { color: #d1242f }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } td, th { border-color: #30363d }
  svg text { fill: #9198a1 } }
</style></head><body>
<h1>Comparison of models</h1>
)";

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

const char* ColourOf(size_t i) { return kColours[i % kColours.size()]; }

// A line of a plot, with intervals where `spread` is not 0.
struct Point {
  double x = 0, y = 0, spread = 0;
};
struct Line {
  std::string name;
  std::vector<Point> points;
};

struct Plot {
  std::string title, x_label;
  std::vector<std::string> ticks;  // of x = 0, 1, ...; none: numbers
  std::vector<Line> lines;
  bool joined = true;

  // Empty without points.
  std::string Svg() const;
};

std::string Plot::Svg() const {
  double low_x = 1e300, high_x = -1e300, low = 1e300, high = -1e300;
  for (const Line& line : lines) {
    for (const Point& p : line.points) {
      low_x = std::min(low_x, p.x), high_x = std::max(high_x, p.x);
      low = std::min(low, p.y - p.spread),
      high = std::max(high, p.y + p.spread);
    }
  }
  if (low > high) return "";
  const double margin = high > low ? 0.08 * (high - low) : 0.5;
  low -= margin, high += margin;
  if (high_x <= low_x) high_x = low_x + 1;
  const auto at_x = [&](double x) {
    return kLeft + 20 + (x - low_x) / (high_x - low_x) * (kWidth - kLeft - 60);
  };
  const auto at_y = [&](double y) {
    return (1 - (y - low) / (high - low)) * (kHeight - kBottom - 10) + 10;
  };
  std::string out = absl::StrFormat(
      "<h2>%s</h2>\n<svg viewBox=\"0 0 %g %g\" role=\"img\" "
      "aria-label=\"%s\">\n",
      Escaped(title), kWidth, kHeight, Escaped(title));
  for (int i = 0; i <= 4; ++i) {
    const double y = low + (high - low) * i / 4;
    absl::StrAppendFormat(
        &out,
        "<line x1=\"%g\" x2=\"%g\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#d0d7de\"/>"
        "<text x=\"%g\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
        kLeft, kWidth, at_y(y), at_y(y), kLeft - 6, at_y(y) + 4, y);
  }
  const int steps = ticks.empty() ? 4 : static_cast<int>(ticks.size()) - 1;
  for (int i = 0; i <= steps; ++i) {
    const double x = ticks.empty() ? low_x + (high_x - low_x) * i / 4 : i;
    absl::StrAppendFormat(
        &out, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
        at_x(x), kHeight - kBottom + 18,
        ticks.empty() ? absl::StrFormat("%.0f", x)
                      : Escaped(ticks[static_cast<size_t>(i)]));
  }
  absl::StrAppendFormat(
      &out, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n",
      kWidth / 2, kHeight - 2, Escaped(x_label));
  for (size_t i = 0; i < lines.size(); ++i) {
    std::string path;
    for (const Point& p : lines[i].points) {
      absl::StrAppendFormat(&path, "%.1f,%.1f ", at_x(p.x), at_y(p.y));
      absl::StrAppendFormat(
          &out,
          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s: "
          "%.4f</title></circle>\n",
          at_x(p.x), at_y(p.y), ColourOf(i), Escaped(lines[i].name), p.y);
      if (p.spread <= 0) continue;
      absl::StrAppendFormat(&out,
                            "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" "
                            "y2=\"%.1f\" stroke=\"%s\"/>\n",
                            at_x(p.x), at_x(p.x), at_y(p.y - p.spread),
                            at_y(p.y + p.spread), ColourOf(i));
    }
    if (!joined) continue;
    absl::StrAppendFormat(
        &out, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\"/>\n", path,
        ColourOf(i));
  }
  out += "</svg>\n<p>";
  for (size_t i = 0; i < lines.size(); ++i) {
    absl::StrAppendFormat(&out, "<span style=\"color:%s\">&#9679;</span> %s ",
                          ColourOf(i), Escaped(lines[i].name));
  }
  return out + "</p>\n";
}

std::string TableOf(const Json& comparison, const std::string& metric) {
  const Json& rows = comparison["metrics"][metric];
  std::string out = absl::StrFormat(
      "<table><tr><th>%s</th><th>mean</th><th>&#177;</th><th>against the "
      "first, 95 %%</th></tr>\n",
      Escaped(metric));
  for (size_t i = 0; i < rows.size(); ++i) {
    const Json& row = rows[i];
    std::string against;
    if (row.contains("low")) {
      against = absl::StrFormat(
          "<span class=\"%s\">%+.4f [%+.4f, %+.4f]</span>",
          row["verdict"].get<std::string>(), row["difference"].get<double>(),
          row["low"].get<double>(), row["high"].get<double>());
    }
    absl::StrAppendFormat(
        &out, "<tr><td>%s</td><td>%.4f</td><td>%s</td><td>%s</td></tr>\n",
        Escaped(comparison["models"][i]), row["mean"].get<double>(),
        row["stderr"].is_null()
            ? ""
            : absl::StrFormat("%.4f", row["stderr"].get<double>()),
        against);
  }
  return out + "</table>\n";
}

// Means with intervals of two standard errors, a place for each model.
Plot ByModel(const Json& comparison, const std::string& metric) {
  Plot plot{.title = metric + " by model", .joined = false};
  const Json& rows = comparison["metrics"][metric];
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string name = comparison["models"][i];
    plot.ticks.push_back(name);
    const Json& error = rows[i]["stderr"];
    plot.lines.push_back({name,
                          {{static_cast<double>(i), rows[i]["mean"],
                            error.is_null() ? 0.0 : 2 * error.get<double>()}}});
  }
  return plot;
}

// Fifths of the users by the length of their history.
Plot ByHistory(const std::vector<Report>& reports, const std::string& metric) {
  constexpr size_t kParts = 5;
  Plot plot{.title = metric + " by length of the history",
            .x_label = "events known of the user"};
  const auto lengths =
      reports[0].json["users"]["history"].get<std::vector<int>>();
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return lengths[a] < lengths[b]; });
  if (order.size() < kParts) return plot;
  const auto begin = [&](size_t part) { return part * order.size() / kParts; };
  for (size_t part = 0; part < kParts; ++part) {
    plot.ticks.push_back(absl::StrFormat("%d-%d", lengths[order[begin(part)]],
                                         lengths[order[begin(part + 1) - 1]]));
  }
  for (const Report& report : reports) {
    const Json& values = report.json["users"]["metrics"];
    if (!values.contains(metric)) continue;
    const auto by_user = values[metric].get<std::vector<double>>();
    Line line{.name = report.name};
    for (size_t part = 0; part < kParts; ++part) {
      std::vector<double> of_part;
      for (size_t i = begin(part); i < begin(part + 1); ++i) {
        of_part.push_back(by_user[order[i]]);
      }
      const Estimate estimate = MeanOf(of_part);
      line.points.push_back(
          {static_cast<double>(part), estimate.mean, 2 * estimate.stderr_});
    }
    plot.lines.push_back(std::move(line));
  }
  return plot;
}

Plot ByPopularity(const std::vector<Report>& reports) {
  Plot plot{.title = "Wanted items that were found, by their popularity",
            .x_label = "tenth of the catalogue, most popular first"};
  for (int i = 1; i <= 10; ++i) plot.ticks.push_back(absl::StrFormat("%d", i));
  for (const Report& report : reports) {
    const auto wanted =
        report.json.value("wanted_by_tenth", std::vector<double>());
    const auto found =
        report.json.value("found_by_tenth", std::vector<double>());
    Line line{.name = report.name};
    for (size_t i = 0; i < std::min(wanted.size(), found.size()); ++i) {
      if (wanted[i] == 0) continue;
      line.points.push_back({static_cast<double>(i), found[i] / wanted[i]});
    }
    plot.lines.push_back(std::move(line));
  }
  return plot;
}

Plot Curves(const std::vector<Report>& reports) {
  Plot plot{.title = "Validation NDCG@100 while training, first seed",
            .x_label = "epoch"};
  for (const Report& report : reports) {
    std::map<std::string, Line> phases;
    const Json epochs = report.json.value("epochs", Json::array());
    for (const Json& epoch : epochs) {
      if (epoch["seed"] != epochs[0]["seed"]) break;
      const double value = epoch["validation_ndcg@100"];
      if (value == 0) continue;  // not measured
      const std::string phase = epoch["phase"];
      Line& line = phases[phase];
      line.name =
          phase == report.name ? phase : absl::StrCat(report.name, ": ", phase);
      line.points.push_back({epoch["epoch"], value});
    }
    for (auto& [phase, line] : phases) plot.lines.push_back(std::move(line));
  }
  return plot;
}

}  // namespace

std::string ComparisonPage(const Json& comparison,
                           const std::vector<Report>& reports) {
  std::string out = kHead;
  const Json& counts = reports[0].json["counts"];
  absl::StrAppendFormat(
      &out,
      "<p>Protocol %s: %d users tested, %d items, %d events to learn "
      "from.</p>\n",
      Escaped(reports[0].json["protocol"]), counts.value("test_users", 0),
      counts.value("items", 0), counts.value("train_events", 0));
  std::string first;
  for (const auto& [metric, rows] : comparison["metrics"].items()) {
    if (first.empty()) first = metric;
    out += ByModel(comparison, metric).Svg() + TableOf(comparison, metric);
  }
  if (!first.empty()) out += ByHistory(reports, first).Svg();
  out += ByPopularity(reports).Svg() + Curves(reports).Svg();
  out += "<h2>How to repeat it</h2>\n";
  for (const Report& report : reports) {
    absl::StrAppendFormat(&out, "<p>%s</p><pre>%s</pre>\n",
                          Escaped(report.name),
                          Escaped(report.json.value("command", "")));
  }
  return out + "</body></html>\n";
}

}  // namespace nearline::model
