// Layer norm, GELU, sigmoid and lengths against naive loops, at every instruction set of this CPU; bad
// arguments give a status and touch nothing. The exit status is 1 if anything failed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "bitcompress/bits.h"
#include "check.h"
#include "levels.h"

namespace {

std::vector<float> reals(int64_t n, float low, float high) {
  static Random random;
  std::vector<float> all(static_cast<size_t>(n));
  for (float& real : all) real = random.real(low, high);
  return all;
}

void test_layer_norm() {
  const int64_t rows = 5;
  for (const int64_t n : {1, 15, 16, 17, 60, 64, 127, 128, 129, 333}) {
    for (const int64_t more : {0, 3}) {  // elements between rows, which nothing may touch
      const int64_t pitch = n + more;
      const std::vector<float> x = reals(rows * pitch, -2, 3), gain = reals(n, 0, 2),
                               shift = reals(n, -1, 1);
      std::vector<float> out(x.size(), 7.0f);
      expect(bc_layer_norm(x.data(), rows, n, pitch, gain.data(), shift.data(), 1e-5f, out.data(),
                           pitch, 2) == BC_OK,
             "layer norm runs");
      bool near = true, kept = true;
      for (int64_t r = 0; r < rows; ++r) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < n; ++i) mean += x[r * pitch + i] / static_cast<double>(n);
        for (int64_t i = 0; i < n; ++i)
          variance += std::pow(x[r * pitch + i] - mean, 2) / static_cast<double>(n);
        for (int64_t i = 0; i < n; ++i) {
          const double wanted =
              (x[r * pitch + i] - mean) / std::sqrt(variance + 1e-5) * gain[i] + shift[i];
          // One element alone: its distance from the mean is rounding, if anything.
          near = near && std::fabs(out[r * pitch + i] - wanted) < 1e-5;
        }
        for (int64_t i = n; i < pitch; ++i) kept = kept && out[r * pitch + i] == 7.0f;
      }
      expect(near, "layer norm of " + std::to_string(n));
      expect(kept, "layer norm touches its rows alone");
    }
  }
}

void test_maps() {
  for (const int64_t n : {1, 15, 16, 63, 64, 65, 1000, 20000}) {
    std::vector<float> x = reals(n, -9, 9), out(static_cast<size_t>(n) + 1, 7.0f);
    const auto check = [&](const char* name, bc_status status, auto&& wanted) {
      bool near = status == BC_OK;
      for (int64_t i = 0; i < n; ++i)
        near = near && std::fabs(out[static_cast<size_t>(i)] - wanted(x[static_cast<size_t>(i)])) < 6e-7;
      expect(near && out[static_cast<size_t>(n)] == 7.0f, name + std::to_string(n));
    };
    check("gelu ", bc_gelu(x.data(), n, 0, out.data(), 2),
          [](double v) { return 0.5 * v * std::erfc(-v * std::sqrt(0.5)); });
    check("gelu by tanh ", bc_gelu(x.data(), n, 1, out.data(), 2), [](double v) {
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)));
    });
    check("sigmoid ", bc_sigmoid(x.data(), n, out.data(), 2),
          [](double v) { return 1 / (1 + std::exp(-v)); });
  }
  const float huge = std::numeric_limits<float>::infinity();
  const float x[] = {huge, -huge, std::numeric_limits<float>::quiet_NaN()};
  float out[3];
  for (const int form : {0, 1}) {
    bc_gelu(x, 3, form, out, 1);
    expect(out[0] == huge && out[1] == 0 && std::isnan(out[2]), "gelu at its ends");
  }
  bc_sigmoid(x, 3, out, 1);
  expect(out[0] == 1 && out[1] < 1e-37f && std::isnan(out[2]), "sigmoid at its ends");
}

