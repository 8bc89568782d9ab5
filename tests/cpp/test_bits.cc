// The C interface against naive loops, at every instruction set of this CPU; bad arguments give a
// status and touch nothing.
//
// One table of cases for each function. Every failure prints its case; the exit status is the
// number of failures (at most 1).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "bitcompress/bits.h"
#include "check.h"
#include "levels.h"

namespace {

std::vector<uint8_t> random_codes(Random& random, int64_t n, int bits) {
  std::vector<uint8_t> codes(static_cast<size_t>(n));
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(int64_t{1} << bits));
  return codes;
}

std::vector<float> random_reals(Random& random, int64_t n, float low, float high) {
  std::vector<float> reals(static_cast<size_t>(n));
  for (float& real : reals) real = random.real(low, high);
  return reals;
}

std::string text(std::initializer_list<int64_t> numbers) {
  std::string all;
  for (const int64_t number : numbers) all += " " + std::to_string(number);
  return all;
}

// ---- Stored form --------------------------------------------------------------------------------

void test_pack() {
  Random random;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t n : {0, 1, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 70000}) {
      const std::vector<uint8_t> codes = random_codes(random, n, bits);
      const int64_t bytes = bc_packed_bytes(n, bits);
      std::vector<uint8_t> packed(static_cast<size_t>(bytes), 0xAA), back(codes.size(), 0xAA);
      expect(bc_pack(codes.data(), n, bits, packed.data(), bytes, 2) == BC_OK,
             "pack" + text({bits, n}));
      bool same = true;
      const bool dense = bits == 1 || bits == 2 || bits == 4 || bits == 8;
      for (int64_t i = 0; i < n; ++i) {
        for (int j = 0; j < bits; ++j) {
          const int64_t place = dense ? i * bits + j : (n + 7) / 8 * 8 * j + i;
          const int stored = (packed[static_cast<size_t>(place / 8)] >> (place % 8)) & 1;
          same = same && stored == ((codes[static_cast<size_t>(i)] >> j) & 1);
        }
      }
      expect(same, "stored bits" + text({bits, n}));
      expect(bc_unpack(packed.data(), bytes, bits, n, back.data(), 2) == BC_OK && back == codes,
             "unpack" + text({bits, n}));
    }
  }
}

void test_words() {
  Random random;
  for (const int64_t channels : {1, 3, 31, 32, 33, 63, 64, 65, 127}) {
    const int bits = 5;
    const int64_t rows = 3, words = bc_plane_words(channels);
    const std::vector<uint8_t> codes = random_codes(random, rows * channels, bits);
    std::vector<uint32_t> out(static_cast<size_t>(bits * rows * words), 0xAAAAAAAAu);
    expect(bc_pack_words(codes.data(), rows, channels, bits, out.data(), 1) == BC_OK,
           "pack_words" + text({channels}));
    bool same = words % 2 == 0;
    for (int64_t j = 0; j < bits; ++j) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < words * 32; ++c) {
          const uint32_t stored =
              out[static_cast<size_t>((j * rows + r) * words + c / 32)] >> (c % 32) & 1u;
          const uint32_t wanted =
              c < channels ? codes[static_cast<size_t>(r * channels + c)] >> j & 1u : 0u;
          same = same && stored == wanted;
        }
      }
    }
    expect(same, "bits of words" + text({channels}));
  }
}

// ---- Reals and codes ----------------------------------------------------------------------------

float naive_code(float x, float scale, float offset, int bits) {
  const float top = static_cast<float>((1 << bits) - 1);
  if (scale == 0.0f) return x >= offset ? 1.0f : 0.0f;
  float v = std::nearbyint((x - offset) / scale);
  if (std::isnan(v)) return v;
  return std::min(std::max(v, 0.0f), top);
}

const bc_view kViews[] = {{1, 1, 1},   {1, 1, 5000}, {2, 3, 17},    {3, 7, 64},
                          {50, 33, 1}, {4, 1, 9},    {1, 40000, 3}, {0, 3, 4}};

