// Products of codes of one bit in plain C++: 64 channels of a pixel are a word; AND, count, add for
// eight columns at a time. Bits are counted in the bytes of a word, which any compiler vectorises, and
// the bytes of up to kWords words are added before they go to 32 bits.
#include <string.h>

#include "scalar_bits.h"

namespace bc {
namespace {

constexpr int64_t kBits = 64, kColumns = 8;
constexpr int64_t kWords = 31;  // 31 * 8 fits into a byte

int64_t units(int64_t channels) { return (channels + kBits - 1) / kBits; }

uint64_t word(const uint8_t* codes, int64_t n) {
  uint64_t bits = 0;
  for (int64_t i = 0; i < n; ++i) bits |= static_cast<uint64_t>(codes[i] & 1) << i;
  return bits;
}

void load(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out) {
  for (int64_t p = 0; p < pixels; ++p, codes += channels) {
    for (int64_t c = 0; c < channels; c += kBits, out += sizeof(uint64_t)) {
      const uint64_t bits = word(codes + c, channels - c < kBits ? channels - c : kBits);
      memcpy(out, &bits, sizeof bits);
    }
  }
}

int64_t panel_bytes(int64_t columns, int64_t segments, int64_t pixels, int64_t channels) {
  const int64_t filled = (columns + kColumns - 1) / kColumns * kColumns;
  return filled * segments * pixels * units(channels) * static_cast<int64_t>(sizeof(uint64_t));
}

// Blocks of eight columns, in a block runs, words, columns.
void pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                int64_t channels, bool, void* panel) {
  uint64_t* out = static_cast<uint64_t*>(panel);
  const int64_t all = segments * pixels;
  for (int64_t first = 0; first < columns; first += kColumns) {
    for (int64_t s = 0; s < all; ++s) {
      for (int64_t k = 0; k < channels; k += kBits) {
        for (int64_t c = first; c < first + kColumns; ++c, ++out) {
          const int64_t count = channels - k < kBits ? channels - k : kBits;
          *out = c < columns ? word(right + (c * all + s) * channels + k, count) : 0;
        }
      }
    }
  }
}

// The bits of each byte.
inline uint64_t count_bytes(uint64_t bits) {
  bits -= bits >> 1 & 0x5555555555555555;
  bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333);
  return (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
}

inline int32_t add_bytes(uint64_t bytes) {
  const uint64_t low = 0x00ff00ff00ff00ff;
  const uint64_t words = (bytes & low) + (bytes >> 8 & low);
  return static_cast<int32_t>(words * 0x0001000100010001 >> 48);
}

void product(const Product& p) {
  const int64_t run = p.pixels * units(p.length / p.pixels);
  const int64_t block = p.segments * run * kColumns;
  for (int64_t r = 0; r < p.rows; ++r) {
    const uint64_t* right = static_cast<const uint64_t*>(p.panel);
    for (int64_t first = 0; first < p.columns; first += kColumns, right += block) {
      int32_t sums[kColumns] = {};
      const uint64_t* panel = right;
      for (int64_t s = 0; s < p.segments; ++s) {
        const uint8_t* left = p.runs[s] + r * p.row_bytes;
        for (int64_t rest = run; rest > 0; rest -= kWords) {
          uint64_t bytes[kColumns] = {};
          for (int64_t k = rest < kWords ? rest : kWords; k > 0; --k, panel += kColumns) {
            uint64_t bits;
            memcpy(&bits, left, sizeof bits);
            left += sizeof bits;
            for (int64_t c = 0; c < kColumns; ++c) bytes[c] += count_bytes(bits & panel[c]);
          }
          for (int64_t c = 0; c < kColumns; ++c) sums[c] += add_bytes(bytes[c]);
        }
      }
      const int64_t rest = p.columns - first, count = rest < kColumns ? rest : kColumns;
      memcpy(p.out + r * p.out_stride + first, sums, static_cast<size_t>(count) * sizeof(int32_t));
    }
  }
}

}  // namespace

const Form kScalarBits = {"bits", 8, units, load, panel_bytes, pack_panel, product, 1, false};

}  // namespace bc
