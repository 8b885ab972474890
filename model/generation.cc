#include "model/generation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/cpu_scoring.h"
#include "model/folding.h"
#include "model/kernels.h"
#include "model/matrix_scanner.h"
#include "model/parameters.h"

namespace nearline::model {
RetrieverKind KindOf(const std::string& retriever) {
  if (retriever == "popularity") return RetrieverKind::kConstant;
  if (retriever == "mult-vae") return RetrieverKind::kMultVae;
  if (retriever == "neumf" || retriever == "gmf" || retriever == "mlp") {
    return RetrieverKind::kGmf;
  }
  if (retriever == "ials" || retriever == "mf" || retriever == "bpr-mf") {
    return RetrieverKind::kFoldIn;
  }
  return RetrieverKind::kHistory;
}

std::string ScannedTable(const std::string& retriever) {
  if (KindOf(retriever) == RetrieverKind::kGmf) return retriever + ".item.gmf";
  if (retriever == "popularity") return "popularity.item.zero";
  return retriever + ".item.decoder";
}

std::string BiasTable(const std::string& retriever) {
  return retriever + ".item.bias";
}

namespace {

using features::kNoOrdinal;
using features::Ordinal;

absl::StatusOr<const ItemTable*> Table(const ItemTables& tables,
                                       const std::string& name, int dim) {
  const auto it = tables.find(name);
  if (it == tables.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor ", Quoted(name)));
  }
  if (dim >= 0 && it->second->dim() != static_cast<size_t>(dim)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name),
                                                   " has ", it->second->dim(),
                                                   " columns; expected ", dim));
  }
  return it->second.get();
}

absl::StatusOr<HistoryLayer> LoadHistory(const ItemTables& tables,
                                         const Tensors& tensors,
                                         const std::string& table,
                                         const std::string& bias) {
  ASSIGN_OR_RETURN(const ItemTable* rows, Table(tables, table, -1));
  ASSIGN_OR_RETURN(const Tensor* b,
                   tensors.Get(bias, {static_cast<int64_t>(rows->dim())}));
  return HistoryLayer(rows, b->values);
}

// The encoder of `model`, of either kind.
absl::StatusOr<HistoryLayer> LoadEncoder(const std::string& model,
                                         const ItemTables& tables,
                                         const Tensors& tensors) {
  const std::string rows = model + ".item.encoder";
  const std::string length = model + ".encoder.length";
  if (!tensors.Has(length)) {
    return LoadHistory(tables, tensors, rows, model + ".encoder.bias");
  }
  ASSIGN_OR_RETURN(const ItemTable* table, Table(tables, rows, -1));
  ASSIGN_OR_RETURN(const Tensor* value, tensors.Get(length, {1}));
  if (!(value->values[0] > 0 && std::isfinite(value->values[0]))) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(length), " is ", value->values[0],
                     "; expected a finite number above 0"));
  }
  return HistoryLayer(table, value->values[0]);
}

absl::StatusOr<DenseLayer> LoadDense(const Tensors& tensors,
                                     const std::string& name, int in) {
  ASSIGN_OR_RETURN(const Tensor* weight,
                   tensors.Get(name + ".weight", {-1, in}));
  ASSIGN_OR_RETURN(const Tensor* bias,
                   tensors.Get(name + ".bias", {weight->shape[0]}));
  return DenseLayer::Create(weight->values, bias->values, in);
}

absl::Status LoadScanner(const std::string& model, const ItemTables& tables,
                         Scoring* scoring) {
  ASSIGN_OR_RETURN(const ItemTable* r,
                   Table(tables, ScannedTable(model), scoring->encoder->dim()));
  ASSIGN_OR_RETURN(const ItemTable* b, Table(tables, BiasTable(model), 1));
  ASSIGN_OR_RETURN(scoring->scanner, MatrixScanner::Create(r, b));
  return absl::OkStatus();
}

