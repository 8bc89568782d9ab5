// Rows of logits to codes of their softmax, written once; every file in isa/ compiles it.
//
// Included by files of isa/ only, after rows.h. Cutting p = e / s into a code takes two divisions,
// which are slow; so the code is found with one multiplication by 1 / (s * scale), and only where
// the result lies so close to a tie that rounding could tell the two ways apart are both divisions
// done. The bound of that distance is derived at `near_tie`.
#pragma once

#include "rows.h"

namespace bc {
namespace {

typedef uint32_t Words __attribute__((vector_size(4 * kVector)));
typedef float LooseReals __attribute__((vector_size(4 * kVector), aligned(4), may_alias));


// A copy by memcpy would go through the stack.
inline void store(float* to, Reals x) { *reinterpret_cast<LooseReals*>(to) = x; }

// The low byte of each element's bits: the code, in a code + 2^23. The including file has it.
inline void store_codes(uint8_t* to, Reals sum);

constexpr float kLog2E = 1.4426950408889634f;

// 2^t for t up to 0; below 2^-126 it stays there. NaN stays NaN.
inline Reals power_of_two(Reals t) {
  t = max_of(all(-126.0f), t);
  const Reals shifted = t + 12582912.0f;  // 1.5 * 2^23: the low bits are round(t)
  const Reals f = t - (shifted - 12582912.0f);
  Reals p = f * 0.001326472614891827f + 0.009671512991189957f;
  p = p * f + 0.05550733581185341f;
  p = p * f + 0.24022242426872253f;
  p = p * f + 0.6931470036506653f;
  p = p * f + 1.0f;
  Words bits;
  memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + (127 << 23);
  Reals factor;
  memcpy(&factor, &bits, sizeof factor);
  return p * factor;
}

inline void exp2_row(const float* x, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kVector <= n; i += kVector) {
    const Reals e = power_of_two(load(x + i));
    store(out + i, e);
  }
  if (i == n) return;
  float rest[kVector] = {};
  memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(float));
  const Reals e = power_of_two(load(rest));
  memcpy(out + i, &e, static_cast<size_t>(n - i) * sizeof(float));
}

// Lane l gets lane l ^ kBy.
template <int kBy>
inline Reals swapped(Reals x) {
#if defined(__clang__)
  Reals y;
  for (int l = 0; l < kVector; ++l) y[l] = x[l ^ kBy];
  return y;
#else
  Words order;
  for (uint32_t l = 0; l < kVector; ++l) order[l] = l ^ kBy;
  return __builtin_shuffle(x, order);
#endif
}

// The sum of 16 lanes: lane l with lane l + 8, then l + 4, l + 2, l + 1.
inline float lane_sum(const Reals* lanes) {
  Reals x = lanes[0];
  if constexpr (kVectors == 4) x = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
  if constexpr (kVectors == 2) x = lanes[0] + lanes[1];
  if constexpr (kVector >= 16) x = x + swapped<8 % kVector>(x);
  if constexpr (kVector >= 8) x = x + swapped<4 % kVector>(x);
  x = x + swapped<2>(x);
  return x[0] + x[1];
}

// Quarters kFirst, kSecond of a, then of b.
template <int kFirst, int kSecond>
inline Reals quarters(Reals a, Reals b) {
  constexpr int kQuarter = kVector / 4;
  Words order;
  for (int l = 0; l < kVector; ++l) {
    const int from = (l / kQuarter % 2 == 0 ? kFirst : kSecond) * kQuarter + l % kQuarter;
    order[l] = static_cast<uint32_t>(l < kVector / 2 ? from : kVector + from);
  }
#if defined(__clang__)
  Reals y;
  for (int l = 0; l < kVector; ++l)
    y[l] = order[l] < kVector ? a[order[l]] : b[order[l] - kVector];
  return y;
#else
  return __builtin_shuffle(a, b, order);
#endif
}

// Where a register holds all 16 lanes, four rows go side by side: their sums share registers, and
// no row waits for its own. Quarter r of the result is the sum of row r, as lane_sum has it.
inline Reals four_sums(const Reals* rows) {
  const Reals a = quarters<0, 1>(rows[0], rows[1]) + quarters<2, 3>(rows[0], rows[1]);
  const Reals b = quarters<0, 1>(rows[2], rows[3]) + quarters<2, 3>(rows[2], rows[3]);
  Reals x = quarters<0, 2>(a, b) + quarters<1, 3>(a, b);
  x = x + swapped<2>(x);
  return x + swapped<1>(x);
}

// The largest of 16 lanes, in every lane.
inline Reals largest_lane(const Reals* lanes) {
  Reals x = lanes[0];
  for (int v = 1; v < kVectors; ++v) x = max_of(lanes[v], x);
  if constexpr (kVector >= 16) x = max_of(swapped<8 % kVector>(x), x);
  if constexpr (kVector >= 8) x = max_of(swapped<4 % kVector>(x), x);
  x = max_of(swapped<2>(x), x);
  return max_of(swapped<1>(x), x);
}

