// read.h with 512-bit registers: a block of columns keeps its parameters in registers while rows go
// by.
//
// Included by files of isa/ that have AVX-512 F, BW and DQ, after read.h. The fused multiply-adds
// here only find codes that are decided exactly where it could matter.
#pragma once

#include <immintrin.h>

#include "read.h"

namespace bc {
namespace {

inline __mmask16 first_16(int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}

// Whether and how sums of codes count.
enum class RowSums { none, one, each };

// 16 columns of all rows; the pointers are those of the first of them.
template <RowSums kRow, bool kBias>
inline void read_16(const Readout& r, int64_t at, int64_t n, int64_t rows, const int32_t* sums,
                    int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                    float* out, int64_t out_stride) {
  const __mmask16 inside = first_16(n);
  const __mmask8 halves[2] = {static_cast<__mmask8>(inside), static_cast<__mmask8>(inside >> 8)};
  __m512d product[2], row[2], constant[2], bias[2];
  for (int h = 0; h < 2; ++h) {
    const int64_t i = at + 8 * h;
    product[h] = _mm512_maskz_loadu_pd(halves[h], r.product + i);
    constant[h] = _mm512_maskz_loadu_pd(halves[h], r.constant + i);
    row[h] = _mm512_maskz_loadu_pd(halves[h], r.row + i);
    if (kBias) bias[h] = _mm512_maskz_loadu_pd(halves[h], r.bias + i);
  }
  const auto half = [](__m512i words, int h) {
    return _mm512_cvtepi32_pd(h == 0 ? _mm512_castsi512_si256(words)
                                     : _mm512_extracti64x4_epi64(words, 1));
  };
  for (int64_t j = 0; j < rows; ++j, sums += sums_stride, out += out_stride) {
    const __m512i words = _mm512_maskz_loadu_epi32(inside, sums);
    const int32_t* of_row = row_sums + j * row_sums_stride;
    __m512i codes{};
    __m512d one{};
    if (kRow == RowSums::each) codes = _mm512_maskz_loadu_epi32(inside, of_row);
    if (kRow == RowSums::one) one = _mm512_set1_pd(*of_row);
    __m256 reals[2];
    for (int h = 0; h < 2; ++h) {
      __m512d real = _mm512_mul_pd(half(words, h), product[h]);
      if (kRow == RowSums::each)
        real = _mm512_add_pd(real, _mm512_mul_pd(half(codes, h), row[h]));
      if (kRow == RowSums::one) real = _mm512_add_pd(real, _mm512_mul_pd(one, row[h]));
      real = _mm512_add_pd(real, constant[h]);
      if (kBias) real = _mm512_add_pd(real, bias[h]);
      reals[h] = _mm512_cvtpd_ps(real);
    }
    _mm512_mask_storeu_ps(out, inside,
                          _mm512_insertf32x8(_mm512_castps256_ps512(reals[0]), reals[1], 1));
  }
}

template <RowSums kRow>
inline void read_columns(const Readout& r, int64_t rows, int64_t n, const int32_t* sums,
                         int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                         float* out, int64_t out_stride) {
  const auto read = r.has_bias ? read_16<kRow, true> : read_16<kRow, false>;
  for (int64_t i = 0; i < n; i += 16)
    read(r, i, n - i, rows, sums + i, sums_stride, row_sums + (kRow == RowSums::each ? i : 0),
         row_sums_stride, out + i, out_stride);
}

inline void read_rows_512(const Readout& r, int64_t rows, int64_t n, const int32_t* sums,
                          int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                          float* out, int64_t out_stride) {
  if (r.unit != nullptr)
    return read_whole(r, rows, n, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
  const auto read = !r.has_row ? read_columns<RowSums::none>
                    : r.each   ? read_columns<RowSums::each>
                               : read_columns<RowSums::one>;
  read(r, rows, n, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
}

// The codes nearest to up to 64 reals, those that are no number or below 0 giving 0. All are far from
// the limits of int32.
template <int kVecs, bool kSpread = false>
inline __m512i nearest_64(const __m512 (&u)[kVecs], __m512i least, __m512i top, __m512& most) {
  __m512i codes[4] = {};
  most = _mm512_setzero_ps();
  for (int v = 0; v < kVecs; ++v) {
    codes[v] = _mm512_cvtps_epi32(u[v]);
    // The larger by magnitude, without its sign; u - round(u).
    most = _mm512_range_ps(most, _mm512_reduce_ps(u[v], 0), 0x0b);
  }
  const int second = kSpread ? 2 : 1, third = kSpread ? 1 : 2;
  const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(codes[0], codes[second]),
                                            _mm512_packs_epi32(codes[third], codes[3]));
  if (kSpread) {
    const __m512i turned = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i found = _mm512_shuffle_epi8(bytes, turned);
    return _mm512_min_epu8(_mm512_max_epu8(found, least), top);
  }
  // Quarter i of the packed register holds words i of all vectors.
  const __m512i order =
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_min_epu8(_mm512_max_epu8(_mm512_permutexvar_epi32(order, bytes), least), top);
}

// Not far above the codes there are. What is no number stays so, being the second operand of min; the
// conversion to int32 makes of it, and of all that is far below 0, the lowest number.
inline __m512 within(__m512 real) { return _mm512_min_ps(_mm512_set1_ps(1024.0f), real); }

inline __mmask64 first_64(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

inline bool any_beyond(__m512 most, float tie) {
  return _mm512_cmp_ps_mask(most, _mm512_set1_ps(tie), _CMP_GT_OQ) != 0;
}

// Lanes whose code is not sure.
inline __mmask16 near_tie(__m512 u, float tie) {
  const __m512 apart = _mm512_abs_ps(_mm512_reduce_ps(u, 0));
  return _mm512_cmp_ps_mask(apart, _mm512_set1_ps(tie), _CMP_GT_OQ);
}

// Columns [at, at + n) of a row whose place has a bit in `near`, by the definition.
template <bool kSpread>
__attribute__((noinline)) void exact_few(const CodeReadout& r, int64_t at, int64_t n, uint64_t near,
                                         const int32_t* sums, const int32_t* row_sums,
                                         uint8_t* out) {
  for (; near != 0; near &= near - 1) {
    const int64_t place = __builtin_ctzll(near), vector = place / 16;
    const int64_t i = kSpread ? 4 * (place % 16) + vector / 2 + vector % 2 * 2 : place;
    if (i < n) exact_codes(r, at + i, at + i + 1, sums, row_sums, out);
  }
}

// Columns [at, at + n) of all rows, the last of them in the last of kVecs vectors.
template <int kVecs, RowSums kRow, bool kSpread, bool kLeak>
inline void codes_64(const CodeReadout& r, int64_t at, int64_t n, int64_t rows, const int32_t* sums,
                     int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                     uint8_t* out, int64_t out_stride) {
  __m512 product[kVecs], row[kVecs], constant[kVecs];
  __m512 leak[kVecs] = {}, leak_base[kVecs] = {};
  __m512i centre[kVecs];
  __mmask16 inside[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    inside[v] = kSpread ? __mmask16{0xffff} : first_16(n - 16 * v);
    product[v] = _mm512_maskz_loadu_ps(inside[v], r.product + at + 16 * v);
    constant[v] = _mm512_maskz_loadu_ps(inside[v], r.constant + at + 16 * v);
    row[v] = _mm512_maskz_loadu_ps(inside[v], r.row + at + 16 * v);
    centre[v] = _mm512_maskz_loadu_epi32(inside[v], r.centre + at + 16 * v);
    if (!kLeak) continue;
    leak[v] = _mm512_maskz_loadu_ps(inside[v], r.leak + at + 16 * v);
    leak_base[v] = _mm512_maskz_loadu_ps(inside[v], r.leak_base + at + 16 * v);
  }
  const __mmask64 places = first_64(n);
  const __m512i low = _mm512_maskz_loadu_epi8(places, r.cutter.least + at);
  const __m512i top = _mm512_maskz_loadu_epi8(places, r.cutter.top + at);
  const __m512i row_centre = _mm512_set1_epi32(r.row_centre);
#pragma GCC unroll 1
  for (int64_t j = 0; j < rows; ++j) {
    const int32_t *from = sums + j * sums_stride, *of_row = row_sums + j * row_sums_stride;
    float one = 0.0f;
    if (kRow == RowSums::one) one = static_cast<float>(*of_row - r.row_centre);
    __m512 u[kVecs], most;
    for (int v = 0; v < kVecs; ++v) {
      const auto load = [&](const int32_t* words) {
        return v + 1 < kVecs ? _mm512_loadu_si512(words + at + 16 * v)
                             : _mm512_maskz_loadu_epi32(inside[v], words + at + 16 * v);
      };
      __m512 base = constant[v];
      if (kRow == RowSums::one) base = _mm512_fmadd_ps(_mm512_set1_ps(one), row[v], base);
      if (kRow == RowSums::each) {
        const __m512i codes = _mm512_sub_epi32(load(of_row), row_centre);
        base = _mm512_fmadd_ps(_mm512_cvtepi32_ps(codes), row[v], base);
      }
      const __m512i apart = _mm512_sub_epi32(load(from), centre[v]);
      u[v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(apart), product[v], base);
      if (kLeak) u[v] = _mm512_max_ps(_mm512_fmadd_ps(u[v], leak[v], leak_base[v]), u[v]);
    }
    uint8_t* to = out + j * out_stride;
    _mm512_mask_storeu_epi8(to + at, places, nearest_64<kVecs, kSpread>(u, low, top, most));
    const float tie = kRow == RowSums::one ? tie_of_row(r, one) : r.tie;
    if (__builtin_expect(any_beyond(most, tie), 0)) {
      uint64_t near = 0;
      for (int v = 0; v < kVecs; ++v) near |= uint64_t{near_tie(u[v], tie)} << (16 * v);
      exact_few<kSpread>(r, at, n, near, from, of_row, to);
    }
  }
}

template <RowSums kRow, bool kLeak>
inline void codes_of_rows(const CodeReadout& r, int64_t rows, int64_t n, const int32_t* sums,
                          int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                          uint8_t* out, int64_t out_stride) {
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t rest = n - i < 64 ? n - i : 64;
    const auto block = r.spread    ? codes_64<4, kRow, true, kLeak>
                       : rest > 48 ? codes_64<4, kRow, false, kLeak>
                       : rest > 32 ? codes_64<3, kRow, false, kLeak>
                       : rest > 16 ? codes_64<2, kRow, false, kLeak>
                                   : codes_64<1, kRow, false, kLeak>;
    block(r, i, rest, rows, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
  }
}

template <bool kLeak>
inline void codes_of_sums(const CodeReadout& r, int64_t rows, int64_t n, const int32_t* sums,
                          int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                          uint8_t* out, int64_t out_stride) {
  const auto read = !r.exact.has_row ? codes_of_rows<RowSums::none, kLeak>
                    : r.exact.each   ? codes_of_rows<RowSums::each, kLeak>
                                     : codes_of_rows<RowSums::one, kLeak>;
  read(r, rows, n, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
}

inline void read_codes_512(const CodeReadout& r, int64_t rows, int64_t n, const int32_t* sums,
                           int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                           uint8_t* out, int64_t out_stride) {
  if (r.tie < 0.0f) {
    for (int64_t j = 0; j < rows; ++j)
      exact_codes(r, 0, n, sums + j * sums_stride, row_sums + j * row_sums_stride,
                  out + j * out_stride);
    return;
  }
  const auto read = r.leak != nullptr ? codes_of_sums<true> : codes_of_sums<false>;
  read(r, rows, n, sums, sums_stride, row_sums, row_sums_stride, out, out_stride);
}

// Columns [at, at + n) of one row by division; rows that are all 0 may lie on a tie all along.
template <int kVecs>
__attribute__((noinline)) void divide_64(const RowCutter& c, int64_t at, int64_t n, const float* x,
                                         uint8_t* out) {
  __m512 u[kVecs], most;
  for (int v = 0; v < kVecs; ++v) {
    const __mmask16 inside = first_16(n - 16 * v);
    const int64_t i = at + 16 * v;
    const __m512 apart = _mm512_sub_ps(_mm512_maskz_loadu_ps(inside, x + i),
                                       _mm512_maskz_loadu_ps(inside, c.offset + i));
    const __m512 scale = _mm512_mask_loadu_ps(_mm512_set1_ps(1.0f), inside, c.scale + i);
    u[v] = within(_mm512_div_ps(apart, scale));
  }
  const __mmask64 places = first_64(n);
  _mm512_mask_storeu_epi8(out + at, places,
                          nearest_64(u, _mm512_maskz_loadu_epi8(places, c.least + at),
                                     _mm512_maskz_loadu_epi8(places, c.top + at), most));
}

template <int kVecs>
inline void cut_64(const RowCutter& c, int64_t at, int64_t n, int64_t rows, const float* x,
                   int64_t x_stride, uint8_t* out, int64_t out_stride) {
  __m512 factor[kVecs], offset[kVecs];
  const __mmask16 last = first_16(n - 16 * (kVecs - 1));
  for (int v = 0; v < kVecs; ++v) {
    const __mmask16 inside = v + 1 < kVecs ? __mmask16{0xffff} : last;
    factor[v] = _mm512_maskz_loadu_ps(inside, c.factor + at + 16 * v);
    offset[v] = _mm512_maskz_loadu_ps(inside, c.offset + at + 16 * v);
  }
  const __mmask64 places = first_64(n);
  const __m512i low = _mm512_maskz_loadu_epi8(places, c.least + at);
  const __m512i top = _mm512_maskz_loadu_epi8(places, c.top + at);
#pragma GCC unroll 1
  for (int64_t j = 0; j < rows; ++j) {
    const float* from = x + j * x_stride + at;
    __m512 u[kVecs], most;
    for (int v = 0; v < kVecs; ++v) {
      const __m512 reals = v + 1 < kVecs ? _mm512_loadu_ps(from + 16 * v)
                                         : _mm512_maskz_loadu_ps(last, from + 16 * v);
      u[v] = within(_mm512_mul_ps(_mm512_sub_ps(reals, offset[v]), factor[v]));
    }
    uint8_t* to = out + j * out_stride;
    _mm512_mask_storeu_epi8(to + at, places, nearest_64(u, low, top, most));
    if (__builtin_expect(any_beyond(most, c.tie), 0)) divide_64<kVecs>(c, at, n, from - at, to);
  }
}

// Columns [at, at + n) of all rows, n up to 64, on grids without steps.
inline void compare_64(const RowCutter& c, int64_t at, int64_t n, int64_t rows, const float* x,
                       int64_t x_stride, uint8_t* out, int64_t out_stride) {
  __m512 offset[4];
  __mmask16 inside[4];
  for (int v = 0; v < 4; ++v) {
    inside[v] = n > 16 * v ? first_16(n - 16 * v) : __mmask16{0};
    offset[v] = _mm512_maskz_loadu_ps(inside[v], c.offset + at + 16 * v);
  }
  const __mmask64 places = first_64(n);
  for (int64_t j = 0; j < rows; ++j) {
    const float* from = x + j * x_stride + at;
    uint64_t above = 0;
    for (int v = 0; v < 4; ++v) {
      const __m512 reals = _mm512_maskz_loadu_ps(inside[v], from + 16 * v);
      above |= uint64_t{_mm512_cmp_ps_mask(reals, offset[v], _CMP_GE_OQ)} << (16 * v);
    }
    _mm512_mask_storeu_epi8(out + j * out_stride + at, places, _mm512_maskz_set1_epi8(above, 1));
  }
}

inline void cut_rows_512(const RowCutter& c, int64_t rows, int64_t n, const float* x,
                         int64_t x_stride, uint8_t* out, int64_t out_stride) {
  if (c.compares) {
    for (int64_t i = 0; i < n; i += 64)
      compare_64(c, i, n - i < 64 ? n - i : 64, rows, x, x_stride, out, out_stride);
    return;
  }
  if (c.tie < 0.0f) {
    for (int64_t j = 0; j < rows; ++j) exact_codes(c, 0, n, x + j * x_stride, out + j * out_stride);
    return;
  }
  for (int64_t i = 0; i < n; i += 64) {
    const int64_t rest = n - i < 64 ? n - i : 64;
    const auto block = rest > 48 ? cut_64<4> : rest > 32 ? cut_64<3> : rest > 16 ? cut_64<2> : cut_64<1>;
    block(c, i, rest, rows, x, x_stride, out, out_stride);
  }
}

}  // namespace
}  // namespace bc
