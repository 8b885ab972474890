#include "base/background.h"

#include <sys/resource.h>

#include <thread>

namespace nearline {

void RunAtLowPriority(const std::function<void()>& work) {
  std::thread thread([&] {
    setpriority(PRIO_PROCESS, 0, 19);  // on Linux: of this thread
    work();
  });
  thread.join();
}

}  // namespace nearline
