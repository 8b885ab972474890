#include "model/shortlists.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "model/recommender.h"

namespace nearline::model {
namespace {

constexpr int64_t kLength = 200;
constexpr int64_t kJudgesOf = 8;  // one of so many users, at most
constexpr size_t kMostJudges = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<ShortlistSource>> ShortlistSource::Create(
    const TrainingSet& set, const Tensors& paths, const ItemTable* popularity) {
  Bundle bundle;
  bundle.manifest.id = "paths";
  bundle.manifest.retriever = "joint";
  for (int64_t i = 0; i < set.items; ++i) {
    bundle.items.push_back(absl::StrFormat("%012d", i));
  }
  bundle.tensors = paths;
  bundle.manifest.parameters["item_features"] = ItemFeatureMap::Fit(
      std::vector<const features::Attributes*>(bundle.items.size(), nullptr),
      {}, &bundle.tensors);
  const int threads = torch::get_num_threads();
  ASSIGN_OR_RETURN(auto generation, Generation::Create(std::move(bundle)));
  torch::set_num_threads(threads);  // which loading has changed
  return std::unique_ptr<ShortlistSource>(
      new ShortlistSource(std::move(generation), popularity));
}

ShortlistSource::ShortlistSource(std::shared_ptr<const Generation> generation,
                                 const ItemTable* popularity)
    : generation_(std::move(generation)) {
  const ItemTables& tables = generation_->tables();
  parts_ = {.widths = HeadInputs::WidthsOf("joint", tables),
            .rows = tables.at(ScannedTable("joint")).get(),
            .bias = tables.at(BiasTable("joint")).get(),
            .popularity = popularity};
  parts_.SetMeans();
  const size_t measures = parts_.widths.size() + 2;
  Standardize(std::vector<float>(measures, 0.0f),
              std::vector<float>(measures, 1.0f));
}

void ShortlistSource::Standardize(const std::vector<float>& mean,
                                  const std::vector<float>& scale) {
  parts_.mean = mean;
  parts_.scale = scale;
  inputs_.emplace(parts_);
}

absl::StatusOr<Shortlists> ShortlistSource::Ask(const Questions& questions,
                                                Workers* workers) const {
  constexpr int64_t kTogether = 32;
  const int64_t users = questions.known.users();
  const auto items = static_cast<int64_t>(generation_->base_rows());
  const int64_t k = std::min(kLength, items);
  const auto inputs = static_cast<int64_t>(inputs_->size());
  Shortlists out{.items = torch::zeros({users, k}, torch::kInt64),
                 .inputs = torch::zeros({users, k, inputs}),
                 .scores = torch::full({users, k}, Shortlists::kAbsent),
                 .wanted = torch::zeros({users, k})};
  const int64_t pieces = (users + kTogether - 1) / kTogether;
  std::vector<absl::Status> failures(static_cast<size_t>(pieces));
  workers->ForEach(pieces, [&](int64_t piece) {
    const int64_t begin = piece * kTogether;
    failures[static_cast<size_t>(piece)] =
        Fill(questions, begin, std::min(users, begin + kTogether), &out);
  });
  for (const absl::Status& failure : failures) RETURN_IF_ERROR(failure);
  return out;
}

absl::Status ShortlistSource::Fill(const Questions& questions, int64_t begin,
                                   int64_t end, Shortlists* out) const {
  const int64_t k = out->items.size(1);
  std::vector<History> histories;
  std::vector<RowMask> masks;
  for (int64_t u = begin; u < end; ++u) {
    const auto items = questions.known.ItemsOf(u);
    const auto weights = questions.known.WeightsOf(u);
    histories.push_back(
        {{items.begin(), items.end()}, {weights.begin(), weights.end()}});
    masks.emplace_back(generation_->base_rows(), true);
    for (const uint32_t item : items) masks.back().Clear(item);
  }
  std::vector<Query> queries;
  std::vector<const History*> encoded;
  for (size_t i = 0; i < histories.size(); ++i) {
    queries.push_back({&histories[i], &masks[i], static_cast<int>(k)});
    encoded.push_back(&histories[i]);
  }
  std::vector<float> vectors, inputs;
  RETURN_IF_ERROR(generation_->encoder().Encode(encoded, &vectors));
  std::vector<std::vector<ScoredRow>> lists;
  RETURN_IF_ERROR(Recommend(*generation_, queries, {}, &lists));
  const auto dim = static_cast<size_t>(generation_->encoder().dim());
  for (size_t i = 0; i < lists.size(); ++i) {
    inputs_->Of(histories[i], vectors.data() + i * dim, lists[i], &inputs);
    const int64_t at = (begin + static_cast<int64_t>(i)) * k;
    std::copy(inputs.begin(), inputs.end(),
              out->inputs.data_ptr<float>() +
                  at * static_cast<int64_t>(inputs_->size()));
    const auto& wanted = questions.wanted[static_cast<size_t>(begin) + i];
    for (size_t r = 0; r < lists[i].size(); ++r) {
      const auto to = at + static_cast<int64_t>(r);
      const ScoredRow& scored = lists[i][r];
      out->items.data_ptr<int64_t>()[to] = scored.row;
      out->scores.data_ptr<float>()[to] = scored.score;
      out->wanted.data_ptr<float>()[to] =
          std::binary_search(wanted.begin(), wanted.end(), scored.row);
    }
  }
  return absl::OkStatus();
}

Questioner::Questioner(const features::Interactions& users, bool in_order,
                       Random* random)
    : users_(users), in_order_(in_order), random_(*random) {
  for (int64_t u = 0; u < users.users(); ++u) {
    if (users.ItemsOf(u).size() < 5) continue;
    const bool judges = u % kJudgesOf == 0 && judges_.size() < kMostJudges;
    (judges ? judges_ : order_).push_back(u);
  }
}

Questions Questioner::Judged() {
  Questions out;
  for (const int64_t user : judges_) Add(user, &out);
  return out;
}

Questions Questioner::Draw(int64_t count) {
  Questions out;
  for (int64_t i = 0; i < count; ++i) {
    if (next_ == 0) {
      for (size_t j = order_.size(); j > 1; --j) {
        std::swap(order_[j - 1], order_[random_.Below(j)]);
      }
    }
    Add(order_[next_], &out);
    next_ = (next_ + 1) % order_.size();
  }
  return out;
}

void Questioner::Keep(const std::string& name, TrainingState* state) {
  state->Values(name + ".order", &order_);
  state->Value(name + ".next", &next_);
}

void Questioner::Add(int64_t user, Questions* out) {
  const auto items = users_.ItemsOf(user);
  const auto weights = users_.WeightsOf(user);
  std::vector<size_t> places(items.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = i;
  const size_t known = items.size() - items.size() / 5;
  if (!in_order_) {
    for (size_t i = 0; i < known; ++i) {
      std::swap(places[i], places[i + random_.Below(places.size() - i)]);
    }
    std::sort(places.begin(),
              places.begin() + static_cast<std::ptrdiff_t>(known));
  }
  std::vector<Row> wanted;
  for (size_t i = 0; i < places.size(); ++i) {
    if (i >= known) {
      wanted.push_back(items[places[i]]);
      continue;
    }
    out->known.items.push_back(items[places[i]]);
    out->known.weights.push_back(weights[places[i]]);
  }
  out->known.EndUser();
  std::sort(wanted.begin(), wanted.end());
  out->wanted.push_back(std::move(wanted));
}

}  // namespace nearline::model
