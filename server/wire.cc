#include "server/wire.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <spdlog/spdlog.h>

#include <map>
#include <vector>

#include "base/text.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"

namespace nearline::server {
namespace {

namespace pb = google::protobuf;

// gRPC's headers hold 8 KiB in all, the details of a status included.
constexpr size_t kMostMessage = 1024;

// Cut between characters.
std::string Short(absl::string_view text) {
  if (text.size() <= kMostMessage) return std::string(text);
  size_t end = kMostMessage;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
    --end;
  }
  return absl::StrCat(text.substr(0, end), "...");
}

std::string FieldOf(const absl::Status& status) {
  const auto field = status.GetPayload(kFieldPayload);
  return field.has_value() ? Short(std::string(*field)) : "";
}

bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal ||
         code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

absl::Duration RetryAfter(const absl::Status& status) {
  absl::Duration after = absl::Milliseconds(200);
  const auto told = status.GetPayload(kRetryPayload);
  if (told.has_value()) absl::ParseDuration(std::string(*told), &after);
  return after;
}

// What the parser allows.
constexpr int kMostLevels = 100;

// The path of the first string field that is not UTF-8, found by walking the
// bytes along the schema; empty when there is none, or none on the levels that
// a message may have.
std::string FindBrokenText(const pb::Descriptor* type, absl::string_view bytes,
                           int level = 0) {
  if (level == kMostLevels) return "";
  pb::io::CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                              static_cast<int>(bytes.size()));
  std::map<int, int> seen;
  while (const uint32_t tag = in.ReadTag()) {
    using Wire = pb::internal::WireFormatLite;
    const int number = Wire::GetTagFieldNumber(tag);
    const pb::FieldDescriptor* const field = type->FindFieldByNumber(number);
    if (field == nullptr ||
        Wire::GetTagWireType(tag) != Wire::WIRETYPE_LENGTH_DELIMITED) {
      if (!Wire::SkipField(&in, tag)) return "";
      continue;
    }
    uint32_t size = 0;
    if (!in.ReadVarint32(&size)) return "";
    const auto at = static_cast<size_t>(in.CurrentPosition());
    if (size > bytes.size() - at) return "";
    const absl::string_view value = bytes.substr(at, size);
    in.Skip(static_cast<int>(size));
    std::string name(field->name());
    if (field->is_repeated()) absl::StrAppend(&name, "[", seen[number]++, "]");
    if (field->type() == pb::FieldDescriptor::TYPE_STRING) {
      if (!IsUtf8(value)) return name;
    } else if (field->type() == pb::FieldDescriptor::TYPE_MESSAGE) {
      const std::string path =
          FindBrokenText(field->message_type(), value, level + 1);
      if (!path.empty()) return absl::StrCat(name, ".", path);
    }
  }
  return "";
}

std::string AllOf(const grpc::ByteBuffer& bytes) {
  std::vector<grpc::Slice> slices;
  std::string out;
  if (!bytes.Dump(&slices).ok()) return out;
  for (const grpc::Slice& slice : slices) {
    out.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status, absl::string_view trace) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (IsOurFault(status.code())) {
    spdlog::error("answering INTERNAL: {}{}", status.ToString(),
                  trace.empty() ? "" : absl::StrCat(" (trace ", trace, ")"));
    return grpc::Status(code, "internal error; the server's log tells more");
  }
  const std::string message = Short(status.message());
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(code));
  wire.set_message(message);
  if (status.code() == absl::StatusCode::kInvalidArgument) {
    google::rpc::BadRequest bad;
    auto* const violation = bad.add_field_violations();
    violation->set_field(FieldOf(status));
    violation->set_description(message);
    wire.add_details()->PackFrom(bad);
  } else if (status.code() == absl::StatusCode::kResourceExhausted ||
             status.code() == absl::StatusCode::kUnavailable) {
    const absl::Duration after = RetryAfter(status);
    if (after < absl::InfiniteDuration()) {
      google::rpc::RetryInfo retry;
      SetDuration(after, retry.mutable_retry_delay());
      wire.add_details()->PackFrom(retry);
    }
  }
  return grpc::Status(code, message, wire.SerializeAsString());
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, pb::Message* message) {
  if (!bytes.Valid()) {
    return absl::CancelledError("the call ended before its message came");
  }
  grpc::ByteBuffer copy(bytes);  // shares the slices
  {
    grpc::ProtoBufferReader reader(&copy);
    if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) {
      return absl::OkStatus();
    }
  }
  const std::string path =
      FindBrokenText(message->GetDescriptor(), AllOf(copy));
  if (!path.empty()) {
    return InvalidField(path, "bytes that are no text", "UTF-8");
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "the bytes are no ", std::string(message->GetDescriptor()->name()),
      ": cut, malformed, or nested deeper than ", kMostLevels, " levels"));
}

absl::Status SerializeMessage(const pb::Message& message,
                              grpc::ByteBuffer* bytes) {
  bytes->Clear();  // a stream's buffer still holds the answer before
  bool own = false;
  const grpc::Status status =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, pb::Message>(message,
                                                                   bytes, &own);
  return status.ok() ? absl::OkStatus()
                     : absl::InternalError(status.error_message());
}

void SetDuration(absl::Duration d, pb::Duration* out) {
  out->set_seconds(absl::ToInt64Seconds(d));
  out->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(d - absl::Seconds(out->seconds()))));
}

}  // namespace nearline::server
