// Products of codes of one or two bits by looking up partial sums: what the files of isa/ share.
//
// A unit is a few codes of a pixel, few enough that a bank has a row of sums of products for each
// value of a left unit, with one entry for each value of a right unit. A byte shuffle looks up the
// sums of a left unit with a vector of columns. They are added in bytes as often as these have room,
// then in words, and leave as 32 bits. Codes behind the last channel are 0 and add nothing.
//
// Left units are stored as offsets of rows of the bank. The panel holds blocks of kVecs vectors of
// columns (fewer in the last), in a block runs, units, columns; a right unit is a byte.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../kernels.h"

namespace bc {
namespace {

// Row x, entry w: the sum of products of the codes of x and w.
template <int kBits, int kValues>
struct Bank {
  alignas(64) uint8_t sums[kValues][kValues];

  constexpr Bank() : sums{} {
    for (int x = 0; x < kValues; ++x) {
      for (int w = 0; w < kValues; ++w) {
        int sum = 0;
        for (int at = 0; 1 << at < kValues; at += kBits) {
          constexpr int kTop = (1 << kBits) - 1;
          sum += (x >> at & kTop) * (w >> at & kTop);
        }
        sums[x][w] = static_cast<uint8_t>(sum);
      }
    }
  }

  // The row that begins so many bytes from the first.
  const uint8_t* row(int64_t offset) const {
    return reinterpret_cast<const uint8_t*>(this) + offset;
  }
};

// Some units of some runs: what a tile sums in 16 bits.
struct Part {
  const uint8_t* const* runs;
  int64_t segments, units;
  int64_t skip;   // units of each run that come before
  int64_t panel;  // units of the panel that come before
  bool add;       // to what other parts left in out
};

// T gives: kCodes of a unit, kUnitBytes, kColumns of a vector, kVecs of a full block, kMostUnits that
// sum up in 16 bits, unit(offset) of a left unit as a right one, load, rows(vecs) of a tile, and
// tile<rows, vecs>(p, part, row, panel, columns, out).
template <class T>
struct Lookups {
  static int64_t units(int64_t channels) { return (channels + T::kCodes - 1) / T::kCodes; }

  static int64_t vectors(int64_t columns) {
    const int64_t all = (columns + T::kColumns - 1) / T::kColumns;
    return all < T::kVecs ? all : T::kVecs;
  }

  static int64_t panel_bytes(int64_t columns, int64_t segments, int64_t pixels, int64_t channels) {
    const int64_t filled = (columns + T::kColumns - 1) / T::kColumns * T::kColumns;
    return filled * segments * pixels * units(channels);
  }

  static void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                         int64_t channels, bool, void* panel) {
    constexpr int64_t kPiece = 16;  // units
    uint8_t* block = static_cast<uint8_t*>(panel);
    const int64_t all = segments * pixels;
    memset(panel, 0, static_cast<size_t>(panel_bytes(columns, segments, pixels, channels)));
    for (int64_t first = 0; first < columns; first += T::kVecs * T::kColumns) {
      const int64_t pitch = vectors(columns - first) * T::kColumns;
      const int64_t end = columns - first < pitch ? columns - first : pitch;
      for (int64_t c = 0; c < end; ++c) {
        const uint8_t* codes = right + (first + c) * all * channels;
        uint8_t* to = block + c;
        for (int64_t s = 0; s < all; ++s, codes += channels) {
          for (int64_t k = 0; k < channels; k += kPiece * T::kCodes) {
            uint8_t offsets[kPiece * T::kUnitBytes];
            const int64_t rest = channels - k, most = kPiece * T::kCodes;
            const int64_t count = rest < most ? rest : most;
            T::load(codes + k, 1, count, offsets);
            for (int64_t u = 0; u < units(count); ++u, to += pitch)
              *to = T::unit(offsets + u * T::kUnitBytes);
          }
        }
      }
      block += pitch * all * units(channels);
    }
  }

  template <int kRows, int kVecs>
  static void rows(const Product& p, const Part& part, const uint8_t* panel, int64_t columns,
                   int32_t* out) {
    int64_t r = 0;
    for (; r + kRows <= p.rows; r += kRows)
      T::template tile<kRows, kVecs>(p, part, r, panel, columns, out);
    if constexpr (kRows > 4) {
      if (r + 4 <= p.rows) {
        T::template tile<4, kVecs>(p, part, r, panel, columns, out);
        r += 4;
      }
    }
    for (; r + 2 <= p.rows; r += 2) T::template tile<2, kVecs>(p, part, r, panel, columns, out);
    if (r < p.rows) T::template tile<1, kVecs>(p, part, r, panel, columns, out);
  }

  static void all_columns(const Product& p, int64_t run, const Part& part) {
    const uint8_t* block = static_cast<const uint8_t*>(p.panel);
    for (int64_t c = 0; c < p.columns; c += T::kVecs * T::kColumns) {
      const int64_t columns = p.columns - c, vecs = vectors(columns);
      const uint8_t* panel = block + part.panel * vecs * T::kColumns;
      (vecs == 1 ? rows<T::rows(1), 1> : rows<T::rows(2), 2>)(p, part, panel, columns, p.out + c);
      block += p.segments * run * vecs * T::kColumns;
    }
  }

  static void product(const Product& p) {
    static_assert(T::kVecs == 2, "all_columns knows one and two");
    const int64_t run = p.pixels * units(p.length / p.pixels);
    if (run <= T::kMostUnits) {
      const int64_t fit = T::kMostUnits / run;
      for (int64_t s = 0; s < p.segments; s += fit) {
        const int64_t count = p.segments - s < fit ? p.segments - s : fit;
        all_columns(p, run, {p.runs + s, count, run, 0, s * run, s > 0});
      }
      return;
    }
    for (int64_t s = 0; s < p.segments; ++s) {
      for (int64_t u = 0; u < run; u += T::kMostUnits) {
        const int64_t count = run - u < T::kMostUnits ? run - u : T::kMostUnits;
        all_columns(p, run, {p.runs + s, 1, count, u, s * run + u, s > 0 || u > 0});
      }
    }
  }

  static constexpr Form form(const char* name, bool spreads = false) {
    return {name, T::kUnitBytes, units, T::load, panel_bytes, pack_panel, product, 1, false,
            spreads};
  }
};

}  // namespace
}  // namespace bc
