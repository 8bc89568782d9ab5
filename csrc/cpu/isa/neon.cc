// NEON, any 64-bit ARM: codes are widened to 16 bits and multiplied by one lane of the left codes
// (umlal), four products an instruction.
#include <arm_neon.h>

#define BITCOMPRESS_VECTOR 4
#include "rows.h"
#include "softmax.h"
#include "cut.h"
#include "forms.h"
#include "neon.h"
#include "tiles.h"

namespace bc {
namespace {

struct Neon {
  static constexpr int64_t kWidth = 8, kVectors = 2, kStep = 4, kBytes = 2;
  static constexpr int rows(int) { return 4; }

  // Code kLane of each row with 8 columns a vector.
  template <int kLane, int kRows, int kVecs>
  static inline void multiply(const uint16x4_t (&left)[kRows], const uint16_t* panel,
                              uint32x4_t (&sum)[kRows][kVecs][2]) {
    for (int v = 0; v < kVecs; ++v) {
      const uint16x8_t right = vld1q_u16(panel + (kLane * kVecs + v) * 8);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        sum[r][v][0] = vmlal_lane_u16(sum[r][v][0], vget_low_u16(right), left[r], kLane);
        sum[r][v][1] = vmlal_high_lane_u16(sum[r][v][1], right, left[r], kLane);
      }
    }
  }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    uint32x4_t sum[kRows][kVecs][2] = {};
    const uint16_t* panel = reinterpret_cast<const uint16_t*>(block);
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* from = p.runs[s] + row * p.row_bytes;
#pragma GCC unroll 1
      for (int64_t k = 0; k < p.length; k += kStep, from += 8, panel += 32 * kVecs) {
        uint16x4_t left[kRows];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) memcpy(&left[r], from + r * p.row_bytes, sizeof left[r]);
        multiply<0>(left, panel, sum);
        multiply<1>(left, panel, sum);
        multiply<2>(left, panel, sum);
        multiply<3>(left, panel, sum);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) {
        store(to + v * kWidth, columns - v * kWidth, sum[r][v][0]);
        store(to + v * kWidth + 4, columns - v * kWidth - 4, sum[r][v][1]);
      }
    }
  }

  static inline void store(int32_t* out, int64_t columns, uint32x4_t sum) {
    if (columns >= 4) {
      vst1q_s32(out, vreinterpretq_s32_u32(sum));
      return;
    }
    for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<int32_t>(sum[c]);
  }
};

inline Reals min_of(Reals a, Reals b) { return a < b ? a : b; }
inline Reals max_of(Reals a, Reals b) { return a > b ? a : b; }

inline void store_codes(uint8_t* to, Reals sum) {
  uint8x16_t bytes;
  memcpy(&bytes, &sum, sizeof bytes);
  const uint8x8_t places = {0, 4, 8, 12, 255, 255, 255, 255};
  const uint32x2_t four = vreinterpret_u32_u8(vqtbl1_u8(bytes, places));
  memcpy(to, &four, 4);
}

// 4 x 4 at a time: pairs of lanes, then pairs of pairs.
inline void turn_block(const float* __restrict x, int64_t x_stride, float* __restrict out,
                       int64_t out_stride) {
  for (int64_t r = 0; r < 16; r += 4) {
    for (int64_t c = 0; c < 16; c += 4) {
      const float* from = x + r * x_stride + c;
      float64x2_t even[2], odd[2];
      for (int i = 0; i < 2; ++i) {
        const float32x4_t a = vld1q_f32(from + 2 * i * x_stride);
        const float32x4_t b = vld1q_f32(from + (2 * i + 1) * x_stride);
        even[i] = vreinterpretq_f64_f32(vtrn1q_f32(a, b));
        odd[i] = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
      }
      float* to = out + c * out_stride + r;
      vst1q_f32(to, vreinterpretq_f32_f64(vzip1q_f64(even[0], even[1])));
      vst1q_f32(to + out_stride, vreinterpretq_f32_f64(vzip1q_f64(odd[0], odd[1])));
      vst1q_f32(to + 2 * out_stride, vreinterpretq_f32_f64(vzip2q_f64(even[0], even[1])));
      vst1q_f32(to + 3 * out_stride, vreinterpretq_f32_f64(vzip2q_f64(odd[0], odd[1])));
    }
  }
}

