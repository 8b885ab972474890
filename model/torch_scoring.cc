#include "model/torch_scoring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "model/cpu_scoring.h"
#include "model/kernels.h"
#include "model/matrix_scanner.h"
#include "model/torch_guard.h"

namespace nearline::model {
namespace {

torch::Tensor TableOn(const ItemTable& table, torch::Device device) {
  return torch::from_blob(const_cast<float*>(table.base().data()),
                          {static_cast<int64_t>(table.base_rows()),
                           static_cast<int64_t>(table.dim())},
                          torch::kFloat32)
      .clone()
      .to(device);
}

// tanh(sum_i x_i E_i + b) over the normalized history, or without a bias
// sum_i x_i E_i over the history as it is, brought to `length` if that is above
// 0, on the device; rows of the tail are added from the host.
class DeviceHistory {
 public:
  DeviceHistory(const ItemTable& table, const Tensor* bias, float length,
                torch::Device device)
      : table_(table),
        length_(length),
        rows_(TableOn(table, device)),
        bias_(bias == nullptr ? torch::Tensor() : FromPlain(*bias).to(device)),
        device_(device) {}

  torch::Tensor Apply(absl::Span<const History* const> histories) const {
    std::vector<int64_t> items, offsets;
    std::vector<float> weights;
    std::vector<float> tail(histories.size() * table_.dim(), 0.0f);
    for (size_t i = 0; i < histories.size(); ++i) {
      const History& history = *histories[i];
      offsets.push_back(static_cast<int64_t>(items.size()));
      double squares = 0;
      for (const float w : history.weights)
        squares += static_cast<double>(w) * w;
      auto scale =
          squares > 0 ? static_cast<float>(1 / std::sqrt(squares)) : 0.0f;
      if (!bias_.defined()) scale = 1;
      for (size_t j = 0; j < history.rows.size(); ++j) {
        const Row row = history.rows[j];
        const float w = history.weights[j] * scale;
        if (row >= table_.base_rows()) {
          AddScaled(table_[row], w, table_.dim(),
                    tail.data() + i * table_.dim());
          continue;
        }
        items.push_back(row);
        weights.push_back(w);
      }
    }
    const torch::Tensor sum = std::get<0>(torch::embedding_bag(
        rows_, torch::tensor(items, torch::kInt64).to(device_),
        torch::tensor(offsets, torch::kInt64).to(device_), false, 0, false,
        torch::tensor(weights, torch::kFloat32).to(device_)));
    const torch::Tensor extra =
        torch::from_blob(tail.data(), sum.sizes(), torch::kFloat32).to(device_);
    if (bias_.defined()) return torch::tanh(sum + extra + bias_);
    if (length_ == 0) return sum + extra;
    return torch::nn::functional::normalize(sum + extra) * length_;
  }

 private:
  const ItemTable& table_;
  const float length_;
  const torch::Tensor rows_, bias_;
  const torch::Device device_;
};

absl::Status ToHost(const torch::Tensor& t, std::vector<float>* out) {
  *out = ToPlain(t).values;
  return absl::OkStatus();
}

class DeviceEncoder final : public Encoder {
 public:
  // Parts side by side, then two dense layers when `dense` holds any. A few
  // newest items are summed on the host.
  DeviceEncoder(std::vector<DeviceHistory> parts,
                std::vector<torch::Tensor> dense,
                std::optional<RecentLayer> recent, int dim)
      : parts_(std::move(parts)),
        dense_(std::move(dense)),
        recent_(std::move(recent)),
        dim_(dim) {}
  int dim() const override { return dim_; }
  absl::Status EncodeFrom(absl::Span<const float* const> /*sums*/,
                          absl::Span<const History* const> histories,
                          std::vector<float>* queries) const override {
    return TorchGuard([&]() -> absl::Status {
      const torch::NoGradGuard no_grad;
      std::vector<torch::Tensor> sums;
      for (const DeviceHistory& part : parts_) {
        sums.push_back(part.Apply(histories));
      }
      if (recent_) {
        const auto n = static_cast<int64_t>(histories.size());
        torch::Tensor newest = torch::empty({n, recent_->dim()});
        for (int64_t i = 0; i < n; ++i) {
          recent_->Apply(*histories[static_cast<size_t>(i)],
                         newest[i].data_ptr<float>());
        }
        sums.push_back(sums.empty() ? newest : newest.to(sums[0].device()));
      }
      torch::Tensor h = torch::cat(sums, 1);
      if (!dense_.empty()) {
        h = torch::linear(h, dense_[0], dense_[1]);
        h = torch::tanh(torch::linear(h, dense_[2], dense_[3]));
      }
      return ToHost(h, queries);
    });
  }

