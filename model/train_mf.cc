// Matrix factorization by stochastic gradients, one pair at a time: "mf" with
// the logistic loss of Rendle et al. (RecSys 2020), "bpr-mf" with the pairwise
// one of Rendle et al. (UAI 2009). Negatives are drawn as they are needed.
//
// Users who come later have no vector. With the logistic loss they get the one
// that minimizes it; with the other they are folded in by least
// squares, with the weights under which training users' vectors come out most
// like the ones that they have learned.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>

#include "base/random.h"
#include "model/factors.h"
#include "model/kernels.h"
#include "model/logistic_fold_in.h"
#include "model/trainers.h"
#include "model/training_kernels.h"

namespace nearline::model {
namespace {

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Inner products a^T C b, C the covariance of items' vectors: how alike are the
// orders in which two users' vectors put the items.
class Likeness {
 public:
  explicit Likeness(const Factors& items) : dim_(items.dim) {
    std::vector<double> mean(dim_, 0.0);
    const auto n = static_cast<double>(items.rows());
    for (size_t row = 0; row < items.rows(); ++row) {
      for (size_t i = 0; i < dim_; ++i) mean[i] += items[row][i] / n;
    }
    covariance_ = ScaledGram(items.values, static_cast<int>(dim_), 1 / n);
    for (size_t i = 0; i < dim_; ++i) {
      spread_ += covariance_[i * dim_ + i] / static_cast<double>(dim_);
      for (size_t j = 0; j < dim_; ++j) {
        covariance_[i * dim_ + j] -= static_cast<float>(mean[i] * mean[j]);
      }
    }
  }

  // Mean square of a coordinate.
  double spread() const { return spread_; }
  // The correlation of scores over all items, in [-1, 1].
  double Of(const float* a, const float* b) const {
    return Inner(a, b) / std::sqrt(std::max(1e-30, Inner(a, a) * Inner(b, b)));
  }

 private:
  double Inner(const float* a, const float* b) const {
    double sum = 0;
    for (size_t i = 0; i < dim_; ++i) {
      sum += static_cast<double>(a[i]) *
             Dot(covariance_.data() + i * dim_, b, dim_);
    }
    return sum;
  }

  size_t dim_;
  std::vector<float> covariance_;
  double spread_ = 0;
};

// At most `count` of the users who have events; `who` gets which.
features::Interactions SomeOf(const features::Interactions& data, int64_t count,
                              std::vector<size_t>* who) {
  features::Interactions some;
  const int64_t stride =
      std::max<int64_t>(1, (data.users() + count - 1) / count);
  for (int64_t u = 0; u < data.users(); u += stride) {
    const auto items = data.ItemsOf(u);
    const auto weights = data.WeightsOf(u);
    if (items.empty()) continue;
    who->push_back(static_cast<size_t>(u));
    some.items.insert(some.items.end(), items.begin(), items.end());
    some.weights.insert(some.weights.end(), weights.begin(), weights.end());
    some.EndUser();
  }
  return some;
}

// The rule under which the vectors that `users` have learned are most like the
// fold-ins of their histories.
FoldInRule LearnRule(const features::Interactions& data, const Factors& users,
                     const Factors& items) {
  std::vector<size_t> who;
  const features::Interactions some = SomeOf(data, 50, &who);
  const Likeness likeness(items);
  FoldInRule best;
  double most = -std::numeric_limits<double>::infinity();
  const auto dim = static_cast<int>(items.dim);
  for (const double weight : {0.01, 0.03, 0.1, 0.3}) {
    const std::vector<float> gram = ScaledGram(items.values, dim, weight);
    for (const double target : {0, -1, -3}) {
      for (const double ridge : {0.03, 0.1, 0.3, 1.0, 3.0}) {
        const FoldInRule rule{.unobserved_weight = weight,
                              .unobserved_target = target,
                              .ridge = ridge * likeness.spread()};
        Factors folded;
        const FoldIn fold_in(gram, rule.Pull(items), rule.ridge,
                             rule.Base(items.rows()));
        FoldInAll(fold_in, some, items, &folded);
        double sum = 0;
        for (size_t i = 0; i < who.size(); ++i) {
          sum += likeness.Of(users[who[i]], folded[i]);
        }
        if (!(sum > most)) continue;  // nor NaN
        most = sum;
        best = rule;
      }
    }
  }
  return best;
}

class MatrixFactorization {
 public:
  MatrixFactorization(const std::string& name, const TrainingSet& set,
                      const Parameters& p, const TrainOptions& options)
      : name_(name),
        set_(set),
        p_(p),
        options_(options),
        pairwise_(name == "bpr-mf"),
        negatives_(p.Int("negatives")),
        regularization_(p["regularization"]),
        random_(options.seed),
        users_(RandomFactors(static_cast<size_t>(set.train.users()),
                             p.Int("factors"), p["spread"], options.seed + 1)),
        items_(StartItems(name, set, p, options)) {
    for (int64_t u = 0; u < set.train.users(); ++u) {
      const auto items = set.train.ItemsOf(u);
      owners_.insert(owners_.end(), items.size(), static_cast<uint32_t>(u));
      if (!pairwise_) continue;
      sorted_.insert(sorted_.end(), items.begin(), items.end());
      std::sort(sorted_.end() - static_cast<std::ptrdiff_t>(items.size()),
                sorted_.end());
    }
    const auto warm =
        WarmFolding(name, static_cast<int64_t>(items_.dim), options);
    if (warm != nullptr) FoldInAll(*warm, set.train, items_, &users_);
    order_.resize(owners_.size());
    std::iota(order_.begin(), order_.end(), 0u);
  }

