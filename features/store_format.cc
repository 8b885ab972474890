#include "features/store_format.h"

#include <cstring>

#include "base/varint.h"

namespace nearline::features {
namespace {

absl::Status Corrupt(absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat("the store holds a damaged ", what,
                   "; put back a copy of the data folder, or import an export "
                   "into a new one"));
}

uint64_t ZigZag(int64_t v) {
  return (static_cast<uint64_t>(v) << 1) ^ static_cast<uint64_t>(v >> 63);
}
int64_t UnZigZag(uint64_t v) {
  return static_cast<int64_t>(v >> 1) ^ -static_cast<int64_t>(v & 1);
}

struct AttributeEncoder {
  std::string* out;
  void operator()(const std::string& v) const {
    out->push_back('s');
    PutString(out, v);
  }
  void operator()(const std::vector<std::string>& v) const {
    out->push_back('l');
    PutVarint(out, v.size());
    for (const std::string& s : v) PutString(out, s);
  }
  void operator()(double v) const {
    out->push_back('n');
    PutRaw(out, v);
  }
  void operator()(const std::vector<float>& v) const {
    out->push_back('v');
    PutString(out, {reinterpret_cast<const char*>(v.data()),
                    v.size() * sizeof(float)});
  }
};

void PutAttributes(std::string* out, const Attributes& attributes) {
  PutVarint(out, attributes.size());
  for (const auto& [name, value] : attributes) {
    PutString(out, name);
    std::visit(AttributeEncoder{out}, value);
  }
}

bool GetAttribute(ByteReader* in, Attribute* out) {
  const absl::string_view kind = in->Bytes(1);
  if (!in->ok()) return false;
  switch (kind[0]) {
    case 's':
      *out = std::string(in->String());
      return in->ok();
    case 'l': {
      std::vector<std::string> list;
      for (uint64_t n = in->Varint(); n > 0 && in->ok(); --n) {
        list.emplace_back(in->String());
      }
      *out = std::move(list);
      return in->ok();
    }
    case 'n':
      *out = in->Raw<double>();
      return in->ok();
    case 'v': {
      const absl::string_view bytes = in->String();
      std::vector<float> v(bytes.size() / sizeof(float));
      if (!v.empty()) std::memcpy(v.data(), bytes.data(), v.size() * 4);
      *out = std::move(v);
      return in->ok() && bytes.size() % sizeof(float) == 0;
    }
    default:
      return false;
  }
}

bool GetAttributes(ByteReader* in, Attributes* out) {
  for (uint64_t n = in->Varint(); n > 0 && in->ok(); --n) {
    std::string name(in->String());
    if (!GetAttribute(in, &(*out)[std::move(name)])) return false;
  }
  return in->ok();
}

}  // namespace

std::string OrdinalKey(Ordinal ordinal) {
  std::string key;
  PutBigEndian(&key, ordinal);
  return key;
}

std::string EventKey(Ordinal user, Sequence sequence) {
  std::string key;
  PutBigEndian(&key, user);
  PutBigEndian(&key, sequence);
  return key;
}

std::string SequenceKey(Sequence sequence) {
  std::string key;
  PutBigEndian(&key, sequence);
  return key;
}

std::string EventIdKey(Ordinal user, const Hash128& id) {
  std::string key;
  PutBigEndian(&key, user);
  PutBigEndian(&key, id.high);
  PutBigEndian(&key, id.low);
  return key;
}

std::string EncodeEvent(const Event& event) {
  std::string out;
  PutVarint(&out, event.item);
  out.push_back(static_cast<char>(event.type));
  PutVarint(&out, ZigZag(event.time_micros));
  // Most values are small whole numbers; the last bit tells.
  const auto whole = static_cast<int64_t>(event.value);
  if (event.value > -1e9 && event.value < 1e9 &&
      static_cast<double>(whole) == event.value) {
    PutVarint(&out, ZigZag(whole) << 1);
  } else {
    PutVarint(&out, 1);
    PutRaw(&out, event.value);
  }
  PutVarint(&out, static_cast<uint64_t>(event.position + 1));
  PutString(&out, event.event_id);
  PutString(&out, event.request_id);
  PutString(&out, event.context);
  return out;
}

