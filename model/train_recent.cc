// What comes next, by what came last (after FPMC, Rendle et al., WWW 2010, with
// more than the last item): a user is
//   p = sum_l w_l * e_(l-th newest) / sqrt(L'), l < L' = min(L, history),
// element by element, and an item's score p . v_i + b_i. Trained at places of
// the histories behind the first, to tell the item there among all, or of many
// among a sample that each step shares. A step, written by hand and always on
// the CPU, changes the rows it has touched, so its cost does not grow with the
// catalogue.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/random.h"
#include "base/workers.h"
#include "model/kernels.h"
#include "model/product.h"
#include "model/torch_training.h"
#include "model/trainers.h"

namespace nearline::model {
namespace {

// Rows with Adam's moments; a step moves those it has touched.
class AdamTable {
 public:
  explicit AdamTable(const torch::Tensor& start)
      : width_(static_cast<size_t>(start.size(1))),
        values_(ToPlain(start).values),
        first_(values_.size(), 0.0f),
        second_(values_.size(), 0.0f) {}

  size_t width() const { return width_; }
  const float* operator[](size_t row) const {
    return values_.data() + row * width_;
  }
  void Step(size_t row, const AdamRates& rates, const float* gradient) {
    const size_t at = row * width_;
    AdamStep(rates, gradient, width_, values_.data() + at, first_.data() + at,
             second_.data() + at);
  }
  void Keep(const std::string& name, TrainingState* state) {
    state->Values(name, &values_);
    state->Values(name + ".first", &first_);
    state->Values(name + ".second", &second_);
  }
  // [rows, width], a copy.
  torch::Tensor Copy() const {
    return FromPlain({{static_cast<int64_t>(values_.size() / width_),
                       static_cast<int64_t>(width_)},
                      values_});
  }

 private:
  const size_t width_;
  std::vector<float> values_, first_, second_;
};

class Recent {
 public:
  Recent(std::string model, const TrainingSet& set, const Parameters& p,
         const TrainOptions& options)
      : model_(std::move(model)),
        set_(set),
        p_(p),
        options_(OnCpu(options)),
        length_(static_cast<size_t>(p.Int("length"))),
        width_(static_cast<size_t>(p.Int("factors"))),
        workers_(options.threads),
        random_(options.seed),
        generator_(at::detail::createCPUGenerator(options.seed)),
        recent_(Rows(".item.recent", set.items)),
        decoder_(Rows(".item.decoder", set.items)),
        biases_(WarmOr(options.warm_start, model_ + ".item.bias",
                       torch::zeros({set.items, 1}))),
        positions_(
            WarmOr(options.warm_start, model_ + ".recent.positions",
                   (1 - 0.7 * torch::arange(p.Int("length")) / p.Int("length"))
                       .unsqueeze(1)
                       .repeat({1, p.Int("factors")}))),
        local_(static_cast<size_t>(set.items), kNone) {
    for (int64_t u = 0; u < set.train.users(); ++u) {
      const auto first =
          static_cast<size_t>(set.train.offsets[static_cast<size_t>(u)]);
      const size_t count = set.train.ItemsOf(u).size();
      for (size_t i = 1; i < count; ++i) {
        places_.push_back({first + i, std::min(i, length_)});
      }
    }
    const auto most = static_cast<size_t>(p.Int("batch"));
    batch_ = std::clamp(std::min(kMostPlaces, places_.size()) / kFewestSteps,
                        std::min(kSmallBatch, most), most);
    Correct();
  }

  absl::StatusOr<Tensors> Run() {
    if (places_.empty()) {
      return absl::FailedPreconditionError(
          "no user has two events, of which one could tell the other");
    }
    const int epochs = EpochsFor(options_, p_.Int("epochs"));
    const double rate = RateFor(options_, p_["learning_rate"]);
    const auto scores = [&](const Bags& bags) {
      return RecentOf(bags, recent_.Copy(), positions_.Copy())
                 .matmul(decoder_.Copy().t()) +
             biases_.Copy().squeeze(1);
    };
    return RunEpochs(
        {.phase = model_ == "recent" ? model_ : model_ + " recent",
         .epochs = epochs,
         .patience = p_.Int("patience"),
         .train =
             [&](int epoch) {
               return RunEpoch(rate *
                               std::max(0.05, 1 - (epoch - 1.0) / epochs));
             },
         .validate = Validation(set_, options_, scores),
         .save = [&] { return Export(); },
         .state = [&](TrainingState* state) { Keep(state); }},
        options_);
  }

