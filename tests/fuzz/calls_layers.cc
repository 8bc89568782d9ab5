// Layers, made and asked for their size, run and freed; chains of steps alone.
#include <algorithm>

#include "calls.h"
#include "chain.h"
#include "grids.h"

namespace fuzz {
namespace {

// A layer and all that its record points to.
struct Spec {
  Spec(Input& in, const bc_conv2d& c)
      : x_bits(in.small(1, 8)),
        w_bits(in.small(1, 8)),
        cut_groups(in.once_in(2) ? 1 : in.once_in(12) ? in.size(0, 9) : c.channels),
        w(codes(in, elements({c.filters, c.kernel_h, c.kernel_w, c.groups < 1 ? 0 : c.channels / c.groups}),
                w_bits)),
        scale(reals(in, elements({cut_groups}), 0.01f, 1)),
        offset(reals(in, elements({cut_groups}), -2, 1)),
        grids(in, 1, c.filters) {
    if (in.once_in(3)) std::fill(scale.begin(), scale.end(), 0.0f);
    if (in.once_in(8) && scale.size() > 0) *scale.get() = 0.0f;
    const bc_grids* known = grids.get();
    record = {c,          w.get(), scale.get(), offset.get(),
              cut_groups, x_bits,  w_bits,      known == nullptr ? bc_grids{} : *known};
  }

  int x_bits, w_bits;
  int64_t cut_groups;
  Memory<uint8_t> w;
  Memory<float> scale, offset;
  Grids grids;
  bc_layer_spec record;
};

bc_status make_and_run(const bc_layer_spec& spec, const bc_run& run, int threads) {
  bc_layer* layer = nullptr;
  bc_status status = bc_layer_new(&spec, &layer);
  check_status(status);
  if ((status == BC_OK) != (layer != nullptr)) fail("a layer without a status");
  int64_t h = 0, w = 0;
  check_status(bc_layer_size(layer, run.height, run.width, &h, &w));
  const bc_status ran = bc_layer_run(layer, &run, threads);
  bc_layer_free(layer);
  return std::max(status, ran);
}

}  // namespace

void layers(Input& in) {
  const bc_conv2d c = convolution(in);
  const Pictures size(c);
  const Spec spec(in, c);
  bc_run run{};
  run.images = c.images, run.height = c.height, run.width = c.width;
  run.x_codes = in.small(0, 1), run.x_order = in.small(0, 1), run.out_order = in.small(0, 1);
  if (run.x_codes != 0 && !in.wild()) run.x_order = BC_CHANNELS_LAST;
  const int64_t pixels = elements({c.images, c.height, c.width});
  const int64_t places = elements({c.images, size.out_h, size.out_w});
  run.pitch = pitch_of(in, c.channels);
  const int64_t x_size = run.x_order == BC_CHANNELS_LAST ? spread(pixels, run.pitch, c.channels) : size.in;
  const bool coded = run.x_codes != 0;
  const Memory<float> x = reals(in, coded ? -1 : x_size, -3, 3);
  const bool wide_codes = coded && in.once_in(8);  // than the layer takes
  const Memory<uint8_t> x_codes = codes(in, coded ? x_size : -1, wide_codes ? 8 : spec.x_bits);
  run.x = coded ? static_cast<const void*>(x_codes.get()) : x.get();
  const Chain head(in, pixels, c.channels, !in.wild() && (coded || run.x_order != 0) ? 0 : 2);
  const Chain tail(in, places, c.filters, 3);
  run.head = head.get(), run.head_count = head.count();
  run.tail = tail.get(), run.tail_count = tail.count();
  run.shuffle = in.once_in(6) ? in.size(0, 3) : 0;
  const int64_t r = run.shuffle > 1 && run.shuffle < 64 ? run.shuffle : 1;
  const int64_t wide = c.filters / (r * r), pitch = pitch_of(in, wide);
  const int64_t out_size = run.out_order == BC_CHANNELS_LAST
                               ? spread(places < 0 ? -1 : places * r * r, pitch, wide)
                               : size.out;
  const bool fits = size.in >= 0 && size.weights >= 0 && size.out >= 0 && places >= 0 && pixels >= 0;
  const Sink sink(in, c.filters, pitch, fits ? out_size : -1);
  run.sink = sink.get();
  const int threads = in.small(1, 3);
  if (!fits) run.x = run.sink.out = nullptr;
  sink.at_levels(in, [&] { return make_and_run(spec.record, run, threads); }, wide_codes);
}

void chains(Input& in) {
  const int64_t rows = in.size(0, 40), channels = in.size(0, 90);
  const int64_t x_pitch = pitch_of(in, channels), pitch = pitch_of(in, channels);
  const Memory<float> x = reals(in, spread(rows, x_pitch, channels), -3, 3);
  const Chain steps(in, rows, channels, 4);
  const Sink sink(in, channels, pitch, spread(rows, pitch, channels));
  const int threads = in.small(1, 3);
  sink.at_levels(in, [&] {
    return bc_rows(steps.get(), steps.count(), rows, channels, x.get(), x_pitch, &sink.get(), threads);
  });
}

}  // namespace fuzz
