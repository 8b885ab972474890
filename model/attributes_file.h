#ifndef NEARLINE_MODEL_ATTRIBUTES_FILE_H_
#define NEARLINE_MODEL_ATTRIBUTES_FILE_H_

#include <map>
#include <string>

#include "base/status.h"
#include "features/types.h"

namespace nearline::model {

// Attributes by id from lines of JSON:
//   {"id": "1", "attributes": {"genres": ["Comedy"], "year": 1995}}
// or, of an export, the lines of a kind, "item" or "user":
//   {"item": {"id": "1", "attributes": ...}}
// A string is text, an array of strings texts, a number a number, an array of
// numbers an embedding. Ids may be whole numbers; other keys are ignored; the
// last line of an id counts. Errors: INVALID_ARGUMENT with file, line and what
// was expected; NOT_FOUND.
absl::StatusOr<std::map<std::string, features::Attributes>> ReadAttributes(
    const std::string& path, const std::string& kind);

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_ATTRIBUTES_FILE_H_