  absl::StatusOr<Tensors> Run() {
    const int epochs = EpochsFor(options_, p_.Int("epochs"));
    auto validation = Validation(set_, options_, [&](const Bags& bags) {
      return FoldedLogits(bags, items_, *Fold());
    });
    // Without it an epoch is kept in case that the next ones diverge: a rule of
    // some epochs before does for that.
    constexpr int kEvery = 10;
    const bool each_counts = validation != nullptr;
    return RunEpochs(
        {.phase = name_,
         .epochs = epochs,
         .patience = p_.Int("patience"),
         .train =
             [&](int epoch) {
               rate_ = RateFor(options_, p_["learning_rate"]) *
                       std::max(0.02, 1 - (epoch - 1.0) / epochs);
               if (each_counts || epoch == epochs || epoch % kEvery == 0) {
                 rule_.reset();
               }
               return RunEpoch();
             },
         .validate = std::move(validation),
         .save = [&] { return Export(); },
         .state =
             [&](TrainingState* state) {
               state->Value("random", &random_);
               state->Values("users", &users_.values);
               state->Values("items", &items_.values);
               state->Values("order", &order_);
             }},
        options_);
  }

 private:
  const FoldInRule& Rule() {
    if (!rule_.has_value()) rule_ = LearnRule(set_.train, users_, items_);
    return *rule_;
  }

  // Of the items as they are.
  std::unique_ptr<const Folding> Fold() {
    if (pairwise_) return std::make_unique<FoldIn>(Rule().Over(items_));
    return std::make_unique<LogisticFoldIn>(
        Drawn(), static_cast<int>(items_.dim), negatives_, Ridge());
  }
  Tensors Export() {
    if (pairwise_) return ExportFactors(name_, items_, Rule());
    return ExportFactors(name_, items_, Drawn(), negatives_, Ridge());
  }
  // What an event and its negatives keep from growing.
  double Ridge() const {
    return std::max(1e-6, regularization_ * (1 + negatives_));
  }
  // Items by turns, as many as tell what all would.
  std::vector<float> Drawn() const {
    constexpr size_t kMost = 2048;
    const size_t every = (items_.rows() + kMost - 1) / kMost;
    std::vector<float> rows;
    for (size_t row = 0; row < items_.rows(); row += every) {
      rows.insert(rows.end(), items_[row], items_[row] + items_.dim);
    }
    return rows;
  }

