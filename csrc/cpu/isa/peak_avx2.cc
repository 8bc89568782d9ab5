// Peak loops of AVX2 with FMA.
#include <immintrin.h>

#include "../peak.h"

namespace bc {
namespace {

constexpr int kSums = 12;
alignas(64) uint8_t g_table[4096];

double fma(int64_t rounds, const uint8_t*, int64_t) {
  __m256 sum[kSums] = {}, x = _mm256_set1_ps(1.0f), w = _mm256_set1_ps(0.999f);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      sum[i] = _mm256_fmadd_ps(sum[i], w, x);
      BITCOMPRESS_OPAQUE_YMM(sum[i]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) BITCOMPRESS_OPAQUE_YMM(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 8;
}

double int8(int64_t rounds, const uint8_t*, int64_t) {
  __m256i sum[kSums] = {}, x = _mm256_set1_epi16(3), w = _mm256_set1_epi16(5);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      BITCOMPRESS_OPAQUE_YMM(x);
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(x, w));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) BITCOMPRESS_OPAQUE_YMM(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 16;
}

double int8fast(int64_t rounds, const uint8_t*, int64_t) {
  __m256i sum[kSums] = {}, x = _mm256_set1_epi8(3), w = _mm256_set1_epi8(1);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) {
      BITCOMPRESS_OPAQUE_YMM(x);
      sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(x, w));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) BITCOMPRESS_OPAQUE_YMM(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * kSums * 32;
}

// Bits of each byte by two shuffles out of a table of 16; the bytes are added up now and then, which
// is left out here.
double popcount(int64_t rounds, const uint8_t*, int64_t) {
  const __m256i bits = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m256i low = _mm256_set1_epi8(15);
  __m256i sum[4] = {}, x = _mm256_set1_epi8(0x35), w = _mm256_set1_epi8(0x1c);
  for (int64_t r = 0; r < rounds * kPeakSteps; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
      BITCOMPRESS_OPAQUE_YMM(x);
      const __m256i differ = _mm256_xor_si256(x, w);
      const __m256i a = _mm256_shuffle_epi8(bits, _mm256_and_si256(differ, low));
      const __m256i b =
          _mm256_shuffle_epi8(bits, _mm256_and_si256(_mm256_srli_epi16(differ, 4), low));
      sum[i] = _mm256_add_epi8(sum[i], _mm256_add_epi8(a, b));
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) BITCOMPRESS_OPAQUE_YMM(sum[i]);
  return static_cast<double>(rounds) * kPeakSteps * 4 * 256;
}

// A table of 16 x 16 partial sums; 4 pixels by 64 channels, rows at known places. Sums leave the bytes
// now and then, which is left out here. Gives the lookups.
double lookups(int64_t rounds) {
  __m256i sum[4][2] = {}, index[2] = {_mm256_set1_epi8(3), _mm256_set1_epi8(9)};
  const uint8_t* table = g_table;
  for (int64_t r = 0; r < rounds * kPeakSteps / 4; ++r) {
    __asm__ volatile("" : "+r"(table));
#pragma GCC unroll 16
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 16
      for (int p = 0; p < 4; ++p) {
        const __m128i* at = reinterpret_cast<const __m128i*>(table + 16 * (4 * s + p));
        const __m256i row = _mm256_broadcastsi128_si256(_mm_load_si128(at));
#pragma GCC unroll 16
        for (int q = 0; q < 2; ++q) {
          sum[p][q] = _mm256_add_epi8(sum[p][q], _mm256_shuffle_epi8(row, index[q]));
          BITCOMPRESS_OPAQUE_YMM(sum[p][q]);
        }
      }
    }
  }
  return static_cast<double>(rounds) * kPeakSteps * 8 * 32;
}

// Pairs of 2-bit codes, and four codes of one bit.
double lookup(int64_t rounds, const uint8_t*, int64_t) { return 2 * lookups(rounds); }
double lookup1(int64_t rounds, const uint8_t*, int64_t) { return 4 * lookups(rounds); }

double read(int64_t rounds, const uint8_t* buffer, int64_t bytes) {
  bytes -= bytes % kPeakBlock;
  __m256i sum[4] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    for (int64_t at = 0; at < bytes; at += 128) {
#pragma GCC unroll 16
      for (int i = 0; i < 4; ++i) {
        const __m256i* from = reinterpret_cast<const __m256i*>(buffer + at + 32 * i);
        sum[i] = _mm256_xor_si256(sum[i], _mm256_loadu_si256(from));
      }
    }
    for (int i = 0; i < 4; ++i) BITCOMPRESS_OPAQUE_YMM(sum[i]);
  }
  return static_cast<double>(rounds) * static_cast<double>(bytes);
}

}  // namespace

const Peak kPeaksAvx2[] = {{"fma", "avx2", fma},           {"int8", "avx2", int8},
                           {"int8fast", "avx2", int8fast}, {"popcount", "avx2", popcount},
                           {"lookup", "avx2", lookup},     {"lookup1", "avx2", lookup1},
                           {"read", "avx2", read},
                           {nullptr, nullptr, nullptr}};

}  // namespace bc
