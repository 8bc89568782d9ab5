// Products and convolutions of codes.
#include "calls.h"
#include "grids.h"

namespace fuzz {

void products(Input& in) {
  const int64_t batch = in.size(0, 4), m = in.size(0, 40), n = in.size(0, 70), k = in.size(0, 130);
  const int bits = in.small(1, 8), threads = in.small(1, 3);
  const Memory<uint8_t> a = codes(in, elements({batch, m, k}), bits),
                        w = codes(in, elements({batch, n, k}), bits);
  if (in.once_in(2)) {
    const Memory<int32_t> out(in, elements({batch, m, n}));
    at_two_levels(in, out, [&] {
      return bc_gemm_codes(a.get(), w.get(), batch, m, n, k, out.get(), threads);
    });
    return;
  }
  const Grids grids(in, batch, n);
  const Memory<float> out(in, elements({batch, m, n}));
  at_two_levels(in, out, [&] {
    return bc_gemm_reals(a.get(), w.get(), batch, m, n, k, grids.get(), out.get(), threads);
  });
}

void convolutions(Input& in) {
  const bc_conv2d c = convolution(in);
  const int x_bits = in.small(1, 8), w_bits = in.small(1, 8), threads = in.small(1, 3);
  const int call = in.byte() % 5;
  bc_conv2d looked_at = c;
  if (call == 1) looked_at.filters = c.groups;
  const Pictures size(looked_at);
  const Memory<uint8_t> x = codes(in, size.in, x_bits), w = codes(in, size.weights, w_bits);
  switch (call) {
    case 0: {
      const Memory<int32_t> out(in, size.out);
      at_two_levels(in, out, [&] {
        return bc_conv2d_codes(&c, x.get(), w.get(), out.get(), threads);
      });
      return;
    }
    case 1: {
      const Memory<int32_t> out(in, size.out_groups);
      at_two_levels(in, out, [&] { return bc_conv2d_code_sums(&c, x.get(), out.get(), threads); });
      return;
    }
    case 2: {
      const Grids grids(in, 1, c.filters);
      const Memory<float> out(in, size.out);
      at_two_levels(in, out, [&] {
        return bc_conv2d_reals(&c, x.get(), w.get(), grids.get(), out.get(), threads);
      });
      return;
    }
    case 4: {
      const Memory<float> reals_ = reals(in, size.in, -2, 2), weights = reals(in, size.weights, -1, 1),
                          bias = reals(in, in.once_in(3) ? -1 : elements({c.filters}), -1, 1),
                          out(in, size.out);
      at_two_levels(in, out, [&] {
        return bc_conv2d_floats(&c, reals_.get(), weights.get(), bias.get(), out.get(), threads);
      });
      return;
    }
    default: {
      const int64_t each = c.groups < 1 ? 0 : c.channels / c.groups;
      const Memory<uint32_t> planes(in, elements({x_bits, c.images, c.height, c.width,
                                                  bc_plane_words(c.channels)})),
          filters(in, elements({w_bits, c.filters, c.kernel_h, c.kernel_w, bc_plane_words(each)}));
      const Memory<int32_t> out(in, size.out);
      check_status(bc_bit_conv2d(&c, planes.get(), x_bits, filters.get(), w_bits, out.get(), threads));
    }
  }
}

}  // namespace fuzz
