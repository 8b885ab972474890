#ifndef NEARLINE_TESTS_FEATURES_STORE_FIXTURE_H_
#define NEARLINE_TESTS_FEATURES_STORE_FIXTURE_H_

#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "features/store.h"
#include "tests/testing.h"

namespace nearline::features {

inline StoreOptions TestOptions(const std::string& path) {
  StoreOptions options;
  options.database.path = path + "/store";
  options.database.free_space_reserve = 0;
  return options;
}

inline std::unique_ptr<Store> OpenStore(const std::string& path) {
  auto store = Store::Open(TestOptions(path));
  EXPECT_THAT(store, IsOk());
  return *std::move(store);
}

// Submits the mutation and waits for its answer.
template <typename T, typename M>
absl::StatusOr<T> Do(Store* store, M mutation) {
  std::promise<absl::StatusOr<T>> promise;
  mutation.done = [&](absl::StatusOr<T> result) {
    promise.set_value(std::move(result));
  };
  const absl::Status submitted = store->Submit(std::move(mutation));
  if (!submitted.ok()) return submitted;
  return promise.get_future().get();
}

inline absl::StatusOr<AppendResult> AppendAll(Store* store,
                                              std::vector<NewEvent> events,
                                              bool historical = false,
                                              bool each = false) {
  return Do<AppendResult>(store, Append{.events = std::move(events),
                                        .historical = historical,
                                        .each = each});
}

inline NewEvent Like(const std::string& user, const std::string& item,
                     const std::string& id = "") {
  return {.user = user,
          .item = item,
          .type = "like",
          .time_micros = absl::ToUnixMicros(absl::Now()),
          .event_id = id};
}

// Whether any file below `path` holds the text.
inline bool OnDisk(const std::string& path, const std::string& text) {
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    const auto content = ReadFile(entry.path().string());
    if (content.ok() && content->find(text) != std::string::npos) return true;
  }
  return false;
}

}  // namespace nearline::features

#endif  // NEARLINE_TESTS_FEATURES_STORE_FIXTURE_H_
