// Peak loops of AVX-512 with VNNI.
#include <immintrin.h>

#include "../peak.h"

namespace bc {
namespace {

constexpr int kSums = 16;  // GCC keeps up to so many in registers

double fma(int64_t rounds, const uint8_t*, int64_t) {
  __m512 sum[kSums] = {}, x = _mm512_set1_ps(1.0f), w = _mm512_set1_ps(0.999f);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      sum[i] = _mm512_fmadd_ps(sum[i], w, x);
      BITCOMPRESS_OPAQUE(sum[i]);
    }
  }
  return static_cast<double>(rounds) * kPeakSteps * kSums * 16;
}

double int8(int64_t rounds, const uint8_t*, int64_t) {
  __m512i sum[kSums] = {}, x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], x, w);
      BITCOMPRESS_OPAQUE(sum[i]);
    }
  }
  return static_cast<double>(rounds) * kPeakSteps * kSums * 64;
}

// As in peak_avx2.cc.
double popcount(int64_t rounds, const uint8_t*, int64_t) {
  const __m512i bits = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15);
  __m512i sum[4] = {}, x = _mm512_set1_epi8(0x35), w = _mm512_set1_epi8(0x1c);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
      BITCOMPRESS_OPAQUE(x);
      const __m512i differ = _mm512_xor_si512(x, w);
      const __m512i a = _mm512_shuffle_epi8(bits, _mm512_and_si512(differ, low));
      const __m512i b =
          _mm512_shuffle_epi8(bits, _mm512_and_si512(_mm512_srli_epi16(differ, 4), low));
      sum[i] = _mm512_add_epi8(sum[i], _mm512_add_epi8(a, b));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) BITCOMPRESS_OPAQUE(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * 4 * 512;
}

double read(int64_t rounds, const uint8_t* buffer, int64_t bytes) {
  bytes -= bytes % kPeakBlock;
  __m512i sum[8] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    for (int64_t at = 0; at < bytes; at += 512) {
#pragma GCC unroll 16
      for (int i = 0; i < 8; ++i)
        sum[i] = _mm512_xor_si512(sum[i], _mm512_loadu_si512(buffer + at + 64 * i));
    }
    for (int i = 0; i < 8; ++i) BITCOMPRESS_OPAQUE(sum[i]);
  }
  return static_cast<double>(rounds) * static_cast<double>(bytes);
}

}  // namespace

const Peak kPeaksAvx512vnni[] = {{"fma", "avx512vnni", fma},
                                 {"int8", "avx512vnni", int8},
                                 {"popcount", "avx512vnni", popcount},
                                 {"read", "avx512vnni", read},
                                 {nullptr, nullptr, nullptr}};

}  // namespace bc
