// Protobuf messages as trees, without their meaning: taken apart, changed, and put together with
// lengths that fit, so that a change reaches what reads the file and not only its parser.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fuzz {

struct Field {
  uint64_t number = 0;
  int kind = 0;         // 0 a varint, 1 eight bytes, 2 of any length, 5 four bytes
  uint64_t value = 0;   // of a varint
  std::string bytes;    // of all others, where they are no message
  std::vector<Field> inside;
};
using Message = std::vector<Field>;

inline std::optional<uint64_t> take_varint(const std::string& data, size_t* at) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && *at < data.size(); shift += 7) {
    const auto byte = static_cast<uint8_t>(data[(*at)++]);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  return std::nullopt;
}

inline void put_varint(uint64_t value, std::string* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<char>(value | 128));
  out->push_back(static_cast<char>(value));
}

// The fields of a message; nothing where the bytes are none. Bytes that happen to read as a message are one.
inline std::optional<Message> parsed(const std::string& data, int depth = 0) {
  Message message;
  size_t at = 0;
  while (at < data.size()) {
    const auto key = take_varint(data, &at);
    if (!key || *key >> 3 == 0 || *key >> 3 > 100) return std::nullopt;
    Field field;
    field.number = *key >> 3, field.kind = static_cast<int>(*key & 7);
    if (field.kind == 0) {
      const auto value = take_varint(data, &at);
      if (!value) return std::nullopt;
      field.value = *value;
    } else if (field.kind == 1 || field.kind == 2 || field.kind == 5) {
      const auto size = field.kind == 2 ? take_varint(data, &at) : std::optional<uint64_t>(field.kind == 1 ? 8 : 4);
      if (!size || *size > data.size() - at) return std::nullopt;
      field.bytes = data.substr(at, *size), at += *size;
      if (field.kind == 2 && depth < 8 && !field.bytes.empty()) {
        if (auto inside = parsed(field.bytes, depth + 1)) field.inside = std::move(*inside);
      }
    } else {
      return std::nullopt;
    }
    message.push_back(std::move(field));
  }
  return message;
}

inline std::string written(const Message& message) {
  std::string out;
  for (const Field& field : message) {
    put_varint(field.number << 3 | static_cast<uint64_t>(field.kind), &out);
    if (field.kind == 0) {
      put_varint(field.value, &out);
      continue;
    }
    const std::string bytes = field.inside.empty() ? field.bytes : written(field.inside);
    if (field.kind == 2) put_varint(bytes.size(), &out);
    out += bytes;
  }
  return out;
}

// Where every field stands: the message that holds it, and its place there.
struct Place {
  Message* message;
  size_t at;
};

inline void places(Message* message, std::vector<Place>* all) {
  for (size_t i = 0; i < message->size(); ++i) {
    all->push_back({message, i});
    places(&(*message)[i].inside, all);
  }
}

}  // namespace fuzz
