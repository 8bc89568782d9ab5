// The Python module bitcompress._native: checks arrays, lets go of the interpreter lock, calls the
// C interface.
//
// Any CPU array that speaks DLPack or the buffer protocol is taken (torch, NumPy); outputs are
// arrays of the caller. A wrong element type raises TypeError, a wrong shape or value ValueError.
// No arithmetic on data lives here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "bitcompress/bits.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace host;

bc_view view_of(const In& x) {
  const std::vector<int64_t> s = shape_of(x);
  return {s[0], s[1], s[2]};
}

// ---- Stored form --------------------------------------------------------------------------------

int64_t packed_bytes(int64_t n, int bits) {
  const int64_t bytes = bc_packed_bytes(n, bits);
  if (bytes < 0) refuse("packed_bytes: n must not be negative and bits must be 1 to 8");
  return bytes;
}

void pack(const In& codes, int bits, const Out& out, int threads) {
  const uint8_t* from = read_any<uint8_t>(codes, "codes", 1);
  const int64_t n = static_cast<int64_t>(codes.size()), bytes = packed_bytes(n, bits);
  uint8_t* to = write<uint8_t>(out, "out", {bytes});
  call("pack", [&] { return bc_pack(from, n, bits, to, bytes, threads); });
}

void unpack(const In& packed, int bits, int64_t n, const Out& out, int threads) {
  const int64_t bytes = packed_bytes(n, bits);
  const uint8_t* from = read<uint8_t>(packed, "packed", {bytes});
  uint8_t* to = write<uint8_t>(out, "out", {n});
  call("unpack", [&] { return bc_unpack(from, bytes, bits, n, to, threads); });
}

// ---- Real numbers and codes ---------------------------------------------------------------------

void encode(const In& x, const In& scale, const In& offset, int bits, const Out& out, int threads) {
  const float* reals = read_any<float>(x, "x", 3);
  const bc_view view = view_of(x);
  const float* scales = read<float>(scale, "scale", {view.groups});
  const float* offsets = read<float>(offset, "offset", {view.groups});
  uint8_t* to = write<uint8_t>(out, "out", shape_of(x));
  call("encode", [&] { return bc_encode(reals, view, scales, offsets, bits, to, threads); });
}

void fake_quantize(const In& x, const In& scale, const In& offset, int bits, const Out& out,
                   int threads) {
  const float* reals = read_any<float>(x, "x", 3);
  const bc_view view = view_of(x);
  const float* scales = read<float>(scale, "scale", {view.groups});
  const float* offsets = read<float>(offset, "offset", {view.groups});
  float* to = write<float>(out, "out", shape_of(x));
  call("fake_quantize",
       [&] { return bc_fake_quantize(reals, view, scales, offsets, bits, to, threads); });
}

void fake_quantize_backward(const In& x, const In& grad, const In& lo, const In& hi, int bits,
                            const Out& grad_x, const Out& grad_lo, const Out& grad_hi,
                            int threads) {
  const float* reals = read_any<float>(x, "x", 3);
  const bc_view view = view_of(x);
  const float* grads = read<float>(grad, "grad", shape_of(x));
  const float* low = read<float>(lo, "lo", {view.groups});
  const float* high = read<float>(hi, "hi", {view.groups});
  float* to = write<float>(grad_x, "grad_x", shape_of(x));
  float* to_low = write<float>(grad_lo, "grad_lo", {view.groups});
  float* to_high = write<float>(grad_hi, "grad_hi", {view.groups});
  call("fake_quantize_backward", [&] {
    return bc_fake_quantize_backward(reals, grads, view, low, high, bits, to, to_low, to_high,
                                     threads);
  });
}

void histogram(const In& x, const In& lo, const In& hi, const Out& counts, int threads) {
  const float* reals = read_any<float>(x, "x", 3);
  const bc_view view = view_of(x);
  const float* low = read<float>(lo, "lo", {view.groups});
  const float* high = read<float>(hi, "hi", {view.groups});
  check<int64_t>(counts, "counts", 2);
  const int64_t bins = static_cast<int64_t>(counts.shape(1));
  int64_t* to = write<int64_t>(counts, "counts", {view.groups, bins});
  call("histogram", [&] { return bc_histogram(reals, view, low, high, bins, to, threads); });
}