 private:
  const std::vector<DeviceHistory> parts_;
  const std::vector<torch::Tensor> dense_;
  const std::optional<RecentLayer> recent_;
  const int dim_;
};

class DeviceScanner final : public Scanner {
 public:
  DeviceScanner(const ItemTable& rows, const ItemTable& bias,
                torch::Device device)
      : rows_(rows),
        bias_(bias),
        matrix_(TableOn(rows, device)),
        biases_(TableOn(bias, device).squeeze(1)),
        device_(device) {}

  absl::Status Scan(absl::Span<const float> queries,
                    absl::Span<const RowMask* const> masks,
                    absl::Span<const int> ks,
                    std::vector<std::vector<ScoredRow>>* best) const override {
    return TorchGuard([&]() -> absl::Status {
      const torch::NoGradGuard no_grad;
      const auto m = static_cast<int64_t>(masks.size());
      const auto n = static_cast<int64_t>(rows_.base_rows());
      const torch::Tensor q =
          torch::from_blob(const_cast<float*>(queries.data()),
                           {m, static_cast<int64_t>(rows_.dim())},
                           torch::kFloat32)
              .to(device_);
      torch::Tensor allowed = torch::zeros({m, n}, torch::kBool);
      bool* bits = allowed.data_ptr<bool>();
      for (int64_t i = 0; i < m; ++i) {
        const RowMask& mask = *masks[static_cast<size_t>(i)];
        for (int64_t row = 0; row < n; ++row) {
          bits[i * n + row] = mask[static_cast<Row>(row)];
        }
      }
      torch::Tensor scores = torch::addmm(biases_, q, matrix_.t());
      scores.masked_fill_(allowed.to(device_).logical_not(),
                          -std::numeric_limits<float>::infinity());
      const int64_t k =
          std::min<int64_t>(n, *std::max_element(ks.begin(), ks.end()));
      const auto top = scores.topk(k);
      const torch::Tensor values =
          std::get<0>(top).to(torch::kCPU).contiguous();
      const torch::Tensor ids = std::get<1>(top).to(torch::kCPU).contiguous();
      best->clear();
      for (int64_t i = 0; i < m; ++i) {
        best->push_back(Merge(queries, masks, ks, values, ids, i, k));
      }
      return absl::OkStatus();
    });
  }

  // On the host: they are few.
  void Score(const float* query, absl::Span<ScoredRow> rows) const override {
    ScoreRows(rows_, bias_, query, rows);
  }

 private:
  // The device's best with the tail's.
  std::vector<ScoredRow> Merge(absl::Span<const float> queries,
                               absl::Span<const RowMask* const> masks,
                               absl::Span<const int> ks,
                               const torch::Tensor& values,
                               const torch::Tensor& ids, int64_t i,
                               int64_t k) const {
    std::vector<ScoredRow> list;
    const float* score = values.data_ptr<float>() + i * k;
    const int64_t* id = ids.data_ptr<int64_t>() + i * k;
    for (int64_t r = 0; r < k && std::isfinite(score[r]); ++r) {
      list.push_back({score[r], static_cast<Row>(id[r])});
    }
    const auto at = static_cast<size_t>(i);
    const float* query = queries.data() + at * rows_.dim();
    for (auto row = static_cast<Row>(rows_.base_rows());
         row < masks[at]->rows(); ++row) {
      if (!(*masks[at])[row]) continue;
      list.push_back(
          {Dot(query, rows_[row], rows_.dim()) + bias_[row][0], row});
    }
    std::sort(list.begin(), list.end());
    if (list.size() > static_cast<size_t>(ks[at])) {
      list.resize(static_cast<size_t>(ks[at]));
    }
    return list;
  }

  const ItemTable& rows_;
  const ItemTable& bias_;
  const torch::Tensor matrix_, biases_;
  const torch::Device device_;
};

class DeviceRanker final : public Ranker {
 public:
  struct Tables {
    const ItemTable* gmf = nullptr;  // null with bias: the MLP alone
    const ItemTable* bias = nullptr;
    const ItemTable* mlp = nullptr;
  };
  // `linear` and `inputs` are as NeuMfRanker has them, of_inputs [inputs, H1].
  DeviceRanker(DeviceHistory history, std::optional<DeviceHistory> linear,
               Tables tables, std::vector<torch::Tensor> dense,
               std::optional<HeadInputs> inputs, torch::Tensor of_inputs,
               torch::Device device)
      : history_(std::move(history)),
        linear_(std::move(linear)),
        inputs_(std::move(inputs)),
        of_inputs_(std::move(of_inputs)),
        tables_(tables),
        gmf_(tables.gmf == nullptr ? torch::Tensor()
                                   : TableOn(*tables.gmf, device)),
        bias_(tables.bias == nullptr ? torch::Tensor()
                                     : TableOn(*tables.bias, device)),
        mlp_(TableOn(*tables.mlp, device)),
        dense_(std::move(dense)),
        device_(device) {}

