#ifndef NEARLINE_FEATURES_GENERATOR_H_
#define NEARLINE_FEATURES_GENERATOR_H_

#include <cstdint>
#include <string>

#include "base/status.h"

namespace nearline::features {

struct GeneratorOptions {
  int users = 3000;
  int items = 2000;
  int events_a_user = 40;  // on average; skewed
  uint64_t seed = 1;
  // Of the year that the events cover, in Unix seconds: 2025-01-01, so that
  // runs repeat.
  int64_t end_seconds = 1'735'689'600;
};

// Writes a made-up film service to a folder, for demos and tests: items.jsonl
// (title, genres, year), users.jsonl (age) and events.tsv (user, item, type,
// value, time). Each user has two or three favourite genres that drift over the
// year, popularity is skewed, and each film has a quality of its own: enough
// structure for a model to beat popularity. The same seed gives the same bytes.
absl::Status GenerateDemoData(const GeneratorOptions& options,
                              const std::string& folder);

}  // namespace nearline::features

#endif  // NEARLINE_FEATURES_GENERATOR_H_
