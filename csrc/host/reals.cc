// Layer norm, GELU and sigmoid in Python.
#include <nanobind/stl/optional.h>

#include <optional>

#include "arrays.h"

namespace host {
namespace {

void layer_norm(const In& x, const std::optional<In>& gain, const std::optional<In>& shift,
                float eps, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 2);
  const std::vector<int64_t> shape = shape_of(x);
  const float* gains = gain ? read<float>(*gain, "gain", {shape[1]}) : nullptr;
  const float* shifts = shift ? read<float>(*shift, "shift", {shape[1]}) : nullptr;
  float* to = write<float>(out, "out", shape);
  call("layer_norm", [&] {
    return bc_layer_norm(reals, shape[0], shape[1], shape[1], gains, shifts, eps, to, shape[1],
                         threads);
  });
}

void gelu(const In& x, bool tanh_form, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 1);
  float* to = write<float>(out, "out", shape_of(x));
  const int64_t n = static_cast<int64_t>(x.size());
  call("gelu", [&] { return bc_gelu(reals, n, tanh_form ? 1 : 0, to, threads); });
}

void sigmoid(const In& x, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 1);
  float* to = write<float>(out, "out", shape_of(x));
  const int64_t n = static_cast<int64_t>(x.size());
  call("sigmoid", [&] { return bc_sigmoid(reals, n, to, threads); });
}

void silu(const In& x, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 1);
  float* to = write<float>(out, "out", shape_of(x));
  const int64_t n = static_cast<int64_t>(x.size());
  call("silu", [&] { return bc_silu(reals, n, to, threads); });
}

}  // namespace

void bind_reals(nb::module_& m) {
  using namespace nb::literals;
  m.def("layer_norm", &layer_norm, "x"_a, "gain"_a.none(), "shift"_a.none(), "eps"_a, "out"_a,
        "threads"_a = 1,
        "Layer norm of each row of f32[rows, n]; gain and shift f32[n] or None. out may be x.");
  m.def("gelu", &gelu, "x"_a, "tanh_form"_a, "out"_a, "threads"_a = 1,
        "GELU of f32[n], by the polynomials of bits.h. out may be x.");
  m.def("sigmoid", &sigmoid, "x"_a, "out"_a, "threads"_a = 1,
        "1 / (1 + e^-x) of f32[n], by bc_exp2's polynomial. out may be x.");
  m.def("silu", &silu, "x"_a, "out"_a, "threads"_a = 1, "x times its sigmoid. out may be x.");
}

}  // namespace host