void test_codes() {
  Random random;
  for (const bc_view& view : kViews) {
    for (const int bits : {1, 3, 8}) {
      const int64_t n = view.outer * view.groups * view.inner;
      const size_t groups = static_cast<size_t>(view.groups);
      std::vector<float> x = random_reals(random, n, -3, 3);
      if (n > 20) {
        x[3] = std::numeric_limits<float>::infinity(), x[5] = -x[3], x[7] = std::nanf(""),
        x[9] = 1e-42f, x[11] = -0.0f;
      }
      const std::vector<float> scale = random_reals(random, view.groups, 0.01f, 1),
                               offset = random_reals(random, view.groups, -1, 1);
      std::vector<uint8_t> codes(static_cast<size_t>(n));
      std::vector<float> reals(static_cast<size_t>(n));
      const std::string what = text({view.outer, view.groups, view.inner, bits});
      expect(bc_encode(x.data(), view, scale.data(), offset.data(), bits, codes.data(), 2) == BC_OK,
             "encode" + what);
      expect(bc_fake_quantize(x.data(), view, scale.data(), offset.data(), bits, reals.data(), 2) ==
                 BC_OK,
             "fake" + what);
      bool same_codes = true, same_reals = true;
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t g = i / static_cast<size_t>(view.inner) % groups;
        const float code = naive_code(x[i], scale[g], offset[g], bits);
        const float scaled = code * scale[g];
        const float real = scaled + offset[g];
        same_codes = same_codes && codes[i] == (std::isnan(code) ? 0 : static_cast<uint8_t>(code));
        same_reals = same_reals && (reals[i] == real || (std::isnan(reals[i]) && std::isnan(real)));
      }
      expect(same_codes, "codes" + what);
      expect(same_reals, "reals" + what);
    }
  }
}

// A grid whose scale is 0 is a step: its code is whether x lies at the offset or above.
void test_steps() {
  Random random;
  const float inf = std::numeric_limits<float>::infinity();
  for (const bc_view& view : kViews) {
    const int64_t n = view.outer * view.groups * view.inner;
    std::vector<float> scale = random_reals(random, view.groups, 0.01f, 1),
                       offset = random_reals(random, view.groups, -1, 1);
    for (size_t g = 0; g < scale.size(); ++g) {
      if (g % 3 != 1) scale[g] = g % 2 == 0 ? 0.0f : -0.0f;
      if (g % 5 == 0) offset[g] = g % 2 == 0 ? 0.0f : -0.0f;
    }
    std::vector<float> x = random_reals(random, n, -1, 1);
    for (int64_t i = 0; i < n; ++i) {  // the offset itself, its neighbours, and what is no number
      const size_t at = static_cast<size_t>(i);
      const float here = offset[at / static_cast<size_t>(view.inner) % scale.size()];
      const float some[] = {x[at], here, std::nextafter(here, inf), std::nextafter(here, -inf),
                            -0.0f, inf,  -inf,                      std::nanf("")};
      x[at] = some[random.from(0, 7)];
    }
    for (const int bits : {1, 4}) {
      std::vector<uint8_t> codes(static_cast<size_t>(n));
      const std::string what = text({view.outer, view.groups, view.inner, bits});
      expect(bc_encode(x.data(), view, scale.data(), offset.data(), bits, codes.data(), 2) == BC_OK,
             "steps" + what);
      bool same = true;
      for (size_t i = 0; i < x.size(); ++i) {
        const size_t g = i / static_cast<size_t>(view.inner) % scale.size();
        const float code = naive_code(x[i], scale[g], offset[g], bits);
        same = same && codes[i] == (std::isnan(code) ? 0 : static_cast<uint8_t>(code));
      }
      expect(same, "codes of steps" + what);
    }
  }
}