absl::Status LoadMultVae(const ItemTables& tables, const Tensors& tensors,
                         Scoring* scoring) {
  ASSIGN_OR_RETURN(HistoryLayer first,
                   LoadHistory(tables, tensors, "mult-vae.item.encoder",
                               "mult-vae.encoder.bias"));
  ASSIGN_OR_RETURN(DenseLayer mean,
                   LoadDense(tensors, "mult-vae.mean", first.dim()));
  ASSIGN_OR_RETURN(DenseLayer hidden,
                   LoadDense(tensors, "mult-vae.hidden", mean.out()));
  scoring->encoder = std::make_unique<MultVaeEncoder>(
      std::move(first), std::move(mean), std::move(hidden));
  return LoadScanner("mult-vae", tables, scoring);
}

// NeuMF's GMF branch, of one half or of two.
absl::Status LoadGmf(const std::string& model, const ItemTables& tables,
                     const Tensors& tensors, Scoring* scoring) {
  ASSIGN_OR_RETURN(HistoryLayer history,
                   LoadHistory(tables, tensors, model + ".item.history",
                               model + ".history.bias"));
  const auto linear = tables.find(model + ".item.linear");
  scoring->encoder = std::make_unique<HistoryEncoder>(
      std::move(history),
      linear == tables.end() ? nullptr : linear->second.get());
  return LoadScanner(model, tables, scoring);
}

absl::Status LoadNeighbours(const std::string& model, const ItemTables& tables,
                            const Tensors& tensors, Scoring* scoring) {
  ASSIGN_OR_RETURN(const ItemTable* decoder,
                   Table(tables, model + ".item.decoder", -1));
  const auto n = static_cast<int64_t>(decoder->base_rows());
  ASSIGN_OR_RETURN(const Tensor* rows,
                   tensors.Get(model + ".neighbours.rows", {n, -1}));
  ASSIGN_OR_RETURN(const Tensor* weights,
                   tensors.Get(model + ".neighbours.weights", {n, -1}));
  ASSIGN_OR_RETURN(Neighbours neighbours, Neighbours::Create(*rows, *weights));
  scoring->neighbours =
      std::make_unique<const Neighbours>(std::move(neighbours));
  return absl::OkStatus();
}

// Models of a neural part, a linear one, one of the newest items, or several
// side by side.
absl::Status LoadHistoryEncoder(const std::string& model,
                                const ItemTables& tables,
                                const Tensors& tensors, Scoring* scoring) {
  std::optional<HistoryLayer> neural;
  const ItemTable* linear = nullptr;
  if (tables.contains(model + ".item.encoder")) {
    ASSIGN_OR_RETURN(HistoryLayer layer, LoadEncoder(model, tables, tensors));
    neural.emplace(std::move(layer));
  }
  ASSIGN_OR_RETURN(std::optional<RecentLayer> recent,
                   LoadRecent(model, tables, tensors));
  // A model without any part lacks the linear one, says the error.
  if ((!neural.has_value() && !recent.has_value()) ||
      tables.contains(model + ".item.linear")) {
    ASSIGN_OR_RETURN(linear, Table(tables, model + ".item.linear", -1));
  }
  scoring->encoder = std::make_unique<HistoryEncoder>(std::move(neural), linear,
                                                      std::move(recent));
  if (tensors.Has(model + ".neighbours.rows")) {
    RETURN_IF_ERROR(LoadNeighbours(model, tables, tensors, scoring));
  }
  return LoadScanner(model, tables, scoring);
}

// Models whose users are folded in.
absl::Status LoadFoldIn(const std::string& model, const ItemTables& tables,
                        const Tensors& tensors, Scoring* scoring) {
  ASSIGN_OR_RETURN(const ItemTable* rows,
                   Table(tables, model + ".item.decoder", -1));
  ASSIGN_OR_RETURN(auto folding, LoadFolding(model, rows->dim(), tensors));
  scoring->encoder = std::make_unique<FoldInEncoder>(rows, std::move(folding));
  return LoadScanner(model, tables, scoring);
}

