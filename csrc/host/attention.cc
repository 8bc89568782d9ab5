// Attention on codes for Python: strided arrays become batches of matrices.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <array>

#include "arrays.h"

namespace host {
namespace {

using Strided = nb::ndarray<nb::ro>;

// An array of reals in CPU memory of any strides.
void check_reals(const Strided& array, const char* name) {
  const std::string who = name;
  if (array.device_type() != nb::device::cpu::value)
    throw nb::type_error((who + " must lie in CPU memory").c_str());
  if (array.dtype() != nb::dtype<float>())
    throw nb::type_error((who + " must have elements of type float32").c_str());
}

// The matrices of an array whose last two axes are theirs; `starts` keeps where each begins.
bc_matrices matrices(const Strided& array, std::vector<int64_t>& starts) {
  const size_t lead = array.ndim() - 2;
  starts.assign(1, 0);
  for (size_t axis = 0; axis < lead; ++axis) {
    std::vector<int64_t> finer;
    for (const int64_t start : starts) {
      for (size_t i = 0; i < array.shape(axis); ++i)
        finer.push_back(start + static_cast<int64_t>(i) * array.stride(axis));
    }
    starts.swap(finer);
  }
  // The step along an axis of one element means nothing and may be any number.
  const int64_t column = array.shape(lead + 1) == 1 ? 1 : array.stride(lead + 1);
  return {static_cast<const float*>(array.data()), starts.data(), array.stride(lead), column};
}

bc_matrices factor(const Strided& array, const char* name, const std::vector<int64_t>& shape,
                   std::vector<int64_t>& starts) {
  check_reals(array, name);
  check_shape(array, name, shape);
  return matrices(array, starts);
}

bc_operand operand(const Strided& array, const char* name, const std::vector<int64_t>& shape,
                   std::vector<int64_t>& starts) {
  const bc_matrices m = factor(array, name, shape, starts);
  return {m.data, 0, m.starts, m.row, m.column, nullptr};
}

using Grid = std::pair<In, In>;

bc_operand_grid grid_of(const Grid& grid, const char* name, int64_t batch, int bits) {
  return {read<float>(grid.first, name, {batch}), read<float>(grid.second, name, {batch}), bits};
}

void attend(const Strided& q, const Strided& k, const Strided& v, const std::vector<Grid>& grids,
            const std::vector<int>& bits, const std::vector<std::pair<Strided, bool>>& terms,
            const Out& out, int threads, bool per_row) {
  if (q.ndim() != 3 || k.ndim() != 3 || v.ndim() != 3) refuse("q, k and v must have 3 axes");
  if (grids.size() != 4 || bits.size() != 4) refuse("attend takes four grids and four widths");
  const std::vector<int64_t> sq = shape_of(q), sv = shape_of(v);
  bc_attention a{};
  a.batch = sq[0], a.queries = sq[1], a.depth = sq[2], a.keys = sv[1], a.values = sv[2];
  std::array<std::vector<int64_t>, 3> starts;
  a.q = operand(q, "q", {a.batch, a.queries, a.depth}, starts[0]);
  a.k = operand(k, "k", {a.batch, a.keys, a.depth}, starts[1]);
  a.v = operand(v, "v", {a.batch, a.keys, a.values}, starts[2]);
  a.q_grid = grid_of(grids[0], "the grid of q", a.batch, bits[0]);
  a.k_grid = grid_of(grids[1], "the grid of k", a.batch, bits[1]);
  a.p_grid = grid_of(grids[2], "the grid of the softmax", a.batch, bits[2]);
  a.v_grid = grid_of(grids[3], "the grid of v", a.batch, bits[3]);
  std::vector<bc_term> all;
  std::vector<std::vector<int64_t>> term_starts(terms.size());
  for (size_t t = 0; t < terms.size(); ++t) {
    const Strided& term = terms[t].first;
    check_reals(term, "a term");
    const size_t axes = term.ndim();
    if (axes < 2 || static_cast<int64_t>(term.shape(axes - 2)) != a.queries ||
        static_cast<int64_t>(term.shape(axes - 1)) != a.keys)
      refuse("a term must end in the axes of queries and keys");
    all.push_back({matrices(term, term_starts[t]), terms[t].second ? 1 : 0, nullptr});
    if (static_cast<int64_t>(term_starts[t].size()) != a.batch)
      refuse("a term must have as many matrices as q");
  }
  a.heads = 1, a.q_factor = 1.0f;
  a.per_row = per_row ? 1 : 0;
  a.terms = all.data(), a.term_count = static_cast<int64_t>(all.size());
  std::vector<int64_t> out_starts;
  for (int64_t b = 0; b < a.batch; ++b) out_starts.push_back(b * a.queries * a.values);
  a.out.data = write<float>(out, "out", {a.batch, a.queries, a.values});
  a.out.starts = out_starts.data(), a.out.row = a.values;
  call("attend", [&] { return bc_attend(&a, threads); });
}

// A product whose operands and result have been found in memory; arrays of it are kept alive.
class Multiplied {
 public:
  // a [..., M, K], b [..., N, K], out [..., M, N], of any strides.
  Multiplied(const Strided& a, const Strided& b, const Grid& a_grid, const Grid& b_grid,
             std::pair<int, int> bits, const Out& out, bool per_row)
      : a_(a), b_(b), a_grid_(a_grid), b_grid_(b_grid), out_(out) {
    if (a.ndim() < 3 || b.ndim() < 3) refuse("a and b must have 3 axes or more");
    std::vector<int64_t> shape = shape_of(a);
    p_.k = shape.back(), shape.pop_back();
    p_.m = shape.back(), shape.pop_back();
    p_.n = static_cast<int64_t>(b.shape(b.ndim() - 2));
    p_.batch = 1;
    for (const int64_t size : shape) p_.batch *= size;
    const auto with = [&](int64_t rows, int64_t columns) {
      std::vector<int64_t> whole = shape;
      whole.push_back(rows), whole.push_back(columns);
      return whole;
    };
    p_.a = factor(a, "a", with(p_.m, p_.k), starts_[0]);
    p_.b = factor(b, "b", with(p_.n, p_.k), starts_[1]);
    const bc_matrices to = factor(Strided(out), "out", with(p_.m, p_.n), starts_[2]);
    p_.a_grid = grid_of(a_grid, "the grid of a", p_.batch, bits.first);
    p_.b_grid = grid_of(b_grid, "the grid of b", p_.batch, bits.second);
    p_.per_row = per_row ? 1 : 0;
    p_.out_starts = to.starts, p_.out_row = to.row, p_.out_column = to.column;
  }
  Multiplied(const Multiplied&) = delete;

