// Layer norm, GELU and others of reals, in Python.
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

// Matrices whose rows are dense, at any distance from each other.
template <class Array>
void check_matrices(const Array& array, const char* name) {
  if (array.device_type() != nb::device::cpu::value || array.dtype() != nb::dtype<float>())
    throw nb::type_error((std::string(name) + " must be float32 in CPU memory").c_str());
  if (array.ndim() != 3) refuse(std::string(name) + " must have 3 axes");
  if (array.shape(2) > 1 && array.stride(2) != 1)
    refuse(std::string(name) + " must have dense rows");
}

// The distance of places on an axis; that of a single one is never used.
template <class Array>
int64_t distance(const Array& array, size_t axis, int64_t least) {
  return array.shape(axis) > 1 ? array.stride(axis) : least;
}

void unit(const In& x, bool by_column, float least, const Out& out, int threads) {
  check_matrices(x, "x");
  check_matrices(out, "out");
  const std::vector<int64_t> s = shape_of(x);
  check_shape(out, "out", s);
  const int64_t pitch = distance(x, 1, s[2]), out_pitch = distance(out, 1, s[2]);
  const int64_t next = distance(x, 0, 0), out_next = distance(out, 0, 0);
  const float* from = static_cast<const float*>(x.data());
  float* to = static_cast<float*>(out.data());
  call("unit", [&] {
    return bc_unit(from, s[0], s[1], s[2], next, pitch, by_column ? 1 : 0, least, to, out_next,
                   out_pitch, threads);
  });
}

void turn(const In& x, const Out& out, int threads) {
  check_matrices(x, "x");
  check_matrices(out, "out");
  const std::vector<int64_t> s = shape_of(x);
  check_shape(out, "out", {s[0], s[2], s[1]});
  const float* from = static_cast<const float*>(x.data());
  float* to = static_cast<float*>(out.data());
  call("turn", [&] {
    return bc_turn(from, s[0], s[1], s[2], distance(x, 0, 0), distance(x, 1, s[2]), to,
                   distance(out, 0, 0), distance(out, 1, s[1]), threads);
  });
}

// f32[images, C, pixels] in either order: dense, or with channels side by side.
bc_pixels pixels_of(const In& x) {
  if (x.device_type() != nb::device::cpu::value || x.dtype() != nb::dtype<float>())
    throw nb::type_error("x must be float32 in CPU memory");
  if (x.ndim() != 3) refuse("x must have 3 axes");
  const std::vector<int64_t> s = shape_of(x);
  bc_pixels p{static_cast<const float*>(x.data()), s[0], s[2], s[1], BC_CHANNELS_FIRST, 0};
  const int64_t next = distance(x, 0, s[1] * s[2]);
  const bool dense = distance(x, 2, 1) == 1 && distance(x, 1, s[2]) == s[2];
  if (dense && next == s[1] * s[2]) return p;
  p.order = BC_CHANNELS_LAST, p.pitch = distance(x, 2, s[1]);
  if (distance(x, 1, 1) != 1 || p.pitch < s[1] || distance(x, 0, s[2] * p.pitch) != s[2] * p.pitch)
    refuse("x must be dense, or have its channels side by side");
  return p;
}

void pixel_sums(const In& x, const std::optional<In>& from, const std::optional<Out>& sums,
                const std::optional<Out>& sizes, const std::optional<Out>& squares, int threads) {
  const bc_pixels p = pixels_of(x);
  const std::vector<int64_t> s = {p.images, p.channels};
  const float* start = from ? read<float>(*from, "from", s) : nullptr;
  float* to[3] = {sums ? write<float>(*sums, "sums", s) : nullptr,
                  sizes ? write<float>(*sizes, "sizes", s) : nullptr,
                  squares ? write<float>(*squares, "squares", s) : nullptr};
  call("pixel_sums", [&] { return bc_pixel_sums(&p, start, to[0], to[1], to[2], threads); });
}

void group_scales(const In& x, int64_t groups, const std::optional<In>& gain,
                  const std::optional<In>& shift, double eps, const Out& scale, const Out& offset,
                  int threads) {
  const bc_pixels p = pixels_of(x);
  const std::vector<int64_t> s = {p.images, p.channels};
  const float* gains = gain ? read<float>(*gain, "gain", {p.channels}) : nullptr;
  const float* shifts = shift ? read<float>(*shift, "shift", {p.channels}) : nullptr;
  float *scales = write<float>(scale, "scale", s), *offsets = write<float>(offset, "offset", s);
  call("group_scales", [&] {
    return bc_group_scales(&p, groups, gains, shifts, eps, scales, offsets, threads);
  });
}

void softmax_codes(const In& x, float scale, float offset, int bits, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 2);
  const std::vector<int64_t> s = shape_of(x);
  uint8_t* to = write<uint8_t>(out, "out", s);
  call("softmax_codes", [&] {
    return bc_softmax_codes(reals, s[0], s[1], scale, offset, bits, to, threads);
  });
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
  m.def("unit", &unit, "x"_a, "by_column"_a, "least"_a, "out"_a, "threads"_a = 1,
        "Rows or columns of f32[count, rows, columns] divided by their length, at least `least`; "
        "columns lie side by side, all else at any distance.");
  m.def("turn", &turn, "x"_a, "out"_a, "threads"_a = 1,
        "f32[count, rows, columns] to out f32[count, columns, rows]: rows become columns; rows are "
        "dense, at any distance. x and out do not overlap.");
  m.def("softmax_codes", &softmax_codes, "x"_a, "scale"_a, "offset"_a, "bits"_a, "out"_a,
        "threads"_a = 1, "Codes u8 of the softmax of each row of f32[rows, n].");
  m.def("pixel_sums", &pixel_sums, "x"_a, "from_"_a.none(), "sums"_a.none(), "sizes"_a.none(),
        "squares"_a.none(), "threads"_a = 1,
        "Sums of d = x - from, |d| and d d over the pixels of f32[images, C, pixels], each to "
        "f32[images, C] or None; channels or pixels lie side by side.");
  m.def("group_scales", &group_scales, "x"_a, "groups"_a, "gain"_a.none(), "shift"_a.none(),
        "eps"_a, "scale"_a, "offset"_a, "threads"_a = 1,
        "What makes x * scale + offset the group norm of f32[images, C, pixels], to f32[images, C].");
  m.def("silu", &silu, "x"_a, "out"_a, "threads"_a = 1, "x times its sigmoid. out may be x.");
}

}  // namespace host