// NeuMF, or its MLP branch alone, or the head of the retriever.
absl::StatusOr<std::unique_ptr<Ranker>> LoadRanker(const std::string& model,
                                                   const std::string& retriever,
                                                   int dim,
                                                   const ItemTables& tables,
                                                   const Tensors& tensors) {
  ASSIGN_OR_RETURN(HistoryLayer first,
                   LoadHistory(tables, tensors, model + ".item.history",
                               model + ".history.bias"));
  ASSIGN_OR_RETURN(DenseLayer user,
                   LoadDense(tensors, model + ".mlp.user", first.dim()));
  NeuMfRanker::Parts parts;
  if (model == "neumf") {
    int width = first.dim();
    const auto linear = tables.find(model + ".item.linear");
    if (linear != tables.end()) {
      parts.linear = linear->second.get();
      width += static_cast<int>(parts.linear->dim());
    }
    ASSIGN_OR_RETURN(parts.gmf, Table(tables, model + ".item.gmf", width));
    ASSIGN_OR_RETURN(parts.gmf_bias, Table(tables, model + ".item.bias", 1));
  }
  std::vector<float> of_inputs;
  int64_t inputs = 0;
  if (model == kHead) {
    ASSIGN_OR_RETURN(parts.inputs,
                     HeadInputs::Load(retriever, dim, tables, tensors));
    inputs = static_cast<int64_t>(parts.inputs->size());
    ASSIGN_OR_RETURN(
        const Tensor* weight,
        tensors.Get(model + ".mlp.paths.weight", {user.out(), inputs}));
    of_inputs = weight->values;
  }
  ASSIGN_OR_RETURN(parts.mlp, Table(tables, model + ".item.mlp", user.out()));
  int64_t in = user.out();
  std::vector<NeuMfRanker::Layer> layers = {
      {ReluLayer(of_inputs, static_cast<size_t>(in),
                 static_cast<size_t>(inputs)),
       {}}};
  for (int i = 2; tensors.Has(absl::StrCat(model, ".mlp.", i, ".weight"));
       ++i) {
    const std::string name = absl::StrCat(model, ".mlp.", i);
    ASSIGN_OR_RETURN(const Tensor* weight,
                     tensors.Get(name + ".weight", {-1, in}));
    const int64_t out = weight->shape[0];
    ASSIGN_OR_RETURN(const Tensor* bias, tensors.Get(name + ".bias", {out}));
    layers.push_back({ReluLayer(weight->values, static_cast<size_t>(out),
                                static_cast<size_t>(in)),
                      bias->values});
    in = out;
  }
  ASSIGN_OR_RETURN(const Tensor* last, tensors.Get(model + ".mlp.last", {in}));
  return std::make_unique<NeuMfRanker>(std::move(first), std::move(user),
                                       std::move(layers), last->values,
                                       std::move(parts));
}

absl::Status LoadRetriever(const std::string& model, const ItemTables& tables,
                           const Tensors& tensors, Scoring* scoring) {
  RETURN_IF_ERROR(ParametersOf(model).status());
  switch (KindOf(model)) {
    case RetrieverKind::kConstant:
      scoring->encoder = std::make_unique<ConstantEncoder>();
      return LoadScanner(model, tables, scoring);
    case RetrieverKind::kMultVae:
      return LoadMultVae(tables, tensors, scoring);
    case RetrieverKind::kGmf:
      return LoadGmf(model, tables, tensors, scoring);
    case RetrieverKind::kFoldIn:
      return LoadFoldIn(model, tables, tensors, scoring);
    case RetrieverKind::kHistory:
      return LoadHistoryEncoder(model, tables, tensors, scoring);
  }
  return absl::InternalError("a kind of retriever without a loader");
}

}  // namespace