void minmax(const In& x, const Out& lo, const Out& hi, int threads) {
  const float* reals = read_any<float>(x, "x", 3);
  const bc_view view = view_of(x);
  float* low = write<float>(lo, "lo", {view.groups});
  float* high = write<float>(hi, "hi", {view.groups});
  call("minmax", [&] { return bc_minmax(reals, view, low, high, threads); });
}

// ---- Exact sums of codes ------------------------------------------------------------------------

void gemm_codes(const In& a, const In& b, const Out& out, int threads) {
  const uint8_t* left = read_any<uint8_t>(a, "a", 3);
  check<uint8_t>(b, "b", 3);
  const std::vector<int64_t> sa = shape_of(a), sb = shape_of(b);
  const uint8_t* right = read<uint8_t>(b, "b", {sa[0], sb[1], sa[2]});
  int32_t* to = write<int32_t>(out, "out", {sa[0], sa[1], sb[1]});
  call("gemm_codes",
       [&] { return bc_gemm_codes(left, right, sa[0], sa[1], sb[1], sa[2], to, threads); });
}

bc_conv2d geometry(const std::vector<int64_t>& x, int64_t channels, int64_t filters, Pair kernel,
                   Pair stride, Pair padding, Pair dilation, int64_t groups) {
  return {x[0],          x[1],           x[2],           channels,       filters,
          kernel.first,  kernel.second,  groups,         stride.first,   stride.second,
          padding.first, padding.second, dilation.first, dilation.second};
}

Pair out_size(const char* name, const bc_conv2d& conv) {
  Pair size{0, 0};
  const bc_status status = bc_conv2d_size(&conv, &size.first, &size.second);
  if (status != BC_OK) refuse(std::string(name) + ": " + bc_status_text(status));
  return size;
}

int64_t group_size(const char* name, int64_t channels, int64_t groups) {
  if (groups < 1 || channels % groups != 0) {
    refuse(std::string(name) + ": groups must divide the " + std::to_string(channels) +
           " channels");
  }
  return channels / groups;
}

void conv2d_codes(const In& x, const In& w, const Out& out, Pair stride, Pair padding,
                  Pair dilation, int64_t groups, int threads) {
  const uint8_t* codes = read_any<uint8_t>(x, "x", 4);
  check<uint8_t>(w, "w", 4);
  const std::vector<int64_t> sx = shape_of(x), sw = shape_of(w);
  const uint8_t* weights =
      read<uint8_t>(w, "w", {sw[0], sw[1], sw[2], group_size("conv2d_codes", sx[3], groups)});
  const bc_conv2d conv =
      geometry(sx, sx[3], sw[0], {sw[1], sw[2]}, stride, padding, dilation, groups);
  const Pair size = out_size("conv2d_codes", conv);
  int32_t* to = write<int32_t>(out, "out", {sx[0], size.first, size.second, sw[0]});
  call("conv2d_codes", [&] { return bc_conv2d_codes(&conv, codes, weights, to, threads); });
}

void conv2d_code_sums(const In& x, const Out& out, Pair kernel, Pair stride, Pair padding,
                      Pair dilation, int64_t groups, int threads) {
  const uint8_t* codes = read_any<uint8_t>(x, "x", 4);
  const std::vector<int64_t> sx = shape_of(x);
  const bc_conv2d conv = geometry(sx, sx[3], groups, kernel, stride, padding, dilation, groups);
  const Pair size = out_size("conv2d_code_sums", conv);
  int32_t* to = write<int32_t>(out, "out", {sx[0], size.first, size.second, groups});
  call("conv2d_code_sums", [&] { return bc_conv2d_code_sums(&conv, codes, to, threads); });
}

// ---- Products of reals held as codes
// --------------------------------------------------------------

