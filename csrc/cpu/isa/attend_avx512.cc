// Attention with AVX-512 and VNNI: four codes to a word, unsigned on the left, signed on the right.
#include <immintrin.h>

#define BITCOMPRESS_VECTOR 16
#include "attend.h"
#include "transpose512.h"

namespace bc {
namespace {

inline __m512i words(Ints x) { return reinterpret_cast<__m512i>(x); }
inline Ints ints(__m512i x) { return reinterpret_cast<Ints>(x); }
inline __m512 reals(Reals x) { return reinterpret_cast<__m512>(x); }

inline void store_codes(uint8_t* to, Reals sum) {
  const __m512i low = _mm512_castps_si512(reals(sum));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(low));
}

// As a * 1 + b, which is rounded once and so the same: the units that multiply have less to do.
inline Half plus(Half a, Half b) {
  const __m512d one = _mm512_set1_pd(1.0);
  return reinterpret_cast<Half>(_mm512_fmadd_pd(reinterpret_cast<__m512d>(a), one,
                                                reinterpret_cast<__m512d>(b)));
}
inline Reals plus(Reals a, Reals b) {
  return reinterpret_cast<Reals>(_mm512_fmadd_ps(reals(a), _mm512_set1_ps(1.0f), reals(b)));
}
inline Reals stayed(Reals x) {
  __asm__ volatile("" : "+v"(x));
  return x;
}

inline Reals min_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(_mm512_min_ps(reals(a), reals(b)));
}
inline Reals max_of(Reals a, Reals b) {
  return reinterpret_cast<Reals>(_mm512_max_ps(reals(a), reals(b)));
}

inline Wide::Wide(Ints x) {
  low = reinterpret_cast<Half>(_mm512_cvtepi32_pd(_mm512_castsi512_si256(words(x))));
  high = reinterpret_cast<Half>(_mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(words(x), 1)));
}
inline Wide::Wide(Reals x) {
  const __m256i upper = _mm512_extracti64x4_epi64(_mm512_castps_si512(reals(x)), 1);
  low = reinterpret_cast<Half>(_mm512_cvtps_pd(_mm512_castps512_ps256(reals(x))));
  high = reinterpret_cast<Half>(_mm512_cvtps_pd(_mm256_castsi256_ps(upper)));
}
inline Reals Wide::narrow() const {
  const __m256 lower = _mm512_cvtpd_ps(reinterpret_cast<__m512d>(low));
  const __m256 upper = _mm512_cvtpd_ps(reinterpret_cast<__m512d>(high));
  const __m512d both = _mm512_castps_pd(_mm512_castps256_ps512(lower));
  return reinterpret_cast<Reals>(_mm512_insertf64x4(both, _mm256_castps_pd(upper), 1));
}

// 4 x 4 words in each quarter.
inline void transpose_quarters(__m512i m[4]) {
  const __m512i a = _mm512_unpacklo_epi32(m[0], m[1]), b = _mm512_unpackhi_epi32(m[0], m[1]);
  const __m512i c = _mm512_unpacklo_epi32(m[2], m[3]), d = _mm512_unpackhi_epi32(m[2], m[3]);
  m[0] = _mm512_unpacklo_epi64(a, c);
  m[1] = _mm512_unpackhi_epi64(a, c);
  m[2] = _mm512_unpacklo_epi64(b, d);
  m[3] = _mm512_unpackhi_epi64(b, d);
}

inline __mmask16 first(int64_t n) {
  return n >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1);
}

struct Vnni : PlainLanes {
  static constexpr int kCodes = 4, kTile = 10, kTogether = 8;
  static constexpr uint32_t kOnes = 0x01010101;

  static Ints dot(Ints sums, Ints left, uint32_t right) {
    const __m512i four = _mm512_set1_epi32(static_cast<int>(right));
    return ints(_mm512_dpbusd_epi32(words(sums), words(left), four));
  }
  // What codes - 128 on the right lack.
  static Ints lacking(Ints left_sums) { return left_sums << 7; }
  static Ints shifted(Ints x) { return x ^ static_cast<int32_t>(0x80808080u); }

