// The CUDA kernels as their twin on the CPU, against the CPU library bit for bit: layers of any geometry,
// products, attention and what stands between, in every form; and what is refused. What this does not
// test is the device: see csrc/cuda/machine.h.
#include <cmath>
#include <cstring>
#include <limits>

#include "cuda_cases.h"
#include "levels.h"

namespace {

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool nans = std::isnan(a[i]) && std::isnan(b[i]);
    if (!nans && std::memcmp(&a[i], &b[i], sizeof(float)) != 0 && !(a[i] == 0 && b[i] == 0)) return false;
  }
  return true;
}

std::vector<uint8_t> memory(int64_t bytes) { return std::vector<uint8_t>(static_cast<size_t>(bytes), 0x5a); }

std::vector<float> by_cuda(const LayerCase& c, bc_order order, const std::vector<bc_cuda_step>& tail, int form,
                           size_t outputs, bc_status* status) {
  const bc_cuda_layer layer = c.layer();
  std::vector<uint8_t> ready = memory(bc_cuda_ready_bytes(&layer));
  *status = bc_cuda_make_ready(&layer, ready.data(), nullptr);
  std::vector<float> out(outputs, 7.0f);
  if (*status != BC_OK) return out;
  bc_cuda_run run{};
  run.images = c.conv.images, run.height = c.conv.height, run.width = c.conv.width;
  run.x = numbers(c.x), run.x_order = order, run.out_order = order;
  run.tail = tail.data(), run.tail_count = static_cast<int64_t>(tail.size());
  run.out = out.data(), run.form = form;
  std::vector<uint8_t> scratch = memory(bc_cuda_scratch_bytes(&layer, &run));
  *status = bc_cuda_layer_run(&layer, ready.data(), &run, scratch.data(), nullptr);
  return out;
}

std::string named(const bc_conv2d& c, int x_bits, int w_bits, int form) {
  return std::to_string(c.channels) + "->" + std::to_string(c.filters) + " kernel " + std::to_string(c.kernel_h) +
         "x" + std::to_string(c.kernel_w) + " groups " + std::to_string(c.groups) + " bits " +
         std::to_string(x_bits) + "/" + std::to_string(w_bits) + " form " + std::to_string(form);
}

void check_layer(const bc_conv2d& conv, int x_bits, int w_bits, bool step) {
  const LayerCase c = layer_case(conv, x_bits, w_bits, step);
  const std::vector<float> slopes = reals(conv.filters, -0.5f, 0.5f);
  std::vector<bc_step> tail(2);
  tail[0].kind = BC_PRELU, tail[0].data = slopes.data(), tail[0].column = 1;
  tail[1].kind = BC_MUL, tail[1].value = 1.5f;
  std::vector<bc_cuda_step> cuda_tail(2);
  cuda_tail[0].kind = BC_PRELU, cuda_tail[0].data = numbers(slopes), cuda_tail[0].column = 1;
  cuda_tail[1].kind = BC_MUL, cuda_tail[1].value = 1.5f;
  for (const bc_order order : {BC_CHANNELS_LAST, BC_CHANNELS_FIRST}) {
    int64_t h = 0, w = 0;
    const std::vector<float> wanted = by_cpu(c, order, tail, &h, &w);
    for (int form = BC_CUDA_AUTO; form <= BC_CUDA_TENSOR; ++form) {
      bc_status status = BC_OK;
      const std::vector<float> got = by_cuda(c, order, cuda_tail, form, wanted.size(), &status);
      expect(status == BC_OK && !wanted.empty() && same(got, wanted), "layer " + named(conv, x_bits, w_bits, form));
    }
  }
}

