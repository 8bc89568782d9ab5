// Whole tensors of reals into codes, and rows turned to columns; every file in isa/ compiles it.
//
// Included by files of isa/ only, after softmax.h. A code is defined by a division; it is found by a
// multiplication with 1 / scale, and divided only where it lies too near to a tie. With d = 2^-24
// and u the exact quotient the division errs by d |u| and the multiplication by 2 d |u|; where the
// code is not clamped anyway |u| is at most top + 1, so 16 d (top + 1) is more than enough.
#pragma once

#include <cstring>

#include "softmax.h"

namespace bc {
namespace {

// out[c][r] = x[r][c] for 16 rows and columns; the including file has it.
inline void turn_block(const float* x, int64_t x_stride, float* out, int64_t out_stride);

inline void cut_exactly(const float* __restrict x, int64_t n, const float* __restrict scale,
                        const float* __restrict offset, float top, uint8_t* __restrict out) {
  encode(x, n, scale, offset, top, out);
}

// Up to kCutBlock codes; n and the parameters are whole groups of kLanes. Gives whether one is too
// near to a tie.
inline bool cut_group(const float* x, int64_t n, const float* factor, const float* offset,
                      float tie, float top, uint8_t* out) {
  Reals most{};
  for (int64_t i = 0; i < n; i += kVector) {
    nearest_codes(clamp_real((load(x + i) - load(offset + i)) * load(factor + i), all(top)), most,
                  out + i);
  }
  return beyond(most, tie);
}

// See Kernels::cut.
inline void cut(const float* x, int64_t n, const Cutter& c, uint8_t* out) {
  const float tie = 0.5f - (c.top + 1.0f) * 9.5367431640625e-7f;
  int64_t phase = 0;
  while (n > 0) {
    int64_t count = c.period - phase < kCutBlock ? c.period - phase : kCutBlock;
    count = n < count ? n : count;
    const int64_t whole = c.factor == nullptr ? 0 : count / kLanes * kLanes;
    const float *scale = c.scale + phase, *offset = c.offset + phase;
    if (whole > 0 && cut_group(x, whole, c.factor + phase, offset, tie, c.top, out))
      cut_exactly(x, whole, scale, offset, c.top, out);
    cut_exactly(x + whole, count - whole, scale + whole, offset + whole, c.top, out + whole);
    x += count, out += count, n -= count;
    phase = (phase + count) % c.period;
  }
}

// 16 rows of fewer than 16 columns. wide: x may be read to the 16th.
inline void turn_narrow(const float* x, int64_t columns, int64_t x_stride, bool wide, float* out,
                        int64_t out_stride) {
  if (!wide) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < 16; ++i) out[j * out_stride + i] = x[i * x_stride + j];
    }
    return;
  }
  alignas(64) float turned[256];
  turn_block(x, x_stride, turned, 16);
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < 16; ++i) out[j * out_stride + i] = turned[j * 16 + i];
  }
}

// n numbers, fewer than 16.
inline void copy_few(const float* x, int64_t n, float* out) {
  for (int64_t part = 8; part > 0; part /= 2) {
    if ((n & part) == 0) continue;
    std::memcpy(out, x, static_cast<size_t>(part) * sizeof(float));
    x += part, out += part;
  }
}

// 16 columns of fewer than 16 rows.
inline void turn_flat(const float* x, int64_t rows, int64_t x_stride, float* out,
                      int64_t out_stride) {
  alignas(64) float block[256] = {}, turned[256];
  for (int64_t i = 0; i < rows; ++i) std::memcpy(block + i * 16, x + i * x_stride, 64);
  turn_block(block, 16, turned, 16);
  for (int64_t j = 0; j < 16; ++j) copy_few(turned + j * 16, rows, out + j * out_stride);
}

// out[c][r] = x[r][c], blocks of 16 x 16 at a time; the last ones reach back over those before, so
// that none is smaller.
inline void turn(const float* x, int64_t rows, int64_t columns, int64_t x_stride, float* out,
                 int64_t out_stride) {
  for (int64_t row = 0; row < rows; row += 16) {
    const int64_t height = rows < 16 ? rows : 16;
    const int64_t r = rows - row < height ? rows - height : row;
    for (int64_t column = 0; column < columns; column += 16) {
      const int64_t width = columns < 16 ? columns : 16;
      const int64_t c = columns - column < width ? columns - width : column;
      const float* from = x + r * x_stride + c;
      float* to = out + c * out_stride + r;
      if (height == 16 && width == 16) {
        turn_block(from, x_stride, to, out_stride);
        continue;
      }
      if (height == 16) {
        const bool wide = x_stride >= width && (rows - 1 - r - 15) * x_stride >= 16 - width;
        turn_narrow(from, width, x_stride, wide, to, out_stride);
        continue;
      }
      if (width == 16) {
        turn_flat(from, height, x_stride, to, out_stride);
        continue;
      }
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < height; ++i) to[j * out_stride + i] = from[i * x_stride + j];
      }
    }
  }
}

}  // namespace
}  // namespace bc
