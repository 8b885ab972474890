#include "model/synthesize.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/random.h"
#include "base/text.h"
#include "model/cpu_scoring.h"
#include "model/index_scanner.h"
#include "model/item_features.h"
#include "model/kernels.h"

namespace nearline::model {
namespace {

constexpr int64_t kEnd = 1'735'689'600;  // 2025-01-01, of the last event

// A topic of about the square root of as many items as there are.
int TopicsOf(const SynthesizeOptions& options) {
  return std::max(2, static_cast<int>(std::sqrt(options.items)));
}
int TopicOf(const SynthesizeOptions& options, int item) {
  return item % TopicsOf(options);
}

std::string ItemId(int item) { return absl::StrFormat("item-%07d", item); }
std::string UserId(int user) { return absl::StrFormat("user-%07d", user); }

class Synthesizer {
 public:
  explicit Synthesizer(const SynthesizeOptions& options)
      : options_(options), random_(options.seed) {}

  absl::StatusOr<Bundle> Make() {
    Manifest& manifest = bundle_.manifest;
    manifest.id = absl::StrCat("g-synthetic-", options_.seed);
    manifest.retriever = options_.retriever;
    manifest.ranker = options_.ranker;
    manifest.items = options_.items;
    manifest.users = options_.users;
    manifest.events = int64_t{options_.users} * options_.history;
    manifest.created_micros = kEnd * 1'000'000;
    manifest.accepted = true;
    manifest.decision = "made up, not trained";
    for (int i = 0; i < options_.items; ++i) bundle_.items.push_back(ItemId(i));
    if (options_.retriever == "elsa") {
      AddElsa();
    } else {
      RETURN_IF_ERROR(AddMultVae());
    }
    if (options_.ranker == "neumf") AddNeuMf();
    manifest.parameters["item_features"] = ItemFeatureMap::Fit(
        std::vector<const features::Attributes*>(bundle_.items.size(), nullptr),
        {}, &bundle_.tensors);
    if (options_.items >= IndexOptions().least_items) {
      RETURN_IF_ERROR(AddIndex(&bundle_));
    }
    return std::move(bundle_);
  }

 private:
  std::vector<float> Normal(size_t n, double spread) {
    std::vector<float> out(n);
    for (float& x : out) x = static_cast<float>(spread * random_.Normal());
    return out;
  }
  void Add(const std::string& name, std::vector<int64_t> shape,
           std::vector<float> values) {
    bundle_.tensors.Add(name, std::move(shape), std::move(values));
  }
  void AddRandom(const std::string& name, std::vector<int64_t> shape,
                 double spread) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    Add(name, std::move(shape), Normal(static_cast<size_t>(n), spread));
  }

  // Unit vectors, an item's near its topic's, which is near its field's.
  std::vector<float> ClusteredRows(size_t dim) {
    constexpr int kFields = 16;
    const double one = 1 / std::sqrt(static_cast<double>(dim));
    const int topics = TopicsOf(options_);
    const auto fields = Normal(kFields * dim, one);
    auto centres = Normal(static_cast<size_t>(topics) * dim, one);
    for (size_t t = 0; t < static_cast<size_t>(topics); ++t) {
      AddScaled(fields.data() + t % kFields * dim, 0.7f, dim,
                centres.data() + t * dim);
    }
    const auto n = static_cast<size_t>(options_.items);
    auto rows = Normal(n * dim, 0.7 * one);
    for (size_t i = 0; i < n; ++i) {
      float* const row = rows.data() + i * dim;
      const auto topic =
          static_cast<size_t>(TopicOf(options_, static_cast<int>(i)));
      AddScaled(centres.data() + topic * dim, 1, dim, row);
      const float scale = 1 / std::sqrt(Dot(row, row, dim));
      for (size_t c = 0; c < dim; ++c) row[c] *= scale;
    }
    return rows;
  }

  void AddElsa() {
    const int64_t n = options_.items, d = options_.dim;
    auto rows = ClusteredRows(static_cast<size_t>(d));
    Add("elsa.item.linear", {n, d}, rows);
    Add("elsa.item.decoder", {n, d}, std::move(rows));
    Add("elsa.item.bias", {n, 1}, std::vector<float>(bundle_.items.size(), 0));
  }

  // The decoder's rows are what the encoder says of the item alone, so that a
  // history's vector is near those of its topics.
  absl::Status AddMultVae() {
    const int64_t n = options_.items, d = options_.dim, z = options_.latent;
    auto rows = ClusteredRows(static_cast<size_t>(d));
    for (float& x : rows) x *= static_cast<float>(std::sqrt(d));
    const auto down = Normal(static_cast<size_t>(z * d), 1.5 / std::sqrt(d));
    const auto up = Normal(static_cast<size_t>(d * z), 1.5 / std::sqrt(z));
    const std::vector<float> no_bias(static_cast<size_t>(d), 0);
    const std::vector<float> no_mean(static_cast<size_t>(z), 0);
    const ItemTable table(rows, static_cast<size_t>(d));
    ASSIGN_OR_RETURN(DenseLayer mean,
                     DenseLayer::Create(down, no_mean, static_cast<int>(d)));
    ASSIGN_OR_RETURN(DenseLayer hidden,
                     DenseLayer::Create(up, no_bias, static_cast<int>(z)));
    const MultVaeEncoder encoder(HistoryLayer(&table, no_bias), std::move(mean),
                                 std::move(hidden));
    std::vector<float> decoder;
    decoder.reserve(rows.size());
    constexpr Row kTogether = 256;
    for (Row first = 0; first < static_cast<Row>(n); first += kTogether) {
      std::vector<History> histories(
          std::min(kTogether, static_cast<Row>(n) - first));
      std::vector<const History*> pointers;
      for (size_t i = 0; i < histories.size(); ++i) {
        histories[i].rows = {first + static_cast<Row>(i)};
        histories[i].weights = {1};
        pointers.push_back(&histories[i]);
      }
      std::vector<float> queries;
      RETURN_IF_ERROR(encoder.Encode(pointers, &queries));
      for (const float x : queries) decoder.push_back(0.1f * x);
    }
    Add("mult-vae.item.encoder", {n, d}, std::move(rows));
    Add("mult-vae.encoder.bias", {d}, no_bias);
    Add("mult-vae.mean.weight", {z, d}, down);
    Add("mult-vae.mean.bias", {z}, no_mean);
    Add("mult-vae.hidden.weight", {d, z}, up);
    Add("mult-vae.hidden.bias", {d}, no_bias);
    Add("mult-vae.item.decoder", {n, d}, std::move(decoder));
    AddRandom("mult-vae.item.bias", {n, 1}, 0.1);
    return absl::OkStatus();
  }

