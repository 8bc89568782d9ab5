// Attention on codes against a naive loop, at every instruction set of this CPU; bad arguments give
// a status and touch nothing. The exit status is 1 if anything failed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bitcompress/bits.h"
#include "check.h"
#include "levels.h"

namespace {

std::vector<float> reals(Random& random, int64_t n, float low, float high) {
  std::vector<float> all(static_cast<size_t>(n));
  for (float& real : all) real = random.real(low, high);
  return all;
}

// One problem: every operand dense, one term that repeats along the batch.
struct Problem {
  int64_t batch, queries, keys, depth, values;
  int bits;
  bool per_row = false;
  std::vector<float> q, k, v, term, scales, offsets;
  std::vector<int64_t> q_starts, k_starts, v_starts, term_starts, out_starts;
  bc_term as_term;

  Problem(int64_t b, int64_t m, int64_t n, int64_t d, int64_t c, int width, Random& random)
      : batch(b), queries(m), keys(n), depth(d), values(c), bits(width) {
    q = reals(random, b * m * d, -2, 2);
    k = reals(random, b * n * d, -2, 2);
    v = reals(random, b * n * c, -2, 2);
    term = reals(random, m * n, -1, 1);
    const float top = static_cast<float>((1 << bits) - 1);
    scales.assign(static_cast<size_t>(b), 4 / top);
    offsets.assign(static_cast<size_t>(b), -2);
    for (int64_t i = 0; i < b; ++i) {
      q_starts.push_back(i * m * d);
      k_starts.push_back(i * n * d);
      v_starts.push_back(i * n * c);
      term_starts.push_back(0);
      out_starts.push_back(i * m * c);
    }
  }

  bc_attention record(float* out) {
    as_term = {{term.data(), term_starts.data(), keys, 1}, 0, nullptr};
    const bc_operand_grid grid{scales.data(), offsets.data(), bits};
    return {batch, queries, keys, depth, values, 1,
            {q.data(), 0, q_starts.data(), depth, 1, nullptr},
            {k.data(), 0, k_starts.data(), depth, 1, nullptr},
            {v.data(), 0, v_starts.data(), values, 1, nullptr},
            1.0f, grid, grid, grid, grid, &as_term, 1, per_row ? 1 : 0,
            {out, out_starts.data(), values, nullptr, nullptr, nullptr, 1, 8}};
  }

  float code(float x) const {
    const float top = static_cast<float>((1 << bits) - 1);
    const float u = std::nearbyintf((x - offsets[0]) / scales[0]);
    return u > 0 ? std::min(u, top) : 0.0f;
  }
  double real_of(float code) const { return static_cast<double>(code) * scales[0] + offsets[0]; }

  // Output [b][m][c] by loops over one query, in double but for the softmax.
  std::vector<double> query(int64_t b, int64_t m) const {
    std::vector<float> logits(static_cast<size_t>(keys));
    for (int64_t n = 0; n < keys; ++n) {
      double sum = 0;
      for (int64_t d = 0; d < depth; ++d) {
        sum += real_of(code(q[static_cast<size_t>((b * queries + m) * depth + d)])) *
               real_of(code(k[static_cast<size_t>((b * keys + n) * depth + d)]));
      }
      logits[static_cast<size_t>(n)] =
          static_cast<float>(sum) + term[static_cast<size_t>(m * keys + n)];
    }
    const float most = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float x : logits) total += std::exp(static_cast<double>(x - most));
    const auto value = [&](int64_t n, int64_t c) {
      return real_of(code(v[static_cast<size_t>((b * keys + n) * values + c)]));
    };
    std::vector<double> out(static_cast<size_t>(values), 0.0);
    for (int64_t c = 0; c < values; ++c) {
      double mean = 0, sum = 0;
      for (int64_t n = 0; n < keys; ++n) mean += value(n, c) / static_cast<double>(keys);
      for (int64_t n = 0; n < keys; ++n) {
        const double e = std::exp(static_cast<double>(logits[static_cast<size_t>(n)] - most));
        if (per_row) {
          sum += real_of(code(static_cast<float>(e))) / total * (value(n, c) - mean);
        } else {
          sum += real_of(code(static_cast<float>(e / total))) * value(n, c);
        }
      }
      out[static_cast<size_t>(c)] = per_row ? sum + mean : sum;
    }
    return out;
  }
};