void test_unit() {
  const int64_t count = 2;
  for (const int64_t rows : {1, 5, 16, 40}) {
    for (const int64_t columns : {1, 15, 16, 17, 60}) {
      const int64_t pitch = columns + 3, next = rows * pitch + 1;
      const std::vector<float> x = reals(count * next, -2, 3);
      for (const int by_column : {0, 1}) {
        std::vector<float> out(x.size(), 7.0f);
        bool near = bc_unit(x.data(), count, rows, columns, next, pitch, by_column, 1e-12f,
                            out.data(), next, pitch, 2) == BC_OK;
        for (int64_t m = 0; m < count; ++m) {
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < pitch; ++c) {
              const float got = out[m * next + r * pitch + c];
              if (c >= columns) {
                near = near && got == 7.0f;
                continue;
              }
              double squares = 0;
              for (int64_t i = 0; i < (by_column ? rows : columns); ++i)
                squares += std::pow(x[m * next + (by_column ? i * pitch + c : r * pitch + i)], 2);
              const double wanted = x[m * next + r * pitch + c] / std::max(std::sqrt(squares), 1e-12);
              near = near && std::fabs(got - wanted) < 1e-6;
            }
          }
        }
        expect(near, (by_column ? "columns of " : "rows of ") + std::to_string(rows) + " x " +
                         std::to_string(columns));
      }
    }
  }
}