 private:
  static constexpr size_t kMostPlaces = 100'000;  // an epoch
  static constexpr size_t kFewestSteps = 64;      // of them, in smaller batches
  static constexpr size_t kSmallBatch = 64;
  static constexpr size_t kPiece = 256;  // users of a step at a time
  static constexpr uint32_t kNone = 0xffffffffu;

  // An item of the training data, and how many before it are looked at.
  struct Place {
    size_t at = 0, before = 0;
  };
  // One of a user's newest items; age 0 is the newest.
  struct Newest {
    size_t user = 0;  // of the step
    uint32_t item = 0;
    size_t age = 0;
    float share = 0;
  };
  // What some users of a step found out.
  struct Piece {
    std::vector<float> scores, of_rows, of_biases;
    double loss = 0;
    bool complete = false;
  };

  static TrainOptions OnCpu(TrainOptions options) {
    options.device = "cpu";
    return options;
  }

  AdamTable Rows(const char* name, int64_t count) {
    return AdamTable(WarmOr(
        options_.warm_start, model_ + name,
        0.1 * torch::randn({count, static_cast<int64_t>(width_)}, generator_)));
  }

  // Whether each step compares all items.
  bool IsWhole() const {
    return set_.items <= p_.Int("candidates") + static_cast<int64_t>(batch_);
  }

  // An item that few samples hold counts for the others where one does.
  void Correct() {
    const double n = static_cast<double>(set_.items);
    corrections_.assign(static_cast<size_t>(set_.items), 0.0f);
    if (IsWhole()) return;
    std::vector<double> wanted(corrections_.size(), 0.0);
    for (const Place& place : places_) {
      wanted[set_.train.items[place.at]] +=
          1.0 / static_cast<double>(places_.size());
    }
    const double undrawn = std::pow(1 - 1 / n, p_["candidates"]);
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double in_sample =
          1 - undrawn * std::pow(1 - wanted[i], static_cast<double>(batch_));
      corrections_[i] = static_cast<float>(-std::log(in_sample));
    }
  }

  double RunEpoch(double rate) {
    const size_t count = std::min(kMostPlaces, places_.size());
    for (size_t i = 0; i < count; ++i) {
      std::swap(places_[i], places_[i + random_.Below(places_.size() - i)]);
    }
    double total = 0;
    for (size_t first = 0; first < count; first += batch_) {
      total +=
          Step({places_.data() + first, std::min(batch_, count - first)}, rate);
    }
    return total / static_cast<double>(count);
  }

  // Numbers the items that a step compares: all, or a sample with what is
  // wanted.
  void DrawCandidates(absl::Span<const Place> places) {
    for (const uint32_t item : candidates_) local_[item] = kNone;
    candidates_.clear();
    const auto add = [&](uint32_t item) {
      if (local_[item] != kNone) return;
      local_[item] = static_cast<uint32_t>(candidates_.size());
      candidates_.push_back(item);
    };
    const auto n = static_cast<size_t>(set_.items);
    if (IsWhole()) {
      for (uint32_t item = 0; item < n; ++item) add(item);
      return;
    }
    for (const Place& place : places) add(set_.train.items[place.at]);
    // As many in each step, so that its products are of one shape.
    const size_t count =
        places.size() + static_cast<size_t>(p_.Int("candidates"));
    while (candidates_.size() < count) {
      add(static_cast<uint32_t>(random_.Below(n)));
    }
  }

