// Products of codes of up to two bits by looking up partial sums, three products at a time.
//
// A unit is three codes of a pixel, 64 values; so is a triple of right codes. A bank of 64 rows holds
// for each left triple the sums of products with all right triples. One vpermb looks up the sums of a
// left triple with 64 columns. Sums of up to 27 are added in bytes, and every kAdds lookups go to 16
// bits: `both` adds words of low + 256 * high byte modulo 2^16, `high` the high bytes alone, from
// which the low ones follow at the end. Codes behind the last channel are 0 and add nothing.
//
// Left units are stored as 64 * triple, the offset of a row of the bank. Four of them are read in one
// go through a vector register: loads of general registers beside loads of 64 bytes are slow.
#include <immintrin.h>
#include <string.h>

#include "avx512vbmi.h"

namespace bc {
namespace {

constexpr int64_t kCodes = 3;                // of a unit
constexpr int kAdds = 8;                     // 8 * 27 fits into a byte
constexpr int64_t kMostUnits = 65535 / 27;   // of a part: its sums fit into 16 bits
constexpr int64_t kColumns = 64;             // of a vector
static_assert(kAdds * 27 <= 255, "sums of lookups stay in bytes");

struct Bank {
  alignas(64) uint8_t sums[64][64];
};

constexpr Bank bank() {
  Bank b{};
  for (int x = 0; x < 64; ++x) {
    for (int w = 0; w < 64; ++w) {
      int sum = 0;
      for (int bit = 0; bit < 6; bit += 2) sum += (x >> bit & 3) * (w >> bit & 3);
      b.sums[x][w] = static_cast<uint8_t>(sum);
    }
  }
  return b;
}

constexpr Bank kBank = bank();

int64_t units(int64_t channels) { return (channels + kCodes - 1) / kCodes; }

// ---- Codes to units -----------------------------------------------------------------------------

inline __mmask64 first_bytes(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// 16 units of 48 codes at a time, each three codes in a word of 32 bits.
void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
  if (channels % kCodes == 0) channels *= pixels, pixels = 1;
  alignas(64) uint8_t order[64];
  for (int i = 0; i < 64; ++i) order[i] = static_cast<uint8_t>(i / 4 * 3 + i % 4);
  const __m512i places = _mm512_load_si512(order);
  const __m512i values = _mm512_set1_epi32(0x00100401);  // 1, 4, 16
  constexpr __mmask64 kThree = 0x7777777777777777;
  for (int64_t p = 0; p < pixels; ++p, codes += channels) {
    for (int64_t c = 0; c < channels; c += 48) {
      const int64_t rest = channels - c < 48 ? channels - c : 48, count = units(rest);
      const __m512i here = _mm512_maskz_loadu_epi8(first_bytes(rest), codes + c);
      const __m512i three = _mm512_maskz_permutexvar_epi8(kThree, places, here);
      const __m512i triples = _mm512_dpbusd_epi32(_mm512_setzero_si512(), three, values);
      const __m256i offsets = _mm512_cvtepi32_epi16(_mm512_slli_epi32(triples, 6));
      _mm256_mask_storeu_epi16(out, static_cast<__mmask16>((1u << count) - 1), offsets);
      out += 2 * count;
    }
  }
}

// ---- The panel: blocks of 128 columns, the last of 64 or 128; runs, units, columns ---------------

int64_t vectors(int64_t columns) { return columns > kColumns ? 2 : 1; }

int64_t panel_bytes(int64_t columns, int64_t segments, int64_t pixels, int64_t channels) {
  return (columns + kColumns - 1) / kColumns * kColumns * segments * pixels * units(channels);
}

void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                int64_t channels, bool, void* panel) {
  uint8_t* block = static_cast<uint8_t*>(panel);
  const int64_t all = segments * pixels;
  memset(panel, 0, static_cast<size_t>(panel_bytes(columns, segments, pixels, channels)));
  for (int64_t first = 0; first < columns; first += 2 * kColumns) {
    const int64_t pitch = vectors(columns - first) * kColumns;
    const int64_t end = columns - first < pitch ? columns - first : pitch;
    for (int64_t c = 0; c < end; ++c) {
      const uint8_t* codes = right + (first + c) * all * channels;
      uint8_t* to = block + c;
      for (int64_t s = 0; s < all; ++s, codes += channels) {
        for (int64_t k = 0; k < channels; k += 48) {
          uint16_t offsets[16];
          const int64_t rest = channels - k < 48 ? channels - k : 48;
          load(codes + k, 1, rest, reinterpret_cast<uint8_t*>(offsets));
          for (int64_t u = 0; u < units(rest); ++u, to += pitch)
            *to = static_cast<uint8_t>(offsets[u] / 64);
        }
      }
    }
    block += pitch * all * units(channels);
  }
}

// ---- The product --------------------------------------------------------------------------------

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
      const __m512i row = _mm512_load_si512(kBank.sums[0] + static_cast<uint16_t>(units[r]));
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

// Some units of some runs: what a tile sums in 16 bits.
struct Part {
  const uint8_t* const* runs;
  int64_t segments, units;
  int64_t skip;   // units of each run that come before
  int64_t panel;  // units of the panel that come before
  bool add;       // to what other parts left in out
};

// 16 columns, of which `columns` are in out.
inline void store(int32_t* out, int64_t columns, __m512i sum, bool add) {
  if (columns <= 0) return;
  const __mmask16 inside =
      columns >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << columns) - 1);
  if (add) sum = _mm512_add_epi32(sum, _mm512_maskz_loadu_epi32(inside, out));
  _mm512_mask_storeu_epi32(out, inside, sum);
}

