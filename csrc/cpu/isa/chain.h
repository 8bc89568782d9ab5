// Steps on rows of channels, one after the other in registers; every file in isa/ compiles it.
//
// Included by files of isa/ only, after steps.h. A block of a few rows and registers of columns is
// loaded once, goes through all steps, and is stored once, as reals, as codes of one bit or as both. An
// element sees the operations of step_rows in their order, so that the bits are the same.
#pragma once

#include "steps.h"

namespace bc {
namespace {

#define BITCOMPRESS_INLINE inline __attribute__((always_inline))

typedef uint8_t Bytes __attribute__((vector_size(kVector)));

// Rows of a block: with its registers there is room for an operand of each column.
constexpr int kChainRows = kVector == 16 ? 4 : 2;

// f(x, t, v) for all of a block, v the register of a row.
template <int kRows, int kVecs, class F>
BITCOMPRESS_INLINE void with_operand(const ChainStep& s, int64_t row, int64_t at,
                                     Reals (&x)[kRows][kVecs], F&& f) {
  if (s.data == nullptr || s.row == 0) {
    Reals t[kVecs];
    const bool one = s.data == nullptr || s.column == 0;
    const float value = s.data == nullptr ? s.value : *s.data;
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) t[v] = one ? all(value) : load(s.data + at + v * kVector);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) x[r][v] = f(x[r][v], t[v], v);
    }
    return;
  }
  const float* data = s.data + row * s.row;
  if (s.column == 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Reals t = all(data[r * s.row]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) x[r][v] = f(x[r][v], t, v);
    }
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) x[r][v] = f(x[r][v], load(data + r * s.row + at + v * kVector), v);
  }
}

template <int kRows, int kVecs>
BITCOMPRESS_INLINE void store_block(const Reals (&x)[kRows][kVecs], float* out, int64_t pitch) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) memcpy(out + r * pitch + v * kVector, &x[r][v], sizeof(Reals));
  }
}

template <int kRows, int kVecs>
BITCOMPRESS_INLINE void chain_step(const ChainStep& s, int64_t row, int64_t at,
                                   Reals (&x)[kRows][kVecs]) {
  switch (s.kind) {
    case BC_ADD:
      return with_operand(s, row, at, x, [](Reals a, Reals t, int) { return a + t; });
    case BC_SUB:
      return with_operand(s, row, at, x, [](Reals a, Reals t, int) { return a - t; });
    case BC_MUL:
      return with_operand(s, row, at, x, [](Reals a, Reals t, int) { return a * t; });
    case BC_LEAKY:
      return with_operand(s, row, at, x,
                          [](Reals a, Reals t, int) { return a < Reals{} ? a * t : a; });
    case BC_PRELU:
      return with_operand(s, row, at, x,
                          [](Reals a, Reals t, int) { return a > Reals{} ? a : a * t; });
    case BC_MUL_ADD: {
      Reals gain[kVecs];
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) gain[v] = load(s.gain + at + v * kVector);
      return with_operand(s, row, at, x,
                          [&](Reals a, Reals t, int v) { return a + t * gain[v]; });
    }
    case BC_STORE:
      return store_block(x, s.out + row * s.out_pitch + at, s.out_pitch);
    default:
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) x[r][v] = x[r][v] < Reals{} ? Reals{} : x[r][v];
      }
  }
}

template <int kRows, int kVecs>
inline void chain_block(const ChainRows& c, int64_t row, int64_t at) {
  Reals x[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) x[r][v] = load(c.x + (row + r) * c.x_pitch + at + v * kVector);
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < c.count; ++i) chain_step(c.steps[i], row, at, x);
  if (c.out != nullptr) store_block(x, c.out + row * c.out_pitch + at, c.out_pitch);
  if (c.codes == nullptr) return;
#pragma GCC unroll 16
  for (int v = 0; v < kVecs; ++v) {
    const Reals offset = load(c.offset + at + v * kVector);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Bytes codes = __builtin_convertvector(-(x[r][v] >= offset), Bytes);
      memcpy(c.codes + (row + r) * c.codes_pitch + at + v * kVector, &codes, sizeof codes);
    }
  }
}

template <int kVecs>
inline void chain_columns(const ChainRows& c, int64_t at) {
  int64_t row = 0;
  for (; row + kChainRows <= c.rows; row += kChainRows) chain_block<kChainRows, kVecs>(c, row, at);
  for (; row < c.rows; ++row) chain_block<1, kVecs>(c, row, at);
}

// See Kernels::chain_rows.
inline void chain_rows(const ChainRows& c) {
  int64_t at = 0;
  for (; at + 4 * kVector <= c.n; at += 4 * kVector) chain_columns<4>(c, at);
  if (at + 2 * kVector <= c.n) {
    chain_columns<2>(c, at);
    at += 2 * kVector;
  }
  if (at < c.n) chain_columns<1>(c, at);
}

#undef BITCOMPRESS_INLINE

}  // namespace
}  // namespace bc
