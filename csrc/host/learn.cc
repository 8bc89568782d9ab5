// Training of binary blocks, in Python. A bfloat16 array comes as int16.
#include <nanobind/stl/optional.h>

#include <optional>

#include "arrays.h"
#include "bitcompress/learn.h"

namespace host {
namespace {

using namespace nb::literals;

// Rows of channels of one type or the other.
template <class Array>
bool is_half(const Array& array, const char* name) {
  const bool half = array.dtype() == nb::dtype<int16_t>();
  half ? check<int16_t>(array, name, 3) : check<float>(array, name, 3);
  return half;
}

template <class Array>
auto* typed(const Array& array, const char* name, const std::vector<int64_t>& shape, bool half) {
  if (is_half(array, name) != half)
    throw nb::type_error((std::string(name) + " must be of the type of the others").c_str());
  check_shape(array, name, shape);
  return array.data();
}

bc_learn size_of(const std::vector<int64_t>& s, bool half) {
  return {s[0], s[1], s[2], half ? 1 : 0};
}

const float* table(const In& array, int64_t kinds, const std::vector<int64_t>& s) {
  return read<float>(array, "tables", {s[0], kinds, s[2]});
}

float* sums_of(const Out& array, int64_t kinds, const std::vector<int64_t>& s) {
  return write<float>(array, "sums", {s[0], kinds, s[2]});
}

void learn_cut(const In& x, const In& theta, const Out& out, int threads) {
  const float* from = read_any<float>(x, "x", 3);
  const std::vector<int64_t> s = shape_of(x);
  const float* thetas = table(theta, 1, s);
  const bc_learn size = size_of(s, is_half(out, "out"));
  void* to = typed(out, "out", s, size.halves != 0);
  call("learn_cut", [&] { return bc_learn_cut(&size, from, thetas, to, threads); });
}

void learn_cut_back(const In& x, const In& grad, const In& tables, bool window, const Out& out,
                    const Out& sums, int threads) {
  const float* from = read_any<float>(x, "x", 3);
  const std::vector<int64_t> s = shape_of(x);
  const bc_learn size = size_of(s, is_half(grad, "grad"));
  const void* grads = typed(grad, "grad", s, size.halves != 0);
  const float* all = table(tables, 2, s);
  float *to = write<float>(out, "out", s), *totals = sums_of(sums, 1, s);
  call("learn_cut_back", [&] {
    return bc_learn_cut_back(&size, from, grads, all, window ? 1 : 0, to, totals, threads);
  });
}

void learn_moments(const In& p, const Out& sums, int threads) {
  const bool half = is_half(p, "p");
  const std::vector<int64_t> s = shape_of(p);
  const bc_learn size = size_of(s, half);
  float* totals = sums_of(sums, 2, s);
  call("learn_moments", [&] { return bc_learn_moments(&size, p.data(), totals, threads); });
}

void learn_tail(const In& p, const In& tables, const std::optional<In>& beside, bool behind,
                const Out& out, int threads) {
  const bool half = is_half(p, "p");
  const std::vector<int64_t> s = shape_of(p);
  const bc_learn size = size_of(s, half);
  const float* all = table(tables, 4, s);
  const float* other = beside ? read<float>(*beside, "beside", s) : nullptr;
  float* to = write<float>(out, "out", s);
  call("learn_tail", [&] {
    return bc_learn_tail(&size, p.data(), all, other, behind ? 1 : 0, to, threads);
  });
}

void learn_tail_back(const In& p, const In& tables, const std::optional<In>& beside,
                     const In& grad, const std::optional<Out>& to_v, const std::optional<Out>& to_p,
                     const Out& sums, int threads) {
  const bool half = is_half(p, "p");
  const std::vector<int64_t> s = shape_of(p);
  const bc_learn size = size_of(s, half);
  const float *all = table(tables, 4, s), *grads = read<float>(grad, "grad", s);
  const float* other = beside ? read<float>(*beside, "beside", s) : nullptr;
  float* v = to_v ? write<float>(*to_v, "to_v", s) : nullptr;
  void* back = to_p ? typed(*to_p, "to_p", s, half) : nullptr;
  float* totals = sums_of(sums, 4, s);
  call("learn_tail_back", [&] {
    return bc_learn_tail_back(&size, p.data(), all, other, grads, v, back, totals, threads);
  });
}

void learn_norm_back(const In& to_v, const In& p, const In& tables, const Out& out, int threads) {
  const bool half = is_half(p, "p");
  const std::vector<int64_t> s = shape_of(p);
  const bc_learn size = size_of(s, half);
  const float *v = read<float>(to_v, "to_v", s), *all = table(tables, 3, s);
  void* to = typed(out, "out", s, half);
  call("learn_norm_back",
       [&] { return bc_learn_norm_back(&size, v, p.data(), all, to, threads); });
}

}  // namespace

void bind_learn(nb::module_& m) {
  m.def("learn_cut", &learn_cut, "x"_a, "theta"_a, "out"_a, "threads"_a,
        "1 where x >= theta, else -1.");
  m.def("learn_cut_back", &learn_cut_back, "x"_a, "grad"_a, "tables"_a, "window"_a, "out"_a,
        "sums"_a, "threads"_a, "The surrogate gradient of a sign.");
  m.def("learn_moments", &learn_moments, "p"_a, "sums"_a, "threads"_a,
        "Sums of numbers and of their squares.");
  m.def("learn_tail", &learn_tail, "p"_a, "tables"_a, "beside"_a.none(), "behind"_a, "out"_a,
        "threads"_a, "Factor, shift, what is beside, activation.");
  m.def("learn_tail_back", &learn_tail_back, "p"_a, "tables"_a, "beside"_a.none(), "grad"_a,
        "to_v"_a.none(), "to_p"_a.none(), "sums"_a, "threads"_a, "The gradients of learn_tail.");
  m.def("learn_norm_back", &learn_norm_back, "to_v"_a, "p"_a, "tables"_a, "out"_a, "threads"_a,
        "The gradient of a norm of its batch.");
}

}  // namespace host
