#include "model/checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"

namespace nearline::model {
namespace {

constexpr int kFormat = 1;
constexpr char kEnding[] = ".checkpoint";
constexpr char kValue[] = "value";

// As a file's name has it.
std::string Plain(absl::string_view name) {
  std::string out(name);
  std::replace(out.begin(), out.end(), ' ', '-');
  return out;
}

Json Binary(const void* at, size_t size) {
  const auto* const bytes = static_cast<const uint8_t*>(at);
  return Json::binary(std::vector<uint8_t>(bytes, bytes + size));
}

// The bytes of a binary field; none when it is of another type.
absl::string_view BytesOf(const Json& json) {
  if (!json.is_binary()) return {};
  const auto& bytes = json.get_binary();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Json ToJson(const std::string& phase, const Checkpoint& checkpoint) {
  Json out = {{"format", kFormat},
              {"phase", phase},
              {"best_epoch", checkpoint.best_epoch},
              {"best_metric", checkpoint.best_metric},
              {"finished", checkpoint.finished},
              {"reports", Json::array()},
              {"best", Json::object()},
              {"state", Json::object()}};
  for (const EpochReport& report : checkpoint.reports) {
    out["reports"].push_back({{"epochs", report.epochs},
                              {"loss", report.loss},
                              {"metric", report.metric},
                              {"share", report.share},
                              {"note", report.note}});
  }
  for (const auto& [name, tensor] : checkpoint.best.all()) {
    out["best"][name] = {
        {"shape", tensor.shape},
        {"values",
         Binary(tensor.values.data(), tensor.values.size() * sizeof(float))}};
  }
  for (const auto& [name, bytes] : checkpoint.state) {
    out["state"][name] = Binary(bytes.data(), bytes.size());
  }
  return out;
}

// Of what ToJson gave.
Tensor TensorOf(const Json& json) {
  Tensor tensor{.shape = json["shape"].get<std::vector<int64_t>>()};
  const absl::string_view bytes = BytesOf(json["values"]);
  tensor.values.resize(bytes.size() / sizeof(float));
  if (!bytes.empty()) {
    std::memcpy(tensor.values.data(), bytes.data(), bytes.size());
  }
  return tensor;
}

absl::StatusOr<Checkpoint> FromJson(const std::string& phase,
                                    const Json& json) {
  JsonReader in(json, "it");
  if (in.Int("format") != kFormat || in.String("phase") != phase) {
    return absl::DataLossError("it is of another format or phase");
  }
  Checkpoint out{.best_epoch = static_cast<int>(in.Int("best_epoch")),
                 .best_metric = in.Double("best_metric"),
                 .finished = in.Bool("finished")};
  for (const Json& one : in.Array("reports")) {
    JsonReader report(one, "reports");
    out.reports.push_back({.phase = phase,
                           .epoch = static_cast<int>(out.reports.size()) + 1,
                           .epochs = static_cast<int>(report.Int("epochs")),
                           .loss = report.Double("loss"),
                           .metric = report.Double("metric"),
                           .share = report.Double("share"),
                           .note = report.String("note")});
  }
  for (const auto& [name, tensor] : in.Object("best").items()) {
    Tensor plain = TensorOf(tensor);
    out.best.Add(name, std::move(plain.shape), std::move(plain.values));
  }
  for (const auto& [name, bytes] : in.Object("state").items()) {
    out.state[name] = std::string(BytesOf(bytes));
  }
  RETURN_IF_ERROR(in.status());
  return out;
}

// A file begins with the digest of the rest, so that what is read is what was
// written.
absl::StatusOr<Json> Unseal(absl::string_view file) {
  const Digest digest =
      Sha256(file.substr(std::min(file.size(), sizeof(Digest))));
  if (file.size() < sizeof(Digest) ||
      std::memcmp(file.data(), digest.data(), sizeof(Digest)) != 0) {
    return absl::DataLossError("it is damaged");
  }
  const absl::string_view rest = file.substr(sizeof(Digest));
  return Json::from_cbor(rest.begin(), rest.end(), /*strict=*/true,
                         /*allow_exceptions=*/false);
}

std::vector<uint8_t> Seal(const Json& json) {
  std::vector<uint8_t> bytes(sizeof(Digest));
  Json::to_cbor(json, bytes);
  const Digest digest =
      Sha256({reinterpret_cast<const char*>(bytes.data()) + sizeof(Digest),
              bytes.size() - sizeof(Digest)});
  std::copy(digest.begin(), digest.end(), bytes.begin());
  return bytes;
}

}  // namespace

void TrainingState::Text(const std::string& name, std::string* text) {
  if (!restores_) {
    kept_[name] = *text;
  } else if (const std::string* was = Find(name); was != nullptr) {
    *text = *was;
  }
}

void TrainingState::Bytes(const std::string& name, void* at, size_t size) {
  if (!restores_) {
    kept_[name] = std::string(static_cast<const char*>(at), size);
    return;
  }
  const std::string* const was = Find(name);
  if (was == nullptr) return;
  if (was->size() != size) {
    status_.Update(absl::DataLossError(absl::StrCat(
        Quoted(name), " has ", was->size(), " bytes; expected ", size)));
    return;
  }
  if (size > 0) std::memcpy(at, was->data(), size);
}

const std::string* TrainingState::Find(const std::string& name) {
  const auto found = kept_.find(name);
  if (found != kept_.end()) return &found->second;
  status_.Update(absl::DataLossError(absl::StrCat("no ", Quoted(name))));
  return nullptr;
}

absl::StatusOr<Checkpoint> Checkpoints::Read(const std::string& phase) const {
  const std::string path = PathOf(phase);
  if (!FileExists(path)) return Checkpoint();
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  const auto json = Unseal(bytes);
  absl::StatusOr<Checkpoint> out =
      json.ok() ? FromJson(phase, *json) : json.status();
  if (out.ok()) return out;
  return Unusable(phase, out.status());
}

absl::Status Checkpoints::Unusable(const std::string& phase,
                                   const absl::Status& why) const {
  return absl::DataLossError(absl::StrCat(
      "checkpoint ", PathOf(phase), " cannot be gone on from: ", why.message(),
      "; remove it to train from the beginning"));
}

absl::Status Checkpoints::Write(const std::string& phase,
                                const Checkpoint& checkpoint) {
  constexpr double kPause = 10;  // in times of what writing took
  const absl::Time begin = absl::Now();
  RETURN_IF_ERROR(MakeDirs(folder_));
  const std::vector<uint8_t> bytes = Seal(ToJson(phase, checkpoint));
  RETURN_IF_ERROR(WriteFileAtomic(
      PathOf(phase),
      {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  const absl::Time end = absl::Now();
  next_ = end + std::max(every_, kPause * (end - begin));
  return absl::OkStatus();
}

absl::Status Checkpoints::WriteValues(const std::vector<double>& by_case,
                                      double seconds) {
  RETURN_IF_ERROR(MakeDirs(folder_));
  return WriteFileAtomic(
      PathOf(kValue),
      Json({{"by_case", by_case}, {"seconds", seconds}}).dump());
}

bool Checkpoints::ReadValues(std::vector<double>* by_case,
                             double* seconds) const {
  const auto text = ReadFile(PathOf(kValue));
  if (!text.ok()) return false;
  const auto json = ParseJson(*text);
  if (!json.ok() || !json->is_object()) return false;
  JsonReader in(*json, "");
  const Json& values = in.Array("by_case");
  *seconds = in.Double("seconds");
  if (!in.status().ok() ||
      !std::all_of(values.begin(), values.end(),
                   [](const Json& x) { return x.is_number(); })) {
    return false;
  }
  *by_case = values.get<std::vector<double>>();
  return true;
}

absl::Status Checkpoints::Remove(bool all) const {
  if (!FileExists(folder_)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(folder_));
  for (const std::string& name : names) {
    const std::string path = JoinPath(folder_, name);
    // One that a kill left half written ends otherwise.
    if (!absl::StartsWith(name, Plain(training_) + ".") ||
        !absl::StrContains(name, kEnding) || (!all && path == PathOf(kValue))) {
      continue;
    }
    RETURN_IF_ERROR(RemoveAll(path));
  }
  return absl::OkStatus();
}

std::string Checkpoints::PathOf(absl::string_view phase) const {
  return JoinPath(folder_, Plain(absl::StrCat(training_, ".", phase, kEnding)));
}

}  // namespace nearline::model
