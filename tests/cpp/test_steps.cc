// Chains of steps on rows of whole vectors, which go through registers together: the bits that one step
// after the other gives, at every instruction set of this CPU. The exit status is 1 if anything failed.
#include <cmath>
#include <cstdio>
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

float stepped(const bc_step& s, float x, float t, float gain) {
  switch (s.kind) {
    case BC_ADD: return x + t;
    case BC_SUB: return x - t;
    case BC_MUL: return x * t;
    case BC_LEAKY: return x < 0.0f ? x * t : x;
    case BC_PRELU: return x > 0.0f ? x : x * t;
    case BC_MUL_ADD: return x + t * gain;
    case BC_RELU: return x < 0.0f ? 0.0f : x;
    default: return x;
  }
}

bool same(float a, float b) {
  return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b);
}

// Rows [rows][n] that lie `pitch` apart in `found`, what is between them being as it was.
bool same_rows(const std::vector<float>& found, int64_t pitch, const std::vector<float>& wanted,
               int64_t n, float between) {
  bool right = true;
  for (size_t j = 0; j < found.size(); ++j) {
    const int64_t row = static_cast<int64_t>(j) / pitch, i = static_cast<int64_t>(j) % pitch;
    right = right && same(found[j], i < n ? wanted[static_cast<size_t>(row * n + i)] : between);
  }
  return right;
}

// Any steps on any rows, what they give and what they store.
struct Chain {
  int64_t rows, n, pitch;
  std::vector<float> x, data, gain, wanted;
  std::vector<bc_step> steps;
  std::vector<std::vector<float>> kept, stored;

  explicit Chain(Random& random)
      : rows(random.from(1, 150)), n(16 * random.from(1, 9)), pitch(n + random.from(0, 3)) {
    x = reals(random, rows * pitch, -2, 2);
    x[0] = NAN, x[static_cast<size_t>(n - 1)] = -0.0f;
    data = reals(random, rows * (n + 5), -2, 2), gain = reals(random, n, -1, 1);
    for (int64_t j = 0; j < rows * n; ++j)
      wanted.push_back(x[static_cast<size_t>(j / n * pitch + j % n)]);
    const int64_t count = random.from(1, 20);
    for (int64_t j = 0; j < count; ++j) add(random);
    for (size_t j = 0; j < steps.size(); ++j) steps[j].out = kept[j].data();
  }

  void add(Random& random) {
    const int32_t kinds[] = {BC_ADD,   BC_SUB,     BC_MUL,  BC_LEAKY,
                             BC_PRELU, BC_MUL_ADD, BC_RELU, BC_STORE};
    bc_step s{kinds[random.from(0, 7)], random.real(-1, 1), nullptr, gain.data(), 0, 0, nullptr,
              n + 1, 1};
    const int64_t reach = random.from(0, 4);  // a number, of channels, of rows, of samples, of all
    if (reach > 0) s.data = data.data(), s.column = reach == 2 ? 0 : 1;
    if (reach > 1) s.row = reach == 2 ? 1 : n + 5, s.each = reach == 3 ? random.from(2, 40) : 1;
    for (int64_t k = 0; k < rows * n; ++k) {
      const int64_t at = k / n / s.each * s.row + k % n * s.column;
      float& y = wanted[static_cast<size_t>(k)];
      y = stepped(s, y, s.data == nullptr ? s.value : s.data[at], gain[static_cast<size_t>(k % n)]);
    }
    steps.push_back(s);
    stored.push_back(wanted);
    kept.emplace_back(static_cast<size_t>(s.kind == BC_STORE ? rows * (n + 1) : 0), 7.0f);
  }

  bool run(const bc_sink& sink, int threads) const {
    return bc_rows(steps.data(), static_cast<int64_t>(steps.size()), rows, n, x.data(), pitch,
                   &sink, threads) == BC_OK;
  }
};

void test_chains() {
  Random random;
  for (int i = 0; i < (small_tests() ? 10 : 60); ++i) {
    const Chain c(random);
    std::vector<float> out(c.x.size(), 9.0f);
    const bool ran = c.run({out.data(), c.pitch, nullptr, nullptr, nullptr, 0}, i % 3 + 1);
    expect(ran && same_rows(out, c.pitch, c.wanted, c.n, 9.0f), "steps together to reals");
    const std::vector<float> zeros(c.gain.size()), ones(c.gain.size(), 1.0f);
    const std::vector<float> least = reals(random, c.n, -2, 2);
    std::vector<uint8_t> codes(c.x.size(), 99);
    bool right = c.run({codes.data(), c.pitch, zeros.data(), least.data(), ones.data(), c.n}, 2);
    for (size_t j = 0; j < codes.size(); ++j) {
      const int64_t row = static_cast<int64_t>(j) / c.pitch, o = static_cast<int64_t>(j) % c.pitch;
      const size_t at = static_cast<size_t>(row * c.n + o);
      const int code = o >= c.n ? 99 : c.wanted[at] >= least[static_cast<size_t>(o)] ? 1 : 0;
      right = right && codes[j] == code;
    }
    expect(right, "steps together to signs");
    right = true;
    for (size_t j = 0; j < c.steps.size(); ++j)
      right = right && same_rows(c.kept[j], c.n + 1, c.stored[j], c.n, 7.0f);
    expect(right, "steps together store");
  }
}

}  // namespace

int main() {
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_chains();
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