  static int64_t key_words(int64_t pitch) { return pitch / 4; }
  static void spread(const uint8_t* codes, int64_t rows, int64_t pitch, bool is_shifted,
                     uint32_t* out) {
    const __m128i turned = _mm_set1_epi8(is_shifted ? static_cast<char>(0x80) : char{0});
    for (int64_t i = 0; i < rows * pitch; i += 16) {
      const __m128i here = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i / 4), _mm_xor_si128(here, turned));
    }
  }
  static void interleave(const uint8_t* const* rows, int64_t n, uint32_t* out) {
    for (int64_t c = 0; c < n; c += 16) {
      __m512i all = _mm512_setzero_si512();
      for (int i = 3; i >= 0; --i) {
        all = _mm512_slli_epi32(all, 8);
        if (rows[i] == nullptr) continue;
        const __m128i here = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + c));
        all = _mm512_or_si512(all, _mm512_cvtepu8_epi32(here));
      }
      _mm512_store_si512(out + c, all);
    }
  }
  static void columns(const uint8_t* rows, int64_t pitch, Ints* out) {
    for (int64_t s = 0; s < pitch; s += 16) {
      __m512i m[4];
      for (int i = 0; i < 4; ++i) {  // rows i, 4 + i, 8 + i and 12 + i
        const auto at = [&](int row) {
          return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + (row + i) * pitch + s));
        };
        m[i] = _mm512_inserti32x4(_mm512_castsi128_si512(at(0)), at(4), 1);
        m[i] = _mm512_inserti32x4(m[i], at(8), 2);
        m[i] = _mm512_inserti32x4(m[i], at(12), 3);
      }
      transpose_quarters(m);
      for (int i = 0; i < 4; ++i) out[s / 4 + i] = ints(m[i]);
    }
  }

  static Reals fused(Reals a, Reals b, Reals c) {
    return reinterpret_cast<Reals>(_mm512_fmadd_ps(reals(a), reals(b), reals(c)));
  }
  // Lower parts of 16 bits are compared where they stand, others shifted there.
  template <int kShift>
  static Ints shifted_up(Ints z) {
    return kShift < 16 ? z << (16 - kShift) : z;
  }
  template <int kShift>
  static Ints nearer(Ints near, Ints z) {
    return nearest<kShift>(near, shifted_up<kShift>(z));
  }
  template <int kShift>
  static Ints nearest(Ints a, Ints b) {
    return ints(_mm512_min_epu16(words(a), words(b)));
  }
  template <int kShift>
  static bool below(Ints near, int32_t limit) {
    const Ints lower = (near & 0xffff) >> (16 - kShift);
    return _mm512_cmplt_epi32_mask(words(lower), _mm512_set1_epi32(limit)) != 0;
  }
  // Bits [kShift, kShift + 8) of four registers side by side.
  template <int kShift>
  static Ints pack(const Ints* z) {
    __m512i all = _mm512_srli_epi32(words(z[0]), kShift);
    all = _mm512_mask_mov_epi8(all, 0x2222222222222222u, _mm512_srli_epi32(words(z[1]), kShift - 8));
    const __m512i third = _mm512_slli_epi32(words(z[2]), 16 - kShift);
    all = _mm512_mask_mov_epi8(all, 0x4444444444444444u, third);
    return ints(_mm512_mask_mov_epi8(all, 0x8888888888888888u,
                                     _mm512_slli_epi32(words(z[3]), 24 - kShift)));
  }

  // A word of each of four lines, which lie one register apart, their keys kLanes; f and scale are
  // those of the first key. All 16 keys take a step before the next one, and what they take from memory
  // stays there.
  template <int kShift>
  static void four_words(const WeightCut& cut, const float* f, const float* scale, Reals factor,
                         Reals* sums, Ints* p, int64_t step) {
    Reals e[16];
    powers<16>(f, scale, [](int i) { return (i / 4 + i % 4 * kLanes) * kVector; }, e);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i / 4] = sums[i / 4] + e[i];
    Ints z[16], near[4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) z[i] = cut.clamped_number(fused(e[i], factor, cut.base));
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line) {
      near[line] = nearest<kShift>(shifted_up<kShift>(z[4 * line]), shifted_up<kShift>(z[4 * line + 1]));
      near[line] = nearest<kShift>(near[line], shifted_up<kShift>(z[4 * line + 2]));
      near[line] = nearest<kShift>(near[line], shifted_up<kShift>(z[4 * line + 3]));
      p[line * step] = pack<kShift>(z + 4 * line);
    }
    const Ints nearest_of = nearest<kShift>(nearest<kShift>(near[0], near[1]),
                                            nearest<kShift>(near[2], near[3]));
    if (__builtin_expect(below<kShift>(nearest_of, cut.doubtful), 0))
      doubtful_words<kShift>(cut, f, scale, near, p, step);
  }

  // The lines of four_words that have a code too near to a tie.
  template <int kShift>
  [[gnu::noinline]] static void doubtful_words(const WeightCut& cut, const float* f,
                                               const float* scale, const Ints* near, Ints* p,
                                               int64_t step) {
    for (int line = 0; line < 4; ++line, f += kVector, scale += kVector) {
      if (!below<kShift>(near[line], cut.doubtful)) continue;
      Reals e[4];
      Ints z[4];
      powers<4>(f, scale, [](int i) { return i * kLanes * kVector; }, e);
      for (int i = 0; i < 4; ++i) z[i] = cut.exactly<kShift>(e[i]);
      p[line * step] = pack<kShift>(z);
    }
  }

  static void turn(const float* from, int64_t row, int64_t column, int64_t count, int64_t keys,
                   float* out) {
    if (column != 1) return PlainLanes::turn(from, row, column, count, keys, out);
    for (int64_t j = 0; j < keys; j += 16) {
      const __mmask16 inside = first(keys - j);
      __m512i m[16];
      for (int64_t i = 0; i < 16; ++i) {
        m[i] = _mm512_setzero_si512();
        if (i < count) m[i] = _mm512_maskz_loadu_epi32(inside, from + i * row + j);
      }
      transpose(m);
      for (int64_t i = 0; i < 16 && j + i < keys; ++i) _mm512_store_si512(out + (j + i) * 16, m[i]);
    }
  }

  static void write(const Attend& a, int64_t start, int64_t queries, const float* columns) {
    if (a.out_scale != nullptr) return write_codes(a, start, queries, columns);
    float* out = static_cast<float*>(a.out);
    for (int64_t c = 0; c < a.values; c += 16) {
      const int64_t n = a.values - c;
      __m512i m[16];
      for (int64_t i = 0; i < 16; ++i) m[i] = _mm512_load_si512(columns + (c + i) * 16);
      transpose(m);
      for (int64_t i = 0; i < 16 && i < queries; ++i)
        _mm512_mask_storeu_epi32(out + a.places[start + i] + c, first(n), m[i]);
    }
  }

  static void write_codes(const Attend& a, int64_t start, int64_t queries, const float* columns) {
    if (a.out_top > 127.0f) {
      codes_to_places<15>(a, start, queries, columns);
    } else {
      codes_to_places<16>(a, start, queries, columns);
    }
  }

  template <int kShift>
  static void codes_to_places(const Attend& a, int64_t start, int64_t queries,
                              const float* columns) {
    uint8_t* out = static_cast<uint8_t*>(a.out);
    const ChannelCut<kShift> cut(a.out_top);
    for (int64_t c = 0; c < a.values; c += 16) {
      const int64_t n = a.values - c < 16 ? a.values - c : 16;
      const __m512 scales = _mm512_maskz_loadu_ps(first(n), a.out_scale + c);
      alignas(64) float factors[16];
      _mm512_store_ps(factors, _mm512_div_ps(_mm512_set1_ps(cut.factor), scales));
      const bool exactly =
          _mm512_mask_cmp_ps_mask(first(n), scales, _mm512_set1_ps(1e-30f), _CMP_NGT_UQ) != 0 ||
          _mm512_mask_cmp_ps_mask(first(n), scales, _mm512_set1_ps(1e30f), _CMP_NLT_UQ) != 0;
      __m512i m[4] = {};
      for (int64_t word = 0; 4 * word < n; ++word) {
        const int64_t at = c + 4 * word, count = n - 4 * word < 4 ? n - 4 * word : 4;
        Ints z[4], near = Ints{} - 1;
        Reals x[4];
        each<4>([&](int i) {
          const int64_t column = i < count ? at + i : at;
          x[i] = load(columns + column * 16);
          z[i] = cut.clamped(
              fused(x[i] - all(a.out_offset[column]), all(factors[column - c]), cut.least));
          near = nearer<kShift>(near, z[i]);
        });
        if (__builtin_expect(exactly || below<kShift>(near, cut.doubtful), 0)) {
          for (int64_t i = 0; i < count; ++i)
            z[i] = cut.exactly(x[i], a.out_offset[at + i], a.out_scale[at + i]);
        }
        m[word] = words(pack<kShift>(z));
      }
      transpose_quarters(m);
      alignas(64) uint8_t rows[256];  // row i at 64 (i % 4) + 16 (i / 4)
      for (int i = 0; i < 4; ++i) _mm512_store_si512(rows + 64 * i, m[i]);
      for (int64_t i = 0; i < queries; ++i)
        copy_few(out + a.places[start + i] + c, rows + 64 * (i % 4) + 16 * (i / 4), n);
    }
  }

  static void cut(const AttendRows& r) {
    if (r.codes) return PlainLanes::cut(r);
    if (r.top > 127.0f) {
      cut_reals<15>(r);
    } else {
      cut_reals<16>(r);
    }
  }

  // Rows four at a time, exactly where one of them has a code too near to a tie.
  template <int kShift>
  static void cut_reals(const AttendRows& r) {
    const ChannelCut<kShift> cut(r.top);
    const Reals factor = all(cut.factor / r.scale);
    for (int64_t row = 0; row < r.rows; row += 4) {
      for (int64_t c = 0; c < r.columns; c += 16) {
        const __mmask16 inside = first(r.columns - c);
        Ints z[4] = {}, near = Ints{} - 1;
        Reals x[4] = {};
        for (int64_t i = 0; i < 4 && row + i < r.rows; ++i) {
          const float* from = static_cast<const float*>(r.data) + r.places[row + i] + c;
          x[i] = reinterpret_cast<Reals>(_mm512_maskz_loadu_ps(inside, from)) * all(r.factor);
          z[i] = cut.clamped(fused(x[i] - all(r.offset), factor, cut.least));
          near = nearer<kShift>(near, z[i]);
        }
        const bool exactly = below<kShift>(near, cut.doubtful) || !cut.takes(r.scale);
        for (int64_t i = 0; i < 4 && row + i < r.rows; ++i) {
          if (__builtin_expect(exactly, 0)) z[i] = cut.exactly(x[i], r.offset, r.scale);
          const __m128i codes = _mm512_maskz_cvtepi32_epi8(inside, words(z[i] >> kShift));
          _mm_store_si128(reinterpret_cast<__m128i*>(r.out + (row + i) * r.pitch + c), codes);
        }
      }
    }
  }
};

}  // namespace

const Attending kAttendAvx512 = {Attention<Vnni>::bytes, Attention<Vnni>::run, Vnni::cut,
                                  cut_weights};

}  // namespace bc
