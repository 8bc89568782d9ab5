// Rows of sums to reals or to codes, and rows of reals to codes; every file in isa/ compiles it.
//
// Included by files of isa/ only, after cut.h. A code is found in float32 and decided as the
// definition says, in double or by division, only where it lies so near to a tie that the two ways
// could differ; ../code_grid.h derives how near that is.
#pragma once

#include "cut.h"

namespace bc {
namespace {

typedef int32_t Ints __attribute__((vector_size(4 * kVector)));

// See Readout::unit.
inline void read_whole(const Readout& r, int64_t rows, int64_t n, const int32_t* sums,
                       int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                       float* out, int64_t out_stride) {
  const float *__restrict unit = r.unit, *__restrict base = r.base;
  for (int64_t j = 0; j < rows; ++j, sums += sums_stride, out += out_stride) {
    const float row = r.has_row ? static_cast<float>(row_sums[j * row_sums_stride]) * r.share : 0.0f;
    const int32_t* __restrict from = sums;
    float* __restrict to = out;
    for (int64_t i = 0; i < n; ++i) to[i] = unit[i] * (static_cast<float>(from[i]) + row + base[i]);
  }
}

inline void read_rows(const Readout& r, int64_t rows, int64_t n, const int32_t* sums,
                      int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                      float* out, int64_t out_stride) {
  if (r.unit != nullptr)
    return read_whole(r, rows, n, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t *from = sums + i * sums_stride, *of_row = row_sums + i * row_sums_stride;
    float* to = out + i * out_stride;
    if (r.each) {
      read_each(from, n, of_row, r.product, r.row, r.constant, r.bias, to);
    } else {
      read_row(from, n, r.has_row ? *of_row : 0, r.product, r.row, r.constant, r.bias, to);
    }
  }
}

inline uint8_t between(uint8_t code, uint8_t least, uint8_t top) {
  code = code > least ? code : least;
  return code < top ? code : top;
}

inline uint8_t exact_code(const RowCutter& c, int64_t i, float x) {
  const uint8_t code = nearest_code(position(x, c.offset[i], c.scale[i], 255.0f));
  return between(code, c.least[i], c.top[i]);
}

// Columns [first, last) of a row, by the definition.
inline void exact_codes(const RowCutter& c, int64_t first, int64_t last, const float* __restrict x,
                        uint8_t* __restrict out) {
  for (int64_t i = first; i < last; ++i) out[i] = exact_code(c, i, x[i]);
}

// row_sums: that of the row, or where the readout says so one for each column.
inline void exact_codes(const CodeReadout& r, int64_t first, int64_t last,
                        const int32_t* __restrict sums, const int32_t* __restrict row_sums,
                        uint8_t* __restrict out) {
  const Readout& e = r.exact;
  for (int64_t i = first; i < last; ++i) {
    const int32_t row_sum = e.each ? row_sums[i] : e.has_row ? *row_sums : 0;
    const int32_t sum = sums[r.spread ? place_of(i) : i];
    const double real = sum * e.product[i] + row_sum * e.row[i] + e.constant[i] + e.bias[i];
    const float read = static_cast<float>(real);
    const bool kept = r.times == nullptr || (r.leak != nullptr && !(read < 0.0f));
    out[i] = exact_code(r.cutter, i, kept ? read : read * r.times[i]);
  }
}

inline void bring_between(const uint8_t* __restrict least, const uint8_t* __restrict top, int64_t n,
                          uint8_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = between(out[i], least[i], top[i]);
}

inline Ints load(const int32_t* words) {
  Ints ints;
  memcpy(&ints, words, sizeof ints);
  return ints;
}

inline Reals reals_of(Ints ints) { return __builtin_convertvector(ints, Reals); }

// How far from a whole number a code of this row may lie to be sure of.
inline float tie_of_row(const CodeReadout& r, float row) {
  return r.tie - r.slope * (row < 0.0f ? -row : row);
}

// See Kernels::read_codes.
inline void read_codes(const CodeReadout& r, int64_t rows, int64_t n, const int32_t* sums,
                       int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                       uint8_t* out, int64_t out_stride) {
  const int64_t whole = r.tie < 0.0f || r.spread ? 0 : n / kVector * kVector;
  const bool each = r.exact.each, shared = r.exact.has_row && !each;
  for (int64_t j = 0; j < rows; ++j, sums += sums_stride, out += out_stride) {
    const int32_t* of_row = row_sums + j * row_sums_stride;
    const float row_sum = shared ? static_cast<float>(*of_row - r.row_centre) : 0.0f;
    Reals most{}, row = all(row_sum);
    for (int64_t i = 0; i < whole; i += kVector) {
      if (each) row = reals_of(load(of_row + i) - r.row_centre);
      Reals u = reals_of(load(sums + i) - load(r.centre + i)) * load(r.product + i) +
                (row * load(r.row + i) + load(r.constant + i));
      if (r.leak != nullptr) {
        const Reals leaked = u * load(r.leak + i) + load(r.leak_base + i);
        u = u > leaked ? u : leaked;
      }
      nearest_codes(clamp_real(u, all(255.0f)), most, out + i);
    }
    if (beyond(most, tie_of_row(r, row_sum))) {
      exact_codes(r, 0, n, sums, of_row, out);
      continue;
    }
    bring_between(r.cutter.least, r.cutter.top, whole, out);
    exact_codes(r, whole, n, sums, of_row, out);
  }
}

// Rows of reals on grids without steps.
inline void compare_rows(const RowCutter& c, int64_t rows, int64_t n, const float* x,
                         int64_t x_stride, uint8_t* out, int64_t out_stride) {
  const float* offset = c.offset;
  for (int64_t j = 0; j < rows; ++j, x += x_stride, out += out_stride) {
    const float* __restrict from = x;
    uint8_t* __restrict to = out;
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] >= offset[i] ? 1 : 0;
  }
}

// See Kernels::cut_rows.
inline void cut_rows(const RowCutter& c, int64_t rows, int64_t n, const float* x, int64_t x_stride,
                     uint8_t* out, int64_t out_stride) {
  if (c.compares) return compare_rows(c, rows, n, x, x_stride, out, out_stride);
  const int64_t whole = c.tie < 0.0f ? 0 : n / kVector * kVector;
  for (int64_t j = 0; j < rows; ++j, x += x_stride, out += out_stride) {
    Reals most{};
    for (int64_t i = 0; i < whole; i += kVector) {
      const Reals u = (load(x + i) - load(c.offset + i)) * load(c.factor + i);
      nearest_codes(clamp_real(u, all(255.0f)), most, out + i);
    }
    if (beyond(most, c.tie)) {
      exact_codes(c, 0, n, x, out);
      continue;
    }
    bring_between(c.least, c.top, whole, out);
    exact_codes(c, whole, n, x, out);
  }
}

}  // namespace
}  // namespace bc
