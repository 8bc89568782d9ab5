// Layers against the functions they are made of, at every instruction set of this CPU; bad arguments
// give a status and touch nothing. The exit status is 1 if anything failed.
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bitcompress/bits.h"
#include "check.h"
#include "levels.h"

namespace {

struct Problem {
  bc_conv2d c;
  int bits;
  std::vector<float> x, cut_scale, cut_offset, w_scale, w_offset, bias;
  std::vector<uint8_t> w;
  float x_scale, x_offset;

  Problem(const bc_conv2d& conv, int width, bool by_channel, Random& random) : c(conv), bits(width) {
    const float top = static_cast<float>((1 << bits) - 1);
    x_scale = 4 / top, x_offset = -2;
    const auto fill = [&](std::vector<float>& all, int64_t n, float low, float high) {
      for (int64_t i = 0; i < n; ++i) all.push_back(random.real(low, high));
    };
    fill(x, c.images * c.height * c.width * c.channels, -3, 3);
    fill(cut_scale, by_channel ? c.channels : 1, 2 / top, 5 / top);
    fill(cut_offset, by_channel ? c.channels : 1, -2.5f, -1);
    fill(w_scale, c.filters, 0.01f, 0.1f);
    fill(w_offset, c.filters, -1, 0);
    fill(bias, c.filters, -1, 1);
    const int64_t codes = c.filters * c.kernel_h * c.kernel_w * (c.channels / c.groups);
    for (int64_t i = 0; i < codes; ++i)
      w.push_back(static_cast<uint8_t>(random.from(0, (1 << bits) - 1)));
  }

  bc_grids grids() const {
    return {&x_scale, &x_offset, w_scale.data(), w_offset.data(), c.filters, bias.data()};
  }
  bc_layer_spec spec() const {
    return {c, w.data(), cut_scale.data(), cut_offset.data(),
            static_cast<int64_t>(cut_scale.size()), bits, bits, grids()};
  }
};

std::vector<float> channels_first(const std::vector<float>& x, int64_t n, int64_t places,
                                  int64_t channels) {
  std::vector<float> out(x.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t p = 0; p < places; ++p) {
      for (int64_t c = 0; c < channels; ++c)
        out[static_cast<size_t>((i * channels + c) * places + p)] =
            x[static_cast<size_t>((i * places + p) * channels + c)];
    }
  }
  return out;
}

bc_run run_of(int64_t images, int64_t height, int64_t width, const float* x, bc_order from,
              int64_t pitch, float* out, bc_order to, int64_t filters) {
  bc_run run{};
  run.images = images, run.height = height, run.width = width;
  run.x = x, run.x_order = from, run.pitch = pitch;
  run.sink.out = out, run.sink.pitch = filters, run.out_order = to;
  return run;
}