absl::Status DecodeEvent(absl::string_view value, Event* event) {
  ByteReader in(value);
  event->item = static_cast<Ordinal>(in.Varint());
  event->type = in.Raw<uint8_t>();
  event->time_micros = UnZigZag(in.Varint());
  const uint64_t number = in.Varint();
  event->value = (number & 1) ? in.Raw<double>()
                              : static_cast<double>(UnZigZag(number >> 1));
  event->position = static_cast<int32_t>(in.Varint()) - 1;
  event->event_id = std::string(in.String());
  event->request_id = std::string(in.String());
  event->context = std::string(in.String());
  return in.ok() && in.done() ? absl::OkStatus() : Corrupt("event");
}

absl::StatusOr<Event> DecodeEventRow(absl::string_view key,
                                     absl::string_view value) {
  if (key.size() != 12) return Corrupt("event key");
  Event event;
  event.user = GetBigEndian<Ordinal>(key);
  event.sequence = GetBigEndian<Sequence>(key.substr(4));
  RETURN_IF_ERROR(DecodeEvent(value, &event));
  return event;
}

std::string EncodeEventId(const EventIdRecord& record) {
  std::string out;
  PutVarint(&out, record.sequence);
  PutRaw(&out, record.payload_hash);
  PutVarint(&out, ZigZag(record.time_micros));
  out.push_back(static_cast<char>((record.permanent ? 1 : 0) |
                                  (record.retracted ? 2 : 0)));
  return out;
}

absl::StatusOr<EventIdRecord> DecodeEventId(absl::string_view value) {
  ByteReader in(value);
  EventIdRecord record;
  record.sequence = in.Varint();
  record.payload_hash = in.Raw<uint64_t>();
  record.time_micros = UnZigZag(in.Varint());
  const uint8_t flags = in.Raw<uint8_t>();
  record.permanent = (flags & 1) != 0;
  record.retracted = (flags & 2) != 0;
  if (!in.ok() || !in.done()) return Corrupt("event id");
  return record;
}

uint64_t PayloadHash(const NewEvent& event) {
  std::string all;
  PutString(&all, event.item);
  PutString(&all, event.type);
  PutRaw(&all, event.value);
  PutString(&all, event.request_id);
  PutRaw(&all, event.position);
  PutString(&all, event.context);
  return StableHash(all);
}

std::string EncodeItem(const ItemRecord& item) {
  std::string out;
  PutString(&out, item.id);
  out.push_back(
      static_cast<char>((item.listed ? 1 : 0) | (item.deleted ? 2 : 0)));
  PutVarint(&out, item.seen_by.size());
  for (const Ordinal user : item.seen_by) PutVarint(&out, user);
  PutAttributes(&out, item.attributes);
  return out;
}

absl::StatusOr<ItemRecord> DecodeItem(absl::string_view value) {
  ByteReader in(value);
  ItemRecord item;
  item.id = std::string(in.String());
  const uint8_t flags = in.Raw<uint8_t>();
  item.listed = (flags & 1) != 0;
  item.deleted = (flags & 2) != 0;
  for (uint64_t n = in.Varint(); n > 0 && in.ok(); --n) {
    item.seen_by.push_back(static_cast<Ordinal>(in.Varint()));
  }
  if (!GetAttributes(&in, &item.attributes) || !in.done()) {
    return Corrupt("item");
  }
  return item;
}

std::string EncodeUser(const User& user) {
  std::string out;
  PutString(&out, user.id);
  PutAttributes(&out, user.attributes);
  return out;
}

absl::StatusOr<User> DecodeUser(absl::string_view value) {
  ByteReader in(value);
  User user;
  user.id = std::string(in.String());
  if (!GetAttributes(&in, &user.attributes) || !in.done()) {
    return Corrupt("user");
  }
  return user;
}

}  // namespace nearline::features