  bool Ranks(const History& history) const override {
    return inputs_.has_value() ? inputs_->Knows(history)
                               : Ranker::Ranks(history);
  }
  absl::Status Score(const History& history, const float* query,
                     const float* /*user*/,
                     absl::Span<const ScoredRow> shortlist,
                     std::vector<float>* scores) const override {
    return TorchGuard([&]() -> absl::Status {
      const torch::NoGradGuard no_grad;
      std::vector<Row> candidates;
      for (const ScoredRow& one : shortlist) candidates.push_back(one.row);
      const History* const one[] = {&history};
      const torch::Tensor h = history_.Apply(one).squeeze(0);
      torch::Tensor a = Rows(*tables_.mlp, mlp_, candidates);
      if (inputs_.has_value()) {
        std::vector<float> x;
        inputs_->Of(history, query, shortlist, &x);
        a += FromPlain({{static_cast<int64_t>(shortlist.size()),
                         static_cast<int64_t>(inputs_->size())},
                        std::move(x)})
                 .to(device_)
                 .matmul(of_inputs_);
      }
      // dense_: U, b, then W, b of every further layer, then w.
      torch::Tensor z = torch::relu(torch::addmv(dense_[1], dense_[0], h) + a);
      for (size_t i = 2; i + 1 < dense_.size(); i += 2) {
        z = torch::relu(torch::linear(z, dense_[i], dense_[i + 1]));
      }
      torch::Tensor sum = torch::mv(z, dense_.back());
      if (tables_.gmf != nullptr) {
        const torch::Tensor g =
            linear_ ? torch::cat({h, linear_->Apply(one).squeeze(0)}) : h;
        sum += torch::mv(Rows(*tables_.gmf, gmf_, candidates), g) +
               Rows(*tables_.bias, bias_, candidates).squeeze(1);
      }
      RETURN_IF_ERROR(ToHost(sum, scores));
      for (size_t i = 0; inputs_.has_value() && i < scores->size(); ++i) {
        (*scores)[i] += shortlist[i].score;
      }
      return absl::OkStatus();
    });
  }

 private:
  // Rows of the base by an index on the device, of the tail from the host.
  torch::Tensor Rows(const ItemTable& table, const torch::Tensor& base,
                     absl::Span<const Row> candidates) const {
    std::vector<int64_t> index;
    for (const Row row : candidates) {
      index.push_back(row < table.base_rows() ? row : 0);
    }
    torch::Tensor out =
        base.index_select(0, torch::tensor(index, torch::kInt64).to(device_));
    for (size_t i = 0; i < candidates.size(); ++i) {
      if (candidates[i] < table.base_rows()) continue;
      out[static_cast<int64_t>(i)] =
          torch::from_blob(const_cast<float*>(table[candidates[i]]),
                           {static_cast<int64_t>(table.dim())}, torch::kFloat32)
              .to(device_);
    }
    return out;
  }

  const DeviceHistory history_;
  const std::optional<DeviceHistory> linear_;
  const std::optional<HeadInputs> inputs_;
  const torch::Tensor of_inputs_;
  const Tables tables_;
  const torch::Tensor gmf_, bias_, mlp_;
  const std::vector<torch::Tensor> dense_;
  const torch::Device device_;
};

// Collects tensors by name, keeping the first error.
class Loader {
 public:
  Loader(const ItemTables& tables, const Tensors& tensors, torch::Device device)
      : tables_(tables), tensors_(tensors), device_(device) {}

  const ItemTable* Table(const std::string& name) {
    const auto it = tables_.find(name);
    if (it != tables_.end()) return it->second.get();
    status_.Update(absl::NotFoundError(absl::StrCat("no tensor ", name)));
    return nullptr;
  }
  torch::Tensor Weight(const std::string& name) {
    const auto it = tensors_.all().find(name);
    if (it != tensors_.all().end()) return FromPlain(it->second).to(device_);
    status_.Update(absl::NotFoundError(absl::StrCat("no tensor ", name)));
    return {};
  }
  const Tensor* Plain(const std::string& name) {
    const auto it = tensors_.all().find(name);
    if (it != tensors_.all().end()) return &it->second;
    status_.Update(absl::NotFoundError(absl::StrCat("no tensor ", name)));
    return nullptr;
  }
  bool Has(const std::string& name) const { return tensors_.Has(name); }
  const absl::Status& status() const { return status_; }

