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
    for (int i = 0; i < kSums; ++i) {
      BITCOMPRESS_OPAQUE(x);
      sum[i] = _mm512_add_epi64(sum[i], _mm512_popcnt_epi64(_mm512_xor_si512(x, w)));
    }
  }
  for (int i = 0; i < kSums; ++i) BITCOMPRESS_OPAQUE(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 512;
}

// Triples of 2-bit codes: a table of 64 x 64 partial sums; 4 pixels by 128 channels.
double lookup(int64_t rounds, const uint8_t*, int64_t) {
  __m512i sum[4][2] = {}, index[2] = {_mm512_set1_epi8(3), _mm512_set1_epi8(9)};
  for (int64_t r = 0; r < rounds; ++r) {
    for (int s = 0; s < kPeakSteps; ++s) {
      for (int p = 0; p < 4; ++p) {
        const __m512i row = _mm512_load_si512(g_table + 64 * ((s + 16 * p) % 64));
        for (int q = 0; q < 2; ++q) {
          BITCOMPRESS_OPAQUE(index[q]);
          sum[p][q] = _mm512_add_epi8(sum[p][q], _mm512_permutexvar_epi8(index[q], row));
        }
      }
    }
  }
  for (auto& pixel : sum) {
    for (__m512i& part : pixel) BITCOMPRESS_OPAQUE(part);
  }
  return static_cast<double>(rounds) * kPeakSteps * 8 * 64 * 3;
}

}  // namespace

const Peak kPeaksAvx512vbmi[] = {{"popcount", "avx512vbmi", popcount},
                                 {"lookup", "avx512vbmi", lookup},
                                 {nullptr, nullptr, nullptr}};

}  // namespace bc
