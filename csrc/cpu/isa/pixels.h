// Sums over the pixels of a picture, written once; every file in isa/ compiles them.
//
// Included by files of isa/ only, after lengths.h. A tile adds up as a row of a norm does, pixel i into
// partial sum i % 16, so that it does not matter whether channels or pixels lie side by side.
#pragma once

#include "reals.h"

namespace bc {
namespace {

struct Plainly {
  Reals operator()(Reals d) const { return d; }
};
struct InSize {
  Reals operator()(Reals d) const { return size_of(d); }
};
struct Squared {
  Reals operator()(Reals d) const { return d * d; }
};

// Of each channel, channels side by side: a vector of them at a time, its partial sums in registers.
template <class F>
inline void add_columns(const PixelTile& t, float* out, F&& f) {
  for (int64_t c = 0; c < t.channels; c += kVector) {
    const int64_t count = t.channels - c;
    const Reals from = t.from == nullptr ? Reals{} : load_first(t.from + c, count);
    Reals sums[kLanes] = {};
    const auto add = [&](int64_t first, int lane) {
      const Reals here = load_first(t.x + (first + lane) * t.pitch + c, count);
      sums[lane] = sums[lane] + f(here - from);
    };
    int64_t p = 0;
    for (; p + kLanes <= t.pixels; p += kLanes) {
#pragma GCC unroll 16
      for (int lane = 0; lane < kLanes; ++lane) add(p, lane);
    }
    for (int lane = 0; p + lane < t.pixels; ++lane) add(p, lane);
    for (int half = 8; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] = sums[lane] + sums[lane + half];
    }
    store_first(out + c, count, sums[0]);
  }
}

// Of one channel whose pixels lie side by side.
template <class F>
inline void add_line(const PixelTile& t, float* out, F&& f) {
  const Reals from = all(t.from == nullptr ? 0.0f : *t.from);
  Reals sums[kVectors] = {};
  for (int64_t p = 0; p < t.pixels; p += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const int64_t left = t.pixels - p - v * kVector;
      if (left <= 0) break;
      const Reals d = f(load_first(t.x + p + v * kVector, left) - from);
      sums[v] = sums[v] + (left < kVector ? only_first(left, d) : d);
    }
  }
  *out = lane_sum(sums);
}

// See Kernels::sum_columns and Kernels::sum_line.
inline void sum_columns(const PixelTile& t) {
  if (t.sums != nullptr) add_columns(t, t.sums, Plainly());
  if (t.sizes != nullptr) add_columns(t, t.sizes, InSize());
  if (t.squares != nullptr) add_columns(t, t.squares, Squared());
}

inline void sum_line(const PixelTile& t) {
  if (t.sums != nullptr) add_line(t, t.sums, Plainly());
  if (t.sizes != nullptr) add_line(t, t.sizes, InSize());
  if (t.squares != nullptr) add_line(t, t.squares, Squared());
}

}  // namespace
}  // namespace bc
