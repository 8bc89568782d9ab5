// Runs of layers with steps, codes and shuffle, and chains alone, against naive loops at every
// instruction set of this CPU; bad arguments give a status. The exit status is 1 if anything failed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "bitcompress/bits.h"
#include "check.h"
#include "levels.h"

namespace {

std::vector<float> reals(Random& random, int64_t n, float low, float high) {
  std::vector<float> all;
  for (int64_t i = 0; i < n; ++i) all.push_back(random.real(low, high));
  return all;
}

uint8_t code_of(float x, float scale, float offset, float top) {
  if (scale == 0.0f) return x >= offset ? 1 : 0;
  const float code = std::nearbyint((x - offset) / scale);
  return static_cast<uint8_t>(code > 0 ? std::min(code, top) : 0.0f);
}

// The grids of an output.
struct Grids {
  std::vector<float> scale, offset, top;
  Grids(int64_t n, float spread, Random& random, bool steps = false) {
    for (int64_t i = 0; i < n; ++i) {
      if (steps) {
        top.push_back(1.0f), scale.push_back(0.0f), offset.push_back(random.real(-spread, spread));
        continue;
      }
      top.push_back(static_cast<float>((1 << random.from(1, 8)) - 1));
      scale.push_back(random.real(0.2f, 2.0f) * spread / top.back());
      offset.push_back(-random.real(0.0f, 1.0f) * spread);
    }
  }
  size_t at(int64_t c) const { return scale.size() == 1 ? 0 : static_cast<size_t>(c); }
  uint8_t code(float x, int64_t c) const {
    return code_of(x, scale[at(c)], offset[at(c)], top[at(c)]);
  }
  void give(bc_sink& sink) const {
    sink.scale = scale.data(), sink.offset = offset.data(), sink.top = top.data();
    sink.groups = static_cast<int64_t>(scale.size());
  }
};

// A layer whose input is codes, by one grid each side.
struct Layer {
  bc_conv2d c;
  int bits;
  std::vector<uint8_t> w;
  std::vector<float> w_scale, w_offset, bias;
  float scale, offset = -1.0f;
  bool signs = false;  // cut by a comparison with 0

  Layer(const bc_conv2d& conv, int width, bool symmetric, Random& random) : c(conv), bits(width) {
    const int64_t size = c.filters * c.kernel_h * c.kernel_w * (c.channels / c.groups);
    for (int64_t i = 0; i < size; ++i)
      w.push_back(static_cast<uint8_t>(random.from(0, (1 << bits) - 1)));
    w_scale = reals(random, c.filters, 0.01f, 0.1f);
    w_offset = reals(random, c.filters, symmetric ? 0.0f : -0.5f, 0.0f);
    bias = reals(random, c.filters, symmetric ? 0.0f : -1.0f, symmetric ? 0.0f : 1.0f);
    scale = 2.0f / static_cast<float>((1 << bits) - 1);
  }

  // Signs on both sides, a scale for each filter and no bias.
  static Layer of_signs(const bc_conv2d& conv, Random& random) {
    Layer l(conv, 1, true, random);
    l.signs = true;
    for (size_t o = 0; o < l.w_scale.size(); ++o) l.w_offset[o] = -0.5f * l.w_scale[o];
    return l;
  }

  bc_layer* make() const {
    const float zero = 0.0f;
    const float *cut_scale = signs ? &zero : &scale, *cut_offset = signs ? &zero : &offset;
    bc_layer_spec spec{c, w.data(), cut_scale, cut_offset, 1, bits, bits,
                       {&scale, &offset, w_scale.data(), w_offset.data(), c.filters, bias.data()}};
    bc_layer* layer = nullptr;
    expect(bc_layer_new(&spec, &layer) == BC_OK, "a layer is made");
    return layer;
  }

