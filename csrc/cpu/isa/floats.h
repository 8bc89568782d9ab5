// Convolutions of reals to few channels; every file in isa/ compiles it.
//
// Included by files of isa/ only, after rows.h. Products and sums round one by one, and a sum has its
// terms in the same order at every level: see bc_conv2d_floats in bits.h.
#pragma once

#include "rows.h"

namespace bc {
namespace {

// The sum of all lanes, the upper half being added to the lower until one is left.
inline float folded(const Reals (&sums)[kVectors]) {
  float lanes[kLanes];
  memcpy(lanes, sums, sizeof lanes);
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] = lanes[i] + lanes[i + width];
  }
  return lanes[0];
}

// A lane is an input channel: kRows places, kFilters filters from `f` on.
template <int kRows, int kFilters>
inline void few_tile(const FloatTile& t, int64_t place, int64_t f) {
  const int64_t each = t.segments * t.length;
  Reals sums[kRows][kFilters][kVectors] = {};
  const float* w = t.panel + f * each;
  for (int64_t s = 0; s < t.segments; ++s) {
    const float* x = t.runs[s] + place * t.stride;
#pragma GCC unroll 1
    for (int64_t k = 0; k < t.length; k += kLanes, w += kLanes) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        Reals right[kFilters];
#pragma GCC unroll 16
        for (int i = 0; i < kFilters; ++i) right[i] = load(w + i * each + v * kVector);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Reals left = load(x + r * t.stride + k + v * kVector);
#pragma GCC unroll 16
          for (int i = 0; i < kFilters; ++i) sums[r][i][v] = sums[r][i][v] + left * right[i];
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* to = t.out + (place + r) * t.out_stride + f;
    for (int i = 0; i < kFilters; ++i) to[i] = folded(sums[r][i]) + t.bias[f + i];
  }
}

template <int kFilters>
inline void few_filters(const FloatTile& t, int64_t f) {
  constexpr int kRows = kVector == 16 ? 4 : kVector == 8 ? 2 : 1;
  int64_t place = 0;
  for (; place + kRows <= t.places; place += kRows) few_tile<kRows, kFilters>(t, place, f);
  for (; place < t.places; ++place) few_tile<1, kFilters>(t, place, f);
}

// See Kernels::floats_few.
inline void floats_few(const FloatTile& t) {
  int64_t f = 0;
  if constexpr (kVector == 16) {
    for (; f + 4 <= t.filters; f += 4) few_filters<4>(t, f);
    if (f + 3 <= t.filters) few_filters<3>(t, f), f += 3;
  } else if (t.filters % 2 != 0 && t.filters > 2) {
    few_filters<3>(t, f), f += 3;
  }
  for (; f + 2 <= t.filters; f += 2) few_filters<2>(t, f);
  if (f < t.filters) few_filters<1>(t, f);
}

}  // namespace
}  // namespace bc
