// AVX-512 with VNNI: vpdpbusd multiplies four unsigned left codes with four signed right codes and
// adds to int32 without saturating. Right codes above 127 are stored as code - 128, and 128 * (sum
// of the left row) is added: exact, since the arithmetic is that of 32-bit words.
#include <immintrin.h>

#define BITCOMPRESS_VECTOR 16
#include "rows.h"
#include "softmax.h"
#include "cut.h"
#include "read.h"
#include "read512.h"
#include "depthwise512.h"
#include "reals.h"
#include "lengths.h"
#include "pixels.h"
#include "learn.h"
#include "steps.h"
#include "floats.h"
#include "chain.h"
#include "avx2_forms.h"
#include "forms.h"
#include "tiles.h"
#include "transpose512.h"

namespace bc {
namespace {

struct Vnni {
  static constexpr int64_t kWidth = 16, kVectors = 4, kStep = 4, kBytes = 1;
  // 32 registers: rows * vectors sums, the vectors of the panel, and the broadcast.
  static constexpr int rows(int vectors) { return vectors == 4 ? 6 : vectors == 1 ? 12 : 8; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t* sums, int32_t* out) {
    __m512i sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) sum[r][v] = _mm512_set1_epi32(sums[r]);
    }
    const int64_t steps = (p.length + 3) / 4, stride = p.row_bytes;
    const uint8_t* panel = block;
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * stride;
      for (int64_t k = 0; k < steps; ++k, left += 4, panel += 64 * kVecs) {
        __m512i right[kVecs];
        for (int v = 0; v < kVecs; ++v) right[v] = _mm512_load_si512(panel + 64 * v);
        for (int r = 0; r < kRows; ++r) {
          int32_t four;
          memcpy(&four, left + r * stride, sizeof four);
          const __m512i codes = _mm512_set1_epi32(four);
          for (int v = 0; v < kVecs; ++v)
            sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], codes, right[v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) store(to + v * kWidth, columns - v * kWidth, sum[r][v]);
    }
  }

  static inline void store(int32_t* out, int64_t columns, __m512i sum) {
    if (columns >= kWidth) {
      _mm512_storeu_si512(out, sum);
    } else {
      _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << columns) - 1), sum);
    }
  }
};

inline Reals min_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm512_min_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline Reals max_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(
      _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}

inline void store_codes(uint8_t* to, Reals sum) {
  const __m512i words = _mm512_castps_si512(reinterpret_cast<__m512>(sum));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(words));
}

using Cut = Tiles<Vnni>;

inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

void load_rows(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride, uint8_t* out) {
  for (int64_t r = 0; r < rows; ++r, codes += n, out += stride) {
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) _mm512_storeu_si512(out + i, _mm512_loadu_si512(codes + i));
    if (i == n) continue;
    const __m512i rest = _mm512_maskz_loadu_epi8(first_bytes(n - i), codes + i);
    _mm512_mask_storeu_epi8(out + i, first_bytes((n - i + 3) / 4 * 4), rest);
  }
}

inline Reals root(Reals x) {
  return reinterpret_cast<Reals>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
}

inline __mmask16 first_words(int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}
inline Reals load_first(const float* x, int64_t n) {
  return reinterpret_cast<Reals>(_mm512_maskz_loadu_ps(first_words(n), x));
}
inline void store_first(float* to, int64_t n, Reals x) {
  _mm512_mask_storeu_ps(to, first_words(n), reinterpret_cast<__m512>(x));
}

inline void turn_block(const float* x, int64_t x_stride, float* out, int64_t out_stride) {
  __m512i rows[16];
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_loadu_si512(x + i * x_stride);
  transpose(rows);
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + i * out_stride, rows[i]);
}

// 16 columns of one run to their place in a block: 64 codes of each at a time. pitch: bytes from
// one column to the next.
void pack_columns(const uint8_t* codes, int64_t columns, int64_t pitch, int64_t length,
                  bool shifted, int64_t step_bytes, uint8_t* out) {
  const __m512i top =
      _mm512_set1_epi8(static_cast<char>(0x80));  // code - 128 is the code with its top bit turned
  for (int64_t k = 0; k < length; k += 64) {
    const __mmask64 inside = first_bytes(length - k);
    __m512i words[16];
    for (int c = 0; c < 16; ++c) {
      words[c] = _mm512_setzero_si512();
      if (c >= columns) continue;
      words[c] = _mm512_maskz_loadu_epi8(inside, codes + c * pitch + k);
      if (shifted) words[c] = _mm512_xor_si512(words[c], _mm512_maskz_mov_epi8(inside, top));
    }
    transpose(words);
    const int64_t steps = length - k < 64 ? (length - k + 3) / 4 : 16;
    for (int64_t s = 0; s < steps; ++s, out += step_bytes) _mm512_store_si512(out, words[s]);
  }
}