void test_refusals() {
  const float x[8] = {};
  float out[8] = {7};
  const auto norm = [&](const float* from, int64_t rows, int64_t n, int64_t pitch, float* to,
                        int64_t out_pitch, int threads) {
    return bc_layer_norm(from, rows, n, pitch, nullptr, nullptr, 1e-5f, to, out_pitch, threads);
  };
  const int64_t most = std::numeric_limits<int64_t>::max() / 4;
  expect(norm(x, -1, 4, 4, out, 4, 1) == BC_BAD_SHAPE, "negative rows");
  expect(norm(x, 2, 4, 3, out, 4, 1) == BC_BAD_SHAPE, "rows of x overlap");
  expect(norm(x, 2, 4, 4, out, 3, 1) == BC_BAD_SHAPE, "rows of out overlap");
  expect(norm(x, most, most, most, out, most, 1) == BC_BAD_SHAPE, "more than there can be");
  expect(norm(x, most, 1, most, out, 1, 1) == BC_BAD_SHAPE, "a pitch too large");
  expect(norm(nullptr, 2, 4, 4, out, 4, 1) == BC_BAD_ARGUMENT, "no x");
  expect(norm(x, 2, 4, 4, nullptr, 4, 1) == BC_BAD_ARGUMENT, "no out");
  expect(norm(x, 2, 4, 4, out, 4, 0) == BC_BAD_ARGUMENT, "no thread");
  expect(norm(nullptr, 0, 4, 4, nullptr, 4, 1) == BC_OK, "no rows");
  expect(norm(nullptr, 4, 0, 0, nullptr, 0, 1) == BC_OK, "rows of nothing");
  const auto unit = [&](const float* from, int64_t count, int64_t rows, int64_t columns,
                        int64_t next, int64_t pitch, float* to, int threads) {
    return bc_unit(from, count, rows, columns, next, pitch, 1, 0.1f, to, 8, 4, threads);
  };
  expect(unit(x, 1, -2, 4, 8, 4, out, 1) == BC_BAD_SHAPE, "unit: negative");
  expect(unit(x, 1, 2, 4, 8, 3, out, 1) == BC_BAD_SHAPE, "unit: rows overlap");
  expect(unit(x, 1, 2, 4, -8, 4, out, 1) == BC_BAD_SHAPE, "unit: matrices run backwards");
  expect(unit(x, most, 2, 4, most, 4, out, 1) == BC_BAD_SHAPE, "unit: too large");
  expect(unit(nullptr, 1, 2, 4, 8, 4, out, 1) == BC_BAD_ARGUMENT, "unit: no x");
  expect(unit(x, 1, 2, 4, 8, 4, nullptr, 1) == BC_BAD_ARGUMENT, "unit: no out");
  expect(unit(x, 1, 2, 4, 8, 4, out, 0) == BC_BAD_ARGUMENT, "unit: no thread");
  expect(unit(nullptr, 1, 0, 4, 8, 4, nullptr, 1) == BC_OK, "unit of nothing");
  const auto turn = [&](const float* from, int64_t count, int64_t rows, int64_t columns,
                        int64_t next, int64_t pitch, float* to, int64_t out_pitch, int threads) {
    return bc_turn(from, count, rows, columns, next, pitch, to, 8, out_pitch, threads);
  };
  expect(turn(x, 1, -2, 4, 8, 4, out, 2, 1) == BC_BAD_SHAPE, "turn: negative");
  expect(turn(x, 1, 2, 4, 8, 3, out, 2, 1) == BC_BAD_SHAPE, "turn: rows overlap");
  expect(turn(x, 1, 2, 4, 8, 4, out, 1, 1) == BC_BAD_SHAPE, "turn: rows of out overlap");
  expect(turn(x, 1, 2, 4, -8, 4, out, 2, 1) == BC_BAD_SHAPE, "turn: matrices run backwards");
  expect(turn(x, most, 2, 4, most, 4, out, 2, 1) == BC_BAD_SHAPE, "turn: too large");
  expect(turn(nullptr, 1, 2, 4, 8, 4, out, 2, 1) == BC_BAD_ARGUMENT, "turn: no x");
  expect(turn(x, 1, 2, 4, 8, 4, nullptr, 2, 1) == BC_BAD_ARGUMENT, "turn: no out");
  expect(turn(x, 1, 2, 4, 8, 4, out, 2, 0) == BC_BAD_ARGUMENT, "turn: no thread");
  expect(turn(nullptr, 1, 2, 0, 8, 4, nullptr, 2, 1) == BC_OK, "turn of nothing");
  uint8_t codes[8] = {7};
  const auto softmax = [&](const float* from, int64_t rows, int64_t n, int bits, uint8_t* to) {
    return bc_softmax_codes(from, rows, n, 0.1f, 0.0f, bits, to, 1);
  };
  expect(softmax(x, -1, 4, 2, codes) == BC_BAD_SHAPE, "softmax: negative");
  expect(softmax(x, most, most, 2, codes) == BC_BAD_SHAPE, "softmax: too large");
  expect(softmax(x, 2, 4, 9, codes) == BC_BAD_ARGUMENT, "softmax: bits");
  expect(softmax(nullptr, 2, 4, 2, codes) == BC_BAD_ARGUMENT, "softmax: no x");
  expect(softmax(x, 2, 0, 2, codes) == BC_EMPTY, "softmax of nothing");
  expect(softmax(nullptr, 0, 4, 2, nullptr) == BC_OK, "softmax of no rows");
  expect(codes[0] == 7, "a refusal touches no codes");
  expect(bc_gelu(x, -1, 0, out, 1) == BC_BAD_SHAPE, "gelu: negative");
  expect(bc_gelu(nullptr, 1, 0, out, 1) == BC_BAD_ARGUMENT, "gelu: no x");
  expect(bc_sigmoid(x, 1, nullptr, 1) == BC_BAD_ARGUMENT, "sigmoid: no out");
  expect(bc_sigmoid(x, 1, out, 0) == BC_BAD_ARGUMENT, "sigmoid: no thread");
  expect(bc_gelu(nullptr, 0, 1, nullptr, 1) == BC_OK, "gelu of nothing");
  const bc_pixels good{x, 1, 2, 2, BC_CHANNELS_LAST, 2};
  const auto sums = [&](bc_pixels p, int threads) {
    return bc_pixel_sums(&p, nullptr, out, nullptr, nullptr, threads);
  };
  expect(sums(good, 0) == BC_BAD_ARGUMENT, "sums: no thread");
  expect(sums({nullptr, 1, 2, 2, 0, 2}, 1) == BC_BAD_ARGUMENT, "sums: no x");
  expect(sums({x, 1, 2, 2, 7, 2}, 1) == BC_BAD_ARGUMENT, "sums: unknown order");
  expect(sums({x, 1, 2, 2, 0, 1}, 1) == BC_BAD_SHAPE, "sums: pixels overlap");
  expect(sums({x, 1, -2, 2, 0, 2}, 1) == BC_BAD_SHAPE, "sums: negative");
  expect(sums({x, 1, 0, 2, 0, 2}, 1) == BC_EMPTY, "sums of no pixels");
  expect(sums({nullptr, 0, 2, 2, 0, 2}, 1) == BC_OK, "sums of no pictures");
  expect(bc_pixel_sums(nullptr, nullptr, out, nullptr, nullptr, 1) == BC_BAD_ARGUMENT, "no pixels");
  const auto scales = [&](int64_t groups, float* scale, float* offset) {
    return bc_group_scales(&good, groups, nullptr, nullptr, 1e-5, scale, offset, 1);
  };
  expect(scales(0, out, out + 2) == BC_BAD_SHAPE, "scales: no group");
  expect(scales(3, out, out + 2) == BC_BAD_SHAPE, "scales: groups of no whole channels");
  expect(scales(2, nullptr, out) == BC_BAD_ARGUMENT, "scales: no scale");
  expect(scales(2, out, nullptr) == BC_BAD_ARGUMENT, "scales: no offset");
  expect(out[0] == 7, "a refusal touches nothing");
}

