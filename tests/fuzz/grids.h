// Geometries and grids that several calls take.
#pragma once

#include "input.h"

namespace fuzz {

inline bc_conv2d convolution(Input& in) {
  bc_conv2d c{};
  c.images = in.size(0, 2), c.height = in.size(1, 12), c.width = in.size(1, 16);
  c.groups = in.once_in(2) ? in.size(1, 1) : in.size(1, 24);
  if (in.once_in(12)) {
    c.channels = in.size(0, 40), c.filters = in.size(0, 40);
  } else {
    const bool depthwise = in.once_in(3);
    const auto times = [&](int64_t n) {
      return c.groups > 0 && c.groups < 1000 ? c.groups * n : c.groups;
    };
    c.channels = times(depthwise ? 1 : in.from(1, 24));
    c.filters = times(depthwise ? 1 : in.from(1, 20));
  }
  c.kernel_h = in.size(1, 5), c.kernel_w = in.size(1, 5);
  c.stride_h = in.size(1, 3), c.stride_w = in.size(1, 3);
  c.pad_h = in.size(0, 3), c.pad_w = in.size(0, 3);
  c.dilation_h = in.size(1, 2), c.dilation_w = in.size(1, 2);
  return c;
}

// How many elements the tensors of a convolution have; all -1 where the padded picture has too many.
struct Pictures {
  int64_t in = -1, weights = -1, out = -1, out_groups = -1, out_h = 0, out_w = 0;

  explicit Pictures(const bc_conv2d& c) {
    bc_conv2d size = c;
    const bc_status status = bc_conv2d_size(&size, &out_h, &out_w);
    check_status(status);
    if (status != BC_OK && status != BC_OVERFLOW) {  // refused: nothing may be touched
      in = weights = out = out_groups = 0;
      return;
    }
    if (elements({c.height + 2 * c.pad_h, c.width + 2 * c.pad_w, c.channels}) < 0) return;
    if (elements({c.height + 2 * c.pad_h, c.width + 2 * c.pad_w, c.groups}) < 0) return;
    in = elements({c.images, c.height, c.width, c.channels});
    weights = elements({c.filters, c.kernel_h, c.kernel_w, c.channels / c.groups});
    out = elements({c.images, out_h, out_w, c.filters});
    out_groups = elements({c.images, out_h, out_w, c.groups});
  }
};

class Grids {
 public:
  Grids(Input& in, int64_t batch, int64_t n)
      : groups_(in.once_in(2) ? 1 : in.once_in(12) ? in.size(0, 5) : n),
        a_scale_(reals(in, elements({batch}), 0.01f, 1)),
        a_offset_(reals(in, elements({batch}), -1, 1)),
        w_scale_(reals(in, elements({batch, groups_}), 0.01f, 1)),
        w_offset_(reals(in, elements({batch, groups_}), -1, 1)),
        bias_(reals(in, elements({n}), -1, 1)),
        null_(in.wild() && in.once_in(24)),
        grids_{a_scale_.get(), a_offset_.get(), w_scale_.get(),
               w_offset_.get(), groups_,        in.once_in(2) ? bias_.get() : nullptr} {}

  const bc_grids* get() const { return null_ ? nullptr : &grids_; }

 private:
  int64_t groups_;
  Memory<float> a_scale_, a_offset_, w_scale_, w_offset_, bias_;
  bool null_;
  bc_grids grids_;
};

}  // namespace fuzz