void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                bool shifted, void* panel) {
  uint8_t* out = static_cast<uint8_t*>(panel);
  const int64_t pitch = segments * length;
  for (int64_t first = 0; first < columns; first += Vnni::kVectors * Vnni::kWidth) {
    const int64_t vectors = Cut::vectors(columns - first);
    for (int64_t s = 0; s < segments; ++s) {
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t column = first + v * Vnni::kWidth;
        pack_columns(right + column * pitch + s * length, columns - column, pitch, length, shifted,
                     vectors * 64, out + v * 64);
      }
      out += Cut::steps(length) * vectors * 64;
    }
  }
}

inline __m512i add_codes(__m512i sum, const uint8_t* codes, int64_t n) {
  const __m512i ones = _mm512_set1_epi8(1);
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(codes + i), ones);
  if (i == n) return sum;
  return _mm512_dpbusd_epi32(sum, _mm512_maskz_loadu_epi8(first_bytes(n - i), codes + i), ones);
}

// What the lanes of four registers add up to.
inline __m128i sums_of_four(const __m512i (&x)[4]) {
  const auto pairs = [](__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  };
  const __m512i low = pairs(x[0], x[1]), high = pairs(x[2], x[3]);
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high),
                                       _mm512_unpackhi_epi64(low, high));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

void sum_all(const uint8_t* codes, int64_t rows, int64_t n, int32_t* out) {
  if (n < 8) return sum_rows(codes, rows, n, out);
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    __m512i sums[4];
    for (int i = 0; i < 4; ++i)
      sums[i] = add_codes(_mm512_setzero_si512(), codes + (r + i) * n, n);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + r), sums_of_four(sums));
  }
  for (; r < rows; ++r)
    out[r] = _mm512_reduce_add_epi32(add_codes(_mm512_setzero_si512(), codes + r * n, n));
}

int32_t row_sum(const Product& p, int64_t row) {
  if (p.code_sums != nullptr) return p.code_sums[row * p.code_sums_stride];
  __m512i sum = _mm512_setzero_si512();
  for (int64_t s = 0; s < p.segments; ++s)
    sum = add_codes(sum, p.runs[s] + row * p.row_bytes, p.length);
  return _mm512_reduce_add_epi32(sum);
}

void product(const Product& p) {
  int32_t sums[kRowBlock] = {};
  for (int64_t first = 0; first < p.rows; first += kRowBlock) {
    const int64_t count = p.rows - first < kRowBlock ? p.rows - first : kRowBlock;
    if (p.shifted) {
      for (int64_t r = 0; r < count; ++r) sums[r] = 128 * row_sum(p, first + r);
    }
    Cut::blocks(p, first, count, sums);
  }
}

// Both factors stand alone in 32 bits, where the upper half of each pair of vpdpwssd is 0.
void depthwise(const uint8_t* const* x, const int32_t* const* w, int64_t taps, int64_t channels,
               int32_t* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    const int64_t rest = channels - c;
    const __mmask16 inside =
        rest >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << rest) - 1);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t t = 0; t < taps; ++t) {
      const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(inside, x[t] + c));
      sum = _mm512_dpwssd_epi32(sum, codes, _mm512_maskz_loadu_epi32(inside, w[t] + c));
    }
    _mm512_mask_storeu_epi32(out + c, inside, sum);
  }
}

constexpr Form kBytes = bytes_form<Cut::panel_bytes, pack_panel, product, 4>();

// Lookups of AVX2 are ahead where a unit of four bits and 64 columns are about full.
const Form& form_for(int x_bits, int w_bits, const Extent& extent) {
  const bool bits = x_bits == 1 && w_bits == 1 && extent.length() >= 256;
  return bits && extent.channels >= 16 && extent.columns > 48 ? kAvx2Bits : kBytes;
}

}  // namespace

const Kernels kAvx512vnni = {
    "avx512vnni",
    encode_row,
    encode_each,
    fake_row,
    fake_each,
    backward_row,
    backward_each,
    minmax_row,
    minmax_each,
    bins_row,
    bins_each,
    1,
    4,
    load_rows,
    Cut::panel_bytes,
    pack_panel,
    product,
    depthwise,
    sum_all,
    read_row,
    read_each,
    &kAttendAvx512,
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
    read_rows_512,
    read_codes_512,
    cut_rows_512,
    interleave,
    depthwise_row,
    &kBytes,
    form_for,
    step_rows,
    chain_rows,
    sum_columns,
    sum_line,
    floats_few,
    &kLearning,
};

}  // namespace bc
