#include "server/wire.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>
#include <spdlog/spdlog.h>

#include <cctype>

#include "base/text.h"
#include "proto/google/rpc/error_details.pb.h"
#include "proto/google/rpc/status.pb.h"

namespace nearline::server {
namespace {

namespace pb = google::protobuf;

// "events[3].value: ..." -> "events[3].value"; empty when the text begins
// otherwise.
std::string LeadingField(absl::string_view text) {
  size_t end = 0;
  while (end < text.size() &&
         (std::isalnum(static_cast<unsigned char>(text[end])) ||
          text[end] == '_' || text[end] == '.' || text[end] == '[' ||
          text[end] == ']')) {
    ++end;
  }
  const absl::string_view after = text.substr(end);
  const bool named = !after.empty() && (after[0] == ':' || after[0] == ' ');
  return named ? std::string(text.substr(0, end)) : "";
}

bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal ||
         code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss;
}

// The path of the first string field that is not UTF-8, found by walking the
// bytes along the schema; empty when there is none.
std::string FindBrokenText(const pb::Descriptor* type,
                           const pb::UnknownFieldSet& fields) {
  std::map<int, int> seen;
  for (int i = 0; i < fields.field_count(); ++i) {
    const pb::UnknownField& field = fields.field(i);
    const pb::FieldDescriptor* known = type->FindFieldByNumber(field.number());
    if (known == nullptr ||
        field.type() != pb::UnknownField::TYPE_LENGTH_DELIMITED) {
      continue;
    }
    std::string name(known->name());
    if (known->is_repeated()) {
      name += absl::StrCat("[", seen[field.number()]++, "]");
    }
    const std::string& bytes = field.length_delimited();
    if (known->type() == pb::FieldDescriptor::TYPE_STRING) {
      if (!IsUtf8(bytes)) return name;
    } else if (known->type() == pb::FieldDescriptor::TYPE_MESSAGE) {
      pb::UnknownFieldSet inner;
      if (!inner.ParseFromString(bytes)) continue;
      const std::string path = FindBrokenText(known->message_type(), inner);
      if (!path.empty()) return absl::StrCat(name, ".", path);
    }
  }
  return "";
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (IsOurFault(status.code())) {
    spdlog::error("answering INTERNAL: {}", status.ToString());
    return grpc::Status(code, "internal error; the server's log tells more");
  }
  const std::string message(status.message());
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(code));
  wire.set_message(message);
  if (status.code() == absl::StatusCode::kInvalidArgument) {
    google::rpc::BadRequest bad;
    auto* const violation = bad.add_field_violations();
    violation->set_field(LeadingField(message));
    violation->set_description(message);
    wire.add_details()->PackFrom(bad);
  } else if (status.code() == absl::StatusCode::kResourceExhausted ||
             status.code() == absl::StatusCode::kUnavailable) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(200'000'000);
    wire.add_details()->PackFrom(retry);
  }
  return grpc::Status(code, message, wire.SerializeAsString());
}

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, pb::Message* message) {
  grpc::ByteBuffer copy(bytes);  // shares the slices
  {
    grpc::ProtoBufferReader reader(&copy);
    if (reader.status().ok() && message->ParseFromZeroCopyStream(&reader)) {
      return absl::OkStatus();
    }
  }
  const std::string name(message->GetDescriptor()->name());
  grpc::ProtoBufferReader reader(&copy);
  pb::UnknownFieldSet fields;
  if (reader.status().ok() && fields.ParseFromZeroCopyStream(&reader)) {
    const std::string path = FindBrokenText(message->GetDescriptor(), fields);
    if (!path.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is not valid UTF-8"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the bytes are no ", name,
                   ": cut, malformed, or nested deeper than 100 levels"));
}

absl::Status SerializeMessage(const pb::Message& message,
                              grpc::ByteBuffer* bytes) {
  bool own = false;
  const grpc::Status status =
      grpc::GenericSerialize<grpc::ProtoBufferWriter, pb::Message>(message,
                                                                   bytes, &own);
  return status.ok() ? absl::OkStatus()
                     : absl::InternalError(status.error_message());
}

}  // namespace nearline::server
