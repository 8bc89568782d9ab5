// Attention whose sizes, tables, grids and terms are given once; a run names its tensors alone.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <tuple>

#include "arrays.h"

namespace host {
namespace {

using Grid = std::pair<In, In>;
using Places = std::pair<In, In>;
using Term = std::tuple<In, In, std::optional<In>, bool>;
using OutGrid = std::tuple<In, In, int>;

template <class T>
std::vector<T> copied(const In& array, const char* name, const std::vector<int64_t>& shape) {
  const T* from = read<T>(array, name, shape);
  return std::vector<T>(from, from + array.size());
}

class Attention {
 public:
  Attention(int64_t depth, int64_t values, const std::vector<Places>& places,
            const std::vector<Grid>& grids, const std::vector<int>& bits, float factor,
            const std::vector<Term>& terms, const std::optional<OutGrid>& out_grid, bool per_row) {
    if (places.size() != 4) refuse("Attention takes the places of q, k, v and out");
    if (grids.size() != 4 || bits.size() != 4) refuse("Attention takes four grids and four widths");
    a_.depth = depth, a_.values = values, a_.q_factor = factor, a_.per_row = per_row ? 1 : 0;
    check<int64_t>(places[0].first, "starts", 1);
    a_.batch = static_cast<int64_t>(places[0].first.shape(0));
    for (size_t i = 0; i < 4; ++i) hold_places(i, places[i]);
    hold_grids(grids, bits);
    for (const Term& term : terms) hold_term(term);
    for (size_t t = 0; t < terms_.size(); ++t) {
      const Held& held = terms_[t];
      records_.push_back({{held.data.data(), held.starts.data(), 1, a_.queries}, held.multiply,
                          held.skip.empty() ? nullptr : held.skip.data()});
    }
    a_.terms = records_.data(), a_.term_count = static_cast<int64_t>(records_.size());
    if (out_grid.has_value()) hold_out_grid(*out_grid);
    const bc_status status = bc_attention_reach(&a_, reach_.data());
    if (status != BC_OK) refuse(std::string("Attention: places: ") + bc_status_text(status));
  }
  Attention(const Attention&) = delete;

  void run(const In& q, const In& k, const In& v, const Out& out, int threads) const {
    bc_attention a = a_;
    a.q.data = elements(q, "q", reach_[0], &a.q.codes);
    a.k.data = elements(k, "k", reach_[1], &a.k.codes);
    a.v.data = elements(v, "v", reach_[2], &a.v.codes);
    int codes = 0;
    a.out.data = const_cast<void*>(elements(out, "out", reach_[3], &codes));
    if ((codes != 0) != (a.out.scale != nullptr))
      refuse("out must be uint8 where it has a grid, and float32 where not");
    call("Attention", [&] { return bc_attend(&a, threads); });
  }

 private:
  struct Held {
    std::vector<float> data;
    std::vector<int64_t> starts;
    std::vector<uint8_t> skip;
    int multiply;
  };

  // Data of a dense tensor that is large enough, and whether it holds codes.
  template <class Array>
  static const void* elements(const Array& array, const char* name, int64_t reach, int* codes) {
    *codes = array.dtype() == nb::dtype<uint8_t>() ? 1 : 0;
    if (array.device_type() != nb::device::cpu::value)
      throw nb::type_error((std::string(name) + " must lie in CPU memory").c_str());
    if (*codes == 0 && array.dtype() != nb::dtype<float>())
      throw nb::type_error((std::string(name) + " must be float32 or uint8").c_str());
    if (!is_dense(array)) refuse(std::string(name) + " must be contiguous");
    if (static_cast<int64_t>(array.size()) < reach)
      refuse(std::string(name) + " has " + std::to_string(array.size()) +
             " elements, and the places reach " + std::to_string(reach));
    return array.data();
  }

  // starts i64[batch], rows i32[batch / heads, rows]
  void hold_places(size_t i, const Places& places) {
    starts_[i] = copied<int64_t>(places.first, "starts", {a_.batch});
    check<int32_t>(places.second, "rows", 2);
    const std::vector<int64_t> shape = shape_of(places.second);
    rows_[i] = copied<int32_t>(places.second, "rows", shape);
    if (i == 0) {
      if (shape[0] == 0 ? a_.batch != 0 : a_.batch % shape[0] != 0)
        refuse("the rows of q must have a line for each window of the batch");
      a_.heads = shape[0] == 0 ? 1 : std::max<int64_t>(1, a_.batch / shape[0]);
      a_.queries = shape[1];
    }
    if (i == 1) a_.keys = shape[1];
    const int64_t wanted = i == 1 || i == 2 ? a_.keys : a_.queries;
    if (shape[0] * a_.heads != a_.batch || shape[1] != wanted)
      refuse("the rows of q and out, and those of k and v, must have the same shapes, with as many "
             "lines as there are windows");
    if (i == 3) {
      a_.out.starts = starts_[3].data(), a_.out.rows = rows_[3].data();
      return;
    }
    bc_operand& to = i == 0 ? a_.q : i == 1 ? a_.k : a_.v;
    to.starts = starts_[i].data(), to.rows = rows_[i].data(), to.column = 1;
  }