  // The real at one output place from codes [height][width][channels].
  float at(const uint8_t* x, int64_t oy, int64_t ox, int64_t o) const {
    const int64_t each = c.channels / c.groups, group = o / (c.filters / c.groups);
    int64_t s = 0, a = 0, sum = 0, terms = 0;
    for (int64_t ty = 0; ty < c.kernel_h; ++ty) {
      for (int64_t tx = 0; tx < c.kernel_w; ++tx) {
        const int64_t y = oy * c.stride_h - c.pad_h + ty * c.dilation_h;
        const int64_t z = ox * c.stride_w - c.pad_w + tx * c.dilation_w;
        if (y < 0 || y >= c.height || z < 0 || z >= c.width) continue;
        for (int64_t i = 0; i < each; ++i) {
          const int64_t left = x[(y * c.width + z) * c.channels + group * each + i];
          const int64_t right =
              w[static_cast<size_t>(((o * c.kernel_h + ty) * c.kernel_w + tx) * each + i)];
          s += left * right, a += left, sum += right, ++terms;
        }
      }
    }
    const size_t f = static_cast<size_t>(o);
    const double sa = static_cast<double>(scale), la = static_cast<double>(offset);
    const double sw = static_cast<double>(w_scale[f]), lw = static_cast<double>(w_offset[f]);
    const double constant =
        la * sw * static_cast<double>(sum) + la * lw * static_cast<double>(terms);
    return static_cast<float>(static_cast<double>(s) * (sa * sw) +
                              static_cast<double>(a) * (sa * lw) + constant +
                              static_cast<double>(bias[f]));
  }
};

// A head of x * 2 on reals that are half of what codes mean; a tail of PReLU, an addend in wider rows
// and a store; then every kind of sink.
void test_one(const Layer& l, int threads, Random& random, const std::string& what) {
  const bc_conv2d& c = l.c;
  int64_t oh = 0, ow = 0;
  if (bc_conv2d_size(&c, &oh, &ow) != BC_OK || oh * ow == 0) return;
  const int64_t pixels = c.images * c.height * c.width, places = c.images * oh * ow;
  std::vector<uint8_t> x;
  for (int64_t i = 0; i < pixels * c.channels; ++i)
    x.push_back(static_cast<uint8_t>(random.from(0, (1 << l.bits) - 1)));
  std::vector<float> halves;
  for (const uint8_t code : x)
    halves.push_back((static_cast<float>(code) * l.scale + l.offset) * 0.5f);
  std::vector<float> plain;
  for (int64_t p = 0; p < places; ++p) {
    const uint8_t* image = x.data() + p / (oh * ow) * c.height * c.width * c.channels;
    for (int64_t o = 0; o < c.filters; ++o)
      plain.push_back(l.at(image, p % (oh * ow) / ow, p % ow, o));
  }
  const int64_t wide = c.filters + 3;
  const std::vector<float> slopes = reals(random, c.filters, -0.5f, 0.5f);
  const std::vector<float> addend = reals(random, places * wide, -1, 1);
  std::vector<float> stored(static_cast<size_t>(places * wide), 7.0f), wanted = plain;
  for (int64_t i = 0; i < places * c.filters; ++i) {
    float& y = wanted[static_cast<size_t>(i)];
    if (y < 0) y = y * slopes[static_cast<size_t>(i % c.filters)];
    y = y + addend[static_cast<size_t>(i / c.filters * wide + i % c.filters)];
  }
  const bc_step head{BC_MUL, 2.0f, nullptr, nullptr, 0, 0, nullptr, 0};
  const bc_step tail[] = {{BC_LEAKY, 0, slopes.data(), nullptr, 0, 1, nullptr, 0},
                          {BC_ADD, 0, addend.data(), nullptr, wide, 1, nullptr, 0},
                          {BC_STORE, 0, nullptr, nullptr, 0, 0, stored.data(), wide}};
  bc_run run{};
  run.images = c.images, run.height = c.height, run.width = c.width, run.pitch = c.channels;
  bc_layer* layer = l.make();
  if (layer == nullptr) return;
  for (const bool codes_in : {false, true}) {
    for (const bool with_tail : {false, true}) {
      run.x = codes_in ? static_cast<const void*>(x.data()) : halves.data();
      run.x_codes = codes_in ? 1 : 0;
      run.head = &head, run.head_count = codes_in ? 0 : 1;
      run.tail = tail, run.tail_count = with_tail ? 3 : 0;
      const std::vector<float>& truth = with_tail ? wanted : plain;
      std::vector<float> out(static_cast<size_t>(places * wide), 9.0f);
      run.sink = {out.data(), wide, nullptr, nullptr, nullptr, 0};
      expect(bc_layer_run(layer, &run, threads) == BC_OK, what + " runs");
      bool same = true;
      for (int64_t i = 0; i < places * wide; ++i) {
        const size_t at = static_cast<size_t>(i);
        const bool inside = i % wide < c.filters;
        const float real =
            inside ? truth[static_cast<size_t>(i / wide * c.filters + i % wide)] : 0.0f;
        same = same && out[at] == (inside ? real : 9.0f);
        if (with_tail) same = same && stored[at] == (inside ? real : 7.0f);
      }
      expect(same, what + " to reals");
      for (const bool steps : {false, true}) {
        const Grids grids(steps == l.signs ? c.filters : 1, 3.0f, random, steps);
        std::vector<uint8_t> codes(static_cast<size_t>(places * wide), 99);
        run.sink.out = codes.data();
        grids.give(run.sink);
        expect(bc_layer_run(layer, &run, threads) == BC_OK, what + " runs to codes");
        same = true;
        for (int64_t i = 0; i < places * wide; ++i) {
          const int64_t o = i % wide;
          const uint8_t code =
              o < c.filters ? grids.code(truth[static_cast<size_t>(i / wide * c.filters + o)], o) : 99;
          same = same && codes[static_cast<size_t>(i)] == code;
        }
        expect(same, what + " to codes");
        if (with_tail) continue;
        const bc_step relu{BC_RELU, 0, nullptr, nullptr, 0, 0, nullptr, 0};
        run.tail = &relu, run.tail_count = 1;
        expect(bc_layer_run(layer, &run, threads) == BC_OK, what + " runs to a floor");
        run.tail_count = 0, same = true;
        for (int64_t i = 0; i < places * c.filters; ++i) {
          const float real = std::max(plain[static_cast<size_t>(i)], 0.0f);
          same = same && codes[static_cast<size_t>(i / c.filters * wide + i % c.filters)] ==
                             grids.code(real, i % c.filters);
        }
        expect(same, what + " to codes of what is above 0");
      }
      if (c.filters % 4 != 0) continue;
      const int64_t each = c.filters / 4;
      run.sink = {out.data(), each, nullptr, nullptr, nullptr, 0};
      run.shuffle = 2;
      expect(bc_layer_run(layer, &run, threads) == BC_OK, what + " shuffles");
      run.shuffle = 0, same = true;
      for (int64_t p = 0; p < places; ++p) {
        const int64_t line = p / ow, ox = p % ow;
        for (int64_t o = 0; o < c.filters; ++o) {
          const int64_t y = line * 2 + o % 4 / 2, z = ox * 2 + o % 2;
          same = same && out[static_cast<size_t>((y * ow * 2 + z) * each + o / 4)] ==
                             truth[static_cast<size_t>(p * c.filters + o)];
        }
      }
      expect(same, what + " to shuffled pixels");
    }
  }
  bc_layer_free(layer);
}

void test_layers() {
  Random random;
  for (int i = 0; i < (small_tests() ? 16 : 120); ++i) {
    bc_conv2d c{};
    c.images = random.from(1, 2);
    const int kind = i % 4;  // a linear, a depthwise one, groups, any
    c.groups = kind == 1 ? random.from(1, 70) : kind == 2 ? random.from(2, 3) : 1;
    c.channels = c.groups * (kind == 1 ? 1 : random.from(1, 70));
    c.filters = c.groups * (kind == 1 ? 1 : random.from(1, 70));
    c.kernel_h = c.kernel_w = c.stride_h = c.stride_w = c.dilation_h = c.dilation_w = 1;
    if (kind != 0) {
      c.kernel_h = random.from(1, 4), c.kernel_w = random.from(1, 3);
      c.stride_h = random.from(1, 2), c.stride_w = random.from(1, 2);
      c.pad_h = random.from(0, 2), c.pad_w = random.from(0, 2);
      c.dilation_h = random.from(1, 2), c.dilation_w = random.from(1, 2);
    }
    c.height = random.from(1, 9), c.width = random.from(1, 50);
    int bits = static_cast<int>(random.from(1, 8));
    const bool signs = i % 3 == 0;
    if (signs) bits = 1;
    if (kind != 1 && i % 5 < 2) c.channels = 64 * c.groups, c.filters = 16 * (i % 4 + 1) * c.groups;
    std::string what = signs ? "layer of signs" : "layer";
    for (const int64_t size : {c.images, c.height, c.width, c.channels, c.filters, c.kernel_h,
                               c.kernel_w, c.groups, c.stride_h, c.stride_w, c.pad_h, c.pad_w,
                               c.dilation_h, c.dilation_w, int64_t{bits}})
      what += " " + std::to_string(size);
    const Layer layer = signs ? Layer::of_signs(c, random)
                              : Layer(c, bits, random.from(0, 2) == 0, random);
    test_one(layer, i % 3 + 1, random, what);
  }
  if (small_tests()) return;
  test_one(Layer({1, 1, 4000, 60, 60, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 2, false, random), 3, random,
           "many rows");
}

// Chains alone: layer norm is bc_layer_norm, then a number a row is taken away and codes come out.
void test_rows() {
  Random random;
  for (int i = 0; i < (small_tests() ? 8 : 40); ++i) {
    const int64_t rows = random.from(1, 200), n = random.from(1, 90), pitch = n + random.from(0, 3);
    const std::vector<float> x = reals(random, rows * pitch, -3, 3), gain = reals(random, n, 0, 2);
    const std::vector<float> shift = reals(random, n, -1, 1), less = reals(random, rows, -1, 1);
    std::vector<float> wanted(static_cast<size_t>(rows * n)), out(wanted.size());
    expect(bc_layer_norm(x.data(), rows, n, pitch, gain.data(), shift.data(), 1e-5f, wanted.data(),
                         n, 1) == BC_OK, "layer norm");
    for (int64_t j = 0; j < rows * n; ++j)
      wanted[static_cast<size_t>(j)] -= less[static_cast<size_t>(j / n)];
    const bc_step steps[] = {{BC_NORM, 1e-5f, gain.data(), shift.data(), 0, 0, nullptr, 0},
                             {BC_SUB, 0, less.data(), nullptr, 1, 0, nullptr, 0}};
    bc_sink sink{out.data(), n, nullptr, nullptr, nullptr, 0};
    expect(bc_rows(steps, 2, rows, n, x.data(), pitch, &sink, i % 3 + 1) == BC_OK && out == wanted,
           "rows through a chain");
    const Grids grids(i % 2 == 0 ? 1 : n, 3.0f, random);
    std::vector<uint8_t> codes(wanted.size());
    sink.out = codes.data();
    grids.give(sink);
    bool same = bc_rows(steps, 2, rows, n, x.data(), pitch, &sink, 1) == BC_OK;
    for (int64_t j = 0; j < rows * n; ++j)
      same = same && codes[static_cast<size_t>(j)] == grids.code(wanted[static_cast<size_t>(j)], j % n);
    expect(same, "rows through a chain to codes");
  }
}

void test_refusals() {
  const float x[6] = {1, 2, 3, 4, 5, 6}, one = 1, half = 0.5f;
  float out[6] = {};
  const bc_step relu{BC_RELU, 0, nullptr, nullptr, 0, 0, nullptr, 0};
  const bc_step norm{BC_NORM, 1e-5f, nullptr, nullptr, 0, 0, nullptr, 0};
  bc_step add{BC_ADD, 0, x, nullptr, -1, 1, nullptr, 0};
  bc_step store{BC_STORE, 0, nullptr, nullptr, 0, 0, nullptr, 3};
  bc_sink sink{out, 3, nullptr, nullptr, nullptr, 0};
  const bc_sink nowhere{nullptr, 3, nullptr, nullptr, nullptr, 0};
  const bc_sink narrow{out, 2, nullptr, nullptr, nullptr, 0};
  const bc_sink no_top{out, 3, &one, &one, nullptr, 1}, halves{out, 3, &one, &one, &half, 1};
  const bc_sink two{out, 3, &one, &one, &one, 2};
  const auto run = [&](const bc_step* steps, int64_t count, const bc_sink* to) {
    return bc_rows(steps, count, 2, 3, x, 3, to, 1);
  };
  expect(run(nullptr, 1, &sink) == BC_BAD_ARGUMENT, "no steps");
  expect(run(&relu, -1, &sink) == BC_BAD_SHAPE, "a negative number of steps");
  expect(run(&add, 1, &sink) == BC_BAD_SHAPE, "a negative row");
  expect(run(&store, 1, &sink) == BC_BAD_ARGUMENT, "a store to nowhere");
  expect(run(&relu, 1, nullptr) == BC_BAD_ARGUMENT, "no sink");
  expect(run(&relu, 1, &nowhere) == BC_BAD_ARGUMENT, "a sink without memory");
  expect(run(&relu, 1, &narrow) == BC_BAD_SHAPE, "rows that overlap");
  expect(run(&relu, 1, &no_top) == BC_BAD_ARGUMENT, "a grid without a top");
  expect(run(&relu, 1, &halves) == BC_BAD_ARGUMENT, "a grid of half a code");
  expect(run(&relu, 1, &two) == BC_BAD_SHAPE, "two grids of three channels");
  expect(bc_rows(&relu, 1, 2, 3, x, 2, &sink, 1) == BC_BAD_SHAPE, "rows of x that overlap");
  expect(bc_rows(&relu, 1, -2, 3, x, 3, &sink, 1) == BC_BAD_SHAPE, "negative rows");
  expect(bc_rows(&relu, 1, 2, 3, nullptr, 3, &sink, 1) == BC_BAD_ARGUMENT, "no x");
  expect(bc_rows(&relu, 1, 2, 3, x, 3, &sink, 0) == BC_BAD_ARGUMENT, "no threads");
  expect(bc_rows(&norm, 1, 2, 0, x, 3, &sink, 1) == BC_EMPTY, "a norm of nothing");
  expect(bc_rows(&relu, 1, 0, 3, nullptr, 3, &sink, 1) == BC_OK, "no rows");
  expect(out[0] == 0, "a refusal touches nothing");
  store.out = out;
  expect(run(&store, 1, &nowhere) == BC_OK && out[5] == 6, "a chain may only store");
}

}  // namespace

int main() {
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_refusals();
    test_rows();
    test_layers();
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
