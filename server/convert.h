// The door: protobuf messages to checked requests and back. Every error is
// INVALID_ARGUMENT "field = value ...: what is allowed".
#ifndef NEARLINE_SERVER_CONVERT_H_
#define NEARLINE_SERVER_CONVERT_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "features/catalogue.h"
#include "features/store.h"
#include "features/types.h"
#include "model/bundle.h"
#include "proto/nearline/v1/catalog.pb.h"
#include "proto/nearline/v1/common.pb.h"
#include "proto/nearline/v1/feedback.pb.h"
#include "proto/nearline/v1/model.pb.h"
#include "proto/nearline/v1/recommendation.pb.h"
#include "server/pipeline.h"
#include "server/retrainer.h"

namespace nearline::server {

namespace api = ::nearline::v1;

inline constexpr int kMaxCount = 1000;
inline constexpr int kMaxBatch = 10'000;
inline constexpr size_t kMaxIdBytes = 256;

// 1 to 256 bytes of UTF-8 without control characters.
absl::Status CheckId(absl::string_view field, absl::string_view id);
// 0 means `fallback`; else 1 to kMaxCount.
absl::StatusOr<int> CheckCount(int count, int fallback);
absl::Status CheckSize(absl::string_view field, int size, int most);

// Takes the message by value: fields that a continued list may change are
// cleared before it is hashed.
absl::StatusOr<RecommendRequest> FromApi(api::RecommendRequest* request);
absl::StatusOr<features::Filter> FromApi(const api::Filter& filter);
// `refused` gets one status an event. Only in a partial request may one be
// other than OK; the result holds the events whose status is OK.
absl::StatusOr<std::vector<features::NewEvent>> FromApi(
    const api::FeedbackRequest& request, absl::Time now,
    absl::Duration max_future, std::vector<absl::Status>* refused);
absl::StatusOr<features::Item> FromApi(const api::Item& item,
                                       absl::string_view field);
absl::StatusOr<features::User> FromApi(const api::User& user,
                                       absl::string_view field);

void ToApi(const RecommendAnswer& answer, const std::string& log_id,
           const std::string& request_id, api::RecommendResponse* response);
void ToApi(const features::Attributes& attributes,
           google::protobuf::Map<std::string, api::Attribute>* out);
void ToApi(const model::Manifest& manifest, bool in_service,
           api::Generation* out);
void ToApi(const RunStatus& run, absl::Time now, api::RunProgress* out);
void ToApi(const features::Event& event, const std::string& user,
           const std::string& item, const std::string& type, api::Event* out);

}  // namespace nearline::server

#endif  // NEARLINE_SERVER_CONVERT_H_
