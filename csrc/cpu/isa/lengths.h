// Rows and columns divided by their length, written once; every file in isa/ compiles them.
//
// Included by files of isa/ only, after reals.h. A column adds up as a row does, element i into
// partial sum i % 16, so that it does not matter how a matrix lies in memory.
#pragma once

#include "reals.h"

namespace bc {
namespace {

// What each number is multiplied by, from the sum of squares.
inline Reals per_length(Reals squares, float least) {
  return all(1.0f) / max_of(all(least), root(squares));
}

// See Kernels::unit_rows.
inline void unit_rows(const float* x, int64_t rows, int64_t n, int64_t pitch, float least,
                      float* out, int64_t out_pitch) {
  for (int64_t r = 0; r < rows; ++r, x += pitch, out += out_pitch) {
    Reals sums[kVectors] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int v = 0; v < kVectors; ++v) {
        const Reals here = load(x + i + v * kVector);
        sums[v] = sums[v] + here * here;
      }
    }
    for (int v = 0; i < n && v < kVectors; ++v) {
      const int64_t left = n - i - v * kVector;
      if (left <= 0) break;
      const Reals here = load_first(x + i + v * kVector, left);
      sums[v] = sums[v] + here * here;
    }
    const Reals factor = per_length(all(lane_sum(sums)), least);
    for (i = 0; i < n; i += kVector)
      store_first(out + i, n - i, load_first(x + i, n - i) * factor);
  }
}

// See Kernels::unit_columns. A vector of columns at a time, its partial sums in registers.
inline void unit_columns(const float* x, int64_t rows, int64_t columns, int64_t pitch, float least,
                         float* out, int64_t out_pitch) {
  for (int64_t c = 0; c < columns; c += kVector) {
    const int64_t count = columns - c;
    Reals sums[kLanes] = {};
    const auto add = [&](int64_t first, int lane) {
      const Reals here = load_first(x + (first + lane) * pitch + c, count);
      sums[lane] = sums[lane] + here * here;
    };
    int64_t r = 0;
    for (; r + kLanes <= rows; r += kLanes) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) add(r, lane);
    }
    for (int lane = 0; r + lane < rows; ++lane) add(r, lane);
    for (int half = 8; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] = sums[lane] + sums[lane + half];
    }
    const Reals factor = per_length(sums[0], least);
    for (r = 0; r < rows; ++r)
      store_first(out + r * out_pitch + c, count, load_first(x + r * pitch + c, count) * factor);
  }
}

}  // namespace
}  // namespace bc
