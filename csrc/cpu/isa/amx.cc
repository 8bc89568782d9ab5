// AMX: a tile of 16 x 16 sums takes 64 codes of K in one instruction (tdpbusd), unsigned times
// signed as in VNNI, whose panel it shares; but runs are filled up with 0 to whole groups of 64.
//
// All else of this level is that of avx512vnni; dispatch.cc puts the table together.
#include "amx.h"

#include <immintrin.h>
#include <string.h>

#include <vector>

#include "forms.h"

namespace bc {
namespace {

constexpr int64_t kGroup = 64;    // codes of one tile row
constexpr int64_t kColumns = 16;  // columns of a tile, and its rows
constexpr int64_t kBlock = 64;    // columns of a block of the panel

int64_t filled(int64_t length) { return (length + kGroup - 1) / kGroup * kGroup; }

// Eight tiles of 16 rows of 64 bytes: 0 to 3 sums, 4 and 5 left codes, 6 and 7 right codes.
struct alignas(64) Shapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

int64_t vectors_of(int64_t columns) {
  const int64_t all = (columns + kColumns - 1) / kColumns;
  return all < kBlock / kColumns ? all : kBlock / kColumns;
}

// Where a tile of sums goes first: straight to its place, or into `copy` where it has fewer columns.
struct Way {
  int32_t* to;
  int64_t pitch;  // bytes
};

Way way(int32_t* out, int64_t stride, int64_t columns, int32_t* copy) {
  return columns >= kColumns ? Way{out, stride * 4} : Way{copy, kColumns * 4};
}

void finish(const Way& way, int32_t* out, int64_t stride, int64_t columns) {
  if (way.to == out) return;
  for (int64_t r = 0; r < kColumns; ++r)
    memcpy(out + r * stride, way.to + r * kColumns, static_cast<size_t>(columns) * sizeof(int32_t));
}

// Rows [row, row + 16 kRows) times vectors [v, v + kVecs) of one block.
template <int kRows, int kVecs>
void tiles(const Product& p, int64_t row, const uint8_t* block, int64_t vectors, int64_t v,
           int64_t column) {
  const int64_t groups = filled(p.length) / kGroup, pitch = vectors * 64;
  _tile_zero(0);
  if (kVecs > 1) _tile_zero(1);
  if (kRows > 1) _tile_zero(2);
  if (kRows > 1 && kVecs > 1) _tile_zero(3);
  const uint8_t* right = block + v * 64;
  for (int64_t s = 0; s < p.segments; ++s) {
    const uint8_t* left = p.runs[s] + row * p.row_bytes;
    for (int64_t g = 0; g < groups; ++g, left += kGroup, right += 16 * pitch) {
      _tile_loadd(4, left, p.row_bytes);
      _tile_loadd(6, right, pitch);
      _tile_dpbusd(0, 4, 6);
      if (kVecs > 1) {
        _tile_loadd(7, right + 64, pitch);
        _tile_dpbusd(1, 4, 7);
      }
      if (kRows > 1) {
        _tile_loadd(5, left + 16 * p.row_bytes, p.row_bytes);
        _tile_dpbusd(2, 5, 6);
        if (kVecs > 1) _tile_dpbusd(3, 5, 7);
      }
    }
  }
  int32_t* out = p.out + row * p.out_stride + column;
  int32_t* below = out + 16 * p.out_stride;
  const int64_t columns = p.columns - column, stride = p.out_stride;
  alignas(64) int32_t copy[kColumns * kColumns];
  Way at = way(out, stride, columns, copy);
  _tile_stored(0, at.to, at.pitch);
  finish(at, out, stride, columns);
  if (kRows > 1) {
    at = way(below, stride, columns, copy);
    _tile_stored(2, at.to, at.pitch);
    finish(at, below, stride, columns);
  }
  if (kVecs == 1) return;
  at = way(out + kColumns, stride, columns - kColumns, copy);
  _tile_stored(1, at.to, at.pitch);
  finish(at, out + kColumns, stride, columns - kColumns);
  if (kRows > 1) {
    at = way(below + kColumns, stride, columns - kColumns, copy);
    _tile_stored(3, at.to, at.pitch);
    finish(at, below + kColumns, stride, columns - kColumns);
  }
}

template <int kRows>
void all_columns(const Product& p, int64_t row) {
  const uint8_t* block = static_cast<const uint8_t*>(p.panel);
  for (int64_t first = 0; first < p.columns; first += kBlock) {
    const int64_t vectors = vectors_of(p.columns - first);
    int64_t v = 0;
    for (; v + 2 <= vectors; v += 2) tiles<kRows, 2>(p, row, block, vectors, v, first + v * kColumns);
    if (v < vectors) tiles<kRows, 1>(p, row, block, vectors, v, first + v * kColumns);
    block += p.segments * filled(p.length) * vectors * kColumns;
  }
}

}  // namespace

int64_t amx_panel_bytes(int64_t columns, int64_t segments, int64_t length) {
  return kAvx512vnni.panel_bytes(columns, segments, filled(length));
}

void amx_pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                    bool shifted, void* panel) {
  uint8_t* out = static_cast<uint8_t*>(panel);
  uint8_t rows[kBlock * 1024];  // a piece of one run of the columns of a block
  for (int64_t first = 0; first < columns; first += kBlock) {
    const int64_t count = columns - first < kBlock ? columns - first : kBlock;
    const int64_t step = vectors_of(columns - first) * 64;
    for (int64_t s = 0; s < segments; ++s) {
      for (int64_t k = 0; k < filled(length); k += 1024) {
        const int64_t here = length - k < 1024 ? length - k : 1024, steps = (here + 3) / 4;
        for (int64_t c = 0; c < count; ++c) {
          memcpy(rows + c * here, right + ((first + c) * segments + s) * length + k,
                 static_cast<size_t>(here));
        }
        kAvx512vnni.pack_panel(rows, count, 1, here, shifted, out);
        out += steps * step;
        const size_t rest = static_cast<size_t>((filled(here) / 4 - steps) * step);
        memset(out, 0, rest);
        out += rest;
      }
    }
  }
}

