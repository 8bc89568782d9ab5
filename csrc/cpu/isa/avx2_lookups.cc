// Products of codes of one and two bits for AVX2: vpshufb looks up the sums of a left unit of 16 values
// with 32 columns. A unit is four codes of one bit, or two of two.
#include <immintrin.h>

#include "avx2_forms.h"
#include "lookups.h"

namespace bc {
namespace {

// kAdds: so many sums fit into a byte.
template <int kBits, int64_t kCodesOfUnit, int64_t kLargest, int64_t kAdds>
struct Nibbles {
  static_assert(kAdds * kLargest <= 255, "sums of lookups stay in bytes");
  static constexpr int64_t kCodes = kCodesOfUnit, kUnitBytes = 1, kColumns = 32, kVecs = 2;
  static constexpr int64_t kMostUnits = 65535 / kLargest;
  static constexpr int rows(int) { return 4; }
  static constexpr Bank<kBits, 16> kBank{};

  static uint8_t unit(const uint8_t* offset) { return static_cast<uint8_t>(*offset / 16); }

  static void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
    if (channels % kCodes == 0) channels *= pixels, pixels = 1;
    for (int64_t p = 0; p < pixels; ++p, codes += channels) {
      const int64_t whole = channels / kCodes;
      for (int64_t u = 0; u < whole; ++u) {
        unsigned value = 0;
        for (int64_t i = 0; i < kCodes; ++i)
          value |= static_cast<unsigned>(codes[kCodes * u + i]) << (kBits * i + 4);
        out[u] = static_cast<uint8_t>(value);
      }
      out += whole;
      if (whole * kCodes == channels) continue;
      unsigned value = 0;
      for (int64_t i = whole * kCodes; i < channels; ++i)
        value |= static_cast<unsigned>(codes[i]) << (kBits * (i - whole * kCodes) + 4);
      *out++ = static_cast<uint8_t>(value);
    }
  }

  template <int kRows, int kVectors>
  static void tile(const Product& p, const Part& part, int64_t row, const uint8_t* panel,
                   int64_t columns, int32_t* out) {
    __m256i both[kRows][kVectors] = {}, high[kRows][kVectors] = {};
    const int64_t stride = p.row_bytes;
    for (int64_t s = 0; s < part.segments; ++s) {
      const uint8_t* left = part.runs[s] + part.skip + row * stride;
      for (int64_t rest = part.units; rest > 0; rest -= kAdds) {
        const int64_t count = rest < kAdds ? rest : kAdds;
        __m256i sum[kRows][kVectors] = {};
#pragma GCC unroll 1
        for (int64_t u = 0; u < count; ++u, ++left, panel += kColumns * kVectors) {
          __m256i right[kVectors];
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v)
            right[v] = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel) + v);
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            const __m128i* at =
                reinterpret_cast<const __m128i*>(kBank.row(left[r * stride]));
            const __m256i sums = _mm256_broadcastsi128_si256(_mm_load_si128(at));
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v)
              sum[r][v] = _mm256_add_epi8(sum[r][v], _mm256_shuffle_epi8(sums, right[v]));
          }
        }
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            both[r][v] = _mm256_add_epi16(both[r][v], sum[r][v]);
            high[r][v] = _mm256_add_epi16(high[r][v], _mm256_srli_epi16(sum[r][v], 8));
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVectors; ++v)
        store(to + v * kColumns, columns - v * kColumns, both[r][v], high[r][v], part.add);
    }
  }

  // `both` holds words of low + 256 * high byte modulo 2^16, `high` the sums of the high bytes.
  static void store(int32_t* out, int64_t columns, __m256i both, __m256i high, bool add) {
    const __m256i low = _mm256_sub_epi16(both, _mm256_slli_epi16(high, 8));
    const __m256i a = _mm256_unpacklo_epi16(low, high), b = _mm256_unpackhi_epi16(low, high);
    const __m128i words[4] = {_mm256_castsi256_si128(a), _mm256_castsi256_si128(b),
                              _mm256_extracti128_si256(a, 1), _mm256_extracti128_si256(b, 1)};
    for (int i = 0; i < 4; ++i, out += 8, columns -= 8) {
      if (columns <= 0) return;
      store(out, columns, _mm256_cvtepu16_epi32(words[i]), add);
    }
  }

  static void store(int32_t* out, int64_t columns, __m256i sums, bool add) {
    const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int count = columns < 8 ? static_cast<int>(columns) : 8;
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), places);
    if (add) sums = _mm256_add_epi32(sums, _mm256_maskload_epi32(out, inside));
    _mm256_maskstore_epi32(out, inside, sums);
  }
};

}  // namespace

const Form kAvx2Bits = Lookups<Nibbles<1, 4, 4, 60>>::form("quads");
const Form kAvx2Pairs = Lookups<Nibbles<2, 2, 18, 14>>::form("pairs");

}  // namespace bc