  // Each of the newest is left out with a chance; the others count the more.
  void DrawNewest(absl::Span<const Place> places) {
    const double kept = 1 - p_["dropout"];
    newest_.clear();
    for (size_t user = 0; user < places.size(); ++user) {
      const Place& place = places[user];
      const auto share = static_cast<float>(
          1 / (kept * std::sqrt(static_cast<double>(place.before))));
      for (size_t age = 0; age < place.before; ++age) {
        if (random_.Uniform() >= kept) continue;
        newest_.push_back(
            {user, set_.train.items[place.at - 1 - age], age, share});
      }
    }
  }

  // The sum of the losses of the step's places.
  double Step(absl::Span<const Place> places, double rate) {
    DrawCandidates(places);
    DrawNewest(places);
    queries_.assign(places.size() * width_, 0.0f);
    for (const Newest& newest : newest_) {
      float* const q = queries_.data() + newest.user * width_;
      const float *const e = recent_[newest.item], *const w =
                                                       positions_[newest.age];
      for (size_t c = 0; c < width_; ++c) q[c] += newest.share * w[c] * e[c];
    }
    rows_.resize(candidates_.size() * width_);
    offsets_.resize(candidates_.size());
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const uint32_t item = candidates_[i];
      std::copy_n(decoder_[item], width_, rows_.data() + i * width_);
      offsets_[i] = *biases_[item] + corrections_[item];
    }
    of_queries_.resize(queries_.size());
    const size_t pieces = (places.size() + kPiece - 1) / kPiece;
    pieces_.resize(std::max(pieces_.size(), pieces));
    workers_.ForEach(static_cast<int64_t>(pieces), [&](int64_t i) {
      Compare(places, static_cast<size_t>(i));
    });
    double loss = 0;
    for (size_t i = 0; i < pieces; ++i) {
      if (!pieces_[i].complete) return NAN;
      loss += pieces_[i].loss;
      if (i == 0) continue;
      AddScaled(pieces_[i].of_rows.data(), 1, rows_.size(),
                pieces_[0].of_rows.data());
      AddScaled(pieces_[i].of_biases.data(), 1, offsets_.size(),
                pieces_[0].of_biases.data());
    }
    Move(rate);
    return loss;
  }

  // Softmax of the candidates for some users, and what it asks of the rows.
  void Compare(absl::Span<const Place> places, size_t piece) {
    Piece& out = pieces_[piece];
    const size_t first = piece * kPiece;
    const size_t users = std::min(kPiece, places.size() - first);
    const size_t n = candidates_.size();
    const auto rows = static_cast<int64_t>(users),
               columns = static_cast<int64_t>(n),
               width = static_cast<int64_t>(width_);
    const MatrixView<float> queries{queries_.data() + first * width_, rows,
                                    width};
    out.scores.resize(users * n);
    out.of_rows.resize(n * width_);
    out.of_biases.assign(n, 0.0f);
    out.loss = 0;
    out.complete =
        Multiply(queries, {rows_.data(), columns, width, /*transpose=*/true},
                 out.scores.data());
    if (!out.complete) return;
    const float each = 1 / static_cast<float>(places.size());
    for (size_t u = 0; u < users; ++u) {
      float* const scores = out.scores.data() + u * n;
      const size_t wanted = local_[set_.train.items[places[first + u].at]];
      const float score = scores[wanted] + offsets_[wanted];
      out.loss += Softmax(offsets_.data(), each, n, scores) - score;
      scores[wanted] -= each;
      AddScaled(scores, 1, n, out.of_biases.data());
    }
    out.complete =
        Multiply({out.scores.data(), rows, columns, /*transpose=*/true},
                 queries, out.of_rows.data()) &&
        Multiply({out.scores.data(), rows, columns},
                 {rows_.data(), columns, width},
                 of_queries_.data() + first * width_);
  }