  void hold_grids(const std::vector<Grid>& grids, const std::vector<int>& bits) {
    bc_operand_grid* const to[] = {&a_.q_grid, &a_.k_grid, &a_.p_grid, &a_.v_grid};
    for (size_t i = 0; i < 4; ++i) {
      grids_[2 * i] = copied<float>(grids[i].first, "a scale", {a_.batch});
      grids_[2 * i + 1] = copied<float>(grids[i].second, "an offset", {a_.batch});
      *to[i] = {grids_[2 * i].data(), grids_[2 * i + 1].data(), bits[i]};
    }
  }

  // data f32[matrices, queries, keys], which i64[batch] (the matrix of each of the batch), skip
  // u8[batch].
  void hold_term(const Term& term) {
    const auto& [data, which, skip, multiply] = term;
    check<float>(data, "a term", 3);
    const int64_t matrices = static_cast<int64_t>(data.shape(0));
    Held held;
    held.data = turned(read<float>(data, "a term", {matrices, a_.queries, a_.keys}), matrices);
    held.starts = copied<int64_t>(which, "the matrices of a term", {a_.batch});
    for (int64_t& start : held.starts) {
      if (start < 0 || start >= matrices) refuse("a term has no such matrix");
      start *= a_.queries * a_.keys;
    }
    if (skip.has_value()) held.skip = copied<uint8_t>(*skip, "skip", {a_.batch});
    held.multiply = multiply ? 1 : 0;
    terms_.push_back(std::move(held));
  }

  // [matrices][keys][queries]: the kernel reads a term key by key.
  std::vector<float> turned(const float* from, int64_t matrices) const {
    const int64_t size = a_.queries * a_.keys;
    std::vector<float> to(static_cast<size_t>(matrices * size));
    for (int64_t m = 0; m < matrices; ++m, from += size) {
      for (int64_t i = 0; i < a_.queries; ++i) {
        for (int64_t j = 0; j < a_.keys; ++j)
          to[static_cast<size_t>(m * size + j * a_.queries + i)] = from[i * a_.keys + j];
      }
    }
    return to;
  }

  void hold_out_grid(const OutGrid& grid) {
    const auto& [scale, offset, bits] = grid;
    check<float>(scale, "the scale of out", 1);
    a_.out.groups = static_cast<int64_t>(scale.shape(0));
    out_scale_ = copied<float>(scale, "the scale of out", {a_.out.groups});
    out_offset_ = copied<float>(offset, "the offset of out", {a_.out.groups});
    a_.out.scale = out_scale_.data(), a_.out.offset = out_offset_.data(), a_.out.bits = bits;
  }

  bc_attention a_{};
  std::array<std::vector<int64_t>, 4> starts_;
  std::array<std::vector<int32_t>, 4> rows_;
  std::array<std::vector<float>, 8> grids_;
  std::vector<Held> terms_;
  std::vector<bc_term> records_;
  std::vector<float> out_scale_, out_offset_;
  std::array<int64_t, 4> reach_{};
};

}  // namespace

void bind_bound_attention(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<Attention>(
      m, "Attention",
      "attend with everything but the tensors given once. places of q, k, v and out: (starts "
      "i64[B], rows i32[W, R]); row r of matrix b begins at element starts[b] + rows[b // (B / W), "
      "r], its columns side by side. grids and bits of q, k, the softmax and v: (scale, offset) "
      "f32[B] each. factor: of the reals of q. terms: (f32[T, M, N], which i64[B], skip u8[B] or "
      "None, whether to multiply). out_grid: (scale, offset) f32[1] or f32[channels] and bits, for "
      "codes in place of reals.")
      .def(nb::init<int64_t, int64_t, const std::vector<Places>&, const std::vector<Grid>&,
                    const std::vector<int>&, float, const std::vector<Term>&,
                    const std::optional<OutGrid>&, bool>(),
           "depth"_a, "values"_a, "places"_a, "grids"_a, "bits"_a, "factor"_a, "terms"_a,
           "out_grid"_a.none(), "per_row"_a)
      .def("run", &Attention::run, "q"_a, "k"_a, "v"_a, "out"_a, "threads"_a = 1,
           "Dense tensors of any shape: q, k and v f32, or u8 where they are codes already.");
}

}  // namespace host
