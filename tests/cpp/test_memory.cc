// Runs that follow a first one take no memory from the system: layers of every kind, chains,
// attention and products, at every instruction set, on one thread and on several.
//
// malloc and its like are counted by standing before those of glibc; the library is static, so that
// its calls come here.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bitcompress/bits.h"
#include "levels.h"

namespace {
std::atomic<bool> g_counting{false};
std::atomic<int> g_taken{0};
int g_failures = 0;

void count() {
  if (g_counting.load(std::memory_order_relaxed)) g_taken.fetch_add(1, std::memory_order_relaxed);
}
}  // namespace

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
}

namespace {

template <class F>
void expect_none(const std::string& what, F&& run) {
  // Threads of the pool start late: what they keep to themselves they take within a few runs.
  for (int i = 0; i < 5; ++i) {
    if (run() != BC_OK) {
      std::fprintf(stderr, "FAILED [%s]: %s does not run\n", bc_isa(), what.c_str());
      ++g_failures;
      return;
    }
  }
  g_taken = 0;
  g_counting = true;
  run();
  g_counting = false;
  if (g_taken == 0) return;
  ++g_failures;
  std::fprintf(stderr, "FAILED [%s]: %s takes memory %d times\n", bc_isa(), what.c_str(),
               g_taken.load());
}

std::vector<float> ramp(int64_t n) {
  std::vector<float> all(static_cast<size_t>(n));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>(i % 37) * 0.1f - 1.8f;
  return all;
}

struct Case {
  const char* what;
  bc_conv2d c;
  int bits;
  bool coded, shuffled;
};

constexpr Case kCases[] = {
    {"a linear", {1, 1, 3000, 60, 70, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 2, false, false},
    {"a linear to codes", {1, 1, 3000, 60, 70, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 2, true, false},
    {"a linear of 8 bits", {1, 1, 3000, 60, 70, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 8, true, false},
    {"a convolution", {1, 40, 40, 24, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 4, false, false},
    {"a convolution of bits", {1, 40, 40, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 1, true, false},
    {"a shuffled convolution", {1, 40, 40, 24, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, false, true},
    {"a convolution in groups", {1, 40, 40, 24, 32, 3, 3, 4, 1, 1, 1, 1, 1, 1}, 2, true, false},
    {"a depthwise convolution", {1, 40, 40, 24, 24, 3, 3, 24, 1, 1, 1, 1, 1, 1}, 8, true, false},
};

void test_layer(const Case& one, int threads) {
  const bc_conv2d& c = one.c;
  const int64_t pixels = c.images * c.height * c.width;
  const std::vector<uint8_t> w(
      static_cast<size_t>(c.filters * c.kernel_h * c.kernel_w * (c.channels / c.groups)), 1);
  const float scale = 0.5f, offset = -1, top = 3;
  const std::vector<float> x = ramp(pixels * c.channels), bias = ramp(c.filters);
  std::vector<float> out(static_cast<size_t>(pixels * c.filters));
  const bc_layer_spec spec{c, w.data(), &scale, &offset, 1, one.bits, one.bits,
                           {&scale, &offset, &scale, &offset, 1, bias.data()}};
  bc_layer* layer = nullptr;
  if (bc_layer_new(&spec, &layer) != BC_OK) ++g_failures;
  bc_step relu{};
  relu.kind = BC_RELU;
  bc_run run{};
  run.images = c.images, run.height = c.height, run.width = c.width;
  run.x = x.data(), run.pitch = c.channels;
  run.tail = &relu, run.tail_count = one.coded ? 0 : 1;
  run.shuffle = one.shuffled ? 2 : 0;
  run.sink.out = out.data(), run.sink.pitch = one.shuffled ? c.filters / 4 : c.filters;
  if (one.coded) run.sink.scale = &scale, run.sink.offset = &offset, run.sink.top = &top;
  run.sink.groups = 1;
  expect_none(one.what, [&] { return bc_layer_run(layer, &run, threads); });
  bc_layer_free(layer);
}

void test_attention(int threads) {
  constexpr int64_t kBatch = 16, kLength = 64, kDepth = 16, kSize = kLength * kDepth;
  const std::vector<float> x = ramp(kBatch * kSize), scales(kBatch, 0.3f), offsets(kBatch, -1.0f);
  std::vector<float> out(x.size()), product(static_cast<size_t>(kBatch * kLength * kLength));
  std::vector<int64_t> starts;
  for (int64_t b = 0; b < kBatch; ++b) starts.push_back(b * kSize);
  const bc_operand_grid grid{scales.data(), offsets.data(), 4};
  const bc_operand operand{x.data(), 0, starts.data(), kDepth, 1, nullptr};
  bc_attention a{};
  a.batch = kBatch, a.queries = a.keys = kLength, a.depth = a.values = kDepth, a.heads = 1;
  a.q = a.k = a.v = operand, a.q_factor = 0.25f;
  a.q_grid = a.k_grid = a.p_grid = a.v_grid = grid;
  a.out.data = out.data(), a.out.starts = starts.data(), a.out.row = kDepth;
  for (const int per_row : {0, 1}) {
    a.per_row = per_row;
    expect_none("attention", [&] { return bc_attend(&a, threads); });
  }
  const bc_matrices m{x.data(), starts.data(), kDepth, 1};
  const bc_product p{kBatch, kLength, kLength, kDepth, m, m, grid, grid, 0, nullptr, 0, 0};
  expect_none("a product", [&] { return bc_multiply(&p, product.data(), threads); });
}

void test_chain(int threads) {
  const std::vector<float> x = ramp(4000 * 60), gain = ramp(60);
  std::vector<float> out(x.size());
  bc_step steps[2] = {};
  steps[0].kind = BC_NORM, steps[0].value = 1e-5f, steps[0].data = gain.data();
  steps[1].kind = BC_GELU;
  bc_sink sink{};
  sink.out = out.data(), sink.pitch = 60;
  expect_none("a chain",
              [&] { return bc_rows(steps, 2, 4000, 60, x.data(), 60, &sink, threads); });
}

}  // namespace

int main() {
  g_counting = true;
  std::free(std::malloc(1));
  g_counting = false;
  if (g_taken == 0) {
    std::printf("skipped: memory is not taken from glibc here\n");
    return 0;
  }
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    for (const int threads : {1, 3}) {
      for (const Case& one : kCases) test_layer(one, threads);
      test_attention(threads);
      test_chain(threads);
    }
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d failures\n", g_failures);
  return g_failures == 0 ? 0 : 1;
}
