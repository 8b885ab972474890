#include "model/bundle.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/hash.h"

namespace nearline::model {
namespace {

constexpr char kManifest[] = "manifest.json";
constexpr char kWeights[] = "weights.safetensors";
constexpr char kItems[] = "items.json";
constexpr char kCurrent[] = "CURRENT";

absl::Status Damaged(const std::string& folder, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat("generation in ", folder, ": ", what));
}

absl::Status CheckFile(const std::string& folder, const Json& files,
                       const char* name) {
  JsonReader all(files, "files");
  JsonReader file(all.Object(name), name);
  const int64_t size = file.Int("size");
  const std::string hash = file.String("sha256");
  if (!all.status().ok()) return Damaged(folder, all.status().message());
  if (!file.status().ok()) return Damaged(folder, file.status().message());
  const std::string path = JoinPath(folder, name);
  const auto actual = FileSize(path);
  if (!actual.ok()) return Damaged(folder, actual.status().message());
  if (*actual != size) {
    return Damaged(folder, absl::StrCat(name, " has ", *actual,
                                        " bytes; the manifest says ", size));
  }
  ASSIGN_OR_RETURN(const std::string actual_hash, Sha256OfFile(path));
  if (actual_hash != hash) {
    return Damaged(folder, absl::StrCat(name,
                                        " has another SHA-256 than the "
                                        "manifest says"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ReadManifestJson(const std::string& folder) {
  if (!FileExists(folder)) {
    return absl::NotFoundError(absl::StrCat("no generation in ", folder));
  }
  const auto text = ReadFile(JoinPath(folder, kManifest));
  if (!text.ok()) return Damaged(folder, text.status().message());
  auto json = ParseJson(*text);
  if (!json.ok()) {
    return Damaged(folder,
                   absl::StrCat(kManifest, ": ", json.status().message()));
  }
  return json;
}

std::map<std::string, double> ReadNumbers(const Json& object) {
  std::map<std::string, double> out;
  for (const auto& [name, value] : object.items()) {
    if (value.is_number()) out[name] = value.get<double>();
  }
  return out;
}

absl::StatusOr<Json> FileEntry(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
  ASSIGN_OR_RETURN(const std::string hash, Sha256OfFile(path));
  return Json{{"size", size}, {"sha256", hash}};
}

}  // namespace

Json Manifest::ToJson() const {
  return {{"format", kBundleFormat},
          {"id", id},
          {"retriever", retriever},
          {"ranker", ranker},
          {"parameters", parameters},
          {"event_weights", event_weights},
          {"parent", parent},
          {"log_id", log_id},
          {"sequence", sequence},
          {"cutoff_micros", cutoff_micros},
          {"created_micros", created_micros},
          {"users", users},
          {"items", items},
          {"events", events},
          {"metrics", metrics},
          {"incumbent_metrics", incumbent_metrics},
          {"accepted", accepted},
          {"decision", decision}};
}

absl::StatusOr<Manifest> Manifest::FromJson(const Json& json) {
  JsonReader in(json, "manifest");
  const int64_t format = in.Int("format");
  if (in.status().ok() && format != kBundleFormat) {
    return absl::FailedPreconditionError(
        absl::StrCat("the generation has format ", format,
                     "; this build reads format ", kBundleFormat));
  }
  Manifest m;
  m.id = in.String("id");
  m.retriever = in.String("retriever");
  m.ranker = in.String("ranker");
  m.parameters = in.Object("parameters");
  m.event_weights = in.Object("event_weights");
  m.parent = in.String("parent");
  m.log_id = in.String("log_id");
  m.sequence = static_cast<uint64_t>(in.Int("sequence"));
  m.cutoff_micros = in.Int("cutoff_micros");
  m.created_micros = in.Int("created_micros");
  m.users = in.Int("users");
  m.items = in.Int("items");
  m.events = in.Int("events");
  m.metrics = ReadNumbers(in.Object("metrics"));
  m.incumbent_metrics = ReadNumbers(in.Object("incumbent_metrics"));
  m.accepted = in.Bool("accepted");
  m.decision = in.String("decision");
  RETURN_IF_ERROR(in.status());
  return m;
}

absl::Status Bundle::Write(const std::string& folder) const {
  const std::string aside = folder + ".tmp";
  RETURN_IF_ERROR(RemoveAll(aside));
  RETURN_IF_ERROR(MakeDirs(aside));
  RETURN_IF_ERROR(tensors.Write(JoinPath(aside, kWeights)));
  RETURN_IF_ERROR(WriteFileAtomic(JoinPath(aside, kItems), Json(items).dump()));
  Json json = manifest.ToJson();
  for (const char* name : {kWeights, kItems}) {
    ASSIGN_OR_RETURN(json["files"][name], FileEntry(JoinPath(aside, name)));
  }
  RETURN_IF_ERROR(WriteFileAtomic(JoinPath(aside, kManifest), json.dump(2)));
  return RenameDurably(aside, folder);
}

absl::StatusOr<Manifest> Bundle::ReadManifest(const std::string& folder) {
  ASSIGN_OR_RETURN(const Json json, ReadManifestJson(folder));
  auto manifest = Manifest::FromJson(json);
  if (!manifest.ok()) return Annotate(manifest.status(), folder);
  return manifest;
}

absl::StatusOr<Bundle> Bundle::Read(const std::string& folder) {
  Bundle bundle;
  ASSIGN_OR_RETURN(const Json json, ReadManifestJson(folder));
  auto manifest = Manifest::FromJson(json);
  if (!manifest.ok()) return Damaged(folder, manifest.status().message());
  bundle.manifest = *std::move(manifest);
  JsonReader in(json, "manifest");
  const Json& files = in.Object("files");
  if (!in.status().ok()) return Damaged(folder, in.status().message());
  for (const char* name : {kWeights, kItems}) {
    RETURN_IF_ERROR(CheckFile(folder, files, name));
  }
  ASSIGN_OR_RETURN(const std::string items, ReadFile(JoinPath(folder, kItems)));
  auto ids = ParseJson(items);
  if (!ids.ok() || !ids->is_array()) {
    return Damaged(folder, absl::StrCat(kItems, " is no JSON array"));
  }
  for (const Json& id : *ids) {
    if (!id.is_string()) return Damaged(folder, "an item id is no string");
    bundle.items.push_back(id.get<std::string>());
    const size_t n = bundle.items.size();
    if (n > 1 && bundle.items[n - 2] >= bundle.items[n - 1]) {
      return Damaged(folder, absl::StrCat("item ids are not in byte order at ",
                                          Quoted(bundle.items[n - 1])));
    }
  }
  ASSIGN_OR_RETURN(bundle.tensors, Tensors::Read(JoinPath(folder, kWeights)));
  return bundle;
}

std::string NewGenerationId(int64_t now_micros) {
  return absl::StrCat(
      "g-",
      absl::FormatTime("%Y%m%d-%H%M%S-", absl::FromUnixMicros(now_micros),
                       absl::UTCTimeZone()),
      absl::BytesToHexString(RandomBytes(2)));
}

std::string LocalGenerationStore::FolderOf(const std::string& id) const {
  return JoinPath(folder_, id);
}

absl::StatusOr<std::vector<Manifest>> LocalGenerationStore::List() const {
  std::vector<Manifest> out;
  if (!FileExists(folder_)) return out;
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(folder_));
  for (const std::string& name : names) {
    if (!FileExists(JoinPath(FolderOf(name), kManifest))) continue;
    auto manifest = Bundle::ReadManifest(FolderOf(name));
    if (manifest.ok() && manifest->id == name) {
      out.push_back(*std::move(manifest));
    }
  }
  std::sort(out.begin(), out.end(), [](const Manifest& a, const Manifest& b) {
    return a.created_micros != b.created_micros
               ? a.created_micros > b.created_micros
               : a.id > b.id;
  });
  return out;
}

absl::StatusOr<Bundle> LocalGenerationStore::Read(const std::string& id) const {
  // An id comes from outside; it names a folder of ours and nothing else.
  if (id.empty() || id.find('/') != std::string::npos || id[0] == '.') {
    return absl::NotFoundError(absl::StrCat("no generation ", Quoted(id)));
  }
  return Bundle::Read(FolderOf(id));
}

absl::Status LocalGenerationStore::Write(const Bundle& bundle) {
  RETURN_IF_ERROR(MakeDirs(folder_));
  return bundle.Write(FolderOf(bundle.manifest.id));
}

absl::Status LocalGenerationStore::UpdateManifest(const Manifest& manifest) {
  const std::string folder = FolderOf(manifest.id);
  ASSIGN_OR_RETURN(const Json old, ReadManifestJson(folder));
  Json json = manifest.ToJson();
  json["files"] = old.value("files", Json::object());
  return WriteFileAtomic(JoinPath(folder, kManifest), json.dump(2));
}

absl::StatusOr<std::string> LocalGenerationStore::Current() const {
  const std::string path = JoinPath(folder_, kCurrent);
  if (!FileExists(path)) return std::string();
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return std::string(absl::StripSuffix(text, "\n"));
}

absl::Status LocalGenerationStore::SetCurrent(const std::string& id) {
  return WriteFileAtomic(JoinPath(folder_, kCurrent), id + "\n");
}

absl::Status LocalGenerationStore::Prune(int keep) {
  ASSIGN_OR_RETURN(const std::vector<Manifest> all, List());
  ASSIGN_OR_RETURN(const std::string current, Current());
  // Refused ones must not push out what could be rolled back to.
  int accepted = 0, refused = 0;
  for (const Manifest& m : all) {
    const int newer = m.accepted ? accepted++ : refused++;
    if (newer < keep || m.id == current) continue;
    RETURN_IF_ERROR(RemoveAll(FolderOf(m.id)));
  }
  if (!FileExists(folder_)) return absl::OkStatus();
  // What a trainer that died was writing.
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDir(folder_));
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, ".tmp")) continue;
    RETURN_IF_ERROR(RemoveAll(JoinPath(folder_, name)));
  }
  return absl::OkStatus();
}

}  // namespace nearline::model
