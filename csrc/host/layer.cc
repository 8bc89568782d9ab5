// Layers for Python: weights made ready once; a run takes arrays of reals.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>

#include "arrays.h"

namespace host {
namespace {

class Layer {
 public:
  Layer(const In& w, const In& cut_scale, const In& cut_offset, int bits, const In& x_scale,
        const In& x_offset, int w_bits, const In& w_scale, const In& w_offset,
        const std::optional<In>& bias, Pair stride, Pair padding, Pair dilation, int64_t groups)
      : layer_(nullptr, bc_layer_free) {
    bc_layer_spec spec{};
    spec.w = read_any<uint8_t>(w, "w", 4);
    const std::vector<int64_t> s = shape_of(w);
    if (groups < 1) refuse("groups must be at least 1");
    conv_ = {0, 0, 0, s[3] * groups, s[0], s[1], s[2], groups, stride.first, stride.second,
             padding.first, padding.second, dilation.first, dilation.second};
    spec.conv = conv_;
    check<float>(cut_scale, "the scale of the cut", 1);
    spec.cut_groups = static_cast<int64_t>(cut_scale.shape(0));
    spec.cut_scale = read<float>(cut_scale, "the scale of the cut", {spec.cut_groups});
    spec.cut_offset = read<float>(cut_offset, "the offset of the cut", {spec.cut_groups});
    spec.x_bits = bits, spec.w_bits = w_bits;
    spec.grids.a_scale = read<float>(x_scale, "the scale of x", {1});
    spec.grids.a_offset = read<float>(x_offset, "the offset of x", {1});
    check<float>(w_scale, "the scale of w", 1);
    spec.grids.w_groups = static_cast<int64_t>(w_scale.shape(0));
    spec.grids.w_scale = read<float>(w_scale, "the scale of w", {spec.grids.w_groups});
    spec.grids.w_offset = read<float>(w_offset, "the offset of w", {spec.grids.w_groups});
    if (bias.has_value()) spec.grids.bias = read<float>(*bias, "bias", {s[0]});
    bc_layer* made = nullptr;
    call("Layer", [&] { return bc_layer_new(&spec, &made); });
    layer_.reset(made);
    isa_ = bc_isa();
  }

  const std::string& isa() const { return isa_; }

  void linear(const In& x, const Out& out, int threads) const {
    check<float>(x, "x", 2);
    const int64_t rows = static_cast<int64_t>(x.shape(0));
    const float* from = read<float>(x, "x", {rows, conv_.channels});
    float* to = write<float>(out, "out", {rows, conv_.filters});
    if (conv_.kernel_h != 1 || conv_.kernel_w != 1) refuse("linear takes a kernel of 1 x 1");
    run(1, 1, rows, from, BC_CHANNELS_LAST, conv_.channels, to, BC_CHANNELS_LAST, threads);
  }

  // x and out as [N][H][W][C], or [N][C][H][W] where *_first says so.
  void conv2d(const In& x, bool x_first, const Out& out, bool out_first, int threads) const {
    if (x.ndim() != 4) refuse("x must have 4 axes");
    const std::vector<int64_t> s = shape_of(x);
    const int64_t height = s[x_first ? 2 : 1], width = s[x_first ? 3 : 2];
    const std::vector<int64_t> wanted = order({s[0], height, width, conv_.channels}, x_first);
    const int64_t pitch = pitch_of(x, x_first);
    if (pitch == conv_.channels) read<float>(x, "x", wanted);
    check_shape(x, "x", wanted);
    const float* from = static_cast<const float*>(x.data());
    int64_t out_h = 0, out_w = 0;
    const bc_status status = bc_layer_size(layer_.get(), height, width, &out_h, &out_w);
    if (status != BC_OK) refuse(std::string("conv2d: ") + bc_status_text(status));
    float* to = write<float>(out, "out", order({s[0], out_h, out_w, conv_.filters}, out_first));
    run(s[0], height, width, from, x_first ? BC_CHANNELS_FIRST : BC_CHANNELS_LAST, pitch, to,
        out_first ? BC_CHANNELS_FIRST : BC_CHANNELS_LAST, threads);
  }

 private:
  // Elements from pixel to pixel: channels where x is dense, more where it is a slice of wider
  // pixels that lie side by side.
  int64_t pitch_of(const In& x, bool x_first) const {
    if (x_first || is_dense(x)) return conv_.channels;
    const int64_t pitch = x.stride(2);
    const auto size = [&](size_t axis) { return static_cast<int64_t>(x.shape(axis)); };
    const bool regular = (size(3) == 1 || x.stride(3) == 1) && pitch >= conv_.channels &&
                         (size(1) == 1 || x.stride(1) == pitch * size(2)) &&
                         (size(0) == 1 || x.stride(0) == pitch * size(2) * size(1));
    if (!regular || size(2) == 1) refuse("x must be contiguous, or a slice of channels");
    if (x.device_type() != nb::device::cpu::value || x.dtype() != nb::dtype<float>())
      throw nb::type_error("x must have elements of type float32 in CPU memory");
    return pitch;
  }

  static std::vector<int64_t> order(const std::vector<int64_t>& s, bool first) {
    return first ? std::vector<int64_t>{s[0], s[3], s[1], s[2]} : s;
  }

  void run(int64_t images, int64_t height, int64_t width, const float* x, bc_order x_order,
           int64_t pitch, float* out, bc_order out_order, int threads) const {
    call("Layer", [&] {
      return bc_layer_run(layer_.get(), images, height, width, x, x_order, pitch, out, out_order,
                          threads);
    });
  }

  std::unique_ptr<bc_layer, void (*)(bc_layer*)> layer_;
  bc_conv2d conv_{};
  std::string isa_;
};

}  // namespace

void bind_layer(nb::module_& m) {
  using namespace nb::literals;
  const Pair one{1, 1}, zero{0, 0};
  nb::class_<Layer>(m, "Layer",
                    "A linear or convolution with its weights ready: codes w u8[O, KH, KW, C / "
                    "groups]; the grid of the cut f32[1] or f32[C], of x f32[1], of w f32[1] or "
                    "f32[O]; bias f32[O] or None. It belongs to the instruction set in use.")
      .def(nb::init<const In&, const In&, const In&, int, const In&, const In&, int,
                    const In&, const In&, const std::optional<In>&, Pair, Pair, Pair, int64_t>(),
           "w"_a, "cut_scale"_a, "cut_offset"_a, "bits"_a, "x_scale"_a, "x_offset"_a, "w_bits"_a, "w_scale"_a,
           "w_offset"_a, "bias"_a.none(), "stride"_a = one, "padding"_a = zero, "dilation"_a = one,
           "groups"_a = 1)
      .def_prop_ro("isa", &Layer::isa, "The instruction set that it belongs to.")
      .def("linear", &Layer::linear, "x"_a, "out"_a, "threads"_a = 1,
           "f32[rows, C] to f32[rows, O].")
      .def("conv2d", &Layer::conv2d, "x"_a, "x_first"_a, "out"_a, "out_first"_a, "threads"_a = 1,
           "f32[N, H, W, C] to f32[N, OH, OW, O]; channels stand second where *_first is true.");
}

}  // namespace host
