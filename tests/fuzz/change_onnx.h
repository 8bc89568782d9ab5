// Changes of an ONNX file: of its bytes, or of its numbers, names and parts with lengths that still fit.
#pragma once

#include <array>
#include <cstring>
#include <limits>

#include "protobuf.h"

namespace fuzz {

// The same draws on every machine.
class Chance {
 public:
  explicit Chance(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull) {
    for (int i = 0; i < 4; ++i) next();
  }
  uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>((next() >> 20) % n); }

 private:
  uint64_t state_;
};

inline void change_whole(uint64_t* value, Chance* chance) {
  static constexpr std::array<int64_t, 17> kOdd{
      0, 1, 2, 3, 7, 8, 9, 16, 255, -1, -2, 1 << 15, 1 << 20, int64_t{1} << 31, int64_t{1} << 40,
      int64_t{1} << 62, std::numeric_limits<int64_t>::min()};
  switch (chance->below(4)) {
    case 0:
      *value += chance->below(2) == 0 ? 1 : ~uint64_t{0};
      break;
    case 1:
      *value ^= uint64_t{1} << chance->below(64);
      break;
    default:
      *value = static_cast<uint64_t>(kOdd[chance->below(kOdd.size())]);
  }
}

inline void change_bytes(std::string* bytes, Chance* chance) {
  static constexpr std::array<float, 8> kOdd{std::numeric_limits<float>::quiet_NaN(),
                                             std::numeric_limits<float>::infinity(),
                                             -std::numeric_limits<float>::infinity(), 0.0f, -1.0f, 1e-45f, 3e38f, -0.0f};
  const size_t choice = chance->below(5);
  if (choice == 0 && bytes->size() >= 4) {
    const float odd = kOdd[chance->below(kOdd.size())];
    std::memcpy(&(*bytes)[chance->below(bytes->size() / 4) * 4], &odd, 4);
  } else if (choice == 1) {
    bytes->resize(chance->below(bytes->size() + 1));
  } else if (choice == 2) {
    bytes->append(chance->below(64), static_cast<char>(chance->below(256)));
  } else if (!bytes->empty()) {
    for (size_t i = 0; i <= chance->below(4); ++i)
      (*bytes)[chance->below(bytes->size())] = static_cast<char>(chance->below(256));
  }
}

// A number becomes another, or a part goes, comes twice, or stands where another stood.
inline void change_part(Message* message, Chance* chance) {
  std::vector<Place> all;
  places(message, &all);
  if (all.empty()) return;
  const Place place = all[chance->below(all.size())];
  Field& field = (*place.message)[place.at];
  switch (chance->below(8)) {
    case 0:
      place.message->erase(place.message->begin() + static_cast<std::ptrdiff_t>(place.at));
      return;
    case 1: {
      const Field copy = field;
      place.message->insert(place.message->begin() + static_cast<std::ptrdiff_t>(place.at), copy);
      return;
    }
    case 2: {
      const Place other = all[chance->below(all.size())];
      const Field copy = (*other.message)[other.at];
      field = copy;
      return;
    }
    default:
      break;
  }
  if (field.kind == 0) {
    change_whole(&field.value, chance);
  } else if (field.inside.empty()) {
    const size_t size = field.bytes.size();
    change_bytes(&field.bytes, chance);
    if (field.kind != 2) field.bytes.resize(size);
  }
}

inline std::string changed(const std::string& data, uint64_t seed) {
  Chance chance(seed);
  std::string made = data;
  if (chance.below(4) == 0) {
    change_bytes(&made, &chance);
    return made;
  }
  std::optional<Message> message = parsed(data);
  if (!message) return made;
  for (size_t i = 0; i <= chance.below(3); ++i) change_part(&*message, &chance);
  return written(*message);
}

}  // namespace fuzz