absl::StatusOr<Scoring> CpuScoring(const Manifest& manifest,
                                   const ItemTables& tables, Tensors* tensors) {
  Scoring scoring;
  RETURN_IF_ERROR(
      LoadRetriever(manifest.retriever, tables, *tensors, &scoring));
  if (manifest.ranker == "neumf" || manifest.ranker == "mlp" ||
      manifest.ranker == kHead) {
    ASSIGN_OR_RETURN(scoring.ranker,
                     LoadRanker(manifest.ranker, manifest.retriever,
                                scoring.encoder->dim(), tables, *tensors));
  } else if (!manifest.ranker.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("ranker ", Quoted(manifest.ranker),
                     " is neither neumf nor mlp nor head nor empty"));
  }
  return scoring;
}

absl::StatusOr<std::optional<RecentLayer>> LoadRecent(const std::string& model,
                                                      const ItemTables& tables,
                                                      const Tensors& tensors) {
  const auto table = tables.find(model + ".item.recent");
  if (table == tables.end()) return std::nullopt;
  ASSIGN_OR_RETURN(
      const Tensor* positions,
      tensors.Get(model + ".recent.positions",
                  {-1, static_cast<int64_t>(table->second->dim())}));
  return RecentLayer(table->second.get(), positions->values);
}

void NumberMap::Set(uint32_t key, uint32_t value) {
  const size_t chunk = key / kChunk;
  if (chunk >= kChunks) return;
  std::atomic<uint32_t>* values = chunks_[chunk].load();
  if (values == nullptr) {
    values = new std::atomic<uint32_t>[kChunk];
    for (size_t i = 0; i < kChunk; ++i) values[i] = kNone;
    chunks_[chunk].store(values, std::memory_order_release);
  }
  values[key % kChunk].store(value, std::memory_order_relaxed);
}

NumberMap::~NumberMap() {
  for (size_t i = 0; i < kChunks; ++i) delete[] chunks_[i].load();
}

absl::StatusOr<std::shared_ptr<Generation>> Generation::Create(
    Bundle bundle, const ScoringFactory& factory) {
  std::shared_ptr<Generation> g(new Generation());
  MutexLock lock(&g->mu_);
  g->manifest_ = std::move(bundle.manifest);
  g->items_ = std::move(bundle.items);
  const auto n = static_cast<int64_t>(g->items_.size());
  if (n == 0) return absl::InvalidArgumentError("the generation has no items");
  g->base_rows_ = static_cast<uint32_t>(n);

  std::vector<std::string> names;
  for (const auto& [name, tensor] : bundle.tensors.all()) {
    if (ItemFeatureMap::IsTable(name)) names.push_back(name);
  }
  std::map<std::string, int64_t> widths;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(Tensor tensor, bundle.tensors.Take(name, {n, -1}));
    widths[name] = tensor.shape[1];
    g->tables_[name] = std::make_unique<ItemTable>(
        std::move(tensor.values), static_cast<size_t>(tensor.shape[1]));
  }
  const Json& parameters = g->manifest_.parameters;
  ASSIGN_OR_RETURN(
      ItemFeatureMap features,
      ItemFeatureMap::Load(parameters.value("item_features", Json::array()),
                           widths, &bundle.tensors));
  g->features_ = std::make_unique<const ItemFeatureMap>(std::move(features));
  ASSIGN_OR_RETURN(g->scoring_,
                   factory(g->manifest_, g->tables_, &bundle.tensors));
  if (const auto users = parameters.find("user_features");
      users != parameters.end()) {
    ASSIGN_OR_RETURN(UserFeatures loaded,
                     UserFeatures::Load(*users, g->scoring_.encoder->dim(),
                                        &bundle.tensors));
    g->users_ = std::make_shared<const UserFeatures>(std::move(loaded));
    g->scoring_.encoder = std::make_unique<TraitEncoder>(
        std::move(g->scoring_.encoder), g->users_);
  }
  g->vectors_ = g->tables_.at(ScannedTable(g->manifest_.retriever)).get();
  for (Row row = 0; row < g->base_rows_; ++row) {
    g->row_of_id_.emplace(g->items_[row], row);
  }
  g->rows_ = g->base_rows_;
  return g;
}

