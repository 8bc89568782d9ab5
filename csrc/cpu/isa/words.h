// Products of codes of one bit in 32-bit words: what levels that count the bits of words share.
//
// A unit is 32 channels of a pixel; bits behind the last channel are 0 and add nothing. T is a tile of
// tiles.h whose columns have a word each, kLoad puts the codes of pixels into their words.
#pragma once

#include <stdint.h>
#include <string.h>

#include "tiles.h"

namespace bc {
namespace {

constexpr int64_t kWord = 32;  // channels of a unit

inline int64_t units(int64_t channels) { return (channels + kWord - 1) / kWord; }

using Load = void(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out);

template <class T>
int64_t word_panel_bytes(int64_t columns, int64_t segments, int64_t pixels, int64_t channels) {
  return Tiles<T>::panel_bytes(columns, segments, pixels * units(channels));
}

template <class T, Load* kLoad>
void pack_word_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                     int64_t channels, bool, void* panel) {
  constexpr int64_t kColumns = T::kVectors * T::kWidth, kBytes = 4;
  uint8_t* block = static_cast<uint8_t*>(panel);
  memset(panel, 0, static_cast<size_t>(word_panel_bytes<T>(columns, segments, pixels, channels)));
  for (int64_t first = 0; first < columns; first += kColumns) {
    const int64_t pitch = Tiles<T>::vectors(columns - first) * T::kWidth * kBytes;
    const int64_t end = columns - first < kColumns ? columns - first : kColumns;
    for (int64_t c = 0; c < end; ++c) {
      const uint8_t* codes = right + (first + c) * segments * pixels * channels;
      uint8_t* to = block + c * kBytes;
      for (int64_t s = 0; s < segments * pixels; ++s, codes += channels) {
        for (int64_t k = 0; k < channels; k += kWord, to += pitch)
          kLoad(codes + k, 1, channels - k < kWord ? channels - k : kWord, to);
      }
    }
    block += Tiles<T>::block_bytes(columns - first, segments, pixels * units(channels));
  }
}

template <class T>
void word_product(const Product& p) {
  static const int32_t kZero[kRowBlock] = {};
  Product words = p;
  words.length = p.pixels * units(p.length / p.pixels), words.pixels = 1;
  for (int64_t first = 0; first < p.rows; first += kRowBlock)
    Tiles<T>::blocks(words, first, p.rows - first < kRowBlock ? p.rows - first : kRowBlock, kZero);
}

template <class T, Load* kLoad>
constexpr Form word_form() {
  return {"bits", 4, units, kLoad, word_panel_bytes<T>, pack_word_panel<T, kLoad>, word_product<T>,
          1, false};
}

}  // namespace
}  // namespace bc