void test_layers() {
  check_layer({1, 6, 7, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, 2, false);
  check_layer({2, 9, 8, 70, 66, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 1, 1, true);
  check_layer({1, 8, 9, 64, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 1, 1, true);
  check_layer({1, 5, 6, 300, 9, 3, 1, 1, 1, 2, 1, 0, 1, 1}, 1, 1, true);
  check_layer({1, 1, 67, 60, 130, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 4, 3, false);
  check_layer({2, 11, 13, 12, 20, 5, 3, 4, 2, 3, 4, 1, 2, 3}, 8, 8, false);
  check_layer({1, 10, 10, 16, 16, 3, 3, 16, 1, 1, 1, 1, 1, 1}, 5, 6, false);
  check_layer({1, 4, 4, 6, 18, 7, 7, 2, 1, 1, 6, 6, 2, 2}, 1, 4, false);
  check_layer({1, 7, 7, 33, 40, 2, 2, 1, 2, 2, 0, 0, 1, 1}, 7, 1, false);
}

void test_random_layers() {
  Random& r = random_numbers();
  for (int i = 0; i < (small_tests() ? 20 : 80); ++i) {
    const int64_t groups = r.from(1, 3);
    bc_conv2d c{r.from(1, 2), r.from(3, 9), r.from(3, 9), groups * r.from(1, 40), groups * r.from(1, 24),
                r.from(1, 3), r.from(1, 3), groups, r.from(1, 3), r.from(1, 3), r.from(0, 3), r.from(0, 3),
                r.from(1, 3), r.from(1, 3)};
    int64_t h = 0, w = 0;
    if (bc_conv2d_size(&c, &h, &w) != BC_OK) continue;
    const bool step = r.below(3) == 0;
    check_layer(c, step ? 1 : static_cast<int>(r.from(1, 8)), step ? 1 : static_cast<int>(r.from(1, 8)), step);
  }
}

struct Batched {
  std::vector<float> data, scale, offset;
  std::vector<int64_t> starts;
  int bits;
};

Batched operand(int64_t batch, int64_t rows, int64_t k, int bits, float low, float high) {
  Batched made;
  made.data = reals(batch * rows * k, low, high), made.bits = bits;
  for (int64_t b = 0; b < batch; ++b) made.starts.push_back(b * rows * k);
  made.scale = reals(batch, 0.5f, 1.0f), made.offset = reals(batch, low, low / 2);
  for (float& s : made.scale) s *= (high - low) / static_cast<float>((1 << bits) - 1);
  return made;
}

bc_operand_grid cpu_grid(const Batched& b) { return {b.scale.data(), b.offset.data(), b.bits}; }
bc_cuda_grid cuda_grid(const Batched& b) { return {numbers(b.scale), numbers(b.offset), b.bits, 0, 0}; }

void check_product(int64_t batch, int64_t m, int64_t n, int64_t k, int a_bits, int b_bits, bool per_row) {
  const Batched a = operand(batch, m, k, a_bits, per_row ? 0.0f : -1.0f, 1.0f);
  const Batched b = operand(batch, n, k, b_bits, -1, 1);
  bc_product p{};
  p.batch = batch, p.m = m, p.n = n, p.k = k, p.per_row = per_row ? 1 : 0;
  p.a = {a.data.data(), a.starts.data(), k, 1}, p.b = {b.data.data(), b.starts.data(), 1, n};
  p.a_grid = cpu_grid(a), p.b_grid = cpu_grid(b);
  std::vector<float> wanted(static_cast<size_t>(batch * m * n));
  expect(bc_multiply(&p, wanted.data(), 2) == BC_OK, "the product of the CPU");
  for (int form = BC_CUDA_AUTO; form <= BC_CUDA_TENSOR; ++form) {
    std::vector<float> got(wanted.size(), 7.0f);
    bc_cuda_product q{};
    q.batch = batch, q.m = m, q.n = n, q.k = k, q.per_row = p.per_row, q.form = form, q.out = got.data();
    q.a = {numbers(a.data), m * k, k, 1}, q.b = {numbers(b.data), n * k, 1, n};
    q.a_grid = cuda_grid(a), q.b_grid = cuda_grid(b);
    std::vector<uint8_t> scratch = memory(bc_cuda_product_scratch_bytes(&q));
    const bool ran = bc_cuda_multiply(&q, scratch.data(), nullptr) == BC_OK;
    expect(ran && same(got, wanted), "product " + std::to_string(m) + "x" + std::to_string(n) + "x" +
                                         std::to_string(k) + " form " + std::to_string(form));
  }
}

void check_attention(int64_t batch, int64_t m, int64_t n, int64_t d, int64_t v, int bits, bool per_row) {
  const Batched q = operand(batch, m, d, bits, -3, 3), k = operand(batch, n, d, bits, -3, 3);
  const Batched p = operand(batch, 1, 1, bits, 0, 1), values = operand(batch, v, n, bits, -1, 1);
  const std::vector<float> bias = reals(m * n, -1, 1);
  const std::vector<int64_t> bias_starts(static_cast<size_t>(batch), 0);
  std::vector<int64_t> out_starts;
  for (int64_t b = 0; b < batch; ++b) out_starts.push_back(b * m * v);
  std::vector<float> wanted(static_cast<size_t>(batch * m * v));
  bc_term term{{bias.data(), bias_starts.data(), n, 1}, 0, nullptr};
  bc_attention a{};
  a.batch = batch, a.queries = m, a.keys = n, a.depth = d, a.values = v, a.heads = 1, a.q_factor = 0.625f;
  a.q = {q.data.data(), 0, q.starts.data(), d, 1, nullptr}, a.k = {k.data.data(), 0, k.starts.data(), d, 1, nullptr};
  a.v = {values.data.data(), 0, values.starts.data(), v, 1, nullptr};
  a.q_grid = cpu_grid(q), a.k_grid = cpu_grid(k), a.p_grid = cpu_grid(p), a.v_grid = cpu_grid(values);
  a.terms = &term, a.term_count = 1, a.per_row = per_row ? 1 : 0;
  a.out.data = wanted.data(), a.out.starts = out_starts.data(), a.out.row = v;
  expect(bc_attend(&a, 2) == BC_OK, "the attention of the CPU");
  std::vector<float> got(wanted.size(), 7.0f);
  const bc_cuda_term cuda_term{numbers(bias), 1, 1, m * n, n, 1, 0};
  bc_cuda_attention c{};
  c.batch = batch, c.queries = m, c.keys = n, c.depth = d, c.values = v;
  c.q = {numbers(q.data), m * d, d, 1}, c.k = {numbers(k.data), n * d, d, 1};
  c.v = {numbers(values.data), n * v, 1, v};
  c.q_grid = cuda_grid(q), c.k_grid = cuda_grid(k), c.p_grid = cuda_grid(p), c.v_grid = cuda_grid(values);
  c.terms = &cuda_term, c.term_count = 1, c.per_row = a.per_row, c.q_factor = a.q_factor, c.out = got.data();
  std::vector<uint8_t> scratch = memory(bc_cuda_attention_scratch_bytes(&c));
  const bool ran = bc_cuda_attend(&c, scratch.data(), nullptr) == BC_OK;
  expect(ran && same(got, wanted), "attention of " + std::to_string(n) + " keys, bits " + std::to_string(bits) +
                                       (per_row ? ", by rows" : ""));
}

void test_products() {
  check_product(1, 5, 3, 7, 8, 8, false);
  check_product(3, 70, 65, 33, 1, 1, false);
  check_product(2, 64, 64, 10, 4, 4, false);
  check_product(2, 17, 12, 100, 8, 6, true);
  for (const bool per_row : {false, true}) {
    check_attention(2, 9, 11, 10, 10, 4, per_row);
    check_attention(3, 64, 64, 10, 10, 8, per_row);
    check_attention(1, 20, 70, 30, 12, 2, per_row);
  }
}

void test_rows() {
  const int64_t rows = 11;
  for (const int64_t n : {1, 15, 16, 33, 60}) {
    const std::vector<float> x = reals(rows * n, -9, 9), gain = reals(n, 0, 2), shift = reals(n, -1, 1);
    std::vector<float> wanted(x.size()), got(x.size());
    bc_layer_norm(x.data(), rows, n, n, gain.data(), shift.data(), 1e-5f, wanted.data(), n, 1);
    bc_cuda_step norm{};
    norm.kind = BC_NORM, norm.value = 1e-5f, norm.data = numbers(gain), norm.shift = numbers(shift);
    expect(bc_cuda_rows(&norm, 1, rows, n, numbers(x), got.data(), BC_CUDA_FLOAT32, nullptr) == BC_OK &&
               same(got, wanted),
           "layer norm of " + std::to_string(n));
    for (const int kind : {BC_GELU, BC_GELU_TANH, BC_SIGMOID, BC_SILU}) {
      const int64_t count = rows * n;
      if (kind == BC_GELU || kind == BC_GELU_TANH)
        bc_gelu(x.data(), count, kind == BC_GELU_TANH, wanted.data(), 1);
      if (kind == BC_SIGMOID) bc_sigmoid(x.data(), count, wanted.data(), 1);
      if (kind == BC_SILU) bc_silu(x.data(), count, wanted.data(), 1);
      bc_cuda_step step{};
      step.kind = kind;
      expect(bc_cuda_rows(&step, 1, rows, n, numbers(x), got.data(), BC_CUDA_FLOAT32, nullptr) == BC_OK &&
                 same(got, wanted),
             "step " + std::to_string(kind));
    }
    bc_unit(x.data(), 1, rows, n, rows * n, n, 0, 1e-12f, wanted.data(), rows * n, n, 1);
    expect(bc_cuda_unit(numbers(x), rows, n, 1, 1e-12f, got.data(), BC_CUDA_FLOAT32, nullptr) == BC_OK &&
               same(got, wanted),
           "lengths of rows");
    bc_unit(x.data(), 1, rows, n, rows * n, n, 1, 1e-12f, wanted.data(), rows * n, n, 1);
    expect(bc_cuda_unit(numbers(x), 1, rows, n, 1e-12f, got.data(), BC_CUDA_FLOAT32, nullptr) == BC_OK &&
               same(got, wanted),
           "lengths of columns");
  }
}

void test_odd_numbers() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {0.0f, -0.0f, nan, inf, -inf, 0.5f, 1.5f, 2.5f, -1e30f, 1e-40f};
  for (const float scale : {0.0f, 1.0f, 0.25f}) {
    const std::vector<float> s = {scale}, o = {0.0f};
    std::vector<uint8_t> wanted(x.size()), got(x.size());
    const bc_view view{1, 1, static_cast<int64_t>(x.size())};
    bc_encode(x.data(), view, s.data(), o.data(), 2, wanted.data(), 1);
    const bc_status status = bc_cuda_encode(numbers(x), view, numbers(s), numbers(o), 2, got.data(), nullptr);
    expect(status == BC_OK && got == wanted, "codes of odd numbers");
  }
  // Every float16, out and back.
  std::vector<uint16_t> halves(65536), again(65536);
  std::vector<float> wide(65536), wanted(65536);
  for (int i = 0; i < 65536; ++i) halves[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
  bc_widen(halves.data(), 65536, wanted.data());
  bc_cuda_rows(nullptr, 0, 1, 65536, {halves.data(), BC_CUDA_FLOAT16, 65536}, wide.data(), BC_CUDA_FLOAT32, nullptr);
  expect(same(wide, wanted), "float16 is widened exactly");
  bc_cuda_rows(nullptr, 0, 1, 65536, numbers(wide), again.data(), BC_CUDA_FLOAT16, nullptr);
  bool kept = true;
  for (size_t i = 0; i < 65536; ++i) kept = kept && (again[i] == halves[i] || std::isnan(wide[i]));
  expect(kept, "float16 comes back");
  // Half way between two neighbours: to the even one.
  std::vector<float> ties;
  for (uint16_t h = 0; h < 0x7bff; ++h) ties.push_back((wanted[h] + wanted[h + 1]) / 2);
  std::vector<uint16_t> even(ties.size());
  bc_cuda_rows(nullptr, 0, 1, static_cast<int64_t>(ties.size()), numbers(ties), even.data(), BC_CUDA_FLOAT16, nullptr);
  bool all_even = true;
  for (size_t i = 0; i < ties.size(); ++i) all_even = all_even && even[i] == i + (i & 1);
  expect(all_even, "ties go to the even float16");
}

void test_refusals() {
  const LayerCase good = layer_case({1, 4, 4, 8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, 2, false);
  const auto status_of = [](LayerCase c) {
    bc_status status = BC_OK;
    if (bc_cuda_layer layer = c.layer(); bc_cuda_ready_bytes(&layer) < 0) return BC_BAD_SHAPE;
    by_cuda(c, BC_CHANNELS_FIRST, {}, 0, 4096, &status);
    return status;
  };
  expect(status_of(good) == BC_OK, "a good layer runs");
  LayerCase c = good;
  c.conv.groups = 3;
  expect(status_of(c) == BC_BAD_SHAPE, "groups that do not divide");
  c = good, c.stored.pop_back();
  expect(status_of(c) == BC_BAD_SHAPE, "a weight that is too short");
  c = good, c.w_scale.pop_back();
  expect(status_of(c) == BC_BAD_ARGUMENT, "too few scales");
  c = good, c.x_scale.clear();
  expect(status_of(c) == BC_BAD_ARGUMENT, "no scale");
  c = good, c.stretch.clear();
  expect(status_of(c) == BC_BAD_ARGUMENT, "a shift without a stretch");
  bc_cuda_layer layer = good.layer();
  layer.x_bits = 9;
  expect(bc_cuda_ready_bytes(&layer) == -1, "nine bits");
  layer = good.layer(), layer.x_bits = 8, layer.w_bits = 8, layer.conv.channels = 1 << 20;
  expect(bc_cuda_ready_bytes(&layer) == -1, "sums that leave int32");
  layer = good.layer();
  bc_cuda_run run{};
  run.images = 1, run.height = 4, run.width = -1;
  expect(bc_cuda_scratch_bytes(&layer, &run) == -1, "a negative width");
  layer.conv.pad_h = layer.conv.pad_w = 0, run.height = 2, run.width = 9;
  expect(bc_cuda_scratch_bytes(&layer, &run) == -1, "a kernel that does not fit");
  expect(bc_cuda_layer_run(nullptr, nullptr, nullptr, nullptr, nullptr) == BC_BAD_ARGUMENT, "null pointers");
  bc_cuda_product p{};
  p.a_grid.bits = p.b_grid.bits = 8, p.batch = p.m = p.n = 1, p.k = 40000;
  expect(bc_cuda_product_scratch_bytes(&p) == -1, "a product that leaves int32");
}

}  // namespace

int main() {
  expect(bc_cuda_version() == BC_CUDA_VERSION && bc_cuda_on_device() == 0, "the twin says what it is");
  test_layers();
  test_random_layers();
  test_products();
  test_rows();
  test_odd_numbers();
  test_refusals();
  std::printf("cuda twin: %d checks, %d failed\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
