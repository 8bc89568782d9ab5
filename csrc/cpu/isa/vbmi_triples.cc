// Products of codes of up to two bits by looking up partial sums, three products at a time.
//
// A unit is three codes, 64 values: vpermb looks up the sums of a left triple with 64 columns. Sums of
// up to 27 are added in bytes, and every kAdds lookups go to 16 bits: `both` adds words of low + 256 *
// high byte modulo 2^16, `high` the high bytes alone, from which the low ones follow at the end.
//
// Four left units are read in one go through a vector register: loads of general registers beside
// loads of 64 bytes are slow.
#include <immintrin.h>
#include <string.h>

#include "avx512vbmi.h"
#include "lookups.h"

namespace bc {
namespace {

constexpr int kAdds = 8;  // 8 * 27 fits into a byte
static_assert(kAdds * 27 <= 255, "sums of lookups stay in bytes");

constexpr Bank<2, 64> kBank;

inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// The compiler would first look up everything and then add, with no registers left.
inline void here(__m512i& x) { __asm__ volatile("" : "+v"(x)); }

// kUnits lookups of kRows x kVecs sums; kFirst: the first ones start the sums.
template <int kRows, int kVecs, int kUnits, bool kFirst>
inline void look_up(const uint8_t* left, int64_t stride, const uint8_t* panel,
                    __m512i (&sum)[kRows][kVecs]) {
  uint64_t units[kRows];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kUnits == 4) {
      __m128i four = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(left + r * stride));
      __asm__("" : "+v"(four));
      units[r] = static_cast<uint64_t>(_mm_cvtsi128_si64(four));
    } else {
      uint16_t one;
      memcpy(&one, left + r * stride, sizeof one);
      units[r] = one;
    }
  }
#pragma GCC unroll 16
  for (int u = 0; u < kUnits; ++u) {
    __m512i right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) right[v] = _mm512_load_si512(panel + 64 * (u * kVecs + v));
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const __m512i row = _mm512_load_si512(kBank.row(static_cast<uint16_t>(units[r])));
      units[r] >>= 16;
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v) {
        const __m512i found = _mm512_permutexvar_epi8(right[v], row);
        sum[r][v] = kFirst && u == 0 ? found : _mm512_add_epi8(sum[r][v], found);
        here(sum[r][v]);
      }
    }
  }
}

// 64 columns, of which `columns` are in out.
inline void store(int32_t* out, int64_t columns, __m512i both, __m512i high, bool add) {
  const __m512i low = _mm512_sub_epi16(both, _mm512_slli_epi16(high, 8));
  const __m512i a = _mm512_unpacklo_epi16(low, high), b = _mm512_unpackhi_epi16(low, high);
  // Each quarter of a holds the first 8 of 16 columns, that of b the others.
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  const __m512i front = _mm512_permutex2var_epi64(a, first, b);
  const __m512i back = _mm512_permutex2var_epi64(a, second, b);
  const __m512i sums[4] = {_mm512_cvtepu16_epi32(_mm512_castsi512_si256(front)),
                           _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(front, 1)),
                           _mm512_cvtepu16_epi32(_mm512_castsi512_si256(back)),
                           _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(back, 1))};
  if (columns >= 64 && !add) {
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) _mm512_storeu_si512(out + 16 * i, sums[i]);
    return;
  }
  const uint64_t inside = first_bytes(columns);
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    const __mmask16 here = static_cast<__mmask16>(inside >> 16 * i);
    const __m512i there = _mm512_maskz_loadu_epi32(add ? here : __mmask16{0}, out + 16 * i);
    _mm512_mask_storeu_epi32(out + 16 * i, here, _mm512_add_epi32(there, sums[i]));
  }
}

// All columns of the vector in the order of place_of.
inline void store_spread(int32_t* out, __m512i both, __m512i high, bool add) {
  const __m512i low = _mm512_sub_epi16(both, _mm512_slli_epi16(high, 8));
  const __m512i word = _mm512_set1_epi32(0xffff);
  const __m512i sums[4] = {_mm512_and_si512(low, word), _mm512_srli_epi32(low, 16),
                           _mm512_and_si512(high, word), _mm512_srli_epi32(high, 16)};
  for (int q = 0; q < 4; ++q) {
    const __m512i before = add ? _mm512_loadu_si512(out + 16 * q) : _mm512_setzero_si512();
    _mm512_storeu_si512(out + 16 * q, _mm512_add_epi32(sums[q], before));
  }
}

