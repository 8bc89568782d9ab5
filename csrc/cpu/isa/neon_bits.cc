// Products of codes of one bit on NEON: AND, count the bits of bytes (cnt), add in bytes; every 31
// steps the bytes of a word are added up (uaddlp, uadalp).
//
// A unit is 32 channels of a pixel; bits behind the last channel are 0 and add nothing. The panel
// holds blocks of up to 16 columns, within a block words of 4 columns a vector.
#include <arm_neon.h>
#include <string.h>

#include "neon.h"
#include "words.h"

namespace bc {
namespace {

constexpr int64_t kAdds = 31;  // 31 * 8 bits fit into a byte

struct Bits {
  static constexpr int64_t kWidth = 4, kVectors = 4, kStep = 1, kBytes = 4;
  static constexpr int rows(int) { return 4; }

  template <int kRows, int kVecs>
  static inline void tile(const Product& p, int64_t row, const uint8_t* block, int64_t columns,
                          const int32_t*, int32_t* out) {
    uint32x4_t sum[kRows][kVecs] = {};
    uint8x16_t bytes[kRows][kVecs] = {};
    int64_t room = kAdds;
    const auto flush = [&] {
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVecs; ++v) {
          sum[r][v] = vpadalq_u16(sum[r][v], vpaddlq_u8(bytes[r][v]));
          bytes[r][v] = vdupq_n_u8(0);
        }
      }
      room = kAdds;
    };
    for (int64_t s = 0; s < p.segments; ++s) {
      const uint8_t* left = p.runs[s] + row * p.row_bytes;
      for (int64_t k = 0; k < p.length;) {
        const int64_t end = p.length - k < room ? p.length : k + room;
        room -= end - k;
#pragma GCC unroll 1
        for (; k < end; ++k, left += 4, block += 16 * kVecs) add(p, left, block, bytes);
        if (room == 0) flush();
      }
    }
    flush();
    for (int r = 0; r < kRows; ++r) {
      int32_t* to = out + (row + r) * p.out_stride;
      for (int v = 0; v < kVecs; ++v) store(to + v * kWidth, columns - v * kWidth, sum[r][v]);
    }
  }

  template <int kRows, int kVecs>
  static inline void add(const Product& p, const uint8_t* left, const uint8_t* block,
                         uint8x16_t (&bytes)[kRows][kVecs]) {
    uint8x16_t right[kVecs];
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) right[v] = vld1q_u8(block + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      uint32_t word;
      memcpy(&word, left + r * p.row_bytes, sizeof word);
      const uint8x16_t bits = vreinterpretq_u8_u32(vdupq_n_u32(word));
#pragma GCC unroll 16
      for (int v = 0; v < kVecs; ++v)
        bytes[r][v] = vaddq_u8(bytes[r][v], vcntq_u8(vandq_u8(bits, right[v])));
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

// 16 codes of 0 and 1 to 16 bits: each moved to its place in its byte, then all of a byte added.
inline uint16_t gather(uint8x16_t codes) {
  const int8x16_t places = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
  const uint8x16_t moved = vshlq_u8(codes, places);
  return static_cast<uint16_t>(vaddv_u8(vget_low_u8(moved)) | vaddv_u8(vget_high_u8(moved)) << 8);
}

void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
  if (channels % kWord == 0) channels *= pixels, pixels = 1;
  for (int64_t p = 0; p < pixels; ++p, codes += channels) {
    for (int64_t c = 0; c < units(channels) * kWord; c += 16, out += 2) {
      uint8x16_t here = vdupq_n_u8(0);
      if (c < channels)
        memcpy(&here, codes + c, static_cast<size_t>(channels - c < 16 ? channels - c : 16));
      const uint16_t bits = gather(here);
      memcpy(out, &bits, sizeof bits);
    }
  }
}

}  // namespace

const Form kNeonBits = word_form<Bits, load>();

}  // namespace bc
