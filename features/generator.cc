#include "features/generator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/random.h"
#include "base/text.h"

namespace nearline::features {
namespace {

constexpr std::array<const char*, 12> kGenres = {
    "Action",      "Animation", "Comedy",  "Crime",
    "Documentary", "Drama",     "Family",  "Fantasy",
    "Horror",      "Mystery",   "Romance", "Science Fiction"};
constexpr std::array<const char*, 24> kFirst = {
    "Silent",   "Golden",   "Broken",  "Last",      "Hidden", "Burning",
    "Northern", "Paper",    "Distant", "Crimson",   "Hollow", "Winter",
    "Electric", "Gentle",   "Secret",  "Falling",   "Iron",   "Velvet",
    "Endless",  "Midnight", "Stolen",  "Forgotten", "Rising", "Quiet"};
constexpr std::array<const char*, 24> kSecond = {
    "Harbour", "Garden",  "Empire",  "River",   "Letters", "Mirror",
    "Orchard", "Station", "Kingdom", "Shadow",  "Summer",  "Bridge",
    "Theory",  "Machine", "Island",  "Promise", "Circus",  "Signal",
    "Voyage",  "Lantern", "Horizon", "Castle",  "Echo",    "Canvas"};
constexpr int64_t kYear = int64_t{365} * 24 * 3600;

using Taste = std::array<double, kGenres.size()>;

struct Film {
  std::string id;
  Taste genres{};     // 0 or 1
  double appeal = 0;  // log of popularity
};

class Generator {
 public:
  explicit Generator(const GeneratorOptions& options)
      : options_(options), random_(options.seed) {}

  absl::Status Write(const std::string& folder) {
    RETURN_IF_ERROR(MakeDirs(folder));
    RETURN_IF_ERROR(
        WriteFileAtomic(JoinPath(folder, "items.jsonl"), MakeFilms()));
    RETURN_IF_ERROR(
        WriteFileAtomic(JoinPath(folder, "users.jsonl"), MakeUsers()));
    return WriteFileAtomic(JoinPath(folder, "events.tsv"), MakeEvents());
  }

 private:
  std::string MakeFilms() {
    std::string out;
    std::set<std::string> titles;
    for (int i = 0; i < options_.items; ++i) {
      Film film{.id = absl::StrFormat("film-%05d", i + 1)};
      Json genres = Json::array();
      const size_t count = 1 + random_.Below(3);
      while (genres.size() < count) {
        const size_t g = random_.Below(kGenres.size());
        if (film.genres[g] > 0) continue;
        film.genres[g] = 1;
        genres.push_back(kGenres[g]);
      }
      film.appeal = 1.1 * random_.Normal();
      std::string title = absl::StrCat("The ", kFirst[random_.Below(24)], " ",
                                       kSecond[random_.Below(24)]);
      if (!titles.insert(title).second) title += absl::StrCat(" ", i + 1);
      const Json attributes = {{"title", title},
                               {"genres", genres},
                               {"year", 1960 + random_.Below(65)}};
      out += Json{{"id", film.id}, {"attributes", attributes}}.dump() + "\n";
      films_.push_back(std::move(film));
    }
    return out;
  }

  std::string MakeUsers() {
    std::string out;
    for (int u = 0; u < options_.users; ++u) {
      const Json attributes = {{"age", 16 + random_.Below(60)}};
      out += Json{{"id", UserId(u)}, {"attributes", attributes}}.dump() + "\n";
    }
    return out;
  }

  static std::string UserId(int u) {
    return absl::StrFormat("user-%05d", u + 1);
  }

  Taste RandomTaste() {
    Taste taste{};
    for (double& t : taste) t = -0.8;
    const size_t favourites = 2 + random_.Below(2);
    for (size_t i = 0; i < favourites; ++i) {
      taste[random_.Below(kGenres.size())] = 2.2;
    }
    return taste;
  }

  // Draws a film by its attraction to the taste (Gumbel's trick over a sample,
  // as nobody looks at the whole catalogue).
  size_t Choose(const Taste& taste) {
    size_t best = 0;
    double best_score = -1e9;
    for (int i = 0; i < 60; ++i) {
      const size_t f = random_.Below(films_.size());
      double score = films_[f].appeal;
      for (size_t g = 0; g < taste.size(); ++g) {
        score += taste[g] * films_[f].genres[g];
      }
      score -= std::log(-std::log(1.0 - random_.Uniform() + 1e-12) + 1e-12);
      if (score > best_score) {
        best_score = score;
        best = f;
      }
    }
    return best;
  }

  std::string MakeEvents() {
    std::string out = "user\titem\ttype\tvalue\ttime\n";
    for (int u = 0; u < options_.users; ++u) {
      const Taste early = RandomTaste();
      const Taste late = RandomTaste();
      const double many =
          options_.events_a_user * std::exp(0.8 * random_.Normal() - 0.32);
      const int events = std::clamp(static_cast<int>(many), 3, 600);
      const int64_t joined = options_.end_seconds - kYear +
                             static_cast<int64_t>(random_.Uniform() * 0.9 *
                                                  static_cast<double>(kYear));
      std::vector<int64_t> times;
      for (int e = 0; e < events; ++e) {
        times.push_back(
            joined + static_cast<int64_t>(random_.Below(static_cast<uint64_t>(
                         options_.end_seconds - joined))));
      }
      std::sort(times.begin(), times.end());
      std::set<size_t> watched;
      for (const int64_t time : times) {
        // Half of the way to another taste within the year.
        const double drift = 0.5 * static_cast<double>(time - joined) /
                             static_cast<double>(kYear);
        Taste now;
        for (size_t g = 0; g < now.size(); ++g) {
          now[g] = (1 - drift) * early[g] + drift * late[g];
        }
        const size_t film = Choose(now);
        if (!watched.insert(film).second) continue;
        const char* const type = random_.Below(4) == 0   ? "like"
                                 : random_.Below(3) == 0 ? "click"
                                                         : "view";
        out += absl::StrCat(UserId(u), "\t", films_[film].id, "\t", type,
                            "\t0\t", time, "\n");
      }
    }
    return out;
  }

  const GeneratorOptions options_;
  Random random_;
  std::vector<Film> films_;
};

}  // namespace

absl::Status GenerateDemoData(const GeneratorOptions& options,
                              const std::string& folder) {
  return Generator(options).Write(folder);
}

}  // namespace nearline::features
