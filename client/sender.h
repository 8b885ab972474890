#ifndef NEARLINE_CLIENT_SENDER_H_
#define NEARLINE_CLIENT_SENDER_H_

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/import.h"

namespace nearline::client {

// Gathers the records of a file into calls, by count and by size. Events go
// while the next ones are read, one call at a time, so that they keep their
// order; the items and users that they speak of go first, deletions last.
// Errors name file and line.
class Sender {
 public:
  // `skip_bad_lines`: what the server refuses of one record leaves that one
  // out.
  Sender(Client* client, bool skip_bad_lines)
      : client_(*client), skip_bad_lines_(skip_bad_lines) {}

  // While true, what is added goes nowhere.
  void Rehearse(bool on) { rehearsal_ = on; }
  // Counts a line that is left out.
  void Skip(const absl::Status& why);
  // Where the records that are added next stand.
  void At(const std::string& path, int64_t line);
  absl::Status Add(api::Item item);
  absl::Status Add(api::User user);
  absl::Status Add(api::Event event);
  absl::Status Delete(const std::string& item);
  // Sends the rest and waits for the answer. To be called at the end of each
  // file.
  absl::Status Finish();
  const ImportResult& result() const { return result_; }

 private:
  // Records for one call, each with its line in the file.
  template <typename Request>
  struct Batch {
    Request request;
    std::vector<int64_t> lines;
    size_t bytes = 0;

    void Count(size_t size, int64_t line) {
      lines.push_back(line);
      bytes += size;
    }
    bool HasRoomFor(size_t size) const;
    bool empty() const { return lines.empty(); }
  };

  // Sends a batch, `records` of its request, by `send`.
  template <typename Request, typename Records, typename Send>
  absl::Status SendAll(Batch<Request>* batch, Records* records, Send send);
  absl::Status Flush();
  absl::Status FlushItems();
  absl::Status FlushUsers();
  absl::Status FlushEvents();
  absl::Status FlushDeleted();
  absl::Status Await();

  Client& client_;
  const bool skip_bad_lines_;
  bool rehearsal_ = false;
  std::string path_;
  int64_t line_ = 0;
  Batch<api::UpsertItemsRequest> items_;
  Batch<api::UpsertUsersRequest> users_;
  Batch<api::FeedbackRequest> events_;
  Batch<api::DeleteItemsRequest> deleted_;
  std::vector<int64_t> sent_lines_;  // of the call that is pending
  std::future<absl::StatusOr<api::FeedbackResponse>> pending_;
  ImportResult result_;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_SENDER_H_
