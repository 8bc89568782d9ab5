// AVX2: codes are widened to 16 bits and multiplied in pairs (vpmaddwd), which cannot saturate: 2 *
// 255 * 255 fits int32.
#include <immintrin.h>

#define BITCOMPRESS_VECTOR 8
#include "rows.h"
#include "softmax.h"
#include "avx2_forms.h"
#include "cut.h"
#include "read.h"
#include "reals.h"
#include "lengths.h"
#include "pixels.h"
#include "learn.h"
#include "steps.h"
#include "floats.h"
#include "chain.h"
#include "forms.h"
#include "tiles.h"

namespace bc {
namespace {

struct Avx2 {
  static constexpr int64_t kWidth = 8, kVectors = 2, kStep = 2, kBytes = 2;
  static constexpr int rows(int) { return 4; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    __m256i sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) sum[r][v] = _mm256_setzero_si256();
    }
    const __m256i* panel = reinterpret_cast<const __m256i*>(block);
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * p.row_bytes;
      for (int64_t k = 0; k < (p.length + 1) / 2; ++k, left += 4, panel += kVecs) {
        __m256i right[kVecs];
        for (int v = 0; v < kVecs; ++v) right[v] = _mm256_load_si256(panel + v);
        for (int r = 0; r < kRows; ++r) {
          int32_t pair;
          memcpy(&pair, left + r * p.row_bytes, sizeof pair);
          const __m256i codes = _mm256_set1_epi32(pair);
          for (int v = 0; v < kVecs; ++v)
            sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(codes, right[v]));
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) store(to + v * kWidth, columns - v * kWidth, sum[r][v]);
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
};

inline Reals min_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline Reals max_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}

inline void store_codes(uint8_t* to, Reals sum) {
  const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                       0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_castps_si256(reinterpret_cast<__m256>(sum)), low);
  const __m128i both =
      _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
}

inline Reals root(Reals x) {
  return reinterpret_cast<Reals>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
}

inline __m256i first_words(int64_t n) {
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)), place);
}
inline Reals load_first(const float* x, int64_t n) {
  if (n >= kVector) return load(x);
  return reinterpret_cast<Reals>(_mm256_maskload_ps(x, first_words(n)));
}
inline void store_first(float* to, int64_t n, Reals x) {
  if (n >= kVector) return store(to, x);
  _mm256_maskstore_ps(to, first_words(n), reinterpret_cast<__m256>(x));
}

inline void turn_block(const float* __restrict x, int64_t x_stride, float* __restrict out,
                       int64_t out_stride) {
  for (int64_t c = 0; c < 16; ++c) {
    for (int64_t r = 0; r < 16; ++r) out[c * out_stride + r] = x[r * x_stride + c];
  }
}

using Cut = Tiles<Avx2>;

void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length, bool,
                void* panel) {
  int16_t* out = static_cast<int16_t*>(panel);
  for (int64_t first = 0; first < columns; first += Avx2::kVectors * Avx2::kWidth) {
    const int64_t width = Cut::vectors(columns - first) * Avx2::kWidth;
    for (int64_t s = 0; s < segments; ++s) {
      for (int64_t k = 0; k < length; k += 2) {
        for (int64_t c = 0; c < width; ++c, out += 2) {
          const uint8_t* codes = right + ((first + c) * segments + s) * length + k;
          const bool inside = first + c < columns;
          out[0] = inside ? codes[0] : int16_t{0};
          out[1] = inside && k + 1 < length ? codes[1] : int16_t{0};
        }
      }
    }
  }
}

void product(const Product& p) {
  static const int32_t kZero[kRowBlock] = {};  // the panel is never shifted: rows start from 0
  for (int64_t first = 0; first < p.rows; first += kRowBlock) {
    Cut::blocks(p, first, p.rows - first < kRowBlock ? p.rows - first : kRowBlock, kZero);
  }
}

// Both factors stand alone in 32 bits, where the upper half of each pair of vpmaddwd is 0.
void depthwise(const uint8_t* const* x, const int32_t* const* w, int64_t taps, int64_t channels,
               int32_t* out) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    __m256i sum = _mm256_setzero_si256();
    for (int64_t t = 0; t < taps; ++t) {
      const __m256i codes =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x[t] + c)));
      const __m256i weights = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w[t] + c));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, weights));
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c), sum);
  }
  depthwise_from(c, x, w, taps, channels, out);
}

constexpr Form kWords = words_form<Cut::panel_bytes, pack_panel, product, 2>();

// What a form multiplies where columns and channels do not fill it, over its speed.
double cost(const Extent& e, int64_t channels, int64_t columns, double speed) {
  const auto filled = [](int64_t n, int64_t step) {
    return static_cast<double>((n + step - 1) / step * step);
  };
  return filled(e.channels, channels) * filled(e.columns, columns) / speed;
}

const Form& form_for(int x_bits, int w_bits, const Extent& extent) {
  const int bits = x_bits > w_bits ? x_bits : w_bits;
  if (extent.length() < (bits > 2 ? 64 : 16)) return kWords;  // sums of 16 bits have to pay off
  if (bits > 4) return bits > 6 ? kWords : kAvx2SixBits;
  if (bits > 2) return kAvx2FourBits;
  const double narrow = cost(extent, 1, 8, 1);
  if (bits == 1 && cost(extent, 4, 32, 4) < narrow) return kAvx2Bits;
  return cost(extent, 2, 32, 2) < narrow ? kAvx2Pairs : kAvx2FourBits;
}

}  // namespace

const Kernels kAvx2 = {
    "avx2",      encode_row,   encode_each,      fake_row,
    fake_each,   backward_row, backward_each,    minmax_row,
    minmax_each, bins_row,     bins_each,        2,
    2,           widen_rows,   Cut::panel_bytes, pack_panel,
    product,     depthwise,    sum_rows,         read_row,
    read_each,
    &kAttendAvx2,
    read_centred,
    exp2_row,
    softmax_codes,
    layer_norm_rows,
    layer_norm_row,
    gelu_row,
    gelu_tanh_row,
    sigmoid_row,
    silu_row,
    unit_rows,
    unit_columns,
    cut,
    turn,
    read_rows,
    read_codes,
    cut_rows,
    nullptr,
    nullptr,
    &kWords,
    form_for,
    step_rows,
    chain_rows,
    sum_columns,
    sum_line,
    floats_few,
    &kLearning,
};

}  // namespace bc