void test_backward() {
  Random random;
  for (const bc_view& view : kViews) {
    const int bits = 2;
    const int64_t n = view.outer * view.groups * view.inner;
    const size_t groups = static_cast<size_t>(view.groups);
    const std::vector<float> x = random_reals(random, n, -2, 2),
                             grad = random_reals(random, n, -1, 1);
    const std::vector<float> lo = random_reals(random, view.groups, -1, -0.5f),
                             hi = random_reals(random, view.groups, 0.5f, 1);
    std::vector<float> grad_x(x.size()), grad_lo(groups), grad_hi(groups);
    const std::string what = text({view.outer, view.groups, view.inner});
    expect(bc_fake_quantize_backward(x.data(), grad.data(), view, lo.data(), hi.data(), bits,
                                     grad_x.data(), grad_lo.data(), grad_hi.data(), 2) == BC_OK,
           "backward" + what);
    std::vector<double> low(groups), high(groups), room(groups, 1e-6);
    bool same = true;
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t g = i / static_cast<size_t>(view.inner) % groups;
      const bool inside = x[i] >= lo[g] && x[i] <= hi[g];
      same = same && grad_x[i] == (inside ? grad[i] : 0.0f);
      const double code = naive_code(x[i], (hi[g] - lo[g]) / 3.0f, lo[g], bits);
      const double where = inside ? code / 3 - (static_cast<double>(x[i]) - lo[g]) /
                                                   (static_cast<double>(hi[g]) - lo[g])
                                  : 0;
      low[g] += grad[i] * ((x[i] < lo[g] ? 1 : 0) - where);
      high[g] += grad[i] * ((x[i] > hi[g] ? 1 : 0) + where);
      room[g] += 1e-6 * std::abs(grad[i]);
    }
    for (size_t g = 0; g < groups; ++g) {
      same = same && std::abs(grad_lo[g] - low[g]) <= room[g] &&
             std::abs(grad_hi[g] - high[g]) <= room[g];
    }
    expect(same, "gradients" + what);
  }
}

void test_statistics() {
  Random random;
  for (const bc_view& view : kViews) {
    const int64_t n = view.outer * view.groups * view.inner, bins = 13;
    if (n == 0) continue;
    const size_t groups = static_cast<size_t>(view.groups);
    const std::vector<float> x = random_reals(random, n, -2, 2), lo(groups, -1.0f),
                             hi(groups, 1.5f);
    std::vector<float> low(groups), high(groups), smallest(groups, 9.0f), largest(groups, -9.0f);
    std::vector<int64_t> counts(groups * static_cast<size_t>(bins)), wanted(counts.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t g = i / static_cast<size_t>(view.inner) % groups;
      smallest[g] = std::min(smallest[g], x[i]), largest[g] = std::max(largest[g], x[i]);
      const float place = std::floor((x[i] - lo[g]) / (hi[g] - lo[g]) * static_cast<float>(bins));
      ++wanted[g * static_cast<size_t>(bins) +
               static_cast<size_t>(std::min(std::max(place, 0.0f), 12.0f))];
    }
    const std::string what = text({view.outer, view.groups, view.inner});
    expect(bc_minmax(x.data(), view, low.data(), high.data(), 2) == BC_OK && low == smallest &&
               high == largest,
           "minmax" + what);
    expect(bc_histogram(x.data(), view, lo.data(), hi.data(), bins, counts.data(), 2) == BC_OK &&
               counts == wanted,
           "histogram" + what);
  }
}

// ---- Exact sums ---------------------------------------------------------------------------------

