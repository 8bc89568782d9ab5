// Reals between layers: norms, activations, and the softmax of rows as codes.
#include <algorithm>

#include "calls.h"
#include "chain.h"

namespace fuzz {
namespace {

void normalized(Input& in) {
  const int64_t rows = in.size(0, 20), n = in.size(0, 140), threads = in.small(1, 3);
  const int64_t pitch = pitch_of(in, n), out_pitch = pitch_of(in, n);
  const Memory<float> x = reals(in, spread(rows, pitch, n), -3, 3),
                      gain = reals(in, in.once_in(4) ? -1 : elements({n}), -1, 1),
                      shift = reals(in, in.once_in(4) ? -1 : elements({n}), -1, 1);
  const Memory<float> out(in, elements({n}) < 0 ? -1 : spread(rows, out_pitch, n));
  // More than kMost elements are no vectors that could be left out.
  const float* from = elements({n}) < 0 ? nullptr : x.get();
  at_two_levels(in, out, [&] {
    return bc_layer_norm(from, rows, n, pitch, gain.get(), shift.get(), 1e-5f, out.get(), out_pitch,
                         static_cast<int>(threads));
  });
}

void unit(Input& in) {
  const int64_t count = in.size(0, 3), rows = in.size(0, 20), columns = in.size(0, 60);
  const int64_t pitch = pitch_of(in, columns), out_pitch = pitch_of(in, columns);
  const int by_column = in.byte() % 2, threads = in.small(1, 3);
  const auto whole = [&](int64_t step) { return std::max<int64_t>(0, spread(rows, step, columns)); };
  const int64_t x_next = in.once_in(4) ? in.size(0, 90) : whole(pitch);
  const int64_t out_next = whole(out_pitch) + in.from(0, 9);
  const auto all = [&](int64_t next, int64_t step) {
    const int64_t one = spread(rows, step, columns);
    return one < 0 ? -1 : spread(count, next, one);
  };
  const Memory<float> x = reals(in, all(x_next, pitch), -3, 3), out(in, all(out_next, out_pitch));
  at_two_levels(in, out, [&] {
    return bc_unit(x.get(), count, rows, columns, x_next, pitch, by_column, 1e-6f, out.get(),
                   out_next, out_pitch, threads);
  });
}

void mapped(Input& in) {
  const int64_t n = in.size(0, 250);
  const int which = in.byte() % 4, threads = in.small(1, 3);
  const Memory<float> x = reals(in, elements({n}), -9, 9), out(in, elements({n}));
  at_two_levels(in, out, [&] {
    if (which < 2) return bc_gelu(x.get(), n, which, out.get(), threads);
    return (which == 2 ? bc_sigmoid : bc_silu)(x.get(), n, out.get(), threads);
  });
}

// What files hold, and the grids that follow.
void stored(Input& in) {
  const int64_t n = in.size(0, 250), length = in.size(0, 90), shortest = in.size(0, 90);
  const int which = in.byte() % 3, bits = in.small(0, 9), per_length = in.byte() % 2;
  const Memory<float> x = reals(in, elements({n}), -9, 9), out(in, elements({n}));
  const uint16_t half[4] = {0, 0x8001, 0x7c00, 0x3555};
  at_two_levels(in, out, [&] {
    if (which == 0) return bc_widen(half, std::min<int64_t>(n, 4), out.get());
    if (which == 1) return bc_channel_grid(0.3f, -1, x.get(), x.get(), n, out.get(), out.get());
    return bc_length_grid(length, bits, per_length, shortest, std::min<int64_t>(n, 0), x.get(), x.get());
  });
}

void softmax(Input& in) {
  const int64_t rows = in.size(0, 20), n = in.size(0, 90);
  const int bits = in.small(1, 8), threads = in.small(1, 3);
  const Memory<float> x = reals(in, elements({rows, n}), -9, 9);
  const Memory<uint8_t> out(in, elements({rows, n}));
  at_two_levels(in, out, [&] {
    return bc_softmax_codes(x.get(), rows, n, 0.02f, 0.0f, bits, out.get(), threads);
  });
}

// Pictures that end where their pixels do.
void pixels(Input& in) {
  bc_pixels p{};
  p.images = in.size(0, 3), p.pixels = in.size(0, 40);
  if (in.once_in(3) && p.pixels > 0 && p.pixels < kMost) p.pixels *= 16;
  p.channels = in.size(0, 24), p.order = in.small(0, 1), p.pitch = pitch_of(in, p.channels);
  const int threads = in.small(1, 3);
  const int64_t rows = elements({p.images, p.pixels});
  const int64_t size = p.order == BC_CHANNELS_LAST && rows >= 0
                           ? spread(rows, p.pitch, p.channels)
                           : elements({p.images, p.pixels, p.channels});
  const int64_t each = elements({p.images, p.channels});
  const Memory<float> x = reals(in, size, -3, 3),
                      from = reals(in, in.once_in(3) ? -1 : each, -1, 1);
  p.x = size < 0 || each < 0 ? nullptr : x.get();
  const Memory<float> one(in, in.once_in(4) ? -1 : each), two(in, in.once_in(4) ? -1 : each),
      three(in, each);
  at_two_levels(in, three, [&] {
    return bc_pixel_sums(&p, from.get(), one.get(), two.get(), three.get(), threads);
  });
  const int64_t groups = in.once_in(3) ? in.size(1, 8) : p.channels;
  const Memory<float> gain = reals(in, in.once_in(4) ? -1 : elements({p.channels}), -1, 1),
                      scale(in, each), offset(in, each);
  at_two_levels(in, offset, [&] {
    return bc_group_scales(&p, groups, gain.get(), nullptr, 1e-5, scale.get(), offset.get(),
                           threads);
  });
}

}  // namespace

void between_layers(Input& in) {
  constexpr Call kCalls[] = {normalized, unit, mapped, stored, softmax, pixels};
  kCalls[in.byte() % 5](in);
}

}  // namespace fuzz