  // The mean loss of an event.
  double RunEpoch() {
    for (size_t i = order_.size(); i > 1; --i) {
      std::swap(order_[i - 1], order_[random_.Below(i)]);
    }
    double loss = 0;
    for (const uint32_t at : order_) {
      loss += pairwise_ ? StepOfPair(at) : StepOfEvent(at);
    }
    return loss / static_cast<double>(order_.size());
  }

  bool Has(uint32_t user, uint32_t item) const {
    const auto begin = sorted_.begin() + set_.train.offsets[user];
    const auto end = sorted_.begin() + set_.train.offsets[user + 1];
    return std::binary_search(begin, end, item);
  }

  // An item that the user does not have; any, for one who has nearly all.
  uint32_t Negative(uint32_t user) {
    uint32_t item = 0;
    for (int tries = 0; tries < 50; ++tries) {
      item = static_cast<uint32_t>(random_.Below(items_.rows()));
      if (!Has(user, item)) break;
    }
    return item;
  }

  // One gradient step of a pair towards 1 or 0; returns its loss.
  double Step(uint32_t user, uint32_t item, bool wanted, double weight) {
    float* const p = users_[user];
    float* const q = items_[item];
    const float sign = wanted ? 1.0f : -1.0f;
    const float x = sign * Dot(p, q, items_.dim);
    // 1 / (1 + e^x) and log(1 + e^-x), of which neither overflows.
    const float e = std::exp(-std::abs(x));
    const float missed = (x > 0 ? e : 1.0f) / (1 + e);
    Approach(Keep(), static_cast<float>(rate_ * weight) * sign * missed,
             items_.dim, p, q);
    return weight * (std::log1p(e) + std::max(0.0f, -x));
  }

  double StepOfEvent(uint32_t at) {
    const uint32_t user = owners_[at];
    double loss =
        Step(user, set_.train.items[at], true, set_.train.weights[at]);
    for (int n = 0; n < negatives_; ++n) {
      // Any item, as the fold-in has it; few are among the user's own.
      const auto item = static_cast<uint32_t>(random_.Below(items_.rows()));
      loss += Step(user, item, false, set_.train.weights[at]);
    }
    return loss;
  }

  // The event's item against drawn ones.
  double StepOfPair(uint32_t at) {
    const size_t d = items_.dim;
    const uint32_t user = owners_[at];
    const double weight = set_.train.weights[at];
    double loss = 0;
    for (int n = 0; n < negatives_; ++n) {
      float* const p = users_[user];
      float* const wanted = items_[set_.train.items[at]];
      float* const other = items_[Negative(user)];
      const double x = Dot(p, wanted, d) - Dot(p, other, d);
      const auto step = static_cast<float>(rate_ * weight * Sigmoid(-x));
      before_.assign(p, p + d);
      Blend(Keep(), step, wanted, d, p);
      Blend(1, -step, other, d, p);
      Blend(Keep(), step, before_.data(), d, wanted);
      Blend(Keep(), -step, before_.data(), d, other);
      loss += weight * std::log1p(std::exp(-x));
    }
    return loss;
  }

  float Keep() const { return static_cast<float>(1 - rate_ * regularization_); }

  const std::string name_;
  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions& options_;
  const bool pairwise_;
  const int negatives_;
  const double regularization_;
  Random random_;
  Factors users_, items_;
  std::vector<uint32_t> owners_;  // by event: its user
  std::vector<uint32_t> sorted_;  // each user's items in order, if pairwise
  std::vector<uint32_t> order_;
  std::optional<FoldInRule> rule_;
  std::vector<float> before_;  // a user's vector before a step
  double rate_ = 0;
};

}  // namespace

absl::StatusOr<Tensors> TrainMf(const std::string& model,
                                const TrainingSet& set,
                                const Parameters& parameters,
                                const TrainOptions& options) {
  return MatrixFactorization(model, set, parameters, options).Run();
}

}  // namespace nearline::model
