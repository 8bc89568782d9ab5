// The geometry of a convolution, checked once and shared by its drivers.
#pragma once

#include <algorithm>

#include "bitcompress/bits.h"
#include "guard.h"

namespace bc {

inline int64_t taps(const bc_conv2d& c) { return c.kernel_h * c.kernel_w; }
inline int64_t group_channels(const bc_conv2d& c) { return c.channels / c.groups; }
inline int64_t group_filters(const bc_conv2d& c) { return c.filters / c.groups; }

// Places of one axis: output place o and tap t read input place o * stride - pad + t * dilation.
inline int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = in + 2 * pad - dilation * (kernel - 1) - 1;
  return room < 0 ? -1 : room / stride + 1;
}

// Largest size of any one number in a geometry: no sum or product of two of them can overflow.
constexpr int64_t kMostSize = int64_t{1} << 30;

// Whether a sum of `length` products of codes fits into int32.
inline bool fits_int32(int left_bits, int right_bits, int64_t length) {
  const int64_t left = (1 << left_bits) - 1, right = (1 << right_bits) - 1;
  return length <= INT32_MAX / (left * right);
}

// Sizes alone; how long the sums are is for the caller to judge.
inline bc_status check_sizes(const bc_conv2d* c, int64_t* out_h, int64_t* out_w) {
  if (c == nullptr || out_h == nullptr || out_w == nullptr) return BC_BAD_ARGUMENT;
  for (const int64_t size :
       {c->images, c->height, c->width, c->channels, c->filters, c->pad_h, c->pad_w}) {
    if (size < 0 || size > kMostSize) return BC_BAD_SHAPE;
  }
  for (const int64_t size : {c->kernel_h, c->kernel_w, c->groups, c->stride_h, c->stride_w,
                             c->dilation_h, c->dilation_w}) {
    if (size < 1 || size > kMostSize) return BC_BAD_SHAPE;
  }
  if (c->channels % c->groups != 0 || c->filters % c->groups != 0) return BC_BAD_SHAPE;
  *out_h = out_size(c->height, c->kernel_h, c->stride_h, c->pad_h, c->dilation_h);
  *out_w = out_size(c->width, c->kernel_w, c->stride_w, c->pad_w, c->dilation_w);
  if (*out_h < 0 || *out_w < 0) return BC_BAD_SHAPE;
  if (volume({c->images, c->height, c->width, c->channels}) < 0) return BC_BAD_SHAPE;
  if (volume({c->filters, taps(*c), c->channels}) < 0) return BC_BAD_SHAPE;
  if (volume({c->images, *out_h, *out_w, std::max(c->filters, c->groups), 8}) < 0)
    return BC_BAD_SHAPE;
  if (volume({c->height + 2 * c->pad_h, c->width + 2 * c->pad_w, c->channels, 8}) < 0)
    return BC_BAD_SHAPE;
  return BC_OK;
}

inline bc_status check_geometry(const bc_conv2d* c, int64_t* out_h, int64_t* out_w) {
  const bc_status status = check_sizes(c, out_h, out_w);
  if (status != BC_OK) return status;
  const bool fits = volume({taps(*c), c->channels / c->groups}) <= BC_MAX_REDUCTION;
  return fits ? BC_OK : BC_OVERFLOW;
}

inline int64_t input_size(const bc_conv2d& c) { return c.images * c.height * c.width * c.channels; }
inline int64_t weight_size(const bc_conv2d& c) { return c.filters * taps(c) * group_channels(c); }

}  // namespace bc