// The grids of a product; the arrays stay with their owners.
bc_grids grids_of(int64_t batch, int64_t columns, const In& a_scale, const In& a_offset,
                  const In& w_scale, const In& w_offset, const std::optional<In>& bias) {
  bc_grids grids{};
  grids.a_scale = read<float>(a_scale, "the scale of the left operand", {batch});
  grids.a_offset = read<float>(a_offset, "the offset of the left operand", {batch});
  check<float>(w_scale, "the scale of the right operand", 2);
  grids.w_groups = static_cast<int64_t>(w_scale.shape(1));
  if (grids.w_groups != 1) grids.w_groups = columns;
  grids.w_scale = read<float>(w_scale, "the scale of the right operand", {batch, grids.w_groups});
  grids.w_offset =
      read<float>(w_offset, "the offset of the right operand", {batch, grids.w_groups});
  if (bias.has_value()) grids.bias = read<float>(*bias, "bias", {columns});
  return grids;
}

void gemm_reals(const In& a, const In& b, const In& a_scale, const In& a_offset, const In& b_scale,
                const In& b_offset, const std::optional<In>& bias, const Out& out, int threads) {
  const uint8_t* left = read_any<uint8_t>(a, "a", 3);
  check<uint8_t>(b, "b", 3);
  const std::vector<int64_t> sa = shape_of(a), sb = shape_of(b);
  const uint8_t* right = read<uint8_t>(b, "b", {sa[0], sb[1], sa[2]});
  const bc_grids grids = grids_of(sa[0], sb[1], a_scale, a_offset, b_scale, b_offset, bias);
  float* to = write<float>(out, "out", {sa[0], sa[1], sb[1]});
  call("gemm_reals",
       [&] { return bc_gemm_reals(left, right, sa[0], sa[1], sb[1], sa[2], &grids, to, threads); });
}

void conv2d_reals(const In& x, const In& w, const In& x_scale, const In& x_offset,
                  const In& w_scale, const In& w_offset, const std::optional<In>& bias,
                  const Out& out, Pair stride, Pair padding, Pair dilation, int64_t groups,
                  int threads) {
  const uint8_t* codes = read_any<uint8_t>(x, "x", 4);
  check<uint8_t>(w, "w", 4);
  const std::vector<int64_t> sx = shape_of(x), sw = shape_of(w);
  const int64_t each = group_size("conv2d_reals", sx[3], groups);
  const uint8_t* weights = read<uint8_t>(w, "w", {sw[0], sw[1], sw[2], each});
  const bc_conv2d conv =
      geometry(sx, sx[3], sw[0], {sw[1], sw[2]}, stride, padding, dilation, groups);
  const Pair size = out_size("conv2d_reals", conv);
  const bc_grids grids = grids_of(1, sw[0], x_scale, x_offset, w_scale, w_offset, bias);
  float* to = write<float>(out, "out", {sx[0], size.first, size.second, sw[0]});
  call("conv2d_reals", [&] { return bc_conv2d_reals(&conv, codes, weights, &grids, to, threads); });
}

void conv2d_floats(const In& x, const In& w, const std::optional<In>& bias, const Out& out,
                   Pair stride, Pair padding, Pair dilation, int threads) {
  const float* reals = read_any<float>(x, "x", 4);
  check<float>(w, "w", 4);
  const std::vector<int64_t> sx = shape_of(x), sw = shape_of(w);
  const float* weights = read<float>(w, "w", {sw[0], sw[1], sw[2], sx[3]});
  const float* biases = bias ? read<float>(*bias, "bias", {sw[0]}) : nullptr;
  const bc_conv2d conv = geometry(sx, sx[3], sw[0], {sw[1], sw[2]}, stride, padding, dilation, 1);
  const Pair size = out_size("conv2d_floats", conv);
  float* to = write<float>(out, "out", {sx[0], size.first, size.second, sw[0]});
  call("conv2d_floats",
       [&] { return bc_conv2d_floats(&conv, reals, weights, biases, to, threads); });
}

// ---- Bit planes ---------------------------------------------------------------------------------

int64_t plane_words(int64_t channels) {
  const int64_t words = bc_plane_words(channels);
  if (words < 0) refuse("plane_words: channels must not be negative");
  return words;
}

