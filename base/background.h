#ifndef NEARLINE_BASE_BACKGROUND_H_
#define NEARLINE_BASE_BACKGROUND_H_

#include <functional>

namespace nearline {

// Runs `work` to its end on a thread that gives way to all others. It must hold
// no lock that others wait for.
void RunAtLowPriority(const std::function<void()>& work);

}  // namespace nearline

#endif  // NEARLINE_BASE_BACKGROUND_H_
