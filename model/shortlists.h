// Shortlists of users some of whose items are hidden: what a ranker learns
// from.
#ifndef NEARLINE_MODEL_SHORTLISTS_H_
#define NEARLINE_MODEL_SHORTLISTS_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/workers.h"
#include "model/generation.h"
#include "model/head.h"
#include "model/torch_training.h"

namespace nearline::model {

// What is known of some users, and what is to be found, ascending.
struct Questions {
  features::Interactions known;
  std::vector<std::vector<Row>> wanted;
};

// What the joint model's scan hands out, K a user.
struct Shortlists {
  static constexpr float kAbsent = -1e9f;  // the score of what fills up a list

  torch::Tensor items;   // int64 [users, K]
  torch::Tensor inputs;  // [users, K, HeadInputs::size()]
  torch::Tensor scores;  // [users, K], of the scan; or kAbsent
  torch::Tensor wanted;  // [users, K], 1 or 0
};

// Paths of the joint model, as they serve.
class ShortlistSource {
 public:
  // `popularity` [items, 1] outlives this.
  static absl::StatusOr<std::unique_ptr<ShortlistSource>> Create(
      const TrainingSet& set, const Tensors& paths,
      const ItemTable* popularity);

  // With what the head's inputs are moved and stretched by.
  void Standardize(const std::vector<float>& mean,
                   const std::vector<float>& scale);
  const HeadInputs::Parts& parts() const { return parts_; }

  absl::StatusOr<Shortlists> Ask(const Questions& questions,
                                 Workers* workers) const;

 private:
  ShortlistSource(std::shared_ptr<const Generation> generation,
                  const ItemTable* popularity);
  // The lists of users [begin, end).
  absl::Status Fill(const Questions& questions, int64_t begin, int64_t end,
                    Shortlists* out) const;

  const std::shared_ptr<const Generation> generation_;
  HeadInputs::Parts parts_;
  std::optional<HeadInputs> inputs_;
};

// Draws what is wanted of users with five items or more, the latest fifth of
// them, or without an order any fifth, and what is known, the rest.
class Questioner {
 public:
  // All outlive this.
  Questioner(const features::Interactions& users, bool in_order,
             Random* random);
  bool empty() const { return order_.empty() || judges_.empty(); }

  // Of an eighth of the users, at most 1,000, whom Draw leaves out.
  Questions Judged();
  // Of each user once before anybody comes again.
  Questions Draw(int64_t count);
  void Keep(const std::string& name, TrainingState* state);

 private:
  void Add(int64_t user, Questions* out);

  const features::Interactions& users_;
  const bool in_order_;
  Random& random_;
  std::vector<int64_t> order_, judges_;
  size_t next_ = 0;
};

}  // namespace nearline::model

#endif  // NEARLINE_MODEL_SHORTLISTS_H_