void pack_words(const In& codes, int bits, const Out& out, int threads) {
  const uint8_t* from = read_any<uint8_t>(codes, "codes", 2);
  const std::vector<int64_t> s = shape_of(codes);
  int32_t* to = write<int32_t>(out, "out", {bits, s[0], plane_words(s[1])});
  call("pack_words", [&] {
    return bc_pack_words(from, s[0], s[1], bits, reinterpret_cast<uint32_t*>(to), threads);
  });
}

void bit_conv2d(const In& x_words, const In& w_words, int64_t channels, const Out& out, Pair stride,
                Pair padding, Pair dilation, int64_t groups, int threads) {
  check<int32_t>(x_words, "x_words", 5);
  check<int32_t>(w_words, "w_words", 5);
  const std::vector<int64_t> sx = shape_of(x_words), sw = shape_of(w_words);
  const int64_t each = group_size("bit_conv2d", channels, groups);
  const int32_t* codes =
      read<int32_t>(x_words, "x_words", {sx[0], sx[1], sx[2], sx[3], plane_words(channels)});
  const int32_t* weights =
      read<int32_t>(w_words, "w_words", {sw[0], sw[1], sw[2], sw[3], plane_words(each)});
  const bc_conv2d conv = geometry({sx[1], sx[2], sx[3]}, channels, sw[1], {sw[2], sw[3]}, stride,
                                  padding, dilation, groups);
  const Pair size = out_size("bit_conv2d", conv);
  int32_t* to = write<int32_t>(out, "out", {sx[1], size.first, size.second, sw[1]});
  call("bit_conv2d", [&] {
    return bc_bit_conv2d(&conv, reinterpret_cast<const uint32_t*>(codes), static_cast<int>(sx[0]),
                         reinterpret_cast<const uint32_t*>(weights), static_cast<int>(sw[0]), to,
                         threads);
  });
}

// ---- Instruction sets ---------------------------------------------------------------------------

std::vector<std::string> isa_levels() {
  std::vector<std::string> levels;
  for (const char* name : {"scalar", "avx2", "avx512vnni", "avx512vbmi", "amx"}) {
    if (bc_isa_available(name)) levels.emplace_back(name);
  }
  return levels;
}

void set_isa(const std::string& name) {
  if (bc_set_isa(name.c_str()) != BC_OK)
    refuse("set_isa: " + name + ": " + bc_status_text(BC_UNAVAILABLE));
}

}  // namespace

