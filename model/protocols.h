#ifndef NEARLINE_MODEL_PROTOCOLS_H_
#define NEARLINE_MODEL_PROTOCOLS_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "model/evaluate.h"
#include "model/score_meter.h"
#include "model/train.h"
#include "model/user_items.h"

namespace nearline::model {

// Where an experiment's data lies, and how it is to be asked. The files are
// read by ReadUserItems.
struct ProtocolFiles {
  // "strong": users of validation and test are not in training; their input
  // lines are folded in, their target lines are to be found (Liang 2018).
  // "full": every item that is not in the user's training lines is a candidate.
  // "sampled": one held-out item a user against the listed negatives (He 2017).
  std::string protocol;
  std::string format;  // of all files
  std::string train, validation_input, validation_target, test_input,
      test_target, test, negatives;
  // Attributes of items and users, read by ReadAttributes. Items that are
  // nowhere in training are candidates, too, by their attributes alone.
  std::string item_attributes, user_attributes;
  double min_value = -1e300;  // lines below it are left out
  // Lines of a user are in order of time, though they have none. Else they are
  // where all files of histories have times, unless by these what is to be
  // found is older than the history, as where lines were divided by chance.
  bool in_order = false;
  // Test users are known by their last so many items, or by none; what they had
  // before stays out of their lists.
  std::optional<int> history_limit;
};

// What a model is trained on, and asked. Rows are the training file's items in
// byte order of id, then those of the attributes alone, likewise.
struct ProtocolData {
  std::string protocol;
  std::vector<std::string> items;  // by row
  // By row; empty without item attributes. `set` points into them.
  std::vector<features::Attributes> attributes;
  // By id; what `set` and the cases point into.
  std::shared_ptr<const std::map<std::string, features::Attributes>>
      user_attributes;
  TrainingSet set;
  std::vector<std::string> users;  // of the cases
  std::vector<Case> cases;
  // Of the training lines and of the cases; empty unless every line of train
  // and test has a value.
  std::vector<float> train_ratings;
  std::vector<CaseRatings> ratings;
  // What whoever reads the figures should know of the files.
  std::vector<std::string> remarks;
  // Of the users, the items to be found, and listed negatives.
  uint64_t test_digest = 0;

  // Errors: INVALID_ARGUMENT with file and line, naming the option that is
  // missing or wrong, or the user whose negatives are; NOT_FOUND.
  static absl::StatusOr<ProtocolData> Read(const ProtocolFiles& files);

  // The training data cut again into training data and cases, of at most 3,000
  // users: a seeded `fraction` of the users ("strong") or of each user's items
  // ("full"), or each user's last item against 99 drawn ones ("sampled"). Items
  // that have but attributes are left out; those of the others stay in this.
  // Errors: FAILED_PRECONDITION when nothing is left to ask.
  absl::StatusOr<ProtocolData> Carve(double fraction, uint64_t seed) const;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_PROTOCOLS_H_