// Sums over pixels and scales of a group norm, with channels last and first.
void test_pixels() {
  const int64_t images = 2, channels = 12, more = 3, groups = 4;
  const float odd = 7.0f;
  for (const int64_t pixels : {1, 15, 16, 255, 256, 257, 5000, 70000}) {
    const int64_t wide = channels + more, size = images * channels;
    const std::vector<float> last = reals(images * pixels * wide, -1, 3),
                             from = reals(size, -1, 1), gain = reals(channels, 0.5f, 2),
                             shift = reals(channels, -1, 1);
    std::vector<float> first;
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t p = 0; p < pixels; ++p)
        first.push_back(
            last[static_cast<size_t>((i / channels * pixels + p) * wide + i % channels)]);
    }
    const bc_pixels pictures[] = {
        {last.data(), images, pixels, channels, BC_CHANNELS_LAST, wide},
        {first.data(), images, pixels, channels, BC_CHANNELS_FIRST, 0}};
    std::vector<float> found[2][5];
    for (int order = 0; order < 2; ++order) {
      for (auto& part : found[order]) part.assign(static_cast<size_t>(size) + 1, odd);
      auto& f = found[order];
      const bc_pixels& p = pictures[order];
      expect(bc_pixel_sums(&p, from.data(), f[0].data(), f[1].data(), f[2].data(), 2 - order) ==
                 BC_OK, "pixel sums");
      expect(bc_group_scales(&p, groups, gain.data(), shift.data(), 1e-5, f[3].data(), f[4].data(),
                             1 + order) == BC_OK, "group scales");
    }
    bool near = true;
    const double count = static_cast<double>(pixels);
    for (int64_t i = 0; i < size; ++i) {
      double sums[3] = {};
      for (int64_t p = 0; p < pixels; ++p) {
        const double x = first[static_cast<size_t>(i * pixels + p)], d = x - from[static_cast<size_t>(i)];
        sums[0] += d, sums[1] += std::fabs(d), sums[2] += d * d;
      }
      for (int j = 0; j < 3; ++j)
        near = near && std::fabs(found[0][j][static_cast<size_t>(i)] - sums[j]) < 3e-6 * count;
    }
    expect(near, "sums of " + std::to_string(pixels) + " pixels");
    const int64_t each = channels / groups;
    bool scaled = true;
    for (int64_t g = 0; g < images * groups; ++g) {
      double mean = 0, variance = 0;
      const int64_t start = g * each * pixels, n = each * pixels;
      for (int64_t i = 0; i < n; ++i) mean += first[static_cast<size_t>(start + i)];
      mean /= static_cast<double>(n);
      for (int64_t i = 0; i < n; ++i)
        variance += std::pow(first[static_cast<size_t>(start + i)] - mean, 2);
      variance /= static_cast<double>(n);
      for (int64_t c = 0; c < each; ++c) {
        const size_t at = static_cast<size_t>(g * each + c), channel = at % channels;
        const double scale = gain[channel] / std::sqrt(variance + 1e-5);
        scaled = scaled && std::fabs(found[0][3][at] - scale) < 1e-5 * (1 + std::fabs(scale)) &&
                 std::fabs(found[0][4][at] - (shift[channel] - mean * scale)) <
                     1e-5 * (1 + std::fabs(mean * scale));
      }
    }
    expect(scaled, "scales of " + std::to_string(pixels) + " pixels");
    for (int j = 0; j < 5; ++j) {
      expect(found[0][j] == found[1][j], "both orders give the same bits");
      expect(found[0][j].back() == odd, "nothing is written behind the channels");
    }
  }
}

