// Layers for Python: weights made ready once; a run takes arrays of reals.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "steps.h"

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
    if (conv_.kernel_h != 1 || conv_.kernel_w != 1) refuse("linear takes a kernel of 1 x 1");
    go(bound(x, out, std::nullopt, false, false, 1), threads);
  }

  // x and out as [N][H][W][C], or [N][C][H][W] where *_first says so.
  void conv2d(const In& x, bool x_first, const Out& out, bool out_first, int threads) const {
    go(bound(x, out, std::nullopt, x_first, out_first, 1), threads);
  }

  // A run but for its steps. x [N][H][W][C] or [rows][C], float32 or codes; out likewise.
  bc_run bound(const In& x, const std::optional<Out>& out, const Grid& grid, bool x_first,
               bool out_first, int64_t shuffle) const {
    const std::vector<int64_t> s = shape_of(x);
    const bool flat = s.size() == 2;
    if (!flat && s.size() != 4) refuse("x must have 2 or 4 axes");
    if (flat && (x_first || out_first || shuffle > 1)) refuse("rows have no order and no shuffle");
    bc_run run = flat ? pictures(1, 1, s[0]) : pictures(s[0], s[x_first ? 2 : 1], s[x_first ? 3 : 2]);
    const auto shaped = [&](int64_t h, int64_t w, int64_t channels, bool first) {
      return flat ? std::vector<int64_t>{w, channels} : order({s[0], h, w, channels}, first);
    };
    run.x_order = x_first ? BC_CHANNELS_FIRST : BC_CHANNELS_LAST;
    run.out_order = out_first ? BC_CHANNELS_FIRST : BC_CHANNELS_LAST;
    run.shuffle = shuffle;
    const std::vector<int64_t> wanted = shaped(run.height, run.width, conv_.channels, x_first);
    if (x_first) {
      run.x = read<float>(x, "x", wanted);
    } else {
      const Rows rows = rows_in(x, "x", wanted);
      run.x = rows.data, run.x_codes = rows.codes ? 1 : 0, run.pitch = rows.pitch;
    }
    set_grid(run.sink, grid, conv_.filters);
    if (!out.has_value()) return run;
    const auto [h, w] = size(run);
    const int64_t r = std::max<int64_t>(shuffle, 1);
    if (shuffle < 0 || r > 4096 || conv_.filters % (r * r) != 0)
      refuse("the filters are no multiple of the shuffle");
    const std::vector<int64_t> made = shaped(h * r, w * r, conv_.filters / (r * r), out_first);
    if (out_first) {
      run.sink.out = write<float>(*out, "out", made);
      return run;
    }
    const Rows to = rows_in(*out, "out", made);
    if (to.codes != grid.has_value()) throw nb::type_error("out must be uint8 where it has a grid");
    run.sink.out = const_cast<void*>(to.data), run.sink.pitch = to.pitch;
    return run;
  }

  std::pair<int64_t, int64_t> size(const bc_run& run) const {
    int64_t h = 0, w = 0;
    const bc_status status = bc_layer_size(layer_.get(), run.height, run.width, &h, &w);
    if (status != BC_OK) refuse(std::string("Layer: ") + bc_status_text(status));
    return {h, w};
  }

  void go(const bc_run& run, int threads) const {
    call("Layer", [&] { return bc_layer_run(layer_.get(), &run, threads); });
  }

  int64_t channels() const { return conv_.channels; }
  int64_t filters() const { return conv_.filters; }

 private:
  static bc_run pictures(int64_t images, int64_t height, int64_t width) {
    bc_run run{};
    run.images = images, run.height = height, run.width = width;
    return run;
  }

  static std::vector<int64_t> order(const std::vector<int64_t>& s, bool first) {
    return first ? std::vector<int64_t>{s[0], s[3], s[1], s[2]} : s;
  }

  std::unique_ptr<bc_layer, void (*)(bc_layer*)> layer_;
  bc_conv2d conv_{};
  std::string isa_;
};

// A run of a layer, its arrays resolved.
class LayerRun {
 public:
  LayerRun(const nb::object& layer, const In& x, const std::optional<Out>& out,
           const std::optional<nb::object>& head, const std::optional<nb::object>& tail,
           const Grid& grid, bool x_first, bool out_first, int64_t shuffle)
      : layer_(layer), x_(x), out_(out), head_(head), tail_(tail), grid_(grid) {
    run_ = the().bound(x, out, grid, x_first, out_first, shuffle);
    const auto [h, w] = the().size(run_);
    set(head_, run_.height * run_.width, the().channels(), run_.head, run_.head_count);
    set(tail_, h * w, the().filters(), run_.tail, run_.tail_count);
  }

  void run(int threads) const { the().go(run_, threads); }

 private:
  const Layer& the() const { return *nb::inst_ptr<Layer>(layer_); }

  void set(const std::optional<nb::object>& object, int64_t pixels, int64_t channels,
           const bc_step*& steps, int64_t& count) const {
    if (!object.has_value()) return;
    const Chain& chain = *nb::inst_ptr<Chain>(*object);
    chain.check_rows(run_.images * pixels, channels);
    steps = chain.data(), count = chain.size();
  }

  nb::object layer_;
  In x_;
  std::optional<Out> out_;
  std::optional<nb::object> head_, tail_;
  Grid grid_;
  bc_run run_{};
};

using Steps = std::optional<nb::typed<nb::object, Chain>>;

std::optional<nb::object> held(const Steps& steps) {
  if (!steps.has_value()) return std::nullopt;
  return nb::object(*steps);
}

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
           "f32[N, H, W, C] to f32[N, OH, OW, O]; channels stand second where *_first is true.")
      .def("run",
           [](nb::typed<nb::object, Layer> self, const In& x, const std::optional<Out>& out,
              const Steps& head, const Steps& tail, const Grid& grid, bool x_first, bool out_first,
              int64_t shuffle, int threads) {
             LayerRun(self, x, out, held(head), held(tail), grid, x_first, out_first, shuffle)
                 .run(threads);
           },
           "x"_a, "out"_a.none(), "head"_a.none() = nb::none(), "tail"_a.none() = nb::none(),
           "grid"_a.none() = nb::none(), "x_first"_a = false, "out_first"_a = false,
           "shuffle"_a = 1, "threads"_a = 1,
           "LayerRun(self, x, out, ...)(threads).");
  nb::class_<LayerRun>(
      m, "LayerRun",
      "A run of a layer, made ready: x f32 or codes u8 [N, H, W, C] or [rows, C]; head and tail are "
      "chains; out f32, or u8 by the grid (scale, offset, top), or None where the tail stores.")
      .def("__init__",
           [](LayerRun* self, nb::typed<nb::object, Layer> layer, const In& x,
              const std::optional<Out>& out, const Steps& head, const Steps& tail,
              const Grid& grid, bool x_first, bool out_first, int64_t shuffle) {
             new (self) LayerRun(layer, x, out, held(head), held(tail), grid, x_first, out_first,
                                 shuffle);
           },
           "layer"_a, "x"_a, "out"_a.none(), "head"_a.none() = nb::none(),
           "tail"_a.none() = nb::none(), "grid"_a.none() = nb::none(), "x_first"_a = false,
           "out_first"_a = false, "shuffle"_a = 1)
      .def("__call__", &LayerRun::run, "threads"_a = 1);
}

}  // namespace host
