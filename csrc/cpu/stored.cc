// Numbers as files hold them, and the grids that follow from them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "bitcompress/bits.h"

namespace {

float widened(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 31u, fraction = half & 1023u;
  uint32_t bits;
  if (exponent == 0) {  // zero and subnormal numbers: fraction * 2^-24
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    std::memcpy(&bits, &value, sizeof bits);
  } else {
    bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
  }
  bits |= sign;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

extern "C" bc_status bc_widen(const uint16_t* x, int64_t n, float* out) {
  if (n < 0) return BC_BAD_SHAPE;
  if (n == 0) return BC_OK;
  if (x == nullptr || out == nullptr) return BC_BAD_ARGUMENT;
  for (int64_t i = 0; i < n; ++i) out[i] = widened(x[i]);
  return BC_OK;
}

extern "C" bc_status bc_channel_grid(float scale, float offset, const float* stretch,
                                     const float* shift, int64_t channels, float* cut_scale,
                                     float* cut_offset) {
  if (channels < 0) return BC_BAD_SHAPE;
  if (channels == 0) return BC_OK;
  if (stretch == nullptr || cut_scale == nullptr || cut_offset == nullptr) return BC_BAD_ARGUMENT;
  for (int64_t c = 0; c < channels; ++c) {
    const float low = stretch[c] * offset;
    const float cut = stretch[c] * scale;  // before the outputs, which may be the inputs
    cut_offset[c] = shift == nullptr ? low : low + shift[c];
    cut_scale[c] = cut;
  }
  return BC_OK;
}

extern "C" bc_status bc_length_grid(int64_t length, int bits, int per_length, int64_t shortest,
                                    int64_t groups, float* scale, float* offset) {
  if (length < 0 || groups < 0 || shortest < 0) return BC_BAD_SHAPE;
  if (bits < 1 || bits > 8) return BC_BAD_ARGUMENT;
  if (groups == 0 || (per_length == 0 && length >= shortest)) return BC_OK;
  if (scale == nullptr || offset == nullptr) return BC_BAD_ARGUMENT;
  const float levels = static_cast<float>((1 << bits) - 1);
  const float root = static_cast<float>(std::pow(static_cast<double>(length), -0.5));
  const float most = static_cast<float>(static_cast<double>(shortest) /
                                        static_cast<double>(std::max<int64_t>(length, 1)));
  for (int64_t g = 0; g < groups; ++g) {
    float factor = root;
    if (per_length == 0) {
      const float top = offset[g] + scale[g] * levels;
      factor = std::min(std::max(1.0f / std::max(top, 1e-6f), 1.0f), most);
    }
    scale[g] *= factor, offset[g] *= factor;
  }
  return BC_OK;
}
