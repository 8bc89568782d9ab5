// Layers: weights made ready, and the rows of a linear. Convolutions are in layer_lines.cc.
#include "layer.h"

#include <algorithm>
#include <cmath>

#include "guard.h"
#include "threads.h"

namespace {

// The parameters of the cut, repeated until they fill whole groups of 16.
std::vector<float> repeated(const float* values, int64_t n) {
  const int64_t period = std::lcm<int64_t, int64_t>(n, 16);
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

// [columns of four taps][channels rounded up to 16][4], codes - 128; a missing tap is 0.
std::vector<int8_t> by_columns(const bc_conv2d& c, const uint8_t* w) {
  const int64_t wide = (c.channels + 15) / 16 * 16, groups = (c.kernel_h + 3) / 4;
  std::vector<int8_t> all(static_cast<size_t>(groups * c.kernel_w * wide * 4));
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    for (int64_t ty = 0; ty < c.kernel_h; ++ty) {
      for (int64_t tx = 0; tx < c.kernel_w; ++tx) {
        const int64_t column = ty / 4 * c.kernel_w + tx;
        all[static_cast<size_t>((column * wide + channel) * 4 + ty % 4)] = static_cast<int8_t>(
            w[(channel * c.kernel_h + ty) * c.kernel_w + tx] - 128);
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
      scale(repeated(spec.cut_scale, spec.cut_groups)),
      offset(repeated(spec.cut_offset, spec.cut_groups)),
      factor(inverses(scale)),
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
  }
  if (depthwise()) {
    if (k.depthwise_row != nullptr) {
      by_column = by_columns(c, spec.w);
      return;
    }
    for (int64_t t = 0; t < all; ++t) {
      for (int64_t i = 0; i < c.channels; ++i) by_tap.push_back(spec.w[i * all + t]);
    }
    return;
  }
  const bool whole_rows = c.groups == 1 && c.dilation_w == 1;
  const int64_t segments = whole_rows ? c.kernel_h : all;
  for (int64_t g = 0; g < c.groups; ++g) {
    panels.emplace_back(form, spec.w + g * bc::group_filters(c) * all * each,
                        bc::group_filters(c), segments, whole_rows ? c.kernel_w : 1, each);
  }
}

namespace bc {

void run_rows(const bc_layer& layer, const Picture& p, int threads) {
  const Kernels& k = layer.k;
  const int64_t channels = layer.c.channels, filters = layer.c.filters;
  const int64_t rows = p.images * p.height * p.width, pitch = p.run.pitch;
  const Steps head{&k, p.run.head, p.run.head_count, channels};
  const Landing landing(k, p.run, p.out_h, p.out_w, filters);
  const Form& form = layer.form;
  const int64_t stride = form.pixel_bytes(channels);
  const bool in_place = form.load == nullptr;
  const int64_t fit = (int64_t{1} << 15) / std::max(channels, filters);
  // Whole periods of the cut's parameters, whole tiles.
  const int64_t step = std::lcm<int64_t, int64_t>(
      24, static_cast<int64_t>(layer.scale.size()) / std::gcd<int64_t, int64_t>(
              static_cast<int64_t>(layer.scale.size()), channels));
  const int64_t block = std::max(step, std::min<int64_t>(480, fit) / step * step);
  const int64_t code_bytes = Scratch::bytes<uint8_t>(block * channels + kPad);
  const int64_t row_bytes = in_place ? 0 : Scratch::bytes<uint8_t>(block * stride + kPad);
  const int64_t sum_bytes = Scratch::bytes<int32_t>(block * filters);
  const int64_t row_sum_bytes = Scratch::bytes<int32_t>(block);
  const double products = static_cast<double>(rows) * static_cast<double>(channels * filters);
  const int use =
      worthwhile(threads, products / 150 + 0.3 * static_cast<double>(rows * filters) +
                              (head.cost() + landing.cost()) * static_cast<double>(rows));
  const int64_t dense_bytes = Scratch::bytes<float>(block * std::max(channels, filters));
  const int64_t each = code_bytes + row_bytes + sum_bytes + row_sum_bytes + dense_bytes;
  Scratch scratch(each * use);
  uint8_t* memory = scratch.part<uint8_t>(each * use);
  const Cutter cutter = layer.cutter();
  const Reading& r = layer.reading;
  const Readout readout{r.product.data(), r.row.data(), r.constant.data(), r.bias.data()};
  parallel_for((rows + block - 1) / block, use, [&](int64_t task, int slot) {
    uint8_t* codes = memory + slot * each;
    uint8_t* wide = codes + code_bytes;
    int32_t* sums = reinterpret_cast<int32_t*>(wide + row_bytes);
    int32_t* row_sums = reinterpret_cast<int32_t*>(wide + row_bytes + sum_bytes);
    const int64_t first = task * block, count = std::min(block, rows - first);
    float* dense = reinterpret_cast<float*>(wide + row_bytes + sum_bytes + row_sum_bytes);
    if (p.run.x_codes != 0) {
      const uint8_t* x = p.codes() + first * pitch;
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(x + i * pitch, channels, codes + i * channels);
    } else if (head.empty()) {
      const float* x = p.reals() + first * pitch;
      k.cut(close_up(x, count, channels, pitch, dense), count * channels, cutter, codes);
    } else {
      head.run(first, count, p.reals() + first * pitch, pitch, dense, dense, channels);
      k.cut(dense, count * channels, cutter, codes);
    }
    k.sum_rows(codes, count, channels, row_sums);
    const uint8_t* run = codes;
    if (!in_place) {
      form.load(codes, count, channels, wide);
      run = wide;
    }
    const Panel& panel = layer.panels[0];
    form.product({&run, 1, channels, stride, count, panel.data(), filters, panel.shifted(), sums,
               filters});
    k.read_rows(readout, count, filters, sums, filters, row_sums, 1, landing.place(first, dense),
                landing.pitch());
    landing.land(first, count, dense);
  });
}

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
bc_status check(const Kernels& k, const bc_conv2d& c, int64_t out_h, int64_t out_w,
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
      check_steps(k, r.head, r.head_count, c.images * c.height * c.width, c.channels);
  if (status == BC_OK) status = check_steps(k, r.tail, r.tail_count, pixels, c.filters);
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
  if (status == BC_OK) status = bc::check(layer->k, c, out_h, out_w, *run);
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