void test_gemm() {
  const int64_t shapes[][4] = {{1, 1, 1, 1},    {1, 13, 70, 60}, {3, 64, 64, 10}, {3, 64, 10, 64},
                               {2, 7, 65, 33},  {1, 601, 5, 7},  {2, 5, 130, 2},  {1, 31, 48, 66},
                               {1, 2, 17, 129}, {1, 4, 3, 4001}};
  Random random;
  for (const auto& [batch, m, n, k] : shapes) {
    for (const int bits : {2, 7, 8}) {
      const std::vector<uint8_t> a = random_codes(random, batch * m * k, bits),
                                 w = random_codes(random, batch * n * k, bits);
      std::vector<int32_t> out(static_cast<size_t>(batch * m * n), -1);
      const std::string what = text({batch, m, n, k, bits});
      expect(bc_gemm_codes(a.data(), w.data(), batch, m, n, k, out.data(), 2) == BC_OK,
             "gemm" + what);
      bool same = true;
      for (int64_t b = 0; b < batch; ++b) {
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            int64_t sum = 0;
            for (int64_t i = 0; i < k; ++i) {
              sum += a[static_cast<size_t>((b * m + r) * k + i)] *
                     w[static_cast<size_t>((b * n + c) * k + i)];
            }
            same = same && out[static_cast<size_t>((b * m + r) * n + c)] == sum;
          }
        }
      }
      expect(same, "products" + what);
    }
  }
}

// images height width channels | filters kernel_h kernel_w groups | stride | pad | dilation
const bc_conv2d kConvs[] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1},      {1, 7, 9, 3, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {2, 9, 8, 33, 17, 3, 3, 1, 2, 1, 1, 0, 1, 1},    {1, 9, 11, 12, 8, 3, 3, 4, 1, 2, 2, 2, 2, 2},
    {1, 12, 10, 20, 20, 3, 5, 20, 1, 1, 1, 2, 1, 1}, {1, 6, 6, 20, 40, 3, 3, 20, 2, 2, 1, 1, 1, 1},
    {2, 5, 5, 70, 66, 1, 1, 1, 1, 1, 0, 0, 1, 1},    {1, 5, 5, 70, 66, 1, 1, 1, 2, 2, 0, 0, 1, 1},
    {1, 3, 3, 2, 2, 3, 3, 1, 1, 1, 3, 3, 1, 1},      {1, 20, 30, 60, 60, 3, 3, 1, 1, 1, 1, 1, 1, 1},
    {1, 10, 4, 6, 4, 2, 2, 2, 3, 2, 0, 1, 1, 3},     {1, 40, 6, 16, 16, 3, 3, 16, 1, 1, 1, 1, 2, 1},
};

void test_conv() {
  Random random;
  for (const bc_conv2d& c : kConvs) {
    const int x_bits = 8, w_bits = static_cast<int>(1 + random.below(8));
    const int64_t each = c.channels / c.groups, filters = c.filters / c.groups;
    int64_t out_h = 0, out_w = 0;
    const std::string what = text(
        {c.images, c.height, c.width, c.channels, c.filters, c.kernel_h, c.kernel_w, c.groups});
    expect(bc_conv2d_size(&c, &out_h, &out_w) == BC_OK, "size" + what);
    const std::vector<uint8_t> x =
        random_codes(random, c.images * c.height * c.width * c.channels, x_bits);
    const std::vector<uint8_t> w =
        random_codes(random, c.filters * c.kernel_h * c.kernel_w * each, w_bits);
    const int64_t places = c.images * out_h * out_w;
    std::vector<int32_t> out(static_cast<size_t>(places * c.filters), -1), wanted(out.size()),
        planes(out.size(), -1);
    std::vector<int32_t> sums(static_cast<size_t>(places * c.groups), -1), wanted_sums(sums.size());
    for (int64_t p = 0; p < places; ++p) {
      const int64_t image = p / (out_h * out_w), oy = p / out_w % out_h, ox = p % out_w;
      for (int64_t o = 0; o < c.filters; ++o) {
        int64_t sum = 0, codes = 0;
        for (int64_t ty = 0; ty < c.kernel_h; ++ty) {
          for (int64_t tx = 0; tx < c.kernel_w; ++tx) {
            const int64_t iy = oy * c.stride_h - c.pad_h + ty * c.dilation_h,
                          ix = ox * c.stride_w - c.pad_w + tx * c.dilation_w;
            if (iy < 0 || iy >= c.height || ix < 0 || ix >= c.width) continue;
            for (int64_t i = 0; i < each; ++i) {
              const int64_t code = x[static_cast<size_t>(
                  ((image * c.height + iy) * c.width + ix) * c.channels + o / filters * each + i)];
              codes += code;
              sum += code *
                     w[static_cast<size_t>(((o * c.kernel_h + ty) * c.kernel_w + tx) * each + i)];
            }
          }
        }
        wanted[static_cast<size_t>(p * c.filters + o)] = static_cast<int32_t>(sum);
        wanted_sums[static_cast<size_t>(p * c.groups + o / filters)] = static_cast<int32_t>(codes);
      }
    }
    for (const int threads : {1, 3}) {
      expect(bc_conv2d_codes(&c, x.data(), w.data(), out.data(), threads) == BC_OK && out == wanted,
             "conv2d" + what);
      expect(
          bc_conv2d_code_sums(&c, x.data(), sums.data(), threads) == BC_OK && sums == wanted_sums,
          "code_sums" + what);
    }
    std::vector<uint32_t> x_words(
        static_cast<size_t>(x_bits * c.images * c.height * c.width * bc_plane_words(c.channels)));
    std::vector<uint32_t> w_words(
        static_cast<size_t>(w_bits * c.filters * c.kernel_h * c.kernel_w * bc_plane_words(each)));
    bc_pack_words(x.data(), c.images * c.height * c.width, c.channels, x_bits, x_words.data(), 1);
    bc_pack_words(w.data(), c.filters * c.kernel_h * c.kernel_w, each, w_bits, w_words.data(), 1);
    expect(bc_bit_conv2d(&c, x_words.data(), x_bits, w_words.data(), w_bits, planes.data(), 2) ==
                   BC_OK &&
               planes == wanted,
           "bit_conv2d" + what);
  }
}

