// Layers: weights made ready, and what a run is checked for. Rows of a linear are in layer_rows.cc,
// convolutions in layer_lines.cc.
#include "layer.h"

#include <algorithm>
#include <cmath>

#include "guard.h"
#include "threads.h"

namespace {

// The parameters of the cut, repeated until they fill whole groups of 16, and at least a pixel.
std::vector<float> repeated(const float* values, int64_t n, int64_t channels) {
  const int64_t period = std::lcm<int64_t, int64_t>(n == 1 ? 1 : channels, 16) *
                         (n == 1 ? (channels + 15) / 16 : 1);
  std::vector<float> all(static_cast<size_t>(period));
  for (int64_t i = 0; i < period; ++i) all[static_cast<size_t>(i)] = values[i % n];
  return all;
}

std::vector<float> inverses(const std::vector<float>& scale) {
  std::vector<float> factor;
  for (const float s : scale) {
    const float inverse = 1.0f / s;
    if (!std::isnormal(s) || !std::isnormal(inverse)) return {};
    factor.push_back(inverse);
  }
  return factor;
}

// [columns of four taps][channels rounded up to 16][4], codes less `shift`; a missing tap is 0.
std::vector<int8_t> by_columns(const bc_conv2d& c, const uint8_t* w, int shift) {
  const int64_t wide = (c.channels + 15) / 16 * 16, groups = (c.kernel_h + 3) / 4;
  std::vector<int8_t> all(static_cast<size_t>(groups * c.kernel_w * wide * 4));
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    for (int64_t ty = 0; ty < c.kernel_h; ++ty) {
      for (int64_t tx = 0; tx < c.kernel_w; ++tx) {
        const int64_t column = ty / 4 * c.kernel_w + tx;
        all[static_cast<size_t>((column * wide + channel) * 4 + ty % 4)] = static_cast<int8_t>(
            w[(channel * c.kernel_h + ty) * c.kernel_w + tx] - shift);
      }
    }
  }
  return all;
}

}  // namespace

bc_layer::bc_layer(const bc::Kernels& kernels, const bc_layer_spec& spec)
    : k(kernels),
      form(kernels.form_for(spec.x_bits, spec.w_bits,
                            {bc::taps(spec.conv), bc::group_channels(spec.conv),
                             bc::group_filters(spec.conv)})),
      c(spec.conv),
      bits(spec.x_bits),
      scale(repeated(spec.cut_scale, spec.cut_groups, spec.conv.channels)),
      offset(repeated(spec.cut_offset, spec.cut_groups, spec.conv.channels)),
      factor(inverses(scale)),
      least(scale.size(), 0),
      top(scale.size(), static_cast<uint8_t>(bc::top_code(bits))),
      compares(std::all_of(scale.begin(), scale.end(), [](float s) { return s == 0.0f; })),
      left{spec.grids.a_scale[0], spec.grids.a_offset[0]},
      reading(c.filters, spec.grids.bias),
      tap_sums(static_cast<size_t>(c.filters * bc::taps(c))) {
  const int64_t each = bc::group_channels(c), all = bc::taps(c);
  for (size_t t = 0; t < tap_sums.size(); ++t) {
    const uint8_t* codes = spec.w + static_cast<int64_t>(t) * each;
    for (int64_t i = 0; i < each; ++i) tap_sums[t] += codes[i];
  }
  for (int64_t o = 0; o < c.filters; ++o) {
    const int64_t at = spec.grids.w_groups == 1 ? 0 : o;
    right.push_back({spec.grids.w_scale[at], spec.grids.w_offset[at]});
    const int64_t* sums = tap_sums.data() + o * all;
    reading.set(static_cast<size_t>(o), left, right.back(),
                std::accumulate(sums, sums + all, int64_t{0}), all * each);
    most_sums.push_back(static_cast<double>(bc::top_code(bits)) *
                        static_cast<double>(std::accumulate(sums, sums + all, int64_t{0})));
  }
  most_codes = static_cast<double>(bc::top_code(bits)) * static_cast<double>(all * each);
  // Sums of products are never -0 where the product of the scales is above 0, so adding a 0 to them
  // changes no bit.
  const auto all_of = [](const std::vector<double>& values, auto&& holds) {
    return std::all_of(values.begin(), values.end(), holds);
  };
  const auto zero = [](double value) { return value == 0.0; };
  const bool plain = all_of(reading.product, [](double p) { return p > 0.0 && std::isfinite(p); });
  has_row = !plain || !all_of(reading.row, zero);
  has_bias = !plain || !all_of(reading.bias, zero);
  if (!depthwise() && !has_bias) {
    whole = bc::WholeReading(reading, has_row, most_codes);
    base.resize(whole.unit.size());
    if (!whole.set(reading.constant.data(), most_sums.data(), base.data())) base.clear();
  }
  // A column more costs nothing where the last vector has room.
  // Products with weights of 8 bits need the sums of codes themselves.
  shifts = !depthwise() && form.shifts && std::any_of(spec.w, spec.w + bc::weight_size(c),
                                                      [](uint8_t code) { return code > 127; });
  ones = has_row && c.groups == 1 && c.filters % 16 != 0 && !depthwise() && !shifts;
  if (depthwise()) {
    if (k.depthwise_row != nullptr) {
      shifted_columns = spec.w_bits == 8;
      by_column = by_columns(c, spec.w, shifted_columns ? 128 : 0);
      return;
    }
    for (int64_t t = 0; t < all; ++t) {
      for (int64_t i = 0; i < c.channels; ++i) by_tap.push_back(spec.w[i * all + t]);
    }
    return;
  }
  const bool whole_rows = c.groups == 1 && c.dilation_w == 1;
  const int64_t segments = whole_rows ? c.kernel_h : all;
  if (ones) {
    std::vector<uint8_t> w(spec.w, spec.w + bc::weight_size(c));
    w.resize(w.size() + static_cast<size_t>(all * each), 1);
    panels.emplace_back(form, w.data(), columns(), segments, whole_rows ? c.kernel_w : 1, each);
    return;
  }
  for (int64_t g = 0; g < c.groups; ++g) {
    panels.emplace_back(form, spec.w + g * bc::group_filters(c) * all * each,
                        bc::group_filters(c), segments, whole_rows ? c.kernel_w : 1, each);
  }
}