inline void store(int32_t* out, int64_t columns, __m512i both, __m512i high, bool add) {
  const __m512i low = _mm512_sub_epi16(both, _mm512_slli_epi16(high, 8));
  const __m512i a = _mm512_unpacklo_epi16(low, high), b = _mm512_unpackhi_epi16(low, high);
  alignas(64) uint16_t wide[64];
  // Each quarter of a holds the first 8 of 16 columns, that of b the others.
  const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  _mm512_store_si512(wide, _mm512_permutex2var_epi64(a, front, b));
  _mm512_store_si512(wide + 32, _mm512_permutex2var_epi64(a, back, b));
  for (int64_t c = 0; c < kColumns; c += 16) {
    const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(wide + c));
    store(out + c, columns - c, _mm512_cvtepu16_epi32(words), add);
  }
}

template <int kRows, int kVecs>
void tile(const Product& p, const Part& part, int64_t row, const uint8_t* panel, int64_t columns,
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
  for (int r = 0; r < kRows; ++r) {
    int32_t* to = out + (row + r) * p.out_stride;
    for (int v = 0; v < kVecs; ++v)
      store(to + v * kColumns, columns - v * kColumns, both[r][v], high[r][v], part.add);
  }
}

template <int kRows, int kVecs>
void rows(const Product& p, const Part& part, const uint8_t* panel, int64_t columns, int32_t* out) {
  int64_t r = 0;
  for (; r + kRows <= p.rows; r += kRows) tile<kRows, kVecs>(p, part, r, panel, columns, out);
  if (kRows > 4 && r + 4 <= p.rows) {
    tile<4, kVecs>(p, part, r, panel, columns, out);
    r += 4;
  }
  if (r + 2 <= p.rows) {
    tile<2, kVecs>(p, part, r, panel, columns, out);
    r += 2;
  }
  if (r < p.rows) tile<1, kVecs>(p, part, r, panel, columns, out);
}

void all_columns(const Product& p, int64_t units_of_run, const Part& part) {
  const uint8_t* block = static_cast<const uint8_t*>(p.panel);
  for (int64_t c = 0; c < p.columns; c += 2 * kColumns) {
    const int64_t columns = p.columns - c, vecs = vectors(columns);
    const uint8_t* panel = block + part.panel * vecs * kColumns;
    (vecs == 2 ? rows<4, 2> : rows<6, 1>)(p, part, panel, columns, p.out + c);
    block += p.segments * units_of_run * vecs * kColumns;
  }
}

void product(const Product& p) {
  const int64_t run = p.pixels * units(p.length / p.pixels);
  if (run <= kMostUnits) {
    const int64_t fit = kMostUnits / run;
    for (int64_t s = 0; s < p.segments; s += fit) {
      const int64_t count = p.segments - s < fit ? p.segments - s : fit;
      all_columns(p, run, {p.runs + s, count, run, 0, s * run, s > 0});
    }
    return;
  }
  for (int64_t s = 0; s < p.segments; ++s) {
    for (int64_t u = 0; u < run; u += kMostUnits) {
      const int64_t count = run - u < kMostUnits ? run - u : kMostUnits;
      all_columns(p, run, {p.runs + s, 1, count, u, s * run + u, s > 0 || u > 0});
    }
  }
}

}  // namespace

const Form kVbmiTriples = {"triples", 2, units, load, panel_bytes, pack_panel, product, 1, false};

}  // namespace bc