using Cut = Tiles<Neon>;

void load_rows(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride, uint8_t* out) {
  for (int64_t r = 0; r < rows; ++r, codes += n, out += stride) {
    widen(codes, 1, n, out);
    uint16_t* wide = reinterpret_cast<uint16_t*>(out);
    for (int64_t i = n; i % Neon::kStep != 0; ++i) wide[i] = 0;
  }
}

void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length, bool,
                void* panel) {
  uint16_t* out = static_cast<uint16_t*>(panel);
  for (int64_t first = 0; first < columns; first += Neon::kVectors * Neon::kWidth) {
    const int64_t width = Cut::vectors(columns - first) * Neon::kWidth;
    for (int64_t s = 0; s < segments; ++s) {
      for (int64_t k = 0; k < Cut::steps(length) * Neon::kStep; ++k) {
        for (int64_t c = 0; c < width; ++c) {
          const bool inside = first + c < columns && k < length;
          *out++ = inside ? right[((first + c) * segments + s) * length + k] : uint16_t{0};
        }
      }
    }
  }
}

void product(const Product& p) {
  static const int32_t kZero[kRowBlock] = {};
  for (int64_t first = 0; first < p.rows; first += kRowBlock)
    Cut::blocks(p, first, p.rows - first < kRowBlock ? p.rows - first : kRowBlock, kZero);
}

void depthwise(const uint8_t* const* x, const int32_t* const* w, int64_t taps, int64_t channels,
               int32_t* out) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    int32x4_t low = vdupq_n_s32(0), high = low;
    for (int64_t t = 0; t < taps; ++t) {
      const int16x8_t codes = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(x[t] + c)));
      low = vmlaq_s32(low, vmovl_s16(vget_low_s16(codes)), vld1q_s32(w[t] + c));
      high = vmlaq_s32(high, vmovl_high_s16(codes), vld1q_s32(w[t] + c + 4));
    }
    vst1q_s32(out + c, low);
    vst1q_s32(out + c + 4, high);
  }
  depthwise_from(c, x, w, taps, channels, out);
}

// What a form multiplies with one instruction, less what it wastes on channels that are not there.
double gain(const Extent& e, int64_t channels, double products) {
  const int64_t filled = (e.channels + channels - 1) / channels * channels;
  return products * static_cast<double>(e.channels) / static_cast<double>(filled);
}

constexpr Form kWords = words_form<Cut::panel_bytes, pack_panel, product, Neon::kStep>();

const Form& form_for(int x_bits, int w_bits, const Extent& extent) {
  return neon_form_for(x_bits, w_bits, extent, false);
}

}  // namespace

const Form& neon_form_for(int x_bits, int w_bits, const Extent& extent, bool dot) {
  const Form& codes = dot ? kNeonDot : kWords;
  if (x_bits > 2 || w_bits > 2 || extent.channels == 0) return codes;
  const double by_codes = dot ? gain(extent, 1, 16) : gain(extent, 1, 4);
  const double by_pairs = gain(extent, 2, 14);
  const double by_bits = x_bits == 1 && w_bits == 1 ? gain(extent, 32, 40) : 0;
  if (by_bits > by_codes && by_bits > by_pairs) return kNeonBits;
  return by_pairs > by_codes ? kNeonPairs : codes;
}

// What is not said here is that of the scalar level, which the compiler turns to NEON as it can.
Kernels neon_kernels() {
  Kernels k = kScalar;
  k.name = "neon";
  k.code_bytes = 2;
  k.step = Neon::kStep;
  k.load_rows = load_rows;
  k.panel_bytes = Cut::panel_bytes;
  k.pack_panel = pack_panel;
  k.product = product;
  k.depthwise = depthwise;
  k.codes = &kWords;
  k.form_for = form_for;
  k.cut = cut;
  k.turn = turn;
  return k;
}

}  // namespace bc
