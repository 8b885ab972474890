// The head is an MLP over a user built from the history, an item's vector and
// what each path of the scan says (HeadInputs); it adds to the scan's score. It
// is trained on shortlists of users whom the paths have not seen: of a user
// whom they have, they know too well what is wanted.
#include "model/train_head.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/random.h"
#include "base/workers.h"
#include "model/head.h"
#include "model/metrics.h"
#include "model/shortlists.h"
#include "model/torch_training.h"

namespace nearline::model {
namespace {

constexpr int64_t kUserWidth = 64, kLayer1 = 64, kLayer2 = 32;
constexpr int64_t kBatch = 100;       // lists a step
constexpr int64_t kMostLists = 5000;  // an epoch; 4 a user if these are fewer
constexpr int kEpochs = 8, kPatience = 4;
constexpr double kRate = 2e-3, kDecay = 1e-3, kDropout = 0.5;
constexpr double kShort = 0.1;  // of the lists: their histories are too short

struct Asked {
  Questions questions;
  Shortlists lists;
  int64_t users() const { return questions.known.users(); }
};

class Head {
 public:
  Head(const TrainingSet& set, double share, const TrainOptions& options)
      : set_(set),
        share_(share),
        options_(options),
        workers_(options.threads),
        random_(options.seed),
        generator_(at::detail::createCPUGenerator(options.seed)) {
    std::vector<float> popularity(static_cast<size_t>(set.items), 0.0f);
    for (const uint32_t item : set.train.items) ++popularity[item];
    for (float& count : popularity) count = std::log1p(count);
    popularity_.emplace(std::move(popularity), 1);
  }

  absl::StatusOr<Tensors> Run(const Tensors& paths,
                              const std::vector<HeadFold>& folds) {
    ASSIGN_OR_RETURN(const auto serving,
                     ShortlistSource::Create(set_, paths, &*popularity_));
    for (const HeadFold& fold : folds) {
      ASSIGN_OR_RETURN(auto source, ShortlistSource::Create(set_, fold.paths,
                                                            &*popularity_));
      sources_.push_back(std::move(source));
      questioners_.emplace_back(fold.users, set_.in_order, &random_);
      // A path may have come to nothing here.
      const bool same =
          sources_.back()->parts().widths == serving->parts().widths;
      if (!same || questioners_.back().empty()) return Tensors();
    }
    RETURN_IF_ERROR(Prepare());
    torch::optim::Adam adam(
        Learned(), torch::optim::AdamOptions(kRate).weight_decay(kDecay));
    auto best = RunEpochs(
        {.phase = "joint head",
         .epochs = kEpochs,
         .patience = kPatience,
         .train = [&](int epoch) { return RunEpoch(epoch, &adam); },
         .validate = [&] { return Validate(); },
         .save =
             [&] {
               kept_ = validated_;
               return Export();
             },
         .state =
             [&](TrainingState* state) {
               state->Value("random", &random_);
               state->Value("kept", &kept_);
               KeepGenerator(&generator_, state);
               KeepAdam(&adam, state);
               for (size_t i = 0; i < questioners_.size(); ++i) {
                 questioners_[i].Keep(absl::StrCat("fold ", i), state);
               }
               const std::vector<torch::Tensor> learned = Learned();
               for (size_t i = 0; i < learned.size(); ++i) {
                 KeepTensor(absl::StrCat("weights ", i), learned[i], state);
               }
             }},
        options_);
    if (absl::IsOutOfRange(best.status())) return Tensors();  // diverged
    if (!best.ok()) return best;
    if (options_.on_epoch) {
      options_.on_epoch(
          {.phase = "joint head",
           .epoch = 1,
           .epochs = 1,
           .metric = kept_.ndcg,
           .share = 1,
           .note = absl::StrFormat("head_share %.2g", kept_.share)});
    }
    // Nothing gained, nothing served.
    return kept_.share > 0 ? std::move(best) : Tensors();
  }

 private:
  struct Choice {
    double share = 0;  // of the head's say
    double ndcg = 0;   // @100 with it
  };

