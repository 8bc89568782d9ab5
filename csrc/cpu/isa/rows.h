// The loops over rows of reals, written once; every file in isa/ compiles them with its own
// instruction set.
//
// Included by files of isa/ only. All is static: nothing here may be shared between two instruction
// sets by the linker. Loops without a sum are plain and left to the vectoriser. Loops with a sum
// keep kLanes partial results, the same number for every instruction set, so that every level adds
// in the same order and gives the same bits.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../kernels.h"

namespace bc {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kVector =
    BITCOMPRESS_VECTOR;  // floats in a register; the including file says how many
constexpr int kVectors = static_cast<int>(kLanes) / kVector;

typedef float Reals __attribute__((vector_size(4 * kVector)));
typedef double Doubles __attribute__((vector_size(8 * kVector)));

inline Reals load(const float* x) {
  Reals reals;
  memcpy(&reals, x, sizeof reals);
  return reals;
}

// Less 0, which changes no number: added, it would change -0.
inline Reals all(float value) { return value - Reals{}; }

// a < b ? a : b, and a > b ? a : b: the second where one is NaN. The including file has them, since
// the compiler does not find the instruction.
inline Reals min_of(Reals a, Reals b);
inline Reals max_of(Reals a, Reals b);

// A parameter that is one number for the row, or one for each element.
struct One {
  float value;
  float operator[](int64_t) const { return value; }
};

// Nearest whole number, halves to even, of v in [0, 2^22]: the sum has no bits below 1. (rint would
// be a call on a CPU without a rounding instruction.)
template <class T>
inline T nearest(T v) {
  return (v + 8388608.0f) - 8388608.0f;
}

// The same as an integer: it stands in the low bits of the sum.
inline uint8_t nearest_code(float v) {
  const float sum = v + 8388608.0f;
  uint32_t word;
  memcpy(&word, &sum, sizeof word);
  return static_cast<uint8_t>(word);
}

// NaN -> 0
template <class T>
inline T clamp_real(T v, T top) {
  v = v > T{} ? v : T{};
  return v < top ? v : top;
}

inline Reals clamp_real(Reals v, Reals top) { return min_of(max_of(v, Reals{}), top); }

// The code of x before it is rounded: how many steps of the grid it lies above offset, inside [0,
// top]; on a grid without a step whether it lies at offset or above it.
inline float position(float x, float offset, float scale, float top) {
  const float steps = clamp_real((x - offset) / scale, top);
  const float step = x >= offset ? 1.0f : 0.0f;
  return scale == 0.0f ? step : steps;
}
inline Reals position(Reals x, Reals offset, Reals scale, Reals top) {
  const Reals steps = clamp_real((x - offset) / scale, top);
  const Reals step = x >= offset ? all(1.0f) : Reals{};
  return scale == Reals{} ? step : steps;
}

// NaN -> NaN
inline float clamp_nan(float v, float top) {
  v = v < 0.0f ? 0.0f : v;
  return v > top ? top : v;
}

template <class P>
inline void encode(const float* __restrict x, int64_t n, P scale, P offset, float top,
                   uint8_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = nearest_code(position(x[i], offset[i], scale[i], top));
}

// x and out may be the same memory.
template <class P>
inline void fake(const float* x, int64_t n, P scale, P offset, float top, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float code = nearest(clamp_nan((x[i] - offset[i]) / scale[i], top));
    out[i] = code * scale[i] + offset[i];
  }
}

// What one element of the gradient gives: grad_x, and its share of grad_lo and grad_hi. T is float
// or Reals.
template <class T>
struct Gradient {
  T x, lo, hi;
};

template <class T>
inline Gradient<T> gradient(T x, T grad, T lo, T hi, T scale, T top) {
  const T zero{};
  const T u = (x - lo) / scale;
  const T slope = (nearest(clamp_real(u, top)) - u) * (T{} + 1.0f / top) * grad;
  const auto inside = (x >= lo) & (x <= hi);
  const T residue = inside ? slope : zero;
  return {inside ? grad : zero, (x < lo ? grad : zero) - residue, (x > hi ? grad : zero) + residue};
}

inline void backward_group(const float* x, const float* grad, Reals lo, Reals hi, Reals scale,
                           Reals top, float* grad_x, Doubles* lows, Doubles* highs) {
  for (int v = 0; v < kVectors; ++v) {
    const Gradient<Reals> g =
        gradient(load(x + v * kVector), load(grad + v * kVector), lo, hi, scale, top);
    memcpy(grad_x + v * kVector, &g.x, sizeof g.x);
    lows[v] += __builtin_convertvector(g.lo, Doubles);
    highs[v] += __builtin_convertvector(g.hi, Doubles);
  }
}

inline void backward_row(const float* x, const float* grad, int64_t n, float lo, float hi,
                         float top, float* grad_x, double* sum_lo, double* sum_hi) {
  const Reals los = all(lo), his = all(hi), scales = all((hi - lo) / top), tops = all(top);
  Doubles lows[kVectors] = {}, highs[kVectors] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    backward_group(x + i, grad + i, los, his, scales, tops, grad_x + i, lows, highs);
  if (i < n) {  // the rest in a full group whose other gradients are 0
    float xs[kLanes], grads[kLanes] = {}, out[kLanes];
    const size_t rest = static_cast<size_t>(n - i) * sizeof(float);
    for (float& place : xs) place = lo;
    memcpy(xs, x + i, rest);
    memcpy(grads, grad + i, rest);
    backward_group(xs, grads, los, his, scales, tops, out, lows, highs);
    memcpy(grad_x + i, out, rest);
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int l = 0; l < kVector; ++l) {
      *sum_lo += lows[v][l];
      *sum_hi += highs[v][l];
    }
  }
}

