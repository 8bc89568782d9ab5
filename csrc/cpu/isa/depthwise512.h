// Depthwise convolution by columns of four taps, for files of isa/ with AVX-512 VNNI: one
// instruction multiplies and adds four taps of 16 channels.
#pragma once

#include <immintrin.h>

#include "../kernels.h"

namespace bc {
namespace {

// 64 words: byte j of word i is byte i of row j. Unpacking bytes and pairs of bytes stays within
// quarters of a register, so words of the rows are brought to the quarter first where they end.
inline void interleave_64(const __m512i (&given)[4], uint8_t* out) {
  const __m512i quarters =
      _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i rows[4];
  for (int j = 0; j < 4; ++j) rows[j] = _mm512_permutexvar_epi32(quarters, given[j]);
  const __m512i low[2] = {_mm512_unpacklo_epi8(rows[0], rows[1]),
                          _mm512_unpacklo_epi8(rows[2], rows[3])};
  const __m512i high[2] = {_mm512_unpackhi_epi8(rows[0], rows[1]),
                           _mm512_unpackhi_epi8(rows[2], rows[3])};
  _mm512_store_si512(out, _mm512_unpacklo_epi16(low[0], low[1]));
  _mm512_store_si512(out + 64, _mm512_unpackhi_epi16(low[0], low[1]));
  _mm512_store_si512(out + 128, _mm512_unpacklo_epi16(high[0], high[1]));
  _mm512_store_si512(out + 192, _mm512_unpackhi_epi16(high[0], high[1]));
}

// See Kernels::interleave.
inline void interleave(const uint8_t* const rows[4], int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; i += 64, out += 256) {
    __m512i here[4];
    for (int j = 0; j < 4; ++j)
      here[j] = rows[j] == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(rows[j] + i);
    interleave_64(here, out);
  }
}

// 16 channels of all places; kTaps columns of taps, or `taps` of them where kTaps is 0.
template <int kTaps, bool kShifted, bool kCodes>
inline void depthwise_16(const DepthwiseRow& d, int64_t at) {
  const __m512i ones = _mm512_set1_epi8(1);
  const int64_t count = kTaps > 0 ? kTaps : d.taps, pitch = 4 * d.channels;
  const uint8_t* x = d.x + 4 * at;
  const int8_t* w = d.w + 4 * at;
  __m512i held[kTaps > 0 ? kTaps : 1];
  for (int t = 0; t < kTaps; ++t) held[t] = _mm512_loadu_si512(w + t * pitch);
  for (int64_t p = 0; p < d.places; ++p, x += d.step) {
    __m512i sum = _mm512_setzero_si512(), codes = _mm512_setzero_si512();
    for (int64_t t = 0; t < count; ++t) {
      const __m512i here = _mm512_loadu_si512(x + d.offsets[t]);
      const __m512i weights = kTaps > 0 ? held[t] : _mm512_loadu_si512(w + t * pitch);
      sum = _mm512_dpbusd_epi32(sum, here, weights);
      if (kShifted || kCodes) codes = _mm512_dpbusd_epi32(codes, here, ones);
    }
    if (kShifted) sum = _mm512_add_epi32(sum, _mm512_slli_epi32(codes, 7));
    _mm512_store_si512(d.sums + p * d.channels + at, sum);
    if (kCodes) _mm512_store_si512(d.code_sums + p * d.channels + at, codes);
  }
}

template <int kTaps>
inline void depthwise_taps(const DepthwiseRow& d) {
  const auto run = d.code_sums != nullptr
                       ? (d.shifted ? depthwise_16<kTaps, true, true> : depthwise_16<kTaps, false, true>)
                       : (d.shifted ? depthwise_16<kTaps, true, false>
                                    : depthwise_16<kTaps, false, false>);
  for (int64_t c = 0; c < d.channels; c += 16) run(d, c);
}

// See Kernels::depthwise_row.
inline void depthwise_row(const DepthwiseRow& d) {
  (d.taps == 3 ? depthwise_taps<3> : depthwise_taps<0>)(d);
}

}  // namespace
}  // namespace bc
