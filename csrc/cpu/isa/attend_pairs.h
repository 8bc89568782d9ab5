// Two codes to a word of 32 bits, multiplied as numbers of 16: nothing can saturate, and any CPU has
// it. The file that includes this gives multiply_pairs.
#pragma once

#include "attend.h"

namespace bc {
namespace {

// Sums of both products of each word.
inline Ints multiply_pairs(Ints left, uint32_t right);

inline Wide::Wide(Ints x) {
  HalfInts parts[2];
  memcpy(parts, &x, sizeof x);
  low = __builtin_convertvector(parts[0], Half);
  high = __builtin_convertvector(parts[1], Half);
}
inline Wide::Wide(Reals x) {
  HalfReals parts[2];
  memcpy(parts, &x, sizeof x);
  low = __builtin_convertvector(parts[0], Half);
  high = __builtin_convertvector(parts[1], Half);
}
inline Reals Wide::narrow() const {
  const HalfReals parts[2] = {__builtin_convertvector(low, HalfReals),
                              __builtin_convertvector(high, HalfReals)};
  Reals x;
  memcpy(&x, parts, sizeof x);
  return x;
}

struct Pairs : PlainLanes {
  static constexpr int kCodes = 2, kTile = 8;
  static constexpr uint32_t kOnes = 0x00010001;

  static Ints dot(Ints sums, Ints left, uint32_t right) {
    return sums + multiply_pairs(left, right);
  }
  // There is room for all codes: none is shifted.
  static Ints lacking(Ints) { return Ints{}; }
  static Ints shifted(Ints words) { return words; }

  static int64_t key_words(int64_t pitch) { return pitch / 2; }
  static uint32_t pair(const uint8_t* codes) {
    return codes[0] | (static_cast<uint32_t>(codes[1]) << 16);
  }
  // Rows of codes to rows of words.
  static void spread(const uint8_t* codes, int64_t rows, int64_t pitch, bool, uint32_t* out) {
    for (int64_t i = 0; i < rows * pitch / 2; ++i) out[i] = pair(codes + 2 * i);
  }
  // Codes of two rows, or none, side by side.
  static void interleave(const uint8_t* const* rows, int64_t n, uint32_t* out) {
    for (int64_t c = 0; c < n; ++c) out[c] = rows[0] != nullptr ? rows[0][c] : 0;
    if (rows[1] == nullptr) return;  // later rows than one that is missing are missing too
    for (int64_t c = 0; c < n; ++c) out[c] |= static_cast<uint32_t>(rows[1][c]) << 16;
  }
  // The words of kVector rows, turned.
  static void columns(const uint8_t* rows, int64_t pitch, Ints* out) {
    for (int64_t s = 0; s < pitch / 2; ++s) {
      for (int i = 0; i < kVector; ++i)
        out[s][i] = static_cast<int32_t>(pair(rows + i * pitch + 2 * s));
    }
  }
  // Bits [kShift, kShift + 8) of two registers side by side.
  template <int kShift>
  static Ints pack(const Ints* z) {
    return ((z[0] >> kShift) & 0xff) | ((z[1] << (16 - kShift)) & 0xff0000);
  }
};

}  // namespace
}  // namespace bc