void test_one(const Problem& p, int threads, const std::string& what) {
  const bc_conv2d& c = p.c;
  int64_t oh = 0, ow = 0;
  if (bc_conv2d_size(&c, &oh, &ow) != BC_OK) return;
  std::vector<uint8_t> codes(p.x.size());
  const int64_t rows = c.images * c.height * c.width;
  const bc_view view = p.cut_scale.size() == 1 ? bc_view{1, 1, rows * c.channels}
                                               : bc_view{rows, c.channels, 1};
  bc_encode(p.x.data(), view, p.cut_scale.data(), p.cut_offset.data(), p.bits, codes.data(), 1);
  const size_t size = static_cast<size_t>(c.images * oh * ow * c.filters);
  std::vector<float> wanted(size), got(size);
  const bc_grids grids = p.grids();
  expect(bc_conv2d_reals(&c, codes.data(), p.w.data(), &grids, wanted.data(), 1) == BC_OK, "reals");
  const std::vector<float> planes = channels_first(p.x, c.images, c.height * c.width, c.channels);
  const std::vector<float> turned = channels_first(wanted, c.images, oh * ow, c.filters);
  const bc_layer_spec spec = p.spec();
  bc_layer* layer = nullptr;
  expect(bc_layer_new(&spec, &layer) == BC_OK, what + " is made");
  for (const bc_order from : {BC_CHANNELS_LAST, BC_CHANNELS_FIRST}) {
    for (const bc_order to : {BC_CHANNELS_LAST, BC_CHANNELS_FIRST}) {
      got.assign(size, -7);
      const float* x = from == BC_CHANNELS_LAST ? p.x.data() : planes.data();
      const bc_run run = run_of(c.images, c.height, c.width, x, from, c.channels, got.data(), to,
                                c.filters);
      const bc_status status = bc_layer_run(layer, &run, threads);
      const auto& truth = to == BC_CHANNELS_LAST ? wanted : turned;
      expect(status == BC_OK && std::memcmp(got.data(), truth.data(), size * sizeof(float)) == 0,
             what + " from order " + std::to_string(from) + " to " + std::to_string(to));
    }
  }
  std::vector<float> wide(static_cast<size_t>(rows * (c.channels + 5)), 9.0f);
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(wide.data() + i * (c.channels + 5), p.x.data() + i * c.channels,
                static_cast<size_t>(c.channels) * sizeof(float));
  const bc_run slice = run_of(c.images, c.height, c.width, wide.data(), BC_CHANNELS_LAST,
                              c.channels + 5, got.data(), BC_CHANNELS_LAST, c.filters);
  expect(bc_layer_run(layer, &slice, threads) == BC_OK && got == wanted,
         what + " on a slice of channels");
  bc_layer_free(layer);
}

void test_layers() {
  Random random;
  for (int i = 0; i < (small_tests() ? 40 : 250); ++i) {
    bc_conv2d c{};
    c.images = random.from(1, 2);
    c.groups = random.from(0, 2) == 0 ? random.from(1, 40) : random.from(1, 3);
    const bool depthwise = random.from(0, 2) == 0;
    c.channels = c.groups * (depthwise ? 1 : random.from(1, 21));
    c.filters = c.groups * (depthwise ? 1 : random.from(1, 40));
    c.kernel_h = random.from(1, 5), c.kernel_w = random.from(1, 4);
    c.stride_h = random.from(1, 2), c.stride_w = random.from(1, 2);
    c.pad_h = random.from(0, 2), c.pad_w = random.from(0, 2);
    c.dilation_h = random.from(1, 2), c.dilation_w = random.from(1, 2);
    if (i % 5 == 0) c.kernel_h = c.kernel_w = c.stride_h = c.stride_w = 1, c.pad_h = c.pad_w = 0;
    c.height = random.from(1, 20), c.width = random.from(1, 40);
    const int bits = static_cast<int>(random.from(1, 8));
    std::string what;
    for (const int64_t size : {c.images, c.height, c.width, c.channels, c.filters, c.kernel_h,
                               c.kernel_w, c.groups, c.stride_h, c.stride_w, c.pad_h, c.pad_w,
                               c.dilation_h, c.dilation_w, int64_t{bits}})
      what += " " + std::to_string(size);
    test_one(Problem(c, bits, random.from(0, 1) == 1, random), i % 3 + 1, "layer" + what);
  }
  bc_conv2d large{1, 40, 40, 24, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1};  // more than one task
  test_one(Problem(large, 4, true, random), 3, "a large layer");
  large.groups = large.filters = large.channels;
  test_one(Problem(large, 8, true, random), 3, "a large depthwise layer");
  bc_conv2d rows{1, 1, 5000, 60, 30, 1, 1, 1, 1, 1, 0, 0, 1, 1};
  test_one(Problem(rows, 2, true, random), 3, "many rows");
}

