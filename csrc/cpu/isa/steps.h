// One step on rows of channels, written once; every file in isa/ compiles it.
//
// Included by files of isa/ only, after rows.h. Where rows and operand lie so that the whole block is
// one run, it is one loop; else a loop for each row.
#pragma once

#include "rows.h"
#include "bitcompress/bits.h"

namespace bc {
namespace {

// x and out may be the same memory, and so may t and out.
template <class T, class F>
inline void map_row(const float* x, int64_t n, T t, float* out, F&& f) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = f(x[i], t[i]);
}

// An operand whose channels do not lie side by side.
struct Apart {
  const float* data;
  int64_t column;
  float operator[](int64_t i) const { return data[i * column]; }
};

template <class F>
inline void map_rows(const StepRows& s, F&& f) {
  const bool dense = s.x_pitch == s.n && s.out_pitch == s.n;
  if (s.data == nullptr) {
    const int64_t rows = dense ? 1 : s.rows, n = dense ? s.rows * s.n : s.n;
    for (int64_t r = 0; r < rows; ++r)
      map_row(s.x + r * s.x_pitch, n, One{s.value}, s.out + r * s.out_pitch, f);
    return;
  }
  if (dense && s.column == 1 && s.row == s.n) return map_row(s.x, s.rows * s.n, s.data, s.out, f);
  for (int64_t r = 0; r < s.rows; ++r) {
    const float *x = s.x + r * s.x_pitch, *t = s.data + r * s.row;
    float* out = s.out + r * s.out_pitch;
    if (s.column == 1) {
      map_row(x, s.n, t, out, f);
    } else if (s.column == 0) {
      map_row(x, s.n, One{*t}, out, f);
    } else {
      map_row(x, s.n, Apart{t, s.column}, out, f);
    }
  }
}

template <class T>
inline void mul_add_row(const float* x, int64_t n, T t, const float* __restrict gain, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] + t[i] * gain[i];
}

inline void mul_add_rows(const StepRows& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    const float *x = s.x + r * s.x_pitch, *t = s.data == nullptr ? nullptr : s.data + r * s.row;
    float* out = s.out + r * s.out_pitch;
    if (t == nullptr || s.column == 0) {
      mul_add_row(x, s.n, One{t == nullptr ? s.value : *t}, s.gain, out);
    } else if (s.column == 1) {
      mul_add_row(x, s.n, t, s.gain, out);
    } else {
      mul_add_row(x, s.n, Apart{t, s.column}, s.gain, out);
    }
  }
}

// See Kernels::step_rows.
inline void step_rows(const StepRows& s) {
  switch (s.kind) {
    case BC_ADD:
      return map_rows(s, [](float x, float t) { return x + t; });
    case BC_SUB:
      return map_rows(s, [](float x, float t) { return x - t; });
    case BC_MUL:
      return map_rows(s, [](float x, float t) { return x * t; });
    case BC_LEAKY:
      return map_rows(s, [](float x, float t) { return x < 0.0f ? x * t : x; });
    case BC_MUL_ADD:
      return mul_add_rows(s);
    case BC_PRELU:
      return map_rows(s, [](float x, float t) { return x > 0.0f ? x : x * t; });
    default: {
      StepRows relu = s;
      relu.data = nullptr;
      return map_rows(relu, [](float x, float) { return x < 0.0f ? 0.0f : x; });
    }
  }
}

}  // namespace
}  // namespace bc