NB_MODULE(_native, m) {
  const Pair one{1, 1}, zero{0, 0};
  m.doc() =
      "Compiled twins of the operators of bitcompress.packed; csrc/include/bitcompress/bits.h says "
      "what each gives.";
  m.def("isa", [] { return std::string(bc_isa()); }, "Name of the instruction set in use.");
  m.def("isa_levels", &isa_levels,
        "Names of the instruction sets that this CPU has, plainest first.");
  m.def("set_isa", &set_isa, "name"_a, "Uses this instruction set from now on.");
  m.def("packed_bytes", &packed_bytes, "n"_a, "bits"_a,
        "Bytes that n codes of so many bits take in the stored form.");
  m.def("pack", &pack, "codes"_a, "bits"_a, "out"_a, "threads"_a = 1,
        "Codes u8[n] to the stored form u8[packed_bytes].");
  m.def("unpack", &unpack, "packed"_a, "bits"_a, "n"_a, "out"_a, "threads"_a = 1,
        "The stored form back to codes u8[n].");
  m.def("encode", &encode, "x"_a, "scale"_a, "offset"_a, "bits"_a, "out"_a, "threads"_a = 1,
        "Reals f32[outer, groups, inner] to codes u8 of the same shape; scale and offset "
        "f32[groups].");
  m.def("fake_quantize", &fake_quantize, "x"_a, "scale"_a, "offset"_a, "bits"_a, "out"_a,
        "threads"_a = 1,
        "Reals f32[outer, groups, inner] to the nearest level, f32; out may be x.");
  m.def("fake_quantize_backward", &fake_quantize_backward, "x"_a, "grad"_a, "lo"_a, "hi"_a,
        "bits"_a, "grad_x"_a, "grad_lo"_a, "grad_hi"_a, "threads"_a = 1,
        "Straight-through gradients of fake_quantize for x, lo and hi.");
  m.def("histogram", &histogram, "x"_a, "lo"_a, "hi"_a, "counts"_a, "threads"_a = 1,
        "Adds the elements of f32[outer, groups, inner] to counts i64[groups, bins] between lo and "
        "hi.");
  m.def("minmax", &minmax, "x"_a, "lo"_a, "hi"_a, "threads"_a = 1,
        "Smallest and largest element of each group of f32[outer, groups, inner].");
  m.def("gemm_codes", &gemm_codes, "a"_a, "b"_a, "out"_a, "threads"_a = 1,
        "Exact out i32[B, M, N] = sum over k of a u8[B, M, K] * b u8[B, N, K].");
  m.def("conv2d_codes", &conv2d_codes, "x"_a, "w"_a, "out"_a, "stride"_a = one, "padding"_a = zero,
        "dilation"_a = one, "groups"_a = 1, "threads"_a = 1,
        "Exact convolution of x u8[N, H, W, C] with w u8[O, KH, KW, C / groups] to i32[N, OH, OW, "
        "O]; padding is code 0.");
  m.def("conv2d_code_sums", &conv2d_code_sums, "x"_a, "out"_a, "kernel"_a, "stride"_a = one,
        "padding"_a = zero, "dilation"_a = one, "groups"_a = 1, "threads"_a = 1,
        "Sum of the codes of x u8[N, H, W, C] under each place of the kernel: i32[N, OH, OW, "
        "groups].");
  m.def("gemm_reals", &gemm_reals, "a"_a, "b"_a, "a_scale"_a, "a_offset"_a, "b_scale"_a,
        "b_offset"_a, "bias"_a.none(), "out"_a, "threads"_a = 1,
        "Products of the reals behind codes a u8[B, M, K] and b u8[B, N, K] to f32[B, M, N]; grids "
        "f32[B] and f32[B, N] or [B, 1], bias f32[N] or None.");
  m.def("conv2d_reals", &conv2d_reals, "x"_a, "w"_a, "x_scale"_a, "x_offset"_a, "w_scale"_a,
        "w_offset"_a, "bias"_a.none(), "out"_a, "stride"_a = one, "padding"_a = zero,
        "dilation"_a = one, "groups"_a = 1, "threads"_a = 1,
        "Convolution of the reals behind codes x u8[N, H, W, C] and w u8[O, KH, KW, C / groups] to "
        "f32[N, OH, OW, O]; grids f32[1] and f32[1, O] or [1, 1], bias f32[O] or None.");
  m.def("conv2d_floats", &conv2d_floats, "x"_a, "w"_a, "bias"_a.none(), "out"_a,
        "stride"_a = one, "padding"_a = zero, "dilation"_a = one, "threads"_a = 1,
        "Convolution of x f32[N, H, W, C] and w f32[O, KH, KW, C] to f32[N, OH, OW, O], in the order "
        "of bits.h; bias f32[O] or None.");
  m.def("plane_words", &plane_words, "channels"_a,
        "32-bit words of one bit plane of so many channels.");
  m.def("pack_words", &pack_words, "codes"_a, "bits"_a, "out"_a, "threads"_a = 1,
        "Codes u8[rows, channels] to words of bit planes i32[bits, rows, plane_words].");
  m.def("bit_conv2d", &bit_conv2d, "x_words"_a, "w_words"_a, "channels"_a, "out"_a,
        "stride"_a = one, "padding"_a = zero, "dilation"_a = one, "groups"_a = 1, "threads"_a = 1,
        "conv2d_codes by AND and popcount on i32[x_bits, N, H, W, words] and i32[w_bits, O, KH, "
        "KW, words].");
  host::bind_attention(m);
  host::bind_bound_attention(m);
  host::bind_steps(m);
  host::bind_layer(m);
  bind_learn(m);
  host::bind_peak(m);
  host::bind_reals(m);
  host::bind_watch(m);
}