void test_refusals() {
  Random random;
  const Problem p({1, 3, 3, 4, 6, 3, 3, 2, 1, 1, 0, 0, 1, 1}, 2, true, random);
  bc_layer* layer = nullptr;
  const auto status = [&](const std::function<void(bc_layer_spec&)>& change) {
    bc_layer_spec spec = p.spec();
    change(spec);
    return bc_layer_new(&spec, &layer);
  };
  using S = bc_layer_spec;
  const struct {
    const char* what;
    bc_status got, wanted;
  } cases[] = {
      {"no spec", bc_layer_new(nullptr, &layer), BC_BAD_ARGUMENT},
      {"no weight", status([](S& s) { s.w = nullptr; }), BC_BAD_ARGUMENT},
      {"no cut", status([](S& s) { s.cut_offset = nullptr; }), BC_BAD_ARGUMENT},
      {"bits", status([](S& s) { s.x_bits = 9; }), BC_BAD_ARGUMENT},
      {"no grid", status([](S& s) { s.grids.w_scale = nullptr; }), BC_BAD_ARGUMENT},
      {"groups", status([](S& s) { s.conv.groups = 3; }), BC_BAD_SHAPE},
      {"kernel", status([](S& s) { s.conv.kernel_h = 0; }), BC_BAD_SHAPE},
      {"huge kernel", status([](S& s) { s.conv.kernel_h = INT64_MAX; }), BC_BAD_SHAPE},
      {"an overflowing kernel", status([](S& s) {
         s.conv.kernel_h = INT64_MIN, s.conv.dilation_h = 4;
       }), BC_BAD_SHAPE},
      {"negative border", status([](S& s) { s.conv.pad_w = -1; }), BC_BAD_SHAPE},
      {"cut groups", status([](S& s) { s.cut_groups = 3; }), BC_BAD_SHAPE},
      {"weight groups", status([](S& s) { s.grids.w_groups = 2; }), BC_BAD_SHAPE},
      {"no filters", status([](S& s) { s.conv.filters = 0; }), BC_EMPTY},
      {"long", status([](S& s) { s.conv.channels = 1 << 29; }), BC_OVERFLOW},
      {"long at 8 bits", status([](S& s) {
         s.x_bits = s.w_bits = 8;
         s.conv.channels = 2 * BC_MAX_REDUCTION;
       }), BC_OVERFLOW},
      {"weight bits", status([](S& s) { s.w_bits = 0; }), BC_BAD_ARGUMENT},
      {"a code of more bits", status([](S& s) { s.w_bits = 1; }), BC_BAD_CODE},
  };
  for (const auto& c : cases) expect(c.got == c.wanted, std::string("refusal: ") + c.what);
  expect(layer == nullptr, "a refusal makes nothing");
  bc_layer_free(nullptr);
  if (status([](S&) {}) != BC_OK) return expect(false, "a good layer is made");
  float out[6] = {7};
  const auto run = [&](int64_t n, int64_t h, const float* x, float* to, int threads) {
    const bc_run one = run_of(n, h, 3, x, BC_CHANNELS_LAST, 4, to, BC_CHANNELS_LAST, 6);
    return bc_layer_run(layer, &one, threads);
  };
  expect(run(1, 3, nullptr, out, 1) == BC_BAD_ARGUMENT, "no x");
  expect(run(1, 3, p.x.data(), nullptr, 1) == BC_BAD_ARGUMENT, "no out");
  expect(run(1, 3, p.x.data(), out, 0) == BC_BAD_ARGUMENT, "no threads");
  expect(run(1, 2, p.x.data(), out, 1) == BC_BAD_SHAPE, "a picture too small");
  expect(run(-1, 3, p.x.data(), out, 1) == BC_BAD_SHAPE, "negative pictures");
  expect(run(0, 3, nullptr, nullptr, 1) == BC_OK, "no pictures");
  const float* x = p.x.data();
  const bc_run good = run_of(1, 3, 3, x, BC_CHANNELS_LAST, 4, out, BC_CHANNELS_LAST, 6);
  expect(bc_layer_run(nullptr, &good, 1) == BC_BAD_ARGUMENT, "no layer");
  expect(bc_layer_run(layer, nullptr, 1) == BC_BAD_ARGUMENT, "no run");
  const auto with = [&](const std::function<void(bc_run&)>& change) {
    bc_run changed = good;
    change(changed);
    return bc_layer_run(layer, &changed, 1);
  };
  const float one[6] = {1, 1, 1, 1, 1, 1}, half[6] = {0.5f, 1, 1, 1, 1, 1};
  const auto tail = [&](const bc_step& step) {
    return with([&](bc_run& r) { r.tail = &step, r.tail_count = 1; });
  };
  const auto grid = [&](const float* top, int64_t groups) {
    return with([&](bc_run& r) {
      r.sink.scale = r.sink.offset = one, r.sink.top = top, r.sink.groups = groups;
    });
  };
  using R = bc_run;
  const bc_step relu{BC_RELU, 0, nullptr, nullptr, 0, 0, nullptr, 0};
  const struct {
    const char* what;
    bc_status got, wanted;
  } runs[] = {
      {"pixels that overlap", with([](R& r) { r.pitch = 3; }), BC_BAD_SHAPE},
      {"huge pixels", with([](R& r) { r.pitch = INT64_MAX; }), BC_BAD_SHAPE},
      {"places that overlap", with([](R& r) { r.sink.pitch = 5; }), BC_BAD_SHAPE},
      {"negative places", with([](R& r) { r.sink.pitch = INT64_MIN; }), BC_BAD_SHAPE},
      {"an unknown order", with([](R& r) { r.x_order = 3; }),
       BC_BAD_ARGUMENT},
      {"no tail", with([](R& r) { r.tail_count = 1; }), BC_BAD_ARGUMENT},
      {"a negative tail", with([](R& r) { r.tail_count = -1; }), BC_BAD_SHAPE},
      {"an unknown step", tail({99, 0, nullptr, nullptr, 0, 0, nullptr, 0}), BC_BAD_ARGUMENT},
      {"a negative row", tail({BC_ADD, 0, one, nullptr, -1, 1, nullptr, 0}), BC_BAD_SHAPE},
      {"a negative column", tail({BC_ADD, 0, one, nullptr, 0, INT64_MIN, nullptr, 0}),
       BC_BAD_SHAPE},
      {"a store to nowhere", tail({BC_STORE, 0, nullptr, nullptr, 0, 0, nullptr, 6}),
       BC_BAD_ARGUMENT},
      {"a narrow store", tail({BC_STORE, 0, nullptr, nullptr, 0, 0, out, 5}), BC_BAD_SHAPE},
      {"codes first", with([](R& r) { r.x_codes = 1, r.x_order = BC_CHANNELS_FIRST; }),
       BC_BAD_ARGUMENT},
      {"a head on codes", with([&](R& r) { r.x_codes = 1, r.head = &relu, r.head_count = 1; }),
       BC_BAD_ARGUMENT},
      {"a grid of 3", grid(one, 3), BC_BAD_SHAPE},
      {"a grid of no top", grid(nullptr, 1), BC_BAD_ARGUMENT},
      {"a grid of half a code", grid(half, 6), BC_BAD_ARGUMENT},
      {"a grid without scale", with([&](R& r) { r.sink.offset = one; }), BC_BAD_ARGUMENT},
      {"a shuffle of 2", with([](R& r) { r.shuffle = 2; }), BC_BAD_SHAPE},
      {"a huge shuffle", with([](R& r) { r.shuffle = INT64_MAX; }), BC_BAD_SHAPE},
      {"a negative shuffle", with([](R& r) { r.shuffle = -1; }), BC_BAD_ARGUMENT},
  };
  for (const auto& c : runs) expect(c.got == c.wanted, std::string("run: ") + c.what);
  expect(out[0] == 7, "a refusal touches nothing");
  const std::string here = bc_isa();
  if (here != "scalar") {
    bc_set_isa("scalar");
    expect(run(1, 3, p.x.data(), out, 1) == BC_UNAVAILABLE, "a layer of another level");
    bc_set_isa(here.c_str());
  }
  bc_layer_free(layer);
}

}  // namespace

int main() {
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_refusals();
    test_layers();
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
