// Numbers that are read when somebody scrapes.
#ifndef NEARLINE_SERVER_READINGS_H_
#define NEARLINE_SERVER_READINGS_H_

#include <vector>

#include "server/listener.h"
#include "server/metrics.h"
#include "server/services.h"

namespace nearline::server {

// Of the store, the generation in service, training, disk and process.
std::vector<Metrics::Reading> ReadParts(const Parts& parts);
std::vector<Metrics::Reading> ReadListener(Listener* listener);
int64_t ResidentBytes();  // of memory; 0: not known

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_READINGS_H_
