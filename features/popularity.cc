#include "features/popularity.h"

#include <algorithm>

namespace nearline::features {

std::shared_ptr<const PopularRanking> RankByPopularity(
    const PopularityCounts& counts, const Catalogue& catalogue) {
  auto ranking = std::make_shared<PopularRanking>();
  ranking->items.reserve(catalogue.servable().cardinality());
  for (const Ordinal item : catalogue.servable())
    ranking->items.push_back(item);
  std::sort(ranking->items.begin(), ranking->items.end(),
            [&](Ordinal a, Ordinal b) {
              const double x = counts[a], y = counts[b];
              return x != y ? x > y : catalogue[a].id < catalogue[b].id;
            });
  ranking->scores.reserve(ranking->items.size());
  const double most = ranking->items.empty() ? 0.0 : counts[ranking->items[0]];
  for (const Ordinal item : ranking->items) {
    ranking->scores.push_back(most > 0 ? static_cast<float>(counts[item] / most)
                                       : 0.0f);
  }
  return ranking;
}

}  // namespace nearline::features
