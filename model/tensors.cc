#include "model/tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/text.h"

namespace nearline::model {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 36;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("safetensors: ", what));
}

// One entry of the header, checked against the size of the data.
struct Entry {
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::StatusOr<Entry> ParseEntry(const std::string& name, const Json& json,
                                 uint64_t data_size) {
  JsonReader reader(json, Quoted(name));
  const std::string type = reader.String("dtype");
  const Json& shape = reader.Array("shape");
  const Json& offsets = reader.Array("data_offsets");
  if (!reader.status().ok()) return Damaged(reader.status().message());
  if (type != "F32") {
    return Damaged(absl::StrCat(Quoted(name), " has dtype ", Quoted(type),
                                "; expected F32"));
  }
  Entry entry;
  int64_t elements = 1;
  for (const Json& size : shape) {
    if (!size.is_number_unsigned() || size.get<uint64_t>() > kMaxElements) {
      return Damaged(absl::StrCat(Quoted(name), " has a bad shape"));
    }
    const auto s = size.get<int64_t>();
    if (s != 0 && elements > kMaxElements / s) {
      return Damaged(absl::StrCat(Quoted(name), " is too large"));
    }
    elements *= s;
    entry.shape.push_back(s);
  }
  if (offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return Damaged(absl::StrCat(Quoted(name), " has bad data_offsets"));
  }
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  if (entry.begin > entry.end || entry.end > data_size ||
      entry.end - entry.begin !=
          static_cast<uint64_t>(elements) * sizeof(float)) {
    return Damaged(absl::StrCat(
        Quoted(name), " of shape ", ShapeText(entry.shape), " lies at [",
        entry.begin, ", ", entry.end, ") of ", data_size, " bytes"));
  }
  return entry;
}

}  // namespace

void Tensors::Add(const std::string& name, std::vector<int64_t> shape,
                  std::vector<float> values) {
  tensors_[name] = {std::move(shape), std::move(values)};
}

absl::StatusOr<const Tensor*> Tensors::Get(
    const std::string& name, const std::vector<int64_t>& shape) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("no tensor ", Quoted(name)));
  }
  const Tensor& tensor = it->second;
  bool fits = tensor.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] == -1 ? tensor.shape[i] > 0 : tensor.shape[i] == shape[i];
  }
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(name), " has shape ",
                     ShapeText(tensor.shape), "; expected ", ShapeText(shape)));
  }
  return &tensor;
}

absl::StatusOr<Tensor> Tensors::Take(const std::string& name,
                                     const std::vector<int64_t>& shape) {
  RETURN_IF_ERROR(Get(name, shape).status());
  return std::move(tensors_.extract(name).mapped());
}

absl::Status Tensors::Write(const std::string& path) const {
  Json header = Json::object();
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors_) {
    const uint64_t size = tensor.values.size() * sizeof(float);
    header[name] = {{"dtype", "F32"},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_size = text.size();
  std::string file(reinterpret_cast<const char*>(&header_size), 8);
  file += text;
  for (const auto& [name, tensor] : tensors_) {
    file.append(reinterpret_cast<const char*>(tensor.values.data()),
                tensor.values.size() * sizeof(float));
  }
  return WriteFileAtomic(path, file);
}

absl::StatusOr<Tensors> Tensors::Read(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  auto tensors = Parse(file.data());
  if (!tensors.ok()) return Annotate(tensors.status(), path);
  return tensors;
}

absl::StatusOr<Tensors> Tensors::Parse(absl::string_view file) {
  if (file.size() < 8) return Damaged("the file is shorter than 8 bytes");
  uint64_t header_size = 0;
  std::memcpy(&header_size, file.data(), 8);
  if (header_size > file.size() - 8 || header_size > 100'000'000) {
    return Damaged(absl::StrCat("a header of ", header_size,
                                " bytes in a file of ", file.size()));
  }
  auto header = ParseJson(file.substr(8, header_size));
  if (!header.ok() || !header->is_object()) {
    return Damaged("the header is no JSON object");
  }
  const absl::string_view data = file.substr(8 + header_size);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  Tensors tensors;
  for (const auto& [name, json] : header->items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(Entry entry, ParseEntry(name, json, data.size()));
    std::vector<float> values((entry.end - entry.begin) / sizeof(float));
    if (!values.empty()) {
      std::memcpy(values.data(), data.data() + entry.begin,
                  entry.end - entry.begin);
    }
    for (const float v : values) {
      if (!std::isfinite(v)) {
        return Damaged(absl::StrCat(Quoted(name),
                                    " holds a value that is not "
                                    "finite"));
      }
    }
    if (entry.begin != entry.end) ranges.emplace_back(entry.begin, entry.end);
    tensors.Add(name, std::move(entry.shape), std::move(values));
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) {
      return Damaged(
          absl::StrCat("two tensors overlap at byte ", ranges[i].first));
    }
  }
  return tensors;
}

}  // namespace nearline::model