// A product of reals is the product of the decoded numbers; a padded one has true zeros outside.
void test_reals() {
  Random random;
  const bc_conv2d c{1, 5, 6, 3, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1};
  const std::vector<uint8_t> x = random_codes(random, 5 * 6 * 3, 4),
                             w = random_codes(random, 4 * 9 * 3, 3);
  const float scale = 0.25f, offset = -1.5f;
  const std::vector<float> w_scale = random_reals(random, 4, 0.1f, 1),
                           w_offset = random_reals(random, 4, -1, 0);
  const std::vector<float> bias = random_reals(random, 4, -1, 1);
  const bc_grids grids{&scale, &offset, w_scale.data(), w_offset.data(), 4, bias.data()};
  std::vector<float> out(5 * 6 * 4), flat(5 * 6 * 4);
  expect(bc_conv2d_reals(&c, x.data(), w.data(), &grids, out.data(), 2) == BC_OK, "conv2d_reals");
  bool same = true;
  for (int p = 0; p < 30 * 4; ++p) {
    const int oy = p / 24, ox = p / 4 % 6;
    const size_t o = static_cast<size_t>(p % 4);
    double sum = bias[o];
    for (int t = 0; t < 27; ++t) {
      const int iy = oy - 1 + t / 9, ix = ox - 1 + t / 3 % 3;
      if (iy < 0 || iy >= 5 || ix < 0 || ix >= 6) continue;
      const double code = x[static_cast<size_t>((iy * 6 + ix) * 3 + t % 3)];
      const double weight = w[o * 27 + static_cast<size_t>(t)];
      sum += (code * scale + offset) * (weight * w_scale[o] + w_offset[o]);
    }
    same = same && std::abs(out[static_cast<size_t>(p)] - sum) < 1e-4;
  }
  expect(same, "reals of a padded convolution");
  // A 1x1 convolution is a product.
  const bc_conv2d one{1, 5, 6, 3, 4, 1, 1, 1, 1, 1, 0, 0, 1, 1};
  expect(bc_conv2d_reals(&one, x.data(), w.data(), &grids, out.data(), 1) == BC_OK, "1x1");
  expect(bc_gemm_reals(x.data(), w.data(), 1, 30, 4, 3, &grids, flat.data(), 1) == BC_OK &&
             flat == out,
         "a 1x1 convolution is a product");
  bc_grids bad = grids;
  bad.w_groups = 3;
  expect(bc_gemm_reals(x.data(), w.data(), 1, 30, 4, 3, &bad, flat.data(), 1) == BC_BAD_SHAPE,
         "3 grids of 4");
  expect(bc_gemm_reals(x.data(), w.data(), 1, 30, 4, 3, nullptr, flat.data(), 1) == BC_BAD_ARGUMENT,
         "no grids");
}