// A softmax that lies at a tie may fall to either side: a few outputs may be one step apart.
void test_against_loop(int threads) {
  Random random;
  for (const int bits : {1, 2, 4, 8, -1, -2, -4, -8}) {
    for (const int64_t keys : {1, 16, 33, 300}) {
      Problem p(3, 7, keys, 10, 5, std::abs(bits), random);
      p.per_row = bits < 0;
      std::vector<float> out(static_cast<size_t>(p.batch * p.queries * p.values));
      const bc_attention a = p.record(out.data());
      expect(bc_attend(&a, threads) == BC_OK, "attention runs");
      int apart = 0;
      for (int64_t b = 0; b < p.batch; ++b) {
        for (int64_t m = 0; m < p.queries; ++m) {
          const std::vector<double> wanted = p.query(b, m);
          for (int64_t c = 0; c < p.values; ++c) {
            const size_t at = static_cast<size_t>((b * p.queries + m) * p.values + c);
            const double size = static_cast<double>(keys) + std::fabs(wanted[static_cast<size_t>(c)]);
            apart += std::fabs(out[at] - wanted[static_cast<size_t>(c)]) > 1e-5 * size ? 1 : 0;
          }
        }
      }
      expect(apart <= 5, "attention of " + std::to_string(keys) + " keys at " +
                             std::to_string(bits) + " bits: " + std::to_string(apart) + " apart");
    }
  }
}

// A right operand that is stored turned gives what it gives when its rows lie side by side.
void test_turned() {
  Random random;
  const int64_t start = 0;
  for (const int64_t n : {2, 3, 7, 15, 16, 17, 40, 65}) {
    for (const int64_t k : {1, 4, 23, 60}) {
      for (const int bits : {2, 8, -2, -8}) {
        constexpr int64_t kRows = 3;
        const std::vector<float> a = reals(random, kRows * k, 0, 2), b = reals(random, n * k, -2, 2);
        std::vector<float> turned(b.size()), wanted(static_cast<size_t>(kRows * n)), got(wanted.size());
        for (int64_t i = 0; i < n * k; ++i)
          turned[static_cast<size_t>(i % k * n + i / k)] = b[static_cast<size_t>(i)];
        const float scale = bits < 0 ? 0.3f : 1.3f / static_cast<float>(1 << bits), offset = -0.5f;
        const bc_operand_grid grid{&scale, &offset, std::abs(bits)};
        bc_product p{1, kRows, n, k, {a.data(), &start, k, 1}, {b.data(), &start, k, 1}, grid, grid,
                     bits < 0 ? 1 : 0, nullptr, 0, 0};
        expect(bc_multiply(&p, wanted.data(), 1) == BC_OK, "a product runs");
        p.b = {turned.data(), &start, 1, n};
        expect(bc_multiply(&p, got.data(), 1) == BC_OK && got == wanted,
               "a turned operand of " + std::to_string(n) + " times " + std::to_string(k));
        const int64_t gap = 2, pitch = kRows + gap;
        std::vector<float> columns(static_cast<size_t>(n * pitch + 1), 7.0f);
        const int64_t second = 1;
        p.out_starts = &second, p.out_row = 1, p.out_column = pitch;
        bool same = bc_multiply(&p, columns.data(), 1) == BC_OK && columns[0] == 7.0f;
        for (int64_t i = 0; i < n * pitch; ++i) {
          const int64_t row = i % pitch;
          const float there = row < kRows ? wanted[static_cast<size_t>(row * n + i / pitch)] : 7.0f;
          same = same && columns[static_cast<size_t>(i + 1)] == there;
        }
        expect(same, "a result by columns of " + std::to_string(n) + " times " + std::to_string(k));
        p.out_row = 0;
        expect(bc_multiply(&p, columns.data(), 1) == BC_BAD_SHAPE, "rows of out overlap");
        p.out_row = 1, p.out_column = kRows - 1;
        expect((n == 1 ? BC_BAD_SHAPE : bc_multiply(&p, columns.data(), 1)) == BC_BAD_SHAPE,
               "columns of out overlap");
      }
    }
  }
}

