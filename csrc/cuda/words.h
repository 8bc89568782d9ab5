// Codes in words of 32 bits: 32 codes of one bit, or 4 in bytes, and how words are multiplied.
//
// Both forms have the same shape for tensor cores: a fragment is the same words for b1 and for u8, so
// that one kernel serves both. Codes beyond the last channel are 0 and add nothing.
#pragma once

#include "exact.h"

namespace bc_cuda {

struct BitWords {
  static constexpr int kCodes = 32, kBits = 1;
  BC_HD static int multiply(uint32_t a, uint32_t b, int sum) { return sum + ones(a & b); }
  BC_HD static int total(uint32_t a, int sum) { return sum + ones(a); }
};

struct ByteWords {
  static constexpr int kCodes = 4, kBits = 8;
  BC_HD static int multiply(uint32_t a, uint32_t b, int sum) { return dots(a, b, sum); }
  BC_HD static int total(uint32_t a, int sum) { return dots(a, 0x01010101u, sum); }
};

// Calls f with the words of codes of these widths.
template <class F>
auto with_words(int a_bits, int b_bits, F&& f) {
  return a_bits == 1 && b_bits == 1 ? f(BitWords{}) : f(ByteWords{});
}

inline int64_t codes_in_word(int a_bits, int b_bits) { return a_bits == 1 && b_bits == 1 ? 32 : 4; }
inline int64_t words_for(int64_t codes, int64_t in_word) { return (codes + in_word - 1) / in_word; }

// Code i of n in stored form: see bc_packed_bytes.
BC_HD uint32_t stored_code(const bc_cuda_numbers& bytes, int bits, int64_t n, int64_t i) {
  if (bits == 8) return byte_at(bytes, i);
  if (bits == 1 || bits == 2 || bits == 4) {
    const int in_byte = 8 / bits;
    return byte_at(bytes, i / in_byte) >> (bits * static_cast<int>(i % in_byte)) & ((1u << bits) - 1);
  }
  const int64_t plane = (n + 7) / 8;
  uint32_t code = 0;
  for (int j = 0; j < bits; ++j) {
    code |= static_cast<uint32_t>(byte_at(bytes, j * plane + i / 8) >> (i % 8) & 1) << j;
  }
  return code;
}

// Codes as bytes, one grid for each group of (outer, groups, inner).
struct CodesOf {
  bc_cuda_numbers x, scale, offset;
  int64_t groups, inner;
  float top;
  uint8_t* out;

  BC_HD void operator()(int64_t i) const {
    const int64_t group = i / inner % groups;
    out[i] = static_cast<uint8_t>(code_of(at(x, i), one_of(scale, group), one_of(offset, group), top));
  }
};

// A batch of matrices of reals [rows][k] into words [batch][rows][words], and the sum of each row.
template <class W>
struct CutRows {
  bc_cuda_matrices from;
  Cut cut;             // of one grid a matrix: scale and offset [batch]
  const float* divide; // null, or what each row is divided by first: [batch][rows]
  float factor;        // or multiplied by
  int64_t rows, k, words;
  uint32_t* out;
  int32_t* sums;

  BC_HD void operator()(int64_t i) const {
    const int64_t b = i / rows, r = i % rows;
    const float s = at(cut.scale, b), o = at(cut.offset, b);
    const int64_t start = b * from.matrix + r * from.row;
    int sum = 0;
    for (int64_t w = 0; w < words; ++w) {
      uint32_t word = 0;
      for (int c = 0; c < W::kCodes && w * W::kCodes + c < k; ++c) {
        float x = at(from.numbers, start + (w * W::kCodes + c) * from.column);
        x = divide != nullptr ? div(x, divide[i]) : mul(x, factor);
        word |= code_of(x, s, o, cut.top) << (c * W::kBits);
      }
      out[i * words + w] = word;
      sum = W::total(word, sum);
    }
    sums[i] = sum;
  }
};

// Pixels of reals into words [images][pixels][groups][words].
template <class W>
struct CutPixels {
  bc_cuda_numbers x;
  Cut cut;
  int64_t pixels, groups, channels, words;  // channels of a group
  int64_t image_step, pixel_step, channel_step, images;
  bool pixels_first;  // neighbouring threads read neighbouring pixels
  uint32_t* out;

  BC_HD void operator()(int64_t i) const {
    const int64_t in_pixel = groups * words, in_image = pixels * in_pixel;
    const int64_t image = i / in_image, rest = i % in_image;
    const int64_t pixel = pixels_first ? rest % pixels : rest / in_pixel;
    const int64_t place = pixels_first ? rest / pixels : rest % in_pixel;
    const int64_t group = place / words, w = place % words;
    uint32_t word = 0;
    for (int c = 0; c < W::kCodes && w * W::kCodes + c < channels; ++c) {
      const int64_t channel = group * channels + w * W::kCodes + c;
      const float real = at(x, image * image_step + pixel * pixel_step + channel * channel_step);
      word |= cut.code(real, channel) << (c * W::kBits);
    }
    out[image * in_image + pixel * in_pixel + place] = word;
  }
};

// The stored weight into words [filters][taps][words].
template <class W>
struct WeightWords {
  bc_cuda_numbers weight;
  int bits;
  int64_t filters, taps, channels, words;
  uint32_t* out;

  BC_HD void operator()(int64_t i) const {
    const int64_t w = i % words, tap = i / words % taps, filter = i / words / taps;
    const int64_t n = filters * channels * taps;
    uint32_t word = 0;
    for (int c = 0; c < W::kCodes && w * W::kCodes + c < channels; ++c) {
      const int64_t code = (filter * channels + w * W::kCodes + c) * taps + tap;
      word |= stored_code(weight, bits, n, code) << (c * W::kBits);
    }
    out[i] = word;
  }
};

// Sums of the codes of each filter over the taps above and left of each place: [filters][kernel_h + 1]
// [kernel_w + 1]. The taps inside a picture are always a rectangle; four of these give its sum.
template <class W>
struct WeightSums {
  const uint32_t* w;
  int64_t kernel_h, kernel_w, words;
  int32_t* out;

  BC_HD void operator()(int64_t filter) const {
    const int64_t pitch = kernel_w + 1;
    int32_t* to = out + filter * (kernel_h + 1) * pitch;
    for (int64_t x = 0; x <= kernel_w; ++x) to[x] = 0;
    for (int64_t y = 0; y < kernel_h; ++y) {
      int32_t row = 0;
      to[(y + 1) * pitch] = 0;
      for (int64_t x = 0; x < kernel_w; ++x) {
        const uint32_t* from = w + ((filter * kernel_h + y) * kernel_w + x) * words;
        for (int64_t k = 0; k < words; ++k) row = W::total(from[k], row);
        to[(y + 1) * pitch + x + 1] = to[y * pitch + x + 1] + row;
      }
    }
  }
};

}  // namespace bc_cuda