 private:
  const ItemTables& tables_;
  const Tensors& tensors_;
  const torch::Device device_;
  absl::Status status_;
};

absl::StatusOr<Scoring> Build(const Manifest& manifest,
                              const ItemTables& tables, Tensors* tensors,
                              torch::Device device) {
  // The CPU's factory checks every shape; what it accepts fits here.
  ASSIGN_OR_RETURN(Scoring scoring, CpuScoring(manifest, tables, tensors));
  Loader load(tables, *tensors, device);
  const ItemTable* rows = nullptr;
  const ItemTable* bias = nullptr;
  const std::string& model = manifest.retriever;
  const RetrieverKind kind = KindOf(model);
  const bool gmf = kind == RetrieverKind::kGmf;
  if (kind != RetrieverKind::kConstant) {
    rows = load.Table(ScannedTable(model));
    bias = load.Table(BiasTable(model));
  }
  // Users that are folded in stay on the CPU.
  if (kind != RetrieverKind::kConstant && kind != RetrieverKind::kFoldIn) {
    std::vector<DeviceHistory> parts;
    const std::string neural =
        model + (gmf ? ".item.history" : ".item.encoder");
    if (tables.contains(neural)) {
      const std::string length = model + ".encoder.length";
      const ItemTable* first = load.Table(neural);
      if (load.Has(length)) {
        parts.emplace_back(*first, nullptr, load.Plain(length)->values[0],
                           device);
      } else {
        const Tensor* first_bias =
            load.Plain(model + (gmf ? ".history.bias" : ".encoder.bias"));
        RETURN_IF_ERROR(load.status());
        parts.emplace_back(*first, first_bias, 0.0f, device);
      }
    }
    if (kind != RetrieverKind::kMultVae &&
        tables.contains(model + ".item.linear")) {
      parts.emplace_back(*load.Table(model + ".item.linear"), nullptr, 0.0f,
                         device);
    }
    std::vector<torch::Tensor> dense;
    if (kind == RetrieverKind::kMultVae) {
      for (const char* name :
           {".mean.weight", ".mean.bias", ".hidden.weight", ".hidden.bias"}) {
        dense.push_back(load.Weight(model + name));
      }
    }
    RETURN_IF_ERROR(load.status());
    using MaybeRecent = absl::StatusOr<std::optional<RecentLayer>>;
    MaybeRecent recent = kind == RetrieverKind::kHistory
                             ? LoadRecent(model, tables, *tensors)
                             : MaybeRecent(std::nullopt);
    RETURN_IF_ERROR(recent.status());
    scoring.encoder = std::make_unique<DeviceEncoder>(
        std::move(parts), std::move(dense), *std::move(recent),
        scoring.encoder->dim());
  }
  RETURN_IF_ERROR(load.status());
  if (rows != nullptr) {
    scoring.scanner = std::make_unique<DeviceScanner>(*rows, *bias, device);
  }
  if (manifest.ranker.empty()) return scoring;
  const std::string& ranker = manifest.ranker;
  const ItemTable* first = load.Table(ranker + ".item.history");
  const Tensor* first_bias = load.Plain(ranker + ".history.bias");
  DeviceRanker::Tables ranked = {.mlp = load.Table(ranker + ".item.mlp")};
  std::optional<DeviceHistory> linear;
  if (ranker == "neumf") {
    const auto table = tables.find(ranker + ".item.linear");
    if (table != tables.end()) {
      linear.emplace(*table->second, nullptr, 0.0f, device);
    }
    ranked.gmf = load.Table(ranker + ".item.gmf");
    ranked.bias = load.Table(ranker + ".item.bias");
  }
  std::vector<torch::Tensor> dense = {load.Weight(ranker + ".mlp.user.weight"),
                                      load.Weight(ranker + ".mlp.user.bias")};
  for (int i = 2; load.Has(absl::StrCat(ranker, ".mlp.", i, ".weight")); ++i) {
    dense.push_back(load.Weight(absl::StrCat(ranker, ".mlp.", i, ".weight")));
    dense.push_back(load.Weight(absl::StrCat(ranker, ".mlp.", i, ".bias")));
  }
  dense.push_back(load.Weight(ranker + ".mlp.last"));
  std::optional<HeadInputs> inputs;
  torch::Tensor of_inputs;
  if (ranker == kHead) {
    ASSIGN_OR_RETURN(inputs, HeadInputs::Load(model, scoring.encoder->dim(),
                                              tables, *tensors));
    of_inputs = load.Weight(ranker + ".mlp.paths.weight").t();
  }
  RETURN_IF_ERROR(load.status());
  scoring.ranker = std::make_unique<DeviceRanker>(
      DeviceHistory(*first, first_bias, 0.0f, device), std::move(linear),
      ranked, std::move(dense), std::move(inputs), std::move(of_inputs),
      device);
  return scoring;
}

}  // namespace

ScoringFactory TorchScoring(const std::string& device) {
  return [device](const Manifest& manifest, const ItemTables& tables,
                  Tensors* tensors) {
    return TorchGuard([&]() -> absl::StatusOr<Scoring> {
      return Build(manifest, tables, tensors, torch::Device(device));
    });
  };
}

}  // namespace nearline::model