  // A step of Adam for all that took part.
  void Move(double rate) {
    ++steps_;
    const AdamRates rates{
        .step = static_cast<float>(rate /
                                   (1 - std::pow(AdamRates::kBeta1, steps_))),
        .unbiased = static_cast<float>(
            1 / std::sqrt(1 - std::pow(AdamRates::kBeta2, steps_)))};
    of_positions_.assign(length_ * width_, 0.0f);
    std::sort(newest_.begin(), newest_.end(),
              [](const Newest& a, const Newest& b) { return a.item < b.item; });
    std::vector<float> of_row(width_);
    for (auto run = newest_.begin(); run != newest_.end();) {
      const uint32_t item = run->item;
      std::fill(of_row.begin(), of_row.end(), 0.0f);
      const float* const e = recent_[item];
      for (; run != newest_.end() && run->item == item; ++run) {
        const float* const q = of_queries_.data() + run->user * width_;
        const float* const w = positions_[run->age];
        float* const of_w = of_positions_.data() + run->age * width_;
        for (size_t c = 0; c < width_; ++c) {
          const float g = run->share * q[c];
          of_row[c] += g * w[c];
          of_w[c] += g * e[c];
        }
      }
      recent_.Step(item, rates, of_row.data());
    }
    for (size_t age = 0; age < length_; ++age) {
      positions_.Step(age, rates, of_positions_.data() + age * width_);
    }
    for (size_t i = 0; i < candidates_.size(); ++i) {
      decoder_.Step(candidates_[i], rates,
                    pieces_[0].of_rows.data() + i * width_);
      biases_.Step(candidates_[i], rates, pieces_[0].of_biases.data() + i);
    }
  }

  void Keep(TrainingState* state) {
    state->Value("random", &random_);
    state->Value("steps", &steps_);
    state->Values("places", &places_);
    recent_.Keep("recent", state);
    decoder_.Keep("decoder", state);
    biases_.Keep("biases", state);
    positions_.Keep("positions", state);
  }

  Tensors Export() const {
    Tensors out;
    AddTensor(&out, model_ + ".item.recent", recent_.Copy());
    AddTensor(&out, model_ + ".recent.positions", positions_.Copy());
    AddTensor(&out, model_ + ".item.decoder", decoder_.Copy());
    AddTensor(&out, model_ + ".item.bias", biases_.Copy());
    return out;
  }

  const std::string model_;
  const TrainingSet& set_;
  const Parameters& p_;
  const TrainOptions options_;
  const size_t length_, width_;
  Workers workers_;  // products change what is set for their thread
  Random random_;
  torch::Generator generator_;
  AdamTable recent_, decoder_, biases_, positions_;
  size_t batch_ = 0;
  int steps_ = 0;
  std::vector<Place> places_;
  std::vector<float> corrections_;  // by item, to scores in a sample
  // Of the step under way.
  std::vector<uint32_t> candidates_, local_;  // local_: in candidates_; kNone
  std::vector<Newest> newest_;
  std::vector<float> queries_, of_queries_;  // [users, width]
  std::vector<float> rows_, offsets_;        // of candidates
  std::vector<float> of_positions_;
  std::vector<Piece> pieces_;
};

}  // namespace

torch::Tensor RecentOf(const Bags& bags, const torch::Tensor& rows,
                       const torch::Tensor& positions) {
  const int64_t users = bags.offsets.size(0);
  const int64_t length = positions.size(0);
  torch::Tensor seen = torch::zeros({users, length}, torch::kInt64);
  torch::Tensor share = torch::zeros({users, length});
  for (int64_t u = 0; u < users; ++u) {
    const int64_t first = bags.offsets.data_ptr<int64_t>()[u];
    const int64_t last = u + 1 < users ? bags.offsets.data_ptr<int64_t>()[u + 1]
                                       : bags.target_items.size(0);
    const int64_t count = std::min(length, last - first);
    for (int64_t l = 0; l < count; ++l) {
      seen.data_ptr<int64_t>()[u * length + l] =
          bags.target_items.data_ptr<int64_t>()[last - 1 - l];
      share.data_ptr<float>()[u * length + l] =
          static_cast<float>(1 / std::sqrt(static_cast<double>(count)));
    }
  }
  return (rows.index_select(0, seen.flatten()).reshape({users, length, -1}) *
          share.unsqueeze(2) * positions)
      .sum(1);
}

absl::StatusOr<Tensors> TrainRecent(const std::string& model,
                                    const TrainingSet& set,
                                    const Parameters& parameters,
                                    const TrainOptions& options) {
  return Recent(model, set, parameters, options).Run();
}

}  // namespace nearline::model