  // The scale of the inputs, lists to be judged by, random weights.
  absl::Status Prepare() {
    const auto measures =
        static_cast<int64_t>(sources_[0]->parts().mean.size());
    const Questions questions = questioners_[0].Draw(500);
    ASSIGN_OR_RETURN(const Shortlists some,
                     sources_[0]->Ask(questions, &workers_));
    std::vector<size_t> lengths;
    for (int64_t u = 0; u < questions.known.users(); ++u) {
      lengths.push_back(questions.known.ItemsOf(u).size());
    }
    std::sort(lengths.begin(), lengths.end());
    least_ = static_cast<float>(lengths[static_cast<size_t>(
        kShort * static_cast<double>(lengths.size()))]);
    const torch::Tensor there = some.inputs.flatten(0, 1).index(
        {some.scores.flatten().gt(Shortlists::kAbsent / 2)});
    const torch::Tensor of = there.narrow(1, 0, measures);
    mean_ = ToPlain(of.mean(0)).values;
    scale_ = ToPlain(1 / of.std(0, /*unbiased=*/false).clamp_min(1e-3)).values;
    for (size_t f = 0; f < sources_.size(); ++f) {
      sources_[f]->Standardize(mean_, scale_);
      Asked judged{.questions = questioners_[f].Judged()};
      ASSIGN_OR_RETURN(judged.lists,
                       sources_[f]->Ask(judged.questions, &workers_));
      judged_.push_back(std::move(judged));
    }

    const auto normal = [&](std::vector<int64_t> shape, double spread) {
      return (torch::randn(shape, generator_) * spread).set_requires_grad(true);
    };
    const auto layer = [&](int64_t out, int64_t in) {
      return normal({out, in}, std::sqrt(1.0 / static_cast<double>(3 * in)));
    };
    history_ = normal({set_.items, kUserWidth}, 0.05);
    history_bias_ = normal({kUserWidth}, 1e-3);
    user_ = layer(kLayer1, kUserWidth);
    user_bias_ = normal({kLayer1}, 0.05);
    items_ = normal({set_.items, kLayer1}, 0.05);
    of_inputs_ = layer(kLayer1, some.inputs.size(2));
    weight2_ = layer(kLayer2, kLayer1);
    bias2_ = normal({kLayer2}, 0.05);
    last_ = torch::zeros({kLayer2}).set_requires_grad(true);
    return absl::OkStatus();
  }

  std::vector<torch::Tensor> Learned() const {
    return {history_,   history_bias_, user_,  user_bias_, items_,
            of_inputs_, weight2_,      bias2_, last_};
  }

  // What the head says of lists of users with these histories: [users, K].
  torch::Tensor Say(const Bags& bags, const Shortlists& lists) const {
    const int64_t users = lists.items.size(0), k = lists.items.size(1);
    const torch::Tensor h = HiddenOf(bags, history_, history_bias_);
    const torch::Tensor u = torch::linear(h, user_, user_bias_).unsqueeze(1);
    const torch::Tensor a =
        items_.index_select(0, lists.items.flatten()).reshape({users, k, -1});
    torch::Tensor z =
        torch::relu(u + a + torch::linear(lists.inputs, of_inputs_));
    z = torch::relu(torch::linear(z, weight2_, bias2_));
    return torch::matmul(z, last_);
  }

  absl::StatusOr<double> RunEpoch(int epoch, torch::optim::Adam* adam) {
    const auto folds = static_cast<int64_t>(sources_.size());
    const int64_t lists = std::min(kMostLists, 4 * set_.train.users());
    const int64_t each = std::max<int64_t>(1, lists / folds / kBatch) * kBatch;
    std::vector<Asked> parts;
    for (size_t f = 0; f < sources_.size(); ++f) {
      Asked part{.questions = questioners_[f].Draw(each)};
      ASSIGN_OR_RETURN(part.lists, sources_[f]->Ask(part.questions, &workers_));
      parts.push_back(std::move(part));
    }
    double total = 0;
    int64_t steps = 0;
    const auto all = static_cast<double>(kEpochs * each / kBatch * folds);
    for (int64_t first = 0; first < each; first += kBatch) {
      for (const Asked& part : parts) {
        const double done =
            (epoch - 1.0) / kEpochs + static_cast<double>(steps++) / all;
        SetRate(adam, kRate * std::max(0.02, 1 - done));
        total += Step(part, first, adam);
      }
    }
    return total / static_cast<double>(steps);
  }

  // Softmax over the shortlist, each user's wanted ones sharing one.
  double Step(const Asked& asked, int64_t first, torch::optim::Adam* adam) {
    const Bags bags = BagsOf(asked.questions, first, kBatch, kDropout);
    const Shortlists& lists = asked.lists;
    const Shortlists some{.items = lists.items.narrow(0, first, kBatch),
                          .inputs = lists.inputs.narrow(0, first, kBatch),
                          .scores = lists.scores.narrow(0, first, kBatch),
                          .wanted = lists.wanted.narrow(0, first, kBatch)};
    const torch::Tensor log_p =
        torch::log_softmax(some.scores + Say(bags, some), 1);
    const torch::Tensor share =
        some.wanted / some.wanted.sum(1, /*keepdim=*/true).clamp_min(1);
    const torch::Tensor loss =
        -(log_p * share).sum() / static_cast<double>(kBatch);
    adam->zero_grad();
    loss.backward();
    adam->step();
    return loss.item<double>();
  }