struct Triples {
  static constexpr int64_t kCodes = 3, kUnitBytes = 2, kColumns = 64, kVecs = 2;
  static constexpr int64_t kMostUnits = 65535 / 27;
  static constexpr int rows(int vecs) { return vecs == 2 ? 4 : 6; }

  static uint8_t unit(const uint8_t* offset) {
    return static_cast<uint8_t>((offset[0] | offset[1] << 8) / 64);
  }

  // 16 units of 48 codes at a time, each three codes in a word of 32 bits.
  static void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
    if (channels % kCodes == 0) channels *= pixels, pixels = 1;
    alignas(64) uint8_t order[64];
    for (int i = 0; i < 64; ++i) order[i] = static_cast<uint8_t>(i / 4 * 3 + i % 4);
    const __m512i places = _mm512_load_si512(order);
    const __m512i values = _mm512_set1_epi32(0x00100401);  // 1, 4, 16
    const __m512i rows = _mm512_set1_epi32(63 * 64);       // whatever a caller calls a code
    constexpr __mmask64 kThree = 0x7777777777777777;
    const auto offsets = [&](__m512i here) {
      const __m512i three = _mm512_maskz_permutexvar_epi8(kThree, places, here);
      const __m512i triples = _mm512_dpbusd_epi32(_mm512_setzero_si512(), three, values);
      return _mm512_cvtepi32_epi16(_mm512_and_si512(_mm512_slli_epi32(triples, 6), rows));
    };
    for (int64_t p = 0; p < pixels; ++p) {
      int64_t rest = channels;
      for (; rest >= 64; rest -= 48, codes += 48, out += 32)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), offsets(_mm512_loadu_si512(codes)));
      while (rest > 0) {
        const int64_t here = rest < 48 ? rest : 48, count = (here + kCodes - 1) / kCodes;
        _mm256_mask_storeu_epi16(out, static_cast<__mmask16>((1u << count) - 1),
                                 offsets(_mm512_maskz_loadu_epi8(first_bytes(here), codes)));
        rest -= here, codes += here, out += 2 * count;
      }
    }
  }

  template <int kRows, int kVecs>
  static void tile(const Product& p, const Part& part, int64_t row, const uint8_t* panel, int64_t columns,
            int32_t* out) {
    __m512i both[kRows][kVecs] = {}, high[kRows][kVecs] = {};
    const int64_t stride = p.row_bytes;
    const auto flush = [&](const __m512i(&sum)[kRows][kVecs]) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) {
          both[r][v] = _mm512_add_epi16(both[r][v], sum[r][v]);
          high[r][v] = _mm512_add_epi16(high[r][v], _mm512_srli_epi16(sum[r][v], 8));
        }
      }
    };
    for (int64_t s = 0; s < part.segments; ++s) {
      const uint8_t* left = part.runs[s] + 2 * part.skip + row * stride;
      int64_t rest = part.units;
      __m512i sum[kRows][kVecs];
#pragma GCC unroll 1
      for (; rest >= kAdds; rest -= kAdds) {
        look_up<kRows, kVecs, 4, true>(left, stride, panel, sum);
        look_up<kRows, kVecs, 4, false>(left + 8, stride, panel + 256 * kVecs, sum);
        left += 2 * kAdds, panel += 64 * kAdds * kVecs;
        flush(sum);
      }
      if (rest == 0) continue;
      look_up<kRows, kVecs, 1, true>(left, stride, panel, sum);
#pragma GCC unroll 1
      for (int64_t u = 1; u < rest; ++u)
        look_up<kRows, kVecs, 1, false>(left + 2 * u, stride, panel + 64 * u * kVecs, sum);
      panel += 64 * rest * kVecs;
      flush(sum);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
#pragma GCC unroll 16
      for (int v = 0; p.spread && v < kVecs; ++v)
        store_spread(to + v * kColumns, both[r][v], high[r][v], part.add);
      for (int v = 0; !p.spread && v < kVecs; ++v)
        store(to + v * kColumns, columns - v * kColumns, both[r][v], high[r][v], part.add);
    }
  }
};

}  // namespace

const Form kVbmiTriples = Lookups<Triples>::form("triples", true);

}  // namespace bc
