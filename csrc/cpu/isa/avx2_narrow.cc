// Products of codes of up to six bits for AVX2: vpmaddubsw multiplies unsigned left with signed right
// codes and adds pairs in 16 bits. Codes are so small that neither a pair nor kAdds of them saturate;
// then pairs of pairs go to 32 bits.
#include <immintrin.h>
#include <string.h>

#include "avx2_forms.h"
#include "forms.h"
#include "tiles.h"

namespace bc {
namespace {

template <int kBits, int64_t kAdds>
struct Narrow {
  static constexpr int64_t kTop = (1 << kBits) - 1;
  static_assert(kAdds * 2 * kTop * kTop <= 32767, "sums of pairs stay in 16 bits");
  static constexpr int64_t kWidth = 8, kVectors = 2, kStep = 4, kBytes = 1;
  static constexpr int rows(int) { return 4; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    __m256i wide[kRows][kVecs] = {};
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i* panel = reinterpret_cast<const __m256i*>(block);
    const int64_t stride = p.row_bytes;
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * stride;
      for (int64_t rest = (p.length + 3) / 4; rest > 0; rest -= kAdds) {
        __m256i sum[kRows][kVecs] = {};
#pragma GCC unroll 1
        for (int64_t k = rest < kAdds ? rest : kAdds; k > 0; --k, left += 4, panel += kVecs) {
          __m256i right[kVecs];
#pragma GCC unroll 16
          for (int v = 0; v < kVecs; ++v) right[v] = _mm256_load_si256(panel + v);
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            int32_t four;
            memcpy(&four, left + r * stride, sizeof four);
            const __m256i codes = _mm256_set1_epi32(four);
#pragma GCC unroll 16
            for (int v = 0; v < kVecs; ++v)
              sum[r][v] = _mm256_add_epi16(sum[r][v], _mm256_maddubs_epi16(codes, right[v]));
          }
        }
        for (int r = 0; r < kRows; ++r) {
          for (int v = 0; v < kVecs; ++v)
            wide[r][v] = _mm256_add_epi32(wide[r][v], _mm256_madd_epi16(sum[r][v], ones));
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) store(to + v * kWidth, columns - v * kWidth, wide[r][v]);
    }
  }

  static inline void store(int32_t* out, int64_t columns, __m256i sum) {
    if (columns >= kWidth) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), sum);
      return;
    }
    const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(columns)), place);
    _mm256_maskstore_epi32(out, inside, sum);
  }

  static void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                         bool, void* panel) {
    uint8_t* out = static_cast<uint8_t*>(panel);
    for (int64_t first = 0; first < columns; first += kVectors * kWidth) {
      const int64_t width = Tiles<Narrow>::vectors(columns - first) * kWidth;
      for (int64_t s = 0; s < segments; ++s) {
        for (int64_t k = 0; k < length; k += 4) {
          const size_t count = static_cast<size_t>(length - k < 4 ? length - k : 4);
          for (int64_t c = first; c < first + width; ++c, out += 4) {
            memset(out, 0, 4);
            if (c < columns) memcpy(out, right + (c * segments + s) * length + k, count);
          }
        }
      }
    }
  }

  static void product(const Product& p) {
    static const int32_t kZero[kRowBlock] = {};
    for (int64_t first = 0; first < p.rows; first += kRowBlock) {
      const int64_t count = p.rows - first < kRowBlock ? p.rows - first : kRowBlock;
      Tiles<Narrow>::blocks(p, first, count, kZero);
    }
  }

  static constexpr Form form() {
    Form f = bytes_form<Tiles<Narrow>::panel_bytes, pack_panel, product, kStep>();
    f.shifts = false;
    return f;
  }
};

}  // namespace

const Form kAvx2FourBits = Narrow<4, 72>::form();
const Form kAvx2SixBits = Narrow<6, 4>::form();

}  // namespace bc
