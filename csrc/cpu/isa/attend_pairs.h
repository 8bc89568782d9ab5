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
  static constexpr int kCodes = 2, kTile = 8, kTogether = 2;
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
  // A word of each of four lines, which lie one register apart, their keys kLanes; f and scale are
  // those of the first key.
  template <int kShift>
  static void four_words(const WeightCut& cut, const float* f, const float* scale, Reals factor,
                         Reals* sums, Ints* p, int64_t step) {
    for (int line = 0; line < 4; ++line, f += kVector, scale += kVector) {
      Reals e[2];
      powers<2>(f, scale, [](int i) { return i * kLanes * kVector; }, e);
      sums[line] = (sums[line] + e[0]) + e[1];
      Ints z[2], near = Ints{} + cut.mask;
      each<2>([&](int i) {
        z[i] = cut.clamped_number(fused(e[i], factor, cut.base));
        near = nearer<kShift>(near, z[i]);
      });
      if (__builtin_expect(below<kShift>(near, cut.doubtful), 0))
        each<2>([&](int i) { z[i] = cut.exactly<kShift>(e[i]); });
      p[line * step] = pack<kShift>(z);
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
