// Peak loops of AVX-512 with VBMI and VPOPCNTDQ: counts of bits, and lookups in tables of 64 bytes.
#include <immintrin.h>

#include "../peak.h"

namespace bc {
namespace {

alignas(64) uint8_t g_table[4096];

double popcount(int64_t rounds, const uint8_t*, int64_t) {
  constexpr int kSums = 16;
  __m512i sum[kSums] = {}, x = _mm512_set1_epi8(0x35), w = _mm512_set1_epi8(0x1c);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      BITCOMPRESS_OPAQUE(x);
      sum[i] = _mm512_add_epi32(sum[i], _mm512_popcnt_epi32(_mm512_and_si512(x, w)));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) BITCOMPRESS_OPAQUE(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 512;
}

// Triples of 2-bit codes: a table of 64 x 64 partial sums; 4 pixels by 128 channels, rows at known
// places. Sums leave the bytes now and then, which is left out here.
double lookup(int64_t rounds, const uint8_t*, int64_t) {
  __m512i sum[4][2] = {}, index[2] = {_mm512_set1_epi8(3), _mm512_set1_epi8(9)};
  const uint8_t* table = g_table;
  for (int64_t r = 0; r < rounds * kPeakSteps / 4; ++r) {
    __asm__ volatile("" : "+r"(table));
#pragma GCC unroll 16
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 16
      for (int p = 0; p < 4; ++p) {
        const __m512i row = _mm512_load_si512(table + 64 * (4 * s + p));
#pragma GCC unroll 16
        for (int q = 0; q < 2; ++q) {
          sum[p][q] = _mm512_add_epi8(sum[p][q], _mm512_permutexvar_epi8(index[q], row));
          BITCOMPRESS_OPAQUE(sum[p][q]);
        }
      }
    }
  }
  return static_cast<double>(rounds) * kPeakSteps * 8 * 64 * 3;
}

}  // namespace

const Peak kPeaksAvx512vbmi[] = {{"popcount", "avx512vbmi", popcount},
                                 {"lookup", "avx512vbmi", lookup},
                                 {nullptr, nullptr, nullptr}};

}  // namespace bc
