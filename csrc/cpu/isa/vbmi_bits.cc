// Products of codes of one bit: AND, count the bits of 32-bit words (vpopcntd), add.
//
// A unit is 32 channels of a pixel; bits behind the last channel are 0 and add nothing. The panel
// holds blocks of up to 64 columns, within a block words of 16 columns a vector, so that a tile of
// 4 rows x 64 columns keeps its 16 vectors of sums in registers.
#include <immintrin.h>
#include <string.h>

#include "avx512vbmi.h"
#include "words.h"

namespace bc {
namespace {

struct Bits {
  static constexpr int64_t kWidth = 16, kVectors = 4, kStep = 1, kBytes = 4;
  static constexpr int rows(int vectors) { return vectors == 4 ? 4 : vectors == 3 ? 6 : 8; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    __m512i sum[kRows][kVecs] = {};
    const int64_t stride = p.row_bytes;
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * stride;
#pragma GCC unroll 1
      for (int64_t k = 0; k < p.length; ++k, left += 4, block += 64 * kVecs) {
        __m512i right[kVecs];
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) right[v] = _mm512_load_si512(block + 64 * v);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          int32_t word;
          memcpy(&word, left + r * stride, sizeof word);
          const __m512i bits = _mm512_set1_epi32(word);
#pragma GCC unroll 16
          for (int v = 0; v < kVecs; ++v) {
            const __m512i both = _mm512_and_si512(bits, right[v]);
            sum[r][v] = _mm512_add_epi32(sum[r][v], _mm512_popcnt_epi32(both));
          }
        }
      }
    }
    // Unrolled, so that no sum goes through memory; the last vector alone may lack columns.
    const int64_t last = columns - (kVecs - 1) * kWidth;
    const __mmask16 inside =
        last >= kWidth ? __mmask16{0xffff} : static_cast<__mmask16>((1u << last) - 1);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
#pragma GCC unroll 16
      for (int v = 0; v + 1 < kVecs; ++v) _mm512_storeu_si512(to + v * kWidth, sum[r][v]);
      _mm512_mask_storeu_epi32(to + (kVecs - 1) * kWidth, inside, sum[r][kVecs - 1]);
    }
  }
};

inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
  if (channels % kWord == 0) channels *= pixels, pixels = 1;
  for (int64_t p = 0; p < pixels; ++p, codes += channels) {
    for (int64_t c = 0; c < channels; c += 64) {
      const int64_t rest = channels - c < 64 ? channels - c : 64;
      const __m512i here = _mm512_maskz_loadu_epi8(first_bytes(rest), codes + c);
      const uint64_t bits = _mm512_test_epi8_mask(here, here);
      const int64_t bytes = units(rest) * 4;
      memcpy(out, &bits, static_cast<size_t>(bytes));
      out += bytes;
    }
  }
}

}  // namespace

const Form kVbmiBits = word_form<Bits, load>();

}  // namespace bc