inline Reals largest(const float* x, int64_t n) {
  Reals most[kVectors];
  for (int v = 0; v < kVectors; ++v) most[v] = all(x[0]);
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) most[v] = max_of(load(x + i + v * kVector), most[v]);
  }
  return largest_lane(most);
}

// x becomes 2^((x - m) log2 e), and `sums` its 16 partial sums. x has room for whole groups of
// kLanes, its end is overwritten with 0.
inline void exponentials(float* x, int64_t n, Reals m, Reals* sums) {
  const int64_t whole = n / kLanes * kLanes;
  for (int v = 0; v < kVectors; ++v) sums[v] = Reals{};
  const auto group = [&](int64_t i, int v) {
    return power_of_two((load(x + i + v * kVector) - m) * all(kLog2E));
  };
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const Reals e = group(i, v);
      store(x + i + v * kVector, e);
      sums[v] = sums[v] + e;
    }
  }
  if (whole < n) {
    for (int v = 0; v < kVectors; ++v) store(x + whole + v * kVector, group(whole, v));
    for (int64_t j = n; j < whole + kLanes; ++j) x[j] = 0.0f;
    for (int v = 0; v < kVectors; ++v) sums[v] = sums[v] + load(x + whole + v * kVector);
  }
}

// How near to a tie a code found by multiplication must not lie. With d = 2^-24, P = p / scale and
// B = offset / scale, u = P - B: the divisions err by at most d (P + 2 |u|), the multiplication by
// d (3 P + |B| + |u|). Where the code is not clamped anyway, |u| and P - |B| are at most top + 1, so
// together they err by less than d (7 (top + 1) + 5 |B|). Twice that and more:
inline float near_tie(float top, float base) {
  return 0.5f - (top + 1.0f + (base < 0 ? -base : base)) * 9.5367431640625e-7f;
}

inline void cut_quotients(const float* __restrict e, int64_t n, float sum, float scale,
                          float offset, float top, uint8_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = nearest_code(position(e[i] / sum, offset, scale, top));
}

// The codes nearest to u, which is clamped, to out; `most` is raised to the farthest that a u lies
// from its code.
inline void nearest_codes(Reals u, Reals& most, uint8_t* out) {
  const Reals sum = u + 8388608.0f;
  const Reals apart = u - (sum - 8388608.0f);
  most = max_of(max_of(apart, -apart), most);
  store_codes(out, sum);
}

// Whether one of the codes that raised `most` lies too near to a tie to be sure of.
inline bool beyond(Reals most, float tie) {
  Reals lanes[kVectors] = {};
  lanes[0] = most;
  return largest_lane(lanes)[0] > tie;
}

constexpr int64_t kCutBlock = 256;

constexpr int64_t kSoftmaxRows = 16;

// The sums of so many rows of 16 partial sums.
inline void row_sums(const Reals (*partial)[kVectors], int64_t rows, float* sums) {
  if constexpr (kVectors == 1) {
    for (int64_t r = 0; r < rows; r += 4) {
      const Reals four = four_sums(&partial[0][0] + r);
      for (int q = 0; q < 4; ++q) sums[r + q] = four[q * kVector / 4];
    }
  } else {
    for (int64_t r = 0; r < rows; ++r) sums[r] = lane_sum(partial[r]);
  }
}

// See Kernels::softmax_codes. Each step goes through all rows before the next one begins, so that
// the rows do not wait for each other's last additions.
inline void softmax_block(float* x, int64_t rows, int64_t n, int64_t stride, float scale,
                          float offset, float top, uint8_t* out) {
  Reals most[kSoftmaxRows], partial[kSoftmaxRows][kVectors] = {};
  float sums[kSoftmaxRows];
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    for (int64_t i = n; i % kLanes != 0; ++i) row[i] = row[0];
    most[r] = largest(row, n);
  }
  for (int64_t r = 0; r < rows; ++r) exponentials(x + r * stride, n, most[r], partial[r]);
  row_sums(partial, rows, sums);
  const float base = offset / scale, tie = near_tie(top, base);
  const int64_t whole = n / kLanes * kLanes;
  Reals farthest{};
  for (int64_t r = 0; r < rows; ++r) {
    const Reals factor = all(1.0f / (sums[r] * scale));
    const float* row = x + r * stride;
    for (int64_t i = 0; i < whole; i += kVector) {
      const Reals u = clamp_real(load(row + i) * factor - all(base), all(top));
      nearest_codes(u, farthest, out + r * n + i);
    }
  }
  const int64_t sure = scale == 0.0f || beyond(farthest, tie) ? 0 : whole;
  if (sure == n) return;
  for (int64_t r = 0; r < rows; ++r) {
    cut_quotients(x + r * stride + sure, n - sure, sums[r], scale, offset, top,
                  out + r * n + sure);
  }
}

inline void softmax_codes(float* x, int64_t rows, int64_t n, int64_t stride, float scale,
                          float offset, float top, uint8_t* out) {
  for (int64_t r = 0; r < rows; r += kSoftmaxRows) {
    softmax_block(x + r * stride, rows - r < kSoftmaxRows ? rows - r : kSoftmaxRows, n, stride,
                  scale, offset, top, out + r * n);
  }
}

}  // namespace
}  // namespace bc
