// Products in every form of every level against plain loops: rows of a linear, overlapping rows of a
// convolution, sums as long as a form ever adds before it must widen, all columns up to a few blocks.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/panel.h"
#include "bitcompress/bits.h"
#include "levels.h"

namespace {

int g_failed = 0;

#define CHECK(ok, ...)                         \
  do {                                         \
    if (!(ok)) {                               \
      std::printf("%s:%d: ", __FILE__, __LINE__); \
      std::printf(__VA_ARGS__);                \
      std::printf("\n");                       \
      ++g_failed;                              \
    }                                          \
  } while (false)

std::mt19937 g_random(7);

int64_t any(int64_t least, int64_t most) {
  return std::uniform_int_distribution<int64_t>(least, most)(g_random);
}

struct Case {
  int x_bits, w_bits;
  int64_t segments, pixels, channels, stride, rows, columns;
  bool top;  // only the largest codes
};

std::vector<uint8_t> codes(int64_t n, int bits, bool top) {
  std::vector<uint8_t> all(static_cast<size_t>(n));
  for (uint8_t& c : all) c = static_cast<uint8_t>(top ? (1 << bits) - 1 : any(0, (1 << bits) - 1));
  return all;
}

// Rows of `pixels` pixels that begin every `stride` pixels of one line a segment.
void check(const bc::Form& form, const char* level, const Case& c) {
  constexpr uint8_t kMark = 0xa5;
  const int64_t wide = (c.rows - 1) * c.stride + c.pixels, each = form.pixel_bytes(c.channels);
  const std::vector<uint8_t> x = codes(c.segments * wide * c.channels, c.x_bits, c.top);
  const std::vector<uint8_t> w =
      codes(c.columns * c.segments * c.pixels * c.channels, c.w_bits, c.top);
  std::vector<std::vector<uint8_t>> lines;
  std::vector<const uint8_t*> runs;
  for (int64_t s = 0; s < c.segments; ++s) {
    lines.emplace_back(static_cast<size_t>(wide * each + bc::kPad), kMark);
    bc::load_pixels(form, x.data() + s * wide * c.channels, wide, c.channels, lines.back().data());
    for (int64_t i = wide * each; i < wide * each + bc::kPad; ++i)
      CHECK(lines.back()[static_cast<size_t>(i)] == kMark, "%s %s: writes behind", level, form.name);
  }
  for (const std::vector<uint8_t>& line : lines) runs.push_back(line.data());
  const bc::Panel panel(form, w.data(), c.columns, c.segments, c.pixels, c.channels);
  const int64_t pitch = c.columns + 3;
  std::vector<int32_t> out(static_cast<size_t>(c.rows * pitch), -1);
  bc::Product product{runs.data(), c.segments, c.pixels * c.channels, c.stride * each, c.rows,
                      panel.data(), c.columns, panel.shifted(), out.data(), pitch, c.pixels};
  form.product(product);
  const int64_t length = c.pixels * c.channels;
  // The same where what the codes of a row add up to is known.
  std::vector<int32_t> sums(static_cast<size_t>(2 * c.rows), -1), again(out.size(), -1);
  for (int64_t r = 0; r < c.rows; ++r) {
    sums[static_cast<size_t>(2 * r)] = 0;
    for (int64_t s = 0; s < c.segments; ++s) {
      const uint8_t* left = x.data() + (s * wide + r * c.stride) * c.channels;
      for (int64_t i = 0; i < length; ++i) sums[static_cast<size_t>(2 * r)] += left[i];
    }
  }
  product.out = again.data(), product.code_sums = sums.data(), product.code_sums_stride = 2;
  form.product(product);
  CHECK(out == again, "%s %s: known sums of codes", level, form.name);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t o = 0; o < pitch; ++o) {
      int32_t sum = o < c.columns ? 0 : -1;
      for (int64_t s = 0; o < c.columns && s < c.segments; ++s) {
        const uint8_t* left = x.data() + (s * wide + r * c.stride) * c.channels;
        const uint8_t* right = w.data() + (o * c.segments + s) * length;
        for (int64_t i = 0; i < length; ++i) sum += left[i] * right[i];
      }
      const int32_t got = out[static_cast<size_t>(r * pitch + o)];
      if (got == sum) continue;
      CHECK(false, "%s %s w%da%d %ldx%ldx%ld, %ld rows by %ld, %ld columns: [%ld][%ld] %d, not %d",
            level, form.name, c.w_bits, c.x_bits, static_cast<long>(c.segments),
            static_cast<long>(c.pixels), static_cast<long>(c.channels), static_cast<long>(c.rows),
            static_cast<long>(c.stride), static_cast<long>(c.columns), static_cast<long>(r),
            static_cast<long>(o), got, sum);
      return;
    }
  }
}

// Each form that the level has for these widths: the extents are those that make it choose.
void check_all(const char* level, const Case& c) {
  std::vector<const bc::Form*> seen;
  for (const int64_t channels : {c.channels, int64_t{2}, int64_t{3}, int64_t{96}}) {
    for (const int64_t columns : {c.columns, int64_t{64}}) {
      const bc::Form* form =
          &bc::kernels().form_for(c.x_bits, c.w_bits, {c.segments * c.pixels, channels, columns});
      bool new_one = true;
      for (const bc::Form* other : seen) new_one = new_one && other != form;
      if (!new_one) continue;
      seen.push_back(form);
      check(*form, level, c);
    }
  }
}

void random_cases(const char* level) {
  for (int i = 0; i < (small_tests() ? 80 : 400); ++i) {
    const int narrow = static_cast<int>(any(1, 3));
    Case c{};
    c.x_bits = static_cast<int>(any(1, i % 2 == 0 ? narrow : 8));
    c.w_bits = static_cast<int>(any(1, i % 2 == 0 ? narrow : 8));
    c.segments = any(1, 5), c.pixels = any(1, 4), c.channels = any(1, 70), c.stride = any(1, 3);
    c.rows = any(1, 30), c.columns = any(1, 150), c.top = i % 5 == 0;
    check_all(level, c);
  }
}

void long_sums(const char* level) {
  for (const int bits : {1, 2, 3, 4}) {
    for (const int64_t channels : {7278, 7284, 22000}) {
      check_all(level, {bits, bits, 1, 1, channels, 1, 5, 33, true});
      check_all(level, {bits, bits, 3, 1, channels, 1, 7, 65, true});
    }
    check_all(level, {bits, bits, 9, 3, 300, 1, 9, 70, true});
    check_all(level, {1, bits, 3, 3, 1000, 1, 3, 70, true});
    check_all(level, {bits, 1, 3, 3, 1000, 1, 3, 70, true});
  }
}

}  // namespace

int main() {
  for (const std::string& name : levels()) {
    const char* level = name.c_str();
    bc_set_isa(level);
    random_cases(level);
    long_sums(level);
    std::printf("%s: %d failed so far\n", level, g_failed);
  }
  return g_failed == 0 ? 0 : 1;
}
