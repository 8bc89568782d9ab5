// Layer norm, GELU and sigmoid of rows of reals, written once; every file in isa/ compiles them.
//
// Included by files of isa/ only, after softmax.h. One rounding an operation, in the order that
// bits.h gives, so that torch can say the same bits. Output may be input: each element is written
// after it was read for the last time.
#pragma once

#include "softmax.h"

namespace bc {
namespace {

// Elements [0, n) of a vector, n at most kVector; the lanes beyond are 0 and their memory is not
// touched. The including file has them.
inline Reals load_first(const float* x, int64_t n);
inline void store_first(float* to, int64_t n, Reals x);

// The nearest float to the square root of each. The including file has it.
inline Reals root(Reals x);

// The lanes below n keep what they have, the others are 0.
inline Reals only_first(int64_t n, Reals x) {
  Words lane;
  for (uint32_t l = 0; l < kVector; ++l) lane[l] = l;
  const uint32_t count = n < 0 ? 0 : static_cast<uint32_t>(n);
  return lane < (Words{} + count) ? x : Reals{};
}

// What is missing of gain and shift: all elements alike, no step from group to group. 1 and -0
// change no bit of what they meet.
struct Affine {
  const float *gain, *shift;
  int64_t gain_step, shift_step;
};

alignas(64) constexpr float kOnes[kLanes] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
alignas(64) constexpr float kMinusZeros[kLanes] = {-0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f,
                                                   -0.0f, -0.0f, -0.0f, -0.0f, -0.0f, -0.0f,
                                                   -0.0f, -0.0f, -0.0f, -0.0f};

// One row, of kGroups groups of 16 where that is not 0. The last group may be short.
template <int kGroups>
inline void normalize_row(const float* x, int64_t n, const Affine& affine, float eps, float* out) {
  const int64_t full = (kGroups > 0 ? kGroups : (n + kLanes - 1) / kLanes) - 1;
  const int64_t rest = n - full * kLanes;
  const float count = static_cast<float>(n);
  const auto last = [&](const float* row, int v) {
    const int64_t left = rest - v * kVector;
    return load_first(row + full * kLanes + v * kVector, left < 0 ? 0 : left);
  };
  Reals sums[kVectors] = {};
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + load(x + g * kLanes + v * kVector);
  }
  for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + last(x, v);
  const Reals mean = all(lane_sum(sums) / count);
  Reals squares[kVectors] = {};
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    for (int v = 0; v < kVectors; ++v) {
      const Reals d = load(x + g * kLanes + v * kVector) - mean;
      squares[v] = squares[v] + d * d;
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    const Reals d = only_first(rest - v * kVector, last(x, v) - mean);
    squares[v] = squares[v] + d * d;
  }
  const Reals factor = all(1.0f / __builtin_sqrtf(lane_sum(squares) / count + eps));
  const float *gain = affine.gain, *shift = affine.shift;
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    for (int v = 0; v < kVectors; ++v) {
      const Reals y = (load(x + g * kLanes + v * kVector) - mean) * factor;
      const Reals scale = load(gain + v * kVector), offset = load(shift + v * kVector);
      store(out + g * kLanes + v * kVector, y * scale + offset);
    }
    gain += affine.gain_step, shift += affine.shift_step;
  }
  for (int v = 0; v < kVectors; ++v) {
    const int64_t left = rest - v * kVector;
    if (left <= 0) break;
    const Reals y = (last(x, v) - mean) * factor;
    const Reals g = load_first(gain + v * kVector, left), s = load_first(shift + v * kVector, left);
    store_first(out + full * kLanes + v * kVector, left, y * g + s);
  }
}

inline void spread(Reals four, Reals* rows) {
  const Reals low = quarters<0, 0>(four, four), high = quarters<2, 2>(four, four);
  rows[0] = low, rows[2] = high;
  rows[1] = quarters<1, 1>(four, four), rows[3] = quarters<3, 3>(four, four);
}