void bc_layer::cut(const float* x, int64_t rows, int64_t pitch, uint8_t* out,
                   int64_t out_pitch) const {
  constexpr int64_t kWide = 48;  // from here on rows fill their vectors well
  if (!compares && pitch == c.channels && out_pitch == c.channels && c.channels < kWide)
    return k.cut(x, rows * c.channels, cutter(), out);
  k.cut_rows(row_cutter(), rows, c.channels, x, pitch, out, out_pitch);
}

namespace bc {
namespace {

bc_status check(const bc_layer_spec* s) {
  if (s == nullptr || s->w == nullptr || s->cut_scale == nullptr || s->cut_offset == nullptr ||
      !bits_ok(s->x_bits) || lacking_grids(&s->grids))
    return BC_BAD_ARGUMENT;
  bc_conv2d c = s->conv;
  for (const int64_t size : {c.kernel_h, c.kernel_w, c.dilation_h, c.dilation_w}) {
    if (size < 1 || size > (1 << 15)) return BC_BAD_SHAPE;
  }
  c.images = 1;
  c.height = (c.kernel_h - 1) * c.dilation_h + 1;
  c.width = (c.kernel_w - 1) * c.dilation_w + 1;
  int64_t out_h = 0, out_w = 0;
  const bc_status status = check_sizes(&c, &out_h, &out_w);
  if (status != BC_OK) return status;
  if (!bits_ok(s->w_bits)) return BC_BAD_ARGUMENT;
  if (!fits_int32(s->x_bits, s->w_bits, taps(c) * group_channels(c))) return BC_OVERFLOW;
  for (int64_t i = 0; i < weight_size(c); ++i) {
    if (s->w[i] >> s->w_bits != 0) return BC_BAD_CODE;
  }
  if (c.channels == 0 || c.filters == 0) return BC_EMPTY;
  if (s->cut_groups != 1 && s->cut_groups != c.channels) return BC_BAD_SHAPE;
  if (s->grids.w_groups != 1 && s->grids.w_groups != c.filters) return BC_BAD_SHAPE;
  return BC_OK;
}

bool is_rows(const bc_conv2d& c, const bc_run& r) {
  return taps(c) == 1 && c.groups == 1 && c.stride_h == 1 && c.stride_w == 1 && c.pad_h == 0 &&
         c.pad_w == 0 && r.x_order == BC_CHANNELS_LAST && r.out_order == BC_CHANNELS_LAST &&
         r.shuffle <= 1;
}

bool known(int order) { return order == BC_CHANNELS_LAST || order == BC_CHANNELS_FIRST; }

// Everything but the sizes of the picture, which c has with those of its output.
bc_status check(const bc_conv2d& c, int64_t out_h, int64_t out_w,
                const bc_run& r) {
  if (!known(r.x_order) || !known(r.out_order) || r.shuffle < 0) return BC_BAD_ARGUMENT;
  const bool last = r.x_order == BC_CHANNELS_LAST, out_last = r.out_order == BC_CHANNELS_LAST;
  if (!last && (r.x_codes != 0 || r.head_count != 0)) return BC_BAD_ARGUMENT;
  if (r.x_codes != 0 && r.head_count != 0) return BC_BAD_ARGUMENT;
  if (last && (r.pitch < c.channels || r.pitch > kMostSize ||
               volume({c.images, c.height, c.width, r.pitch, 8}) < 0))
    return BC_BAD_SHAPE;
  const int64_t pixels = c.images * out_h * out_w;
  bc_status status =
      check_steps(r.head, r.head_count, c.images * c.height * c.width, c.channels);
  if (status == BC_OK) status = check_steps(r.tail, r.tail_count, pixels, c.filters);
  if (status == BC_OK) status = check_sink(r.sink, c.filters);
  if (status != BC_OK) return status;
  const bool shuffled = r.shuffle > 1;
  if ((r.sink.scale != nullptr || shuffled) && !out_last) return BC_BAD_ARGUMENT;
  if (shuffled && r.sink.scale != nullptr) return BC_BAD_ARGUMENT;
  if (shuffled && (r.shuffle > (1 << 15) || c.filters % (r.shuffle * r.shuffle) != 0))
    return BC_BAD_SHAPE;
  if (missing(input_size(c), {r.x})) return BC_BAD_ARGUMENT;
  if (r.sink.out == nullptr)
    return pixels == 0 || stores(r.tail, r.tail_count) ? BC_OK : BC_BAD_ARGUMENT;
  const int64_t wide = shuffled ? c.filters / (r.shuffle * r.shuffle) : c.filters;
  if (out_last && (r.sink.pitch < wide || r.sink.pitch > kMostSize ||
                   volume({pixels, shuffled ? r.shuffle * r.shuffle : 1, r.sink.pitch, 8}) < 0))
    return BC_BAD_SHAPE;
  return BC_OK;
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_layer_new(const bc_layer_spec* spec, bc_layer** layer) {
  if (layer == nullptr) return BC_BAD_ARGUMENT;
  const bc_status status = bc::check(spec);
  if (status != BC_OK) return status;
  return bc::guarded([&] {
    const int64_t length = bc::taps(spec->conv) * bc::group_channels(spec->conv);
    *layer = new bc_layer(bc::kernels_for(length), *spec);
    return BC_OK;
  });
}

bc_status bc_layer_size(const bc_layer* layer, int64_t height, int64_t width, int64_t* out_h,
                        int64_t* out_w) {
  if (layer == nullptr) return BC_BAD_ARGUMENT;
  bc_conv2d c = layer->c;
  c.images = 1, c.height = height, c.width = width;
  return bc::check_sizes(&c, out_h, out_w);
}

void bc_layer_free(bc_layer* layer) { delete layer; }

bc_status bc_layer_run(const bc_layer* layer, const bc_run* run, int threads) {
  if (layer == nullptr || run == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  if (&layer->level != &bc::kernels()) return BC_UNAVAILABLE;
  bc_conv2d c = layer->c;
  c.images = run->images, c.height = run->height, c.width = run->width;
  int64_t out_h = 0, out_w = 0;
  bc_status status = bc::check_sizes(&c, &out_h, &out_w);
  if (status == BC_OK) status = bc::check(c, out_h, out_w, *run);
  if (status != BC_OK) return status;
  if (c.images * out_h * out_w == 0) return BC_OK;
  if (bc::input_size(c) == 0) return BC_EMPTY;
  return bc::guarded([&] {
    const bc::Picture picture{c.images, c.height, c.width, out_h, out_w, *run};
    (bc::is_rows(c, *run) ? bc::run_rows : bc::run_lines)(*layer, picture, threads);
    return BC_OK;
  });
}

}  // extern "C"