// Rows found by tables, operands that are codes, outputs that are codes, and terms left out give what
// dense reals and all terms give.
void test_tables() {
  Random random;
  for (const int bits : {2, 5, 8}) {
    Problem p(3, 21, 37, 10, 5, bits, random);
    p.per_row = bits != 5;
    const int64_t size = p.batch * p.queries * p.values;
    std::vector<float> dense(static_cast<size_t>(size)), turned(dense.size(), 7.0f);
    bc_attention a = p.record(dense.data());
    p.as_term.matrices.row = 0;  // the same for all queries, which the tables turn around
    expect(bc_attend(&a, 1) == BC_OK, "dense attention runs");
    std::vector<int32_t> q_rows, out_rows;
    for (int64_t b = 0; b < p.batch; ++b) {
      for (int64_t r = p.queries - 1; r >= 0; --r) {
        q_rows.push_back(static_cast<int32_t>(r * p.depth));
        out_rows.push_back(static_cast<int32_t>(r * p.values));
      }
    }
    a.q.rows = q_rows.data(), a.out.rows = out_rows.data(), a.out.data = turned.data();
    std::vector<uint8_t> k_codes(p.k.size()), wanted(dense.size()), codes(dense.size());
    bc_encode(p.k.data(), {1, 1, static_cast<int64_t>(p.k.size())}, p.scales.data(),
              p.offsets.data(), bits, k_codes.data(), 1);
    a.k.data = k_codes.data(), a.k.codes = 1;
    expect(bc_attend(&a, 2) == BC_OK && turned == dense, "tables and codes change no bit");
    const float scale = 0.05f, offset = -0.8f;
    a.out.data = codes.data(), a.out.scale = &scale, a.out.offset = &offset, a.out.bits = bits;
    bc_encode(dense.data(), {1, 1, size}, &scale, &offset, bits, wanted.data(), 1);
    expect(bc_attend(&a, 1) == BC_OK && codes == wanted, "codes out are those of the reals");
  }
}

void test_terms_left_out() {
  Random random;
  Problem p(3, 20, 33, 6, 4, 4, random);
  std::fill(p.term.begin(), p.term.end(), 0.0f);
  std::vector<float> with(static_cast<size_t>(3 * 20 * 4)), without(with.size());
  bc_attention a = p.record(with.data());
  const uint8_t skip[3] = {1, 0, 1};
  expect(bc_attend(&a, 1) == BC_OK, "attention with zeros runs");
  p.as_term.skip = skip;
  p.as_term.matrices.row = 1, p.as_term.matrices.column = p.queries;  // zeros lie alike either way
  a.out.data = without.data();
  expect(bc_attend(&a, 1) == BC_OK && with == without, "zeros may be left out");
}

void test_reach() {
  Random random;
  Problem p(2, 3, 4, 5, 6, 2, random);
  std::vector<float> out(2 * 3 * 6);
  bc_attention a = p.record(out.data());
  int64_t reach[4];
  expect(bc_attention_reach(&a, reach) == BC_OK && reach[0] == 30 && reach[1] == 40 &&
             reach[2] == 48 && reach[3] == 36,
         "dense matrices reach their end");
  std::vector<int32_t> rows = {0, 5, 100, 0, 5, 10};
  a.q.rows = rows.data();
  expect(bc_attention_reach(&a, reach) == BC_OK && reach[0] == 105, "a table reaches its farthest");
  rows[4] = -20;
  expect(bc_attention_reach(&a, reach) == BC_BAD_SHAPE, "a place before the first element");
  a.heads = 3;
  expect(bc_attention_reach(&a, reach) == BC_BAD_SHAPE, "a table that does not fit the batch");
  a.heads = 1, a.q.rows = nullptr, p.v_starts[1] = INT64_MIN;
  expect(bc_attention_reach(&a, reach) == BC_BAD_SHAPE, "a start beyond all counting");
  expect(bc_attention_reach(nullptr, reach) == BC_BAD_ARGUMENT, "no record to reach from");
}