void test_threads() {
  Random random;
  const int64_t m = 3000, n = 64, k = 96;
  const std::vector<uint8_t> a = random_codes(random, m * k, 8), w = random_codes(random, n * k, 8);
  std::vector<int32_t> wanted(static_cast<size_t>(m * n));
  expect(bc_gemm_codes(a.data(), w.data(), 1, m, n, k, wanted.data(), 1) == BC_OK, "one thread");
  std::vector<std::thread> callers;
  std::vector<int> right(4, 0);
  for (size_t t = 0; t < right.size(); ++t) {
    callers.emplace_back([&, t] {
      std::vector<int32_t> out(wanted.size());
      for (int i = 0; i < 10; ++i) {
        std::fill(out.begin(), out.end(), 0);
        right[t] +=
            bc_gemm_codes(a.data(), w.data(), 1, m, n, k, out.data(), 3) == BC_OK && out == wanted;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  expect(right == std::vector<int>(4, 10), "several callers at once");
}

// ---- Bad arguments ------------------------------------------------------------------------------

void test_refusals() {
  uint8_t byte = 7;
  uint32_t word = 0;
  float real = 0, one = 1;
  int32_t sum = 0;
  int64_t count = 0, h = 0, w = 0;
  const bc_view single{1, 1, 1}, negative{1, -1, 1}, huge{INT64_MAX / 2, 3, 1};
  const auto conv_with = [](std::function<void(bc_conv2d&)> change) {
    bc_conv2d c{1, 4, 4, 2, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1};
    change(c);
    return c;
  };
  const auto size_of = [&](std::function<void(bc_conv2d&)> change) {
    const bc_conv2d c = conv_with(change);
    return bc_conv2d_size(&c, &h, &w);
  };
  const bc_conv2d good = conv_with([](bc_conv2d&) {});
  const struct {
    const char* what;
    bc_status got, wanted;
  } cases[] = {
      {"bits 0", bc_pack(&byte, 1, 0, &byte, 1, 1), BC_BAD_ARGUMENT},
      {"bits 9", bc_unpack(&byte, 1, 9, 1, &byte, 1), BC_BAD_ARGUMENT},
      {"no output", bc_pack(&byte, 1, 8, nullptr, 1, 1), BC_BAD_ARGUMENT},
      {"threads 0", bc_pack(&byte, 1, 8, &byte, 1, 0), BC_BAD_ARGUMENT},
      {"negative n", bc_pack(&byte, -1, 8, &byte, 1, 1), BC_BAD_SHAPE},
      {"bytes differ", bc_pack(&byte, 1, 8, &byte, 2, 1), BC_BAD_SHAPE},
      {"code too large", bc_pack(&byte, 1, 2, &byte, 1, 1), BC_BAD_CODE},
      {"words of a large code", bc_pack_words(&byte, 1, 1, 2, &word, 1), BC_BAD_CODE},
      {"words of negative rows", bc_pack_words(&byte, -1, 1, 2, &word, 1), BC_BAD_SHAPE},
      {"words of no channels", bc_pack_words(nullptr, int64_t{1} << 40, 0, 2, nullptr, 1),
       BC_OK},
      {"negative view", bc_encode(&real, negative, &one, &real, 2, &byte, 1), BC_BAD_SHAPE},
      {"huge view", bc_minmax(&real, huge, &real, &one, 1), BC_BAD_SHAPE},
      {"no scale", bc_encode(&real, single, nullptr, &real, 2, &byte, 1), BC_BAD_ARGUMENT},
      {"fake bits", bc_fake_quantize(&real, single, &one, &real, 12, &real, 1), BC_BAD_ARGUMENT},
      {"lo is hi",
       bc_fake_quantize_backward(&real, &real, single, &one, &one, 2, &real, &real, &real, 1),
       BC_BAD_BOUNDS},
      {"no bins", bc_histogram(&real, single, &real, &one, 0, &count, 1), BC_BAD_SHAPE},
      {"range of nothing", bc_minmax(&real, {1, 1, 0}, &real, &one, 1), BC_EMPTY},
      {"negative m", bc_gemm_codes(&byte, &byte, 1, -1, 1, 1, &sum, 1), BC_BAD_SHAPE},
      {"huge product", bc_gemm_codes(&byte, &byte, INT64_MAX / 4, 8, 8, 1, &sum, 1), BC_BAD_SHAPE},
      {"long reduction", bc_gemm_codes(&byte, &byte, 1, 1, 1, BC_MAX_REDUCTION + 1, &sum, 1),
       BC_OVERFLOW},
      {"no codes", bc_gemm_codes(nullptr, &byte, 1, 1, 1, 1, &sum, 1), BC_BAD_ARGUMENT},
      {"no geometry", bc_conv2d_size(nullptr, &h, &w), BC_BAD_ARGUMENT},
      {"stride 0", size_of([](bc_conv2d& c) { c.stride_h = 0; }), BC_BAD_SHAPE},
      {"dilation 0", size_of([](bc_conv2d& c) { c.dilation_w = 0; }), BC_BAD_SHAPE},
      {"kernel 0", size_of([](bc_conv2d& c) { c.kernel_h = 0; }), BC_BAD_SHAPE},
      {"groups 0", size_of([](bc_conv2d& c) { c.groups = 0; }), BC_BAD_SHAPE},
      {"groups 3 of 2", size_of([](bc_conv2d& c) { c.groups = 3; }), BC_BAD_SHAPE},
      {"negative pad", size_of([](bc_conv2d& c) { c.pad_w = -1; }), BC_BAD_SHAPE},
      {"kernel too large", size_of([](bc_conv2d& c) { c.kernel_w = 9; }), BC_BAD_SHAPE},
      {"huge dilation", size_of([](bc_conv2d& c) { c.dilation_h = INT64_MAX; }), BC_BAD_SHAPE},
      {"huge channels", size_of([](bc_conv2d& c) { c.channels = 20000; }), BC_OVERFLOW},
      {"conv without x", bc_conv2d_codes(&good, nullptr, &byte, &sum, 1), BC_BAD_ARGUMENT},
      {"sums without out", bc_conv2d_code_sums(&good, &byte, nullptr, 1), BC_BAD_ARGUMENT},
      {"planes 0", bc_bit_conv2d(&good, &word, 0, &word, 1, &sum, 1), BC_BAD_ARGUMENT},
      {"unknown level", bc_set_isa("sse9"), BC_UNAVAILABLE},
      {"no level", bc_set_isa(nullptr), BC_BAD_ARGUMENT},
  };
  for (const auto& c : cases) {
    expect(c.got == c.wanted, std::string(c.what) + ": " + bc_status_text(c.got) +
                                  ", wanted: " + bc_status_text(c.wanted));
  }
  expect(bc_packed_bytes(-1, 2) == -1 && bc_packed_bytes(1, 0) == -1 && bc_plane_words(-1) == -1,
         "sizes of nonsense");
  expect(byte == 7 && sum == 0, "a refusal touches nothing");
}

}  // namespace

int main() {
  test_pack();
  test_words();
  test_refusals();
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_codes();
    test_steps();
    test_backward();
    test_statistics();
    test_gemm();
    test_conv();
    test_reals();
    test_threads();
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