  void run(int threads) const {
    float* out = static_cast<float*>(out_.data());
    call("multiply", [&] { return bc_multiply(&p_, out, threads); });
  }

 private:
  Strided a_, b_;
  Grid a_grid_, b_grid_;
  Out out_;
  bc_product p_{};
  std::array<std::vector<int64_t>, 3> starts_;
};

void multiply(const Strided& a, const Strided& b, const Grid& a_grid, const Grid& b_grid,
              std::pair<int, int> bits, const Out& out, int threads, bool per_row) {
  Multiplied(a, b, a_grid, b_grid, bits, out, per_row).run(threads);
}

void exp2(const In& x, const Out& out) {
  const float* reals = read_any<float>(x, "x", 1);
  float* to = write<float>(out, "out", shape_of(x));
  call("exp2", [&] { return bc_exp2(reals, static_cast<int64_t>(x.size()), to); });
}

}  // namespace

void bind_attention(nb::module_& m) {
  using namespace nb::literals;
  m.def("attend", &attend, "q"_a, "k"_a, "v"_a, "grids"_a, "bits"_a, "terms"_a,
        "out"_a, "threads"_a = 1, "per_row"_a = false,
        "softmax(terms(q k^T)) v on codes: f32[B, M, K], [B, N, K], [B, N, V] of any strides to "
        "out f32[B, M, V]. grids and bits of q, k, the softmax and v: (scale, offset) f32[B] each. "
        "terms: (f32[..., M, N], whether to multiply), leading axes as many as B. per_row: whether "
        "the softmax is cut relative to the largest of its row.");
  m.def("multiply", &multiply, "a"_a, "b"_a, "a_grid"_a, "b_grid"_a, "bits"_a,
        "out"_a, "threads"_a = 1, "per_row"_a = false,
        "a b^T on codes: f32[..., M, K] and [..., N, K] of any strides to out f32[..., M, N], whose "
        "rows or columns are dense; grids (scale, offset) f32[B] each, B the matrices. per_row: "
        "whether a is cut relative to the largest of its row.");
  nb::class_<Multiplied>(m, "Multiply", "multiply on memory that is given once.")
      .def(nb::init<const Strided&, const Strided&, const Grid&, const Grid&, std::pair<int, int>,
                    const Out&, bool>(),
           "a"_a, "b"_a, "a_grid"_a, "b_grid"_a, "bits"_a, "out"_a, "per_row"_a = false)
      .def("run", &Multiplied::run, "threads"_a = 1);
  m.def("exp2", &exp2, "x"_a, "out"_a, "2^x of f32[n] up to 0, by the polynomial of bits.h.");
}

}  // namespace host