  // Chooses the share of the head's say; NDCG@100 with it.
  double Validate() {
    const torch::NoGradGuard no_grad;
    std::vector<double> shares = {0, 0.25, 0.5, 0.75, 1};
    if (share_ >= 0) shares = {share_};
    std::vector<double> sums(shares.size(), 0.0);
    double users = 0;
    for (const Asked& judged : judged_) {
      const torch::Tensor say = Say(BagsOf(judged.questions, 0, judged.users(),
                                           /*dropout=*/0),
                                    judged.lists);
      for (size_t i = 0; i < shares.size(); ++i) {
        sums[i] += SumOfNdcg(judged, judged.lists.scores + shares[i] * say);
      }
      users += static_cast<double>(judged.users());
    }
    const auto best = std::max_element(sums.begin(), sums.end());
    validated_ = {shares[static_cast<size_t>(best - sums.begin())],
                  *best / users};
    return validated_.ndcg;
  }

  // Of lists that are put in the order of `scores` [users, K].
  static double SumOfNdcg(const Asked& asked, const torch::Tensor& scores) {
    constexpr int kCutoff = 100;
    const torch::Tensor wanted =
        asked.lists.wanted.gather(1, scores.argsort(1, /*descending=*/true));
    const int64_t k = std::min<int64_t>(kCutoff, wanted.size(1));
    double sum = 0;
    for (int64_t u = 0; u < asked.users(); ++u) {
      const float* const row = wanted.data_ptr<float>() + u * wanted.size(1);
      std::vector<bool> hits;
      for (int64_t r = 0; r < k; ++r) hits.push_back(row[r] > 0);
      const auto& all = asked.questions.wanted[static_cast<size_t>(u)];
      sum += Ndcg(hits, static_cast<int>(all.size()), kCutoff);
    }
    return sum;
  }

  // Of the questions [begin, begin + count).
  Bags BagsOf(const Questions& questions, int64_t begin, int64_t count,
              double dropout) {
    std::vector<int64_t> users(static_cast<size_t>(count));
    std::iota(users.begin(), users.end(), begin);
    return MakeBags(questions.known, users, {.dropout = dropout}, &generator_,
                    torch::kCPU);
  }

  Tensors Export() const {
    const torch::NoGradGuard no_grad;
    Tensors out;
    const auto vector = [&](const char* name,
                            const std::vector<float>& values) {
      out.Add(name, {static_cast<int64_t>(values.size())}, values);
    };
    AddTensor(&out, "head.item.history", history_);
    AddTensor(&out, "head.history.bias", history_bias_);
    AddTensor(&out, "head.mlp.user.weight", user_);
    AddTensor(&out, "head.mlp.user.bias", user_bias_);
    AddTensor(&out, "head.item.mlp", items_);
    AddTensor(&out, "head.mlp.paths.weight", of_inputs_);
    AddTensor(&out, "head.mlp.2.weight", weight2_);
    AddTensor(&out, "head.mlp.2.bias", bias2_);
    AddTensor(&out, "head.mlp.last", last_ * validated_.share);
    out.Add("head.item.popularity", {set_.items, 1}, popularity_->base());
    vector("head.input.least", {least_});
    vector("head.input.mean", mean_);
    vector("head.input.scale", scale_);
    return out;
  }

  const TrainingSet& set_;
  const double share_;
  const TrainOptions& options_;
  Workers workers_;
  Random random_;
  torch::Generator generator_;
  std::optional<ItemTable> popularity_;
  std::vector<std::unique_ptr<ShortlistSource>> sources_;
  std::vector<Questioner> questioners_;
  std::vector<float> mean_, scale_;
  float least_ = 1;
  std::vector<Asked> judged_;
  Choice validated_, kept_;  // by the last validation; the best epoch's
  torch::Tensor history_, history_bias_, user_, user_bias_, items_, of_inputs_,
      weight2_, bias2_, last_;
};

}  // namespace

absl::StatusOr<Tensors> TrainHead(const TrainingSet& set, const Tensors& paths,
                                  const std::vector<HeadFold>& folds,
                                  double share, const TrainOptions& options) {
  return Head(set, share, options).Run(paths, folds);
}

}  // namespace nearline::model
