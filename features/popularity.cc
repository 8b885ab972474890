#include "features/popularity.h"

#include <algorithm>

namespace nearline::features {

std::shared_ptr<const PopularRanking> RankByPopularity(
    const PopularityCounts& counts, const Catalogue& catalogue) {
  auto ranking = std::make_shared<PopularRanking>();
  ranking->items.reserve(catalogue.servable().cardinality());
  for (const Ordinal item : catalogue.servable())
    ranking->items.push_back(item);
  double most = 0;
  for (const Ordinal item : ranking->items) most = std::max(most, counts[item]);
  // What is answered decides: sums in another order differ by less than it.
  const auto score = [&](Ordinal item) {
    return most > 0 ? static_cast<float>(counts[item] / most) : 0.0f;
  };
  std::sort(ranking->items.begin(), ranking->items.end(),
            [&](Ordinal a, Ordinal b) {
              const float x = score(a), y = score(b);
              if (x != y) return x > y;
              // What is too old for a score still has an order.
              if (x == 0 && counts[a] != counts[b]) {
                return counts[a] > counts[b];
              }
              return catalogue[a].id < catalogue[b].id;
            });
  ranking->scores.reserve(ranking->items.size());
  for (const Ordinal item : ranking->items) {
    ranking->scores.push_back(score(item));
  }
  return ranking;
}

}  // namespace nearline::features