  void AddNeuMf() {
    constexpr int64_t kWidth = 200, kLinear = 192, kLayer1 = 128, kLayer2 = 32;
    const int64_t n = options_.items;
    AddRandom("neumf.item.history", {n, kWidth}, 0.5);
    AddRandom("neumf.history.bias", {kWidth}, 0.1);
    AddRandom("neumf.item.linear", {n, kLinear}, 0.1);
    AddRandom("neumf.item.gmf", {n, kWidth + kLinear}, 0.1);
    AddRandom("neumf.item.bias", {n, 1}, 0.1);
    AddRandom("neumf.item.mlp", {n, kLayer1}, 0.5);
    AddRandom("neumf.mlp.user.weight", {kLayer1, kWidth}, 0.1);
    AddRandom("neumf.mlp.user.bias", {kLayer1}, 0.1);
    AddRandom("neumf.mlp.2.weight", {kLayer2, kLayer1}, 0.1);
    AddRandom("neumf.mlp.2.bias", {kLayer2}, 0.1);
    AddRandom("neumf.mlp.last", {kLayer2}, 0.2);
  }

  const SynthesizeOptions options_;
  Random random_;
  Bundle bundle_;
};

// A file written piece by piece.
class Lines {
 public:
  explicit Lines(const std::string& path) : path_(path), out_(path) {}
  void Add(const std::string& line) { out_ << line << '\n'; }
  absl::Status Close() {
    out_.close();
    if (out_) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot write ", path_));
  }

 private:
  const std::string path_;
  std::ofstream out_;
};

absl::Status WriteCatalogue(const SynthesizeOptions& options,
                            const std::string& folder) {
  Lines items(JoinPath(folder, "items.jsonl"));
  for (int i = 0; i < options.items; ++i) {
    const Json attributes = {
        {"topic", absl::StrFormat("t%04d", TopicOf(options, i))}};
    items.Add(Json{{"id", ItemId(i)}, {"attributes", attributes}}.dump());
  }
  RETURN_IF_ERROR(items.Close());
  Lines users(JoinPath(folder, "users.jsonl"));
  for (int u = 0; u < options.users; ++u) {
    users.Add(Json{{"id", UserId(u)}, {"attributes", Json::object()}}.dump());
  }
  return users.Close();
}

// Four of five items are of the user's two topics; early ones of a topic are
// the popular ones.
absl::Status WriteEvents(const SynthesizeOptions& options,
                         const std::string& folder) {
  Lines events(JoinPath(folder, "events.tsv"));
  events.Add("user\titem\ttype\tvalue\ttime");
  Random random(options.seed + 1);
  const auto topics = static_cast<uint64_t>(TopicsOf(options));
  const auto items = static_cast<uint64_t>(options.items);
  for (int u = 0; u < options.users; ++u) {
    const uint64_t own[] = {random.Below(topics), random.Below(topics)};
    absl::flat_hash_set<uint64_t> seen;
    while (seen.size() < static_cast<size_t>(options.history)) {
      uint64_t item = random.Below(items);
      const uint64_t topic = own[random.Below(2)];
      if (random.Below(5) > 0 && topic < items) {
        const uint64_t of_topic = (items - topic - 1) / topics + 1;
        const double place = random.Uniform();
        item =
            topic + topics * static_cast<uint64_t>(
                                 place * place * static_cast<double>(of_topic));
      }
      if (!seen.insert(item).second) continue;
      events.Add(absl::StrCat(
          UserId(u), "\t", ItemId(static_cast<int>(item)), "\tview\t0\t",
          kEnd - 60 * (options.history - static_cast<int64_t>(seen.size()))));
    }
  }
  return events.Close();
}

}  // namespace

absl::StatusOr<Bundle> SynthesizeBundle(const SynthesizeOptions& options) {
  return Synthesizer(options).Make();
}

absl::Status Synthesize(const SynthesizeOptions& options,
                        const std::string& folder) {
  if (2 * options.history > options.items) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--history ", options.history, ": expected at most half of --items ",
        options.items, ", as its items are distinct"));
  }
  const std::string to = JoinPath(folder, "import");
  RETURN_IF_ERROR(MakeDirs(to));
  RETURN_IF_ERROR(WriteCatalogue(options, to));
  RETURN_IF_ERROR(WriteEvents(options, to));
  LocalGenerationStore generations(JoinPath(folder, "generations"));
  ASSIGN_OR_RETURN(const Bundle bundle, SynthesizeBundle(options));
  RETURN_IF_ERROR(generations.Write(bundle));
  return generations.SetCurrent(bundle.manifest.id);
}

}  // namespace nearline::model
