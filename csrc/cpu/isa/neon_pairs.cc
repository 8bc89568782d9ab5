// Products of codes of up to two bits on NEON by looking up partial sums (tbl) of two products: what
// serves where there is no dot product instruction. lookups.h has the rest.
#include <arm_neon.h>

#include "lookups.h"
#include "neon.h"

namespace bc {
namespace {

constexpr Bank<2, 16> kBank;

struct Pairs {
  static constexpr int64_t kCodes = 2, kUnitBytes = 1, kColumns = 16, kVecs = 2;
  static constexpr int64_t kMostUnits = 65535 / 18;
  static constexpr int64_t kAdds = 14;
  static_assert(kAdds * 18 <= 255, "sums of lookups stay in bytes");
  static constexpr int rows(int) { return 4; }
  static uint8_t unit(const uint8_t* left) { return *left; }

  static void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
    if (channels % kCodes == 0) channels *= pixels, pixels = 1;
    for (int64_t p = 0; p < pixels; ++p, codes += channels) {
      int64_t c = 0;
      // Whatever a caller calls a code: a unit is a row of the bank.
      for (; c + 1 < channels; c += 2)
        *out++ = static_cast<uint8_t>((codes[c] | codes[c + 1] << 2) & 15);
      if (c < channels) *out++ = codes[c] & 15;
    }
  }

  template <int kRows, int kVecs>
  static inline void look_up(const uint8_t* left, int64_t stride, const uint8_t* panel,
                             uint8x16_t (&bytes)[kRows][kVecs]) {
    uint8x16_t right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) right[v] = vld1q_u8(panel + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const uint8x16_t row = vld1q_u8(kBank.sums[left[r * stride]]);
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v)
        bytes[r][v] = vaddq_u8(bytes[r][v], vqtbl1q_u8(row, right[v]));
    }
  }

  template <int kRows, int kVecs>
  static void tile(const Product& p, const Part& part, int64_t row, const uint8_t* panel,
                   int64_t columns, int32_t* out) {
    uint16x8_t words[kRows][kVecs][2] = {};
    for (int64_t s = 0; s < part.segments; ++s) {
      const uint8_t* left = part.runs[s] + part.skip + row * p.row_bytes;
      for (int64_t rest = part.units; rest > 0; rest -= kAdds) {
        uint8x16_t bytes[kRows][kVecs] = {};
#pragma GCC unroll 1
        for (int64_t u = rest < kAdds ? rest : kAdds; u > 0; --u, ++left, panel += 16 * kVecs)
          look_up(left, p.row_bytes, panel, bytes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
          for (int v = 0; v < kVecs; ++v) {
            words[r][v][0] = vaddw_u8(words[r][v][0], vget_low_u8(bytes[r][v]));
            words[r][v][1] = vaddw_high_u8(words[r][v][1], bytes[r][v]);
          }
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < 2 * kVecs; ++v)
        store(to + 8 * v, columns - 8 * v, words[r][v / 2][v % 2], part.add);
    }
  }

  // 8 columns, of which `columns` are in out.
  static void store(int32_t* out, int64_t columns, uint16x8_t sum, bool add) {
    const int64_t count = columns < 8 ? columns : 8;
    for (int64_t c = 0; c < count; ++c) out[c] = (add ? out[c] : 0) + sum[c];
  }
};

}  // namespace

const Form kNeonPairs = Lookups<Pairs>::form("pairs");

}  // namespace bc