// Against a loop in double, on pictures with borders, strides and dilation.
void test_floats() {
  for (const int64_t channels : {1, 15, 16, 33, 64}) {
    for (const int64_t filters : {1, 2, 3, 4, 5, 7, 9}) {
      bc_conv2d c{};
      c.images = 2, c.height = 5, c.width = 5 + channels % 7, c.channels = channels;
      c.filters = filters, c.kernel_h = 3, c.kernel_w = 2, c.groups = 1;
      c.stride_h = 1, c.stride_w = 1 + filters % 2, c.pad_h = 2, c.pad_w = 1;
      c.dilation_h = 1, c.dilation_w = 1 + channels % 2;
      int64_t oh = 0, ow = 0;
      expect(bc_conv2d_size(&c, &oh, &ow) == BC_OK, "size of a convolution of reals");
      const std::vector<float> x = reals(c.images * c.height * c.width * channels, -1, 1),
                               w = reals(filters * 6 * channels, -1, 1), bias = reals(filters, -1, 1);
      std::vector<float> out(static_cast<size_t>(c.images * oh * ow * filters) + 1, 7.0f);
      bool near = bc_conv2d_floats(&c, x.data(), w.data(), bias.data(), out.data(), 2) == BC_OK;
      const float* at = out.data();
      for (int64_t i = 0; i < c.images * oh * ow; ++i) {
        for (int64_t f = 0; f < filters; ++f) {
          double wanted = static_cast<double>(bias[static_cast<size_t>(f)]);
          for (int64_t t = 0; t < 6; ++t) {
            const int64_t y = i / ow % oh - 2 + t / 2;
            const int64_t px = i % ow * c.stride_w - 1 + t % 2 * c.dilation_w;
            if (y < 0 || y >= c.height || px < 0 || px >= c.width) continue;
            for (int64_t k = 0; k < channels; ++k)
              wanted += static_cast<double>(x[static_cast<size_t>(
                            ((i / ow / oh * c.height + y) * c.width + px) * channels + k)]) *
                        static_cast<double>(w[static_cast<size_t>((f * 6 + t) * channels + k)]);
          }
          near = near && std::fabs(*at++ - wanted) < 1e-4;
        }
      }
      expect(near && out.back() == 7.0f, "convolution of reals, " + std::to_string(channels));
      c.groups = 2;
      expect(bc_conv2d_floats(&c, x.data(), w.data(), nullptr, out.data(), 1) == BC_BAD_SHAPE,
             "convolutions of reals have no groups");
    }
  }
}

}  // namespace

int main() {
  test_refusals();
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_layer_norm();
    test_maps();
    test_unit();
    test_pixels();
    test_floats();
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
