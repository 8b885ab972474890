// Keys of each kind, which check what they are set to.
#ifndef NEARLINE_SERVER_CONFIG_FIELDS_H_
#define NEARLINE_SERVER_CONFIG_FIELDS_H_

#include <string>
#include <vector>

#include "server/config.h"

namespace nearline::server {

// `value` outlives the field. Setting anything else than the field's range is
// INVALID_ARGUMENT, with what was given and what is allowed.
ConfigField Real(std::string path, double* value, double low, double high,
                 std::string what);
ConfigField Whole(std::string path, int64_t* value, int64_t low, int64_t high,
                  std::string what);
ConfigField Flag(std::string path, bool* value, std::string what);
ConfigField Text(std::string path, std::string* value, std::string range,
                 std::string what);
ConfigField Choice(std::string path, std::string* value,
                   std::vector<std::string> choices, std::string what);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CONFIG_FIELDS_H_
