// Means over pixels and group norm: the CUDA kernels as their twin on the CPU, against the CPU library bit for bit;
// and what is refused.
#include <cstring>

#include "cuda_cases.h"

namespace {

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Case {
  int64_t images, pixels, channels;
  bc_order order;
  std::vector<float> x;

  Case(int64_t images_, int64_t pixels_, int64_t channels_, bc_order order_)
      : images(images_), pixels(pixels_), channels(channels_), order(order_),
        x(reals(images_ * pixels_ * channels_, -3, 9)) {}

  bc_pixels cpu() const { return {x.data(), images, pixels, channels, order, channels}; }
  bc_cuda_pixels cuda() const { return {numbers(x), images, pixels, channels, order}; }
  size_t lines() const { return static_cast<size_t>(images * channels); }
  std::string name() const {
    return std::to_string(images) + "x" + std::to_string(channels) + "x" + std::to_string(pixels) +
           (order == BC_CHANNELS_LAST ? ", channels last" : "");
  }
};

std::vector<uint8_t> scratch_for(const bc_cuda_pixels& pixels) {
  return std::vector<uint8_t>(static_cast<size_t>(bc_cuda_pixels_scratch_bytes(&pixels)), 0x5a);
}

void check_means(const Case& c, bool apart) {
  const bc_pixels cpu = c.cpu();
  const bc_cuda_pixels cuda = c.cuda();
  const std::vector<float> from = apart ? reals(c.images * c.channels, -1, 1) : std::vector<float>();
  std::vector<float> wanted(c.lines()), got(c.lines(), 7.0f);
  bc_pixel_sums(&cpu, apart ? from.data() : nullptr, apart ? nullptr : wanted.data(), apart ? wanted.data() : nullptr,
                nullptr, 2);
  for (float& sum : wanted) sum *= static_cast<float>(1.0 / static_cast<double>(c.pixels));
  std::vector<uint8_t> scratch = scratch_for(cuda);
  const bc_status status =
      bc_cuda_pixel_means(&cuda, numbers(from), got.data(), BC_CUDA_FLOAT32, scratch.data(), nullptr);
  expect(status == BC_OK && same(got, wanted), (apart ? "distances of " : "means of ") + c.name());
}

void check_norm(const Case& c, int64_t groups, bool affine) {
  const bc_pixels cpu = c.cpu();
  const bc_cuda_pixels cuda = c.cuda();
  const std::vector<float> gain = affine ? reals(c.channels, 0, 2) : std::vector<float>();
  const std::vector<float> shift = affine ? reals(c.channels, -1, 1) : std::vector<float>();
  std::vector<float> scale(c.lines()), offset(c.lines()), wanted(c.x), got(c.x.size(), 7.0f);
  bc_group_scales(&cpu, groups, affine ? gain.data() : nullptr, affine ? shift.data() : nullptr, 1e-5, scale.data(),
                  offset.data(), 2);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i), picture = at / (c.pixels * c.channels);
    const int64_t channel = c.order == BC_CHANNELS_LAST ? at % c.channels : at / c.pixels % c.channels;
    const size_t line = static_cast<size_t>(picture * c.channels + channel);
    const float scaled = wanted[i] * scale[line];
    wanted[i] = scaled + offset[line];
  }
  std::vector<uint8_t> scratch = scratch_for(cuda);
  const bc_status status = bc_cuda_group_norm(&cuda, groups, numbers(gain), numbers(shift), 1e-5, got.data(),
                                              BC_CUDA_FLOAT32, scratch.data(), nullptr);
  expect(status == BC_OK && same(got, wanted), std::to_string(groups) + " groups of " + c.name());
}

void test_all() {
  for (const bc_order order : {BC_CHANNELS_FIRST, BC_CHANNELS_LAST}) {
    // One pixel, less than a tile, its end, and sums of sums: 66000 pixels are 258 tiles.
    for (const int64_t pixels : {1, 15, 16, 255, 256, 257, 1000}) {
      const Case c(2, pixels, 12, order);
      for (const bool other : {false, true}) check_means(c, other), check_norm(c, other ? 4 : 1, other);
    }
    check_means(Case(1, 66000, 2, order), false), check_norm(Case(1, 66000, 2, order), 2, true);
    check_norm(Case(3, 7, 5, order), 5, false), check_means(Case(1, 9, 1, order), true);
  }
}

void test_refusals() {
  const Case c(1, 9, 6, BC_CHANNELS_FIRST);
  std::vector<float> out(c.x.size());
  std::vector<uint8_t> scratch = scratch_for(c.cuda());
  const std::vector<float> few = reals(5, 0, 1);
  const auto norm = [&](bc_cuda_pixels p, int64_t groups, bc_cuda_numbers gain) {
    return bc_cuda_group_norm(&p, groups, gain, {}, 1e-5, out.data(), BC_CUDA_FLOAT32, scratch.data(), nullptr);
  };
  const auto means = [&](bc_cuda_pixels p, bc_cuda_numbers from, void* to) {
    return bc_cuda_pixel_means(&p, from, to, BC_CUDA_FLOAT32, scratch.data(), nullptr);
  };
  bc_cuda_pixels p = c.cuda();
  expect(norm(p, 3, {}) == BC_OK && means(p, {}, out.data()) == BC_OK, "good pictures");
  expect(norm(p, 4, {}) == BC_BAD_SHAPE && norm(p, 0, {}) == BC_BAD_SHAPE, "groups that do not divide");
  expect(norm(p, 3, numbers(few)) == BC_BAD_ARGUMENT, "a gain of another number");
  expect(means(p, numbers(few), out.data()) == BC_BAD_ARGUMENT, "a centre of another number");
  expect(means(p, {}, nullptr) == BC_BAD_ARGUMENT, "no place for the output");
  p.pixels = 0;
  expect(means(p, {}, out.data()) == BC_EMPTY && bc_cuda_pixels_scratch_bytes(&p) == -1, "no pixels");
  p = c.cuda(), p.images = 0, p.x.data = nullptr;
  expect(means(p, {}, nullptr) == BC_OK && norm(p, 3, {}) == BC_OK, "no pictures");
  p = c.cuda(), p.channels = -1;
  expect(means(p, {}, out.data()) == BC_BAD_SHAPE && bc_cuda_pixels_scratch_bytes(&p) == -1, "a negative size");
  p = c.cuda(), p.pixels = int64_t{1} << 50;
  expect(means(p, {}, out.data()) == BC_BAD_SHAPE, "sizes that are too large");
  p = c.cuda(), p.order = 7;
  expect(means(p, {}, out.data()) == BC_BAD_ARGUMENT, "an unknown order");
  p = c.cuda(), p.x.type = BC_CUDA_INT32;
  expect(means(p, {}, out.data()) == BC_BAD_ARGUMENT, "pictures of integers");
  expect(bc_cuda_pixel_means(nullptr, {}, nullptr, 0, nullptr, nullptr) == BC_BAD_ARGUMENT, "null pointers");
}

}  // namespace

int main() {
  test_all();
  test_refusals();
  std::printf("cuda twin, pictures: %d checks, %d failed\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