template <int kGroups>
inline void normalize_four(const float* x, int64_t n, int64_t pitch, const Affine& affine,
                           float eps, float* out, int64_t out_pitch) {
  const int64_t full = (kGroups > 0 ? kGroups : (n + kLanes - 1) / kLanes) - 1;
  const int64_t end = full * kLanes, rest = n - end;
  const Reals count = all(static_cast<float>(n));
  Reals sums[4] = {}, squares[4] = {}, means[4], factors[4];
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    for (int r = 0; r < 4; ++r) sums[r] = sums[r] + load(x + r * pitch + g * kLanes);
  }
  for (int r = 0; r < 4; ++r) sums[r] = sums[r] + load_first(x + r * pitch + end, rest);
  spread(four_sums(sums) / count, means);
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    for (int r = 0; r < 4; ++r) {
      const Reals d = load(x + r * pitch + g * kLanes) - means[r];
      squares[r] = squares[r] + d * d;
    }
  }
  for (int r = 0; r < 4; ++r) {
    const Reals d = only_first(rest, load_first(x + r * pitch + end, rest) - means[r]);
    squares[r] = squares[r] + d * d;
  }
  spread(all(1.0f) / root(four_sums(squares) / count + all(eps)), factors);
  const float *gain = affine.gain, *shift = affine.shift;
#pragma GCC unroll 8
  for (int64_t g = 0; g < full; ++g) {
    const Reals scale = load(gain), offset = load(shift);
    for (int r = 0; r < 4; ++r) {
      const Reals y = (load(x + r * pitch + g * kLanes) - means[r]) * factors[r];
      store(out + r * out_pitch + g * kLanes, y * scale + offset);
    }
    gain += affine.gain_step, shift += affine.shift_step;
  }
  const Reals scale = load_first(gain, rest), offset = load_first(shift, rest);
  for (int r = 0; r < 4; ++r) {
    const Reals y = (load_first(x + r * pitch + end, rest) - means[r]) * factors[r];
    store_first(out + r * out_pitch + end, rest, y * scale + offset);
  }
}

template <int kGroups>
void normalize_rows(const float* x, int64_t rows, int64_t n, int64_t pitch, const Affine& affine,
                    float eps, float* out, int64_t out_pitch) {
  int64_t r = 0;
  if constexpr (kVectors == 1) {
    for (; r + 4 <= rows; r += 4) {
      normalize_four<kGroups>(x + r * pitch, n, pitch, affine, eps, out + r * out_pitch,
                              out_pitch);
    }
  }
  for (; r < rows; ++r)
    normalize_row<kGroups>(x + r * pitch, n, affine, eps, out + r * out_pitch);
}

// See Kernels::layer_norm_rows.
inline void layer_norm_rows(const float* x, int64_t rows, int64_t n, int64_t pitch,
                            const float* gain, const float* shift, float eps, float* out,
                            int64_t out_pitch) {
  const Affine affine{gain != nullptr ? gain : kOnes, shift != nullptr ? shift : kMinusZeros,
                      gain != nullptr ? kLanes : 0, shift != nullptr ? kLanes : 0};
  constexpr int64_t kUnrolled = 8;
  constexpr decltype(&normalize_rows<0>) kBySize[kUnrolled + 1] = {
      normalize_rows<0>, normalize_rows<1>, normalize_rows<2>, normalize_rows<3>, normalize_rows<4>,
      normalize_rows<5>, normalize_rows<6>, normalize_rows<7>, normalize_rows<8>};
  const int64_t groups = (n + kLanes - 1) / kLanes;
  kBySize[groups <= kUnrolled ? groups : 0](x, rows, n, pitch, affine, eps, out, out_pitch);
}

inline void layer_norm_row(const float* x, int64_t n, const float* gain, const float* shift,
                           float eps, float* out) {
  layer_norm_rows(x, 1, n, n, gain, shift, eps, out, n);
}

// out[i] = f(x[i]). F::apply<kCount> changes so many vectors in place, step by step together: one
// alone would wait for each of its own operations.
template <class F>
inline void map_reals(const float* x, int64_t n, float* out) {
  constexpr int kCount = 4;
  int64_t i = 0;
  for (; i + kCount * kVector <= n; i += kCount * kVector) {
    Reals some[kCount];
    for (int c = 0; c < kCount; ++c) some[c] = load(x + i + c * kVector);
    F::template apply<kCount>(some);
    for (int c = 0; c < kCount; ++c) store(out + i + c * kVector, some[c]);
  }
  for (; i < n; i += kVector) {
    Reals one = load_first(x + i, n - i);
    F::template apply<1>(&one);
    store_first(out + i, n - i, one);
  }
}