void test_powers() {
  std::vector<float> x, out;
  for (int i = 0; i <= 1270; ++i) x.push_back(-0.1f * static_cast<float>(i));
  out.resize(x.size());
  expect(bc_exp2(x.data(), static_cast<int64_t>(x.size()), out.data()) == BC_OK, "exp2 runs");
  bool near = true;
  for (size_t i = 0; i < x.size(); ++i) {
    const double wanted = std::exp2(std::max(-126.0, static_cast<double>(x[i])));
    near = near && std::fabs(out[i] / wanted - 1) < 2e-7;
  }
  expect(near, "exp2 is near");
}

void test_refusals() {
  Random random;
  Problem p(1, 2, 3, 4, 5, 2, random);
  float out[10] = {7};
  const auto status = [&](auto&& change) {
    bc_attention a = p.record(out);
    change(a);
    return bc_attend(&a, 1);
  };
  using A = bc_attention;
  const struct {
    const char* what;
    bc_status got, wanted;
  } cases[] = {
      {"no record", bc_attend(nullptr, 1), BC_BAD_ARGUMENT},
      {"negative", status([](A& a) { a.keys = -1; }), BC_BAD_SHAPE},
      {"huge", status([](A& a) { a.batch = INT64_MAX / 4; }), BC_BAD_SHAPE},
      {"no keys", status([](A& a) { a.keys = 0; }), BC_EMPTY},
      {"long", status([](A& a) { a.keys = INT32_MAX / 9 + 1; }), BC_OVERFLOW},
      {"no q", status([](A& a) { a.q.data = nullptr; }), BC_BAD_ARGUMENT},
      {"no starts", status([](A& a) { a.v.starts = nullptr; }), BC_BAD_ARGUMENT},
      {"no grid", status([](A& a) { a.p_grid.scale = nullptr; }), BC_BAD_ARGUMENT},
      {"bits", status([](A& a) { a.k_grid.bits = 9; }), BC_BAD_ARGUMENT},
      {"no terms", status([](A& a) { a.terms = nullptr; }), BC_BAD_ARGUMENT},
      {"no out", status([](A& a) { a.out.data = nullptr; }), BC_BAD_ARGUMENT},
      {"no heads", status([](A& a) { a.heads = 0; }), BC_BAD_SHAPE},
      {"rows of the result over each other", status([](A& a) { a.out.row = a.values - 1; }),
       BC_BAD_SHAPE},
      {"nothing to do", status([](A& a) { a.batch = 0; }), BC_OK},
  };
  for (const auto& c : cases) expect(c.got == c.wanted, std::string("refusal: ") + c.what);
  bc_attention endless = p.record(out);
  endless.depth = INT64_MAX;
  int64_t reach[4] = {};
  expect(bc_attention_reach(&endless, reach) == BC_BAD_SHAPE, "an endless reach");
  p.as_term.matrices.column = 2;
  expect(out[0] == 7, "a refusal touches nothing");
  expect(bc_exp2(nullptr, 1, out) == BC_BAD_ARGUMENT && bc_exp2(out, -1, out) == BC_BAD_SHAPE,
         "exp2 refuses");
}

}  // namespace

int main() {
  test_refusals();
  test_reach();
  for (const std::string& level : levels()) {
    bc_set_isa(level.c_str());
    test_powers();
    test_turned();
    test_tables();
    test_terms_left_out();
    test_against_loop(1);
    test_against_loop(3);
    std::printf("%-12s tested\n", level.c_str());
  }
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
