#include "client/sender.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace nearline::client {
namespace {

constexpr size_t kBatch = 10'000;

// A call's size stays well below what a server takes by default.
constexpr size_t kBatchBytes = 4 << 20;

// 3 of an error that begins with "events[3]..." or the like.
std::optional<size_t> PlaceIn(const absl::Status& status, size_t records) {
  const absl::string_view text = status.message();
  const size_t open = text.find('['), close = text.find(']');
  size_t place = 0;
  if (open == absl::string_view::npos || close == absl::string_view::npos ||
      close < open ||
      !absl::SimpleAtoi(text.substr(open + 1, close - open - 1), &place) ||
      place >= records) {
    return std::nullopt;
  }
  return place;
}

// "path:line: what" for an error that begins with "events[3]..." or the like,
// and for any error of a call that was sent for one line, such as that the
// message is too large.
absl::Status NameLine(const absl::Status& status, const std::string& path,
                      const std::vector<int64_t>& lines) {
  if (status.ok()) return status;
  const std::optional<size_t> place = PlaceIn(status, lines.size());
  if (!place.has_value()) {
    return Annotate(
        status, lines.size() == 1 ? absl::StrCat(path, ":", lines[0]) : path);
  }
  absl::string_view what = status.message();
  what.remove_prefix(what.find(']') + 1);
  if (absl::StartsWith(what, ".")) what.remove_prefix(1);
  return absl::Status(status.code(),
                      absl::StrCat(path, ":", lines[*place], ": ", what));
}

}  // namespace

template <typename Request>
bool Sender::Batch<Request>::HasRoomFor(size_t size) const {
  return empty() || (lines.size() < kBatch && bytes + size <= kBatchBytes);
}

void Sender::At(const std::string& path, int64_t line) {
  path_ = path;
  line_ = line;
}

void Sender::Skip(const absl::Status& why) {
  constexpr size_t kShown = 5;
  ++result_.skipped;
  if (result_.wrong.size() < kShown) {
    result_.wrong.emplace_back(why.message());
  }
}

absl::Status Sender::Add(api::Item item) {
  if (rehearsal_) return absl::OkStatus();
  const size_t bytes = item.ByteSizeLong();
  // It may be one that was deleted in a line before.
  RETURN_IF_ERROR(FlushDeleted());
  if (!items_.HasRoomFor(bytes)) RETURN_IF_ERROR(FlushItems());
  items_.Count(bytes, line_);
  *items_.request.add_items() = std::move(item);
  return absl::OkStatus();
}

absl::Status Sender::Add(api::User user) {
  if (rehearsal_) return absl::OkStatus();
  const size_t bytes = user.ByteSizeLong();
  if (!users_.HasRoomFor(bytes)) RETURN_IF_ERROR(FlushUsers());
  users_.Count(bytes, line_);
  *users_.request.add_users() = std::move(user);
  return absl::OkStatus();
}

absl::Status Sender::Add(api::Event event) {
  if (rehearsal_) return absl::OkStatus();
  const size_t bytes = event.ByteSizeLong();
  if (!events_.HasRoomFor(bytes)) RETURN_IF_ERROR(Flush());
  events_.Count(bytes, line_);
  *events_.request.add_events() = std::move(event);
  return absl::OkStatus();
}

absl::Status Sender::Delete(const std::string& item) {
  if (rehearsal_) return absl::OkStatus();
  if (!deleted_.HasRoomFor(item.size())) RETURN_IF_ERROR(FlushDeleted());
  deleted_.Count(item.size(), line_);
  deleted_.request.add_items(item);
  return absl::OkStatus();
}

absl::Status Sender::Finish() {
  RETURN_IF_ERROR(FlushDeleted());
  RETURN_IF_ERROR(Flush());
  return Await();
}

absl::Status Sender::Flush() {
  RETURN_IF_ERROR(FlushItems());
  RETURN_IF_ERROR(FlushUsers());
  return FlushEvents();
}

template <typename Request, typename Records, typename Send>
absl::Status Sender::SendAll(Batch<Request>* batch, Records* records,
                             Send send) {
  while (!batch->empty()) {
    const absl::Status status = send();
    if (status.ok()) break;
    const absl::Status named = NameLine(status, path_, batch->lines);
    std::optional<size_t> wrong;
    if (absl::IsInvalidArgument(status)) {
      wrong = PlaceIn(status, batch->lines.size());
    } else if (batch->lines.size() == 1 &&
               absl::StrContains(status.message(), "larger than max")) {
      wrong = 0;  // one record, too large for a message
    }
    if (!skip_bad_lines_ || !wrong.has_value()) return named;
    Skip(named);
    records->DeleteSubrange(static_cast<int>(*wrong), 1);
    batch->lines.erase(batch->lines.begin() +
                       static_cast<std::ptrdiff_t>(*wrong));
  }
  return absl::OkStatus();
}

absl::Status Sender::FlushItems() {
  RETURN_IF_ERROR(SendAll(&items_, items_.request.mutable_items(), [&] {
    return client_.UpsertItems(items_.request).status();
  }));
  result_.items += static_cast<int64_t>(items_.lines.size());
  items_ = {};
  return absl::OkStatus();
}

absl::Status Sender::FlushUsers() {
  RETURN_IF_ERROR(SendAll(&users_, users_.request.mutable_users(), [&] {
    return client_.UpsertUsers(users_.request).status();
  }));
  result_.users += static_cast<int64_t>(users_.lines.size());
  users_ = {};
  return absl::OkStatus();
}

absl::Status Sender::FlushEvents() {
  RETURN_IF_ERROR(Await());
  if (events_.empty()) return absl::OkStatus();
  events_.request.set_historical(true);
  events_.request.set_partial(skip_bad_lines_);
  auto request = std::make_shared<api::FeedbackRequest>();
  request->Swap(&events_.request);
  sent_lines_ = std::move(events_.lines);
  events_ = {};
  pending_ = std::async(std::launch::async, [this, request] {
    return client_.Feedback(std::move(*request));
  });
  return absl::OkStatus();
}

// After the events that came before.
absl::Status Sender::FlushDeleted() {
  if (deleted_.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(Flush());
  RETURN_IF_ERROR(Await());
  RETURN_IF_ERROR(SendAll(&deleted_, deleted_.request.mutable_items(), [&] {
    return client_.DeleteItems(deleted_.request).status();
  }));
  result_.deleted += static_cast<int64_t>(deleted_.lines.size());
  deleted_ = {};
  return absl::OkStatus();
}

absl::Status Sender::Await() {
  if (!pending_.valid()) return absl::OkStatus();
  const absl::StatusOr<api::FeedbackResponse> response = pending_.get();
  RETURN_IF_ERROR(NameLine(response.status(), path_, sent_lines_));
  for (const auto& result : response->results()) {
    if (result.code() == 0) continue;
    Skip(NameLine(absl::Status(static_cast<absl::StatusCode>(result.code()),
                               result.message()),
                  path_, sent_lines_));
  }
  result_.events += response->accepted();
  result_.duplicates += response->duplicates();
  result_.expired += response->expired();
  return absl::OkStatus();
}

}  // namespace nearline::client