inline void backward_each(const float* __restrict x, const float* __restrict grad, int64_t n,
                          const float* __restrict lo, const float* __restrict hi, float top,
                          float* __restrict grad_x, double* __restrict sum_lo,
                          double* __restrict sum_hi) {
  for (int64_t i = 0; i < n; ++i) {
    const Gradient<float> g = gradient(x[i], grad[i], lo[i], hi[i], (hi[i] - lo[i]) / top, top);
    grad_x[i] = g.x;
    sum_lo[i] += static_cast<double>(g.lo);
    sum_hi[i] += static_cast<double>(g.hi);
  }
}

// A comparison with NaN is false: the first test keeps a NaN that is already there, the second
// brings a new one in.
template <class T>
inline T smaller(T x, T lo) {
  return (x < lo) | (x != x) ? x : lo;
}
template <class T>
inline T larger(T x, T hi) {
  return (x > hi) | (x != x) ? x : hi;
}

inline void minmax_row(const float* x, int64_t n, float* lo, float* hi) {
  Reals lows[kVectors], highs[kVectors];
  for (int v = 0; v < kVectors; ++v) lows[v] = all(*lo), highs[v] = all(*hi);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const Reals here = load(x + i + v * kVector);
      lows[v] = smaller(here, lows[v]);
      highs[v] = larger(here, highs[v]);
    }
  }
  for (; i < n; ++i) *lo = smaller(x[i], *lo), *hi = larger(x[i], *hi);
  for (int v = 0; v < kVectors; ++v) {
    for (int l = 0; l < kVector; ++l) *lo = smaller(static_cast<float>(lows[v][l]), *lo);
    for (int l = 0; l < kVector; ++l) *hi = larger(static_cast<float>(highs[v][l]), *hi);
  }
}

inline void minmax_each(const float* __restrict x, int64_t n, float* __restrict lo,
                        float* __restrict hi) {
  for (int64_t i = 0; i < n; ++i) lo[i] = smaller(x[i], lo[i]), hi[i] = larger(x[i], hi[i]);
}

template <class P>
inline void find_bins(const float* __restrict x, int64_t n, P lo, P hi, int64_t bins,
                      int32_t* __restrict bin) {
  const float count = static_cast<float>(bins), last = static_cast<float>(bins - 1);
  for (int64_t i = 0; i < n; ++i) {
    bin[i] = static_cast<int32_t>(clamp_real((x[i] - lo[i]) / (hi[i] - lo[i]) * count, last));
  }
}

inline void encode_row(const float* x, int64_t n, float scale, float offset, float top,
                       uint8_t* out) {
  encode(x, n, One{scale}, One{offset}, top, out);
}
inline void encode_each(const float* x, int64_t n, const float* scale, const float* offset,
                        float top, uint8_t* out) {
  encode(x, n, scale, offset, top, out);
}
inline void fake_row(const float* x, int64_t n, float scale, float offset, float top, float* out) {
  fake(x, n, One{scale}, One{offset}, top, out);
}
inline void fake_each(const float* x, int64_t n, const float* scale, const float* offset, float top,
                      float* out) {
  fake(x, n, scale, offset, top, out);
}
inline void bins_row(const float* x, int64_t n, float lo, float hi, int64_t bins, int32_t* bin) {
  find_bins(x, n, One{lo}, One{hi}, bins, bin);
}
inline void bins_each(const float* x, int64_t n, const float* lo, const float* hi, int64_t bins,
                      int32_t* bin) {
  find_bins(x, n, lo, hi, bins, bin);
}

// Channels from `first` on.
inline void depthwise_from(int64_t first, const uint8_t* const* x, const int32_t* const* w,
                           int64_t taps, int64_t channels, int32_t* out) {
  for (int64_t c = first; c < channels; ++c) {
    int32_t sum = 0;
    for (int64_t t = 0; t < taps; ++t) sum += x[t][c] * w[t][c];
    out[c] = sum;
  }
}

inline void sum_rows(const uint8_t* __restrict codes, int64_t rows, int64_t n,
                     int32_t* __restrict out) {
  for (int64_t r = 0; r < rows; ++r, codes += n) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += codes[i];
    out[r] = sum;
  }
}

inline void read_row(const int32_t* __restrict sums, int64_t n, int32_t row_sum,
                     const double* __restrict product, const double* __restrict row,
                     const double* __restrict constant, const double* __restrict bias,
                     float* __restrict out) {
  const double sum = row_sum;
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(sums[i] * product[i] + sum * row[i] + constant[i] + bias[i]);
  }
}

inline void read_centred(const int32_t* __restrict sums, int64_t n, int32_t row_sum, double gain,
                         double total, const double* __restrict centre,
                         const double* __restrict mean, float* __restrict out) {
  const double sum = row_sum;
  for (int64_t i = 0; i < n; ++i)
    out[i] = static_cast<float>((sums[i] - sum * centre[i]) * gain + total * mean[i]);
}

inline void read_each(const int32_t* __restrict sums, int64_t n, const int32_t* __restrict row_sums,
                      const double* __restrict product, const double* __restrict row,
                      const double* __restrict constant, const double* __restrict bias,
                      float* __restrict out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] =
        static_cast<float>(sums[i] * product[i] + row_sums[i] * row[i] + constant[i] + bias[i]);
  }
}

}  // namespace
}  // namespace bc