void Generation::Bind(const features::Catalogue& catalogue, Ordinal item) {
  MutexLock lock(&mu_);
  BindLocked(catalogue, item);
  scoring_.scanner->Extend(rows());
}

void Generation::BindAll(const features::Catalogue& catalogue) {
  MutexLock lock(&mu_);
  for (Ordinal item = 0; item < catalogue.size(); ++item) {
    BindLocked(catalogue, item);
  }
  scoring_.scanner->Extend(rows());
}

void Generation::BindLocked(const features::Catalogue& catalogue,
                            Ordinal item) {
  const auto trained = row_of_id_.find(catalogue[item].id);
  if (trained != row_of_id_.end()) {
    if (row_of_[item] == trained->second) return;
    row_of_.Set(item, trained->second);
    ordinal_of_.Set(trained->second, item);
    bindings_.fetch_add(1, std::memory_order_release);
    return;
  }
  if (!catalogue.IsServable(item)) return;
  const Row before = row_of_[item];
  const uint32_t row = rows_.load();
  const size_t index = row - base_rows_;
  bool same = before != kNoRow;
  for (const auto& [name, table] : tables_) {
    const std::vector<float> values =
        features_->Row(name, catalogue[item].attributes);
    same = same && std::equal(values.begin(), values.end(), (*table)[before]);
    if (!table->SetTail(index, values.data())) return;  // the tail is full
  }
  if (same) return;
  // A changed item moves to a new row: readers may be at the old one.
  ordinal_of_.Set(row, item);
  rows_.store(row + 1, std::memory_order_release);
  row_of_.Set(item, row);
  if (before != kNoRow) ordinal_of_.Set(before, kNoOrdinal);
  bindings_.fetch_add(1, std::memory_order_release);
}

void Generation::KeepStates(int64_t bytes, bool rank) {
  std::vector<const ItemTable*> tables = encoder().summed();
  if (rank && ranker() != nullptr) {
    const std::vector<const ItemTable*> more = ranker()->summed();
    ranker_sums_ = 0;  // of a model that ranks what it has retrieved
    if (more != tables) {
      for (const ItemTable* table : tables) *ranker_sums_ += table->dim();
      tables.insert(tables.end(), more.begin(), more.end());
    }
  }
  if (tables.empty()) return;
  states_ = std::make_unique<EncoderStates>(bytes, std::move(tables));
}

void Generation::Forget() const {
  ++forgets_;
  if (queries_ != nullptr) queries_->Clear();
  if (states_ != nullptr) states_->Clear();
}

History Generation::HistoryOf(const features::Profile& profile,
                              double max_weight) const {
  History history;
  history.rows.reserve(profile.history().size());
  history.weights.reserve(profile.history().size());
  const auto cap = static_cast<float>(max_weight);
  const uint32_t rows = this->rows();
  for (const features::HistoryEntry& entry : profile.history()) {
    const Row row = RowOf(entry.item);
    if (row >= rows) continue;
    history.rows.push_back(row);
    history.weights.push_back(std::min(entry.weight_sum, cap));
  }
  AddTraits(profile.attributes().get(), &history);
  return history;
}

void Generation::AddTraits(const features::Attributes* attributes,
                           History* history) const {
  if (users_ == nullptr || attributes == nullptr) return;
  history->traits = users_->TraitsOf(*attributes, *history);
}

std::vector<ScoredRow> Generation::Similar(Row row, const RowMask& mask,
                                           int k) const {
  const size_t d = vectors_->dim();
  const float* query = (*vectors_)[row];
  const float norm = std::sqrt(Dot(query, query, d));
  TopK top(k, &mask);
  const float no_bias = 0.0f;
  for (Row other = 0; other < mask.rows(); ++other) {
    if (other == row || !mask[other]) continue;
    const float* v = (*vectors_)[other];
    const float length = norm * std::sqrt(Dot(v, v, d));
    const float cosine = length > 0 ? Dot(query, v, d) / length : 0.0f;
    top.Add({{&cosine, &no_bias, 1, other}});
  }
  return top.Take();
}

}  // namespace nearline::model
