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

// 16 lanes to one number: lane l with lane l + 8, then l + 4, l + 2, l + 1.
template <class F>
inline float folded(const Reals* lanes, F&& join) {
  float x[kLanes];
  memcpy(x, lanes, sizeof x);
  for (int l = 0; l < 8; ++l) x[l] = join(x[l], x[l + 8]);
  for (int l = 0; l < 4; ++l) x[l] = join(x[l], x[l + 4]);
  return join(join(x[0], x[2]), join(x[1], x[3]));
}

inline float largest(const float* x, int64_t n) {
  Reals most[kVectors];
  for (int v = 0; v < kVectors; ++v) most[v] = all(x[0]);
  for (int64_t i = 0; i < n; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const Reals here = load(x + i + v * kVector);
      most[v] = here > most[v] ? here : most[v];
    }
  }
  return folded(most, [](float a, float b) { return b > a ? b : a; });
}

// x becomes 2^((x - m) log2 e); gives the sum. x has room for whole groups of kLanes, its end is
// overwritten with 0.
inline float exponentials(float* x, int64_t n, float m) {
  const int64_t whole = n / kLanes * kLanes;
  Reals sums[kVectors] = {};
  const auto group = [&](int64_t i, int v) {
    return power_of_two((load(x + i + v * kVector) - all(m)) * all(kLog2E));
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
  return folded(sums, [](float a, float b) { return a + b; });
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
    out[i] = nearest_code(clamp_real((e[i] / sum - offset) / scale, top));
}

// The codes nearest to u, which is clamped, to out; `most` is raised to the farthest that a u lies
// from its code.
inline void nearest_codes(Reals u, Reals& most, uint8_t* out) {
  const Reals sum = u + 8388608.0f;
  const Reals apart = u - (sum - 8388608.0f);
  const Reals far = apart < -apart ? -apart : apart;
  most = far > most ? far : most;
  store_codes(out, sum);
}

// Whether one of the codes that raised `most` lies too near to a tie to be sure of.
inline bool beyond(Reals most, float tie) {
  Reals lanes[kVectors] = {};
  lanes[0] = most;
  return folded(lanes, [](float a, float b) { return b > a ? b : a; }) > tie;
}

constexpr int64_t kCutBlock = 256;

// Up to kCutBlock codes by multiplication, whole groups of kLanes of them; gives whether one lies too
// near to a tie to be sure of.
inline bool cut_products(const float* e, int64_t n, float factor, float base, float tie, float top,
                         uint8_t* out) {
  Reals most{};
  for (int64_t i = 0; i < n; i += kVector) {
    nearest_codes(clamp_real(load(e + i) * all(factor) - all(base), all(top)), most, out + i);
  }
  return beyond(most, tie);
}

constexpr int64_t kSoftmaxRows = 16;

// See Kernels::softmax_codes. Each step goes through all rows before the next one begins, so that
// the rows do not wait for each other's last additions.
inline void softmax_block(float* x, int64_t rows, int64_t n, int64_t stride, float scale,
                          float offset, float top, uint8_t* out) {
  float most[kSoftmaxRows], sums[kSoftmaxRows], factors[kSoftmaxRows];
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x + r * stride;
    for (int64_t i = n; i % kLanes != 0; ++i) row[i] = row[0];
    most[r] = largest(row, n);
  }
  for (int64_t r = 0; r < rows; ++r) sums[r] = exponentials(x + r * stride, n, most[r]);
  for (int64_t r = 0; r < rows; ++r) factors[r] = 1.0f / (sums[r] * scale);
  const float base = offset / scale, tie = near_tie(top, base);
  for (int64_t r = 0; r < rows; ++r, x += stride, out += n) {
    for (int64_t i = 0; i < n; i += kCutBlock) {
      const int64_t count = n - i < kCutBlock ? n - i : kCutBlock, whole = count / kLanes * kLanes;
      if (cut_products(x + i, whole, factors[r], base, tie, top, out + i))
        cut_quotients(x + i, whole, sums[r], scale, offset, top, out + i);
      if (whole < count)
        cut_quotients(x + i + whole, count - whole, sums[r], scale, offset, top, out + i + whole);
    }
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