void amx_product(const Product& p) {
  const Shapes shapes;
  const int64_t whole = p.rows / 16 * 16;
  if (whole > 0) {
    _tile_loadconfig(&shapes);
    int64_t row = 0;
    for (; row + 32 <= whole; row += 32) all_columns<2>(p, row);
    if (row < whole) all_columns<1>(p, row);
    _tile_release();
  }
  const uint8_t* few[64];
  std::vector<const uint8_t*> many;
  const uint8_t** runs = few;
  if (p.segments > 64) {
    many.resize(static_cast<size_t>(p.segments));
    runs = many.data();
  }
  for (int64_t s = 0; s < p.segments; ++s) runs[s] = p.runs[s] + whole * p.row_bytes;
  Product rest = p;
  rest.runs = runs, rest.rows = p.rows - whole, rest.length = filled(p.length);
  rest.shifted = false, rest.out = p.out + whole * p.out_stride;
  if (rest.rows > 0) kAvx512vnni.product(rest);
  if (!p.shifted) return;
  for (int64_t r = 0; r < p.rows; ++r) {
    int32_t sum = p.code_sums == nullptr ? 0 : p.code_sums[r * p.code_sums_stride];
    for (int64_t s = 0; p.code_sums == nullptr && s < p.segments; ++s) {
      int32_t part = 0;
      kAvx512vnni.sum_rows(p.runs[s] + r * p.row_bytes, 1, p.length, &part);
      sum += part;
    }
    int32_t* out = p.out + r * p.out_stride;
    for (int64_t c = 0; c < p.columns; ++c) out[c] += 128 * sum;
  }
}

const Form kAmxBytes = bytes_form<amx_panel_bytes, amx_pack_panel, amx_product, kGroup>();

}  // namespace bc