inline Reals size_of(Reals x) {
  Words bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= 0x7fffffffu;
  Reals y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

// The share of a bell curve beyond a, (b S(a))^(2^kSquarings) with b = cutoff - a and S a
// polynomial: packed/gelu.py has the same numbers, and says where they are from.
struct Normal {
  static constexpr float kCutoff = 5.6875f;
  static constexpr int kSquarings = 2;
  static constexpr float kTerms[] = {3.252998112657224e-06f, -3.761619882425293e-05f,
                                     7.909361738711596e-05f, 0.0005315100424923003f,
                                     -0.0008552198996767402f, -0.009434265084564686f,
                                     -0.00349725061096251f,   0.1478499174118042f};
};
struct Logistic {
  static constexpr float kCutoff = 5.625f;
  static constexpr int kSquarings = 3;
  static constexpr float kTerms[] = {3.3595792956475634e-06f, -2.4660106646479107e-05f,
                                     5.073249485576525e-05f, 0.00014682125765830278f,
                                     -0.0007244840962812304f, -0.003406218718737364f,
                                     0.012721256352961063f,   0.1630229353904724f};
};

// max(x, 0) less what is missing of it. NaN stays NaN.
template <class T>
struct Gelu {
  template <int kCount>
  static inline void apply(Reals* x) {
    Reals a[kCount], s[kCount];
    for (int c = 0; c < kCount; ++c) a[c] = min_of(all(T::kCutoff), size_of(x[c]));
    for (int c = 0; c < kCount; ++c) s[c] = all(T::kTerms[0]);
#pragma GCC unroll 8
    for (int i = 1; i < 8; ++i) {
      for (int c = 0; c < kCount; ++c) s[c] = s[c] * a[c] + all(T::kTerms[i]);
    }
    for (int c = 0; c < kCount; ++c) s[c] = (all(T::kCutoff) - a[c]) * s[c];
    for (int i = 0; i < T::kSquarings; ++i) {
      for (int c = 0; c < kCount; ++c) s[c] = s[c] * s[c];
    }
    for (int c = 0; c < kCount; ++c) x[c] = max_of(x[c], Reals{}) - a[c] * s[c];
  }
};

inline void gelu_row(const float* x, int64_t n, float* out) { map_reals<Gelu<Normal>>(x, n, out); }
inline void gelu_tanh_row(const float* x, int64_t n, float* out) {
  map_reals<Gelu<Logistic>>(x, n, out);
}

// 1 + e^-x; t stays below 127, where the power is no infinity.
template <int kCount>
inline void one_and_power(const Reals* x, Reals* sum) {
  Reals t[kCount];
  for (int c = 0; c < kCount; ++c) t[c] = min_of(all(126.0f), x[c] * all(-kLog2E));
  for (int c = 0; c < kCount; ++c) t[c] = power_of_two(t[c]);
  for (int c = 0; c < kCount; ++c) sum[c] = t[c] + all(1.0f);
}

struct Sigmoid {
  template <int kCount>
  static inline void apply(Reals* x) {
    Reals sum[kCount];
    one_and_power<kCount>(x, sum);
    for (int c = 0; c < kCount; ++c) x[c] = all(1.0f) / sum[c];
  }
};

struct Silu {
  template <int kCount>
  static inline void apply(Reals* x) {
    Reals sum[kCount];
    one_and_power<kCount>(x, sum);
    for (int c = 0; c < kCount; ++c) x[c] = max_of(all(-100.0f), x[c]) / sum[c];
  }
};

inline void sigmoid_row(const float* x, int64_t n, float* out) { map_reals<Sigmoid>(x, n, out); }
inline void silu_row(const float* x, int64_t n, float* out) { map_reals<Silu>(x, n, out); }

}  // namespace
}  // namespace bc
