// NEON with dot products (ARMv8.2): udot multiplies unsigned codes of 8 bits as they are stored,
// four with each column, 16 products an instruction. No code needs a shift.
#include <arm_neon.h>
#include <string.h>

#include "forms.h"
#include "neon.h"
#include "tiles.h"

namespace bc {
namespace {

struct Dot {
  static constexpr int64_t kWidth = 4, kVectors = 4, kStep = 4, kBytes = 1;
  static constexpr int rows(int) { return 6; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    uint32x4_t sum[kRows][kVecs] = {};
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * p.row_bytes;
#pragma GCC unroll 1
      for (int64_t k = 0; k < p.length; k += kStep, left += 4, block += 16 * kVecs) {
        uint8x16_t right[kVecs];
#pragma GCC unroll 16
        for (int v = 0; v < kVecs; ++v) right[v] = vld1q_u8(block + 16 * v);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          uint32_t four;
          memcpy(&four, left + r * p.row_bytes, sizeof four);
          const uint8x16_t codes = vreinterpretq_u8_u32(vdupq_n_u32(four));
#pragma GCC unroll 16
          for (int v = 0; v < kVecs; ++v) sum[r][v] = vdotq_u32(sum[r][v], codes, right[v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) store(to + v * kWidth, columns - v * kWidth, sum[r][v]);
    }
  }

  static inline void store(int32_t* out, int64_t columns, uint32x4_t sum) {
    if (columns >= kWidth) {
      vst1q_s32(out, vreinterpretq_s32_u32(sum));
      return;
    }
    for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<int32_t>(sum[c]);
  }
};

using Cut = Tiles<Dot>;

}  // namespace

void neon_dot_load_rows(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride,
                        uint8_t* out) {
  const int64_t filled = Cut::steps(n) * Dot::kStep;
  for (int64_t r = 0; r < rows; ++r, codes += n, out += stride) {
    memcpy(out, codes, static_cast<size_t>(n));
    memset(out + n, 0, static_cast<size_t>(filled - n));
  }
}

int64_t neon_dot_panel_bytes(int64_t columns, int64_t segments, int64_t length) {
  return Cut::panel_bytes(columns, segments, length);
}

void neon_dot_pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                         bool, void* panel) {
  uint8_t* out = static_cast<uint8_t*>(panel);
  for (int64_t first = 0; first < columns; first += Dot::kVectors * Dot::kWidth) {
    const int64_t width = Cut::vectors(columns - first) * Dot::kWidth;
    for (int64_t s = 0; s < segments; ++s) {
      for (int64_t k = 0; k < length; k += Dot::kStep) {
        for (int64_t c = 0; c < width; ++c) {
          const uint8_t* codes = right + ((first + c) * segments + s) * length + k;
          for (int64_t i = 0; i < Dot::kStep; ++i) {
            const bool inside = first + c < columns && k + i < length;
            *out++ = inside ? codes[i] : uint8_t{0};
          }
        }
      }
    }
  }
}

void neon_dot_product(const Product& p) {
  static const int32_t kZero[kRowBlock] = {};
  for (int64_t first = 0; first < p.rows; first += kRowBlock)
    Cut::blocks(p, first, p.rows - first < kRowBlock ? p.rows - first : kRowBlock, kZero);
}

const Form kNeonDot = {
    "bytes", 1, units_of_codes, nullptr, run_panel_bytes<neon_dot_panel_bytes>,
    pack_run_panel<neon_dot_pack_panel>, neon_dot_product, Dot::kStep, false};

}  // namespace bc
