// BitConv2d and BitLinear: weights made ready once, with steps before the cut and after the sums.
#include <algorithm>
#include <limits>
#include <mutex>

#include "host.h"
#include "operands.h"

namespace ort {
namespace {

constexpr int64_t kMost = int64_t{1} << 31;

// The steps of a node, their operands to be found in each run.
class Steps {
 public:
  Steps(const Info& info, const char* name, size_t first_operand, float eps)
      : kinds_(info.integers(name)), first_(first_operand), eps_(eps) {
    operands_ = static_cast<size_t>(host::require_steps(name, kinds_));
  }

  size_t operands() const { return operands_; }
  bool empty() const { return kinds_.empty(); }

  // The chain for rows of channels; `shape` is that of the rows with channels last.
  std::vector<bc_step> bound(const Context& context, const Shape& shape, bool whole) const {
    std::vector<bc_step> steps;
    size_t next = first_;
    for (const int64_t kind : kinds_) {
      bc_step step{};
      step.kind = static_cast<int32_t>(kind);
      if (kind == BC_NORM) {
        const Shape vector{shape.back()};
        const Tensor gain = context.real(next++), shift = context.real(next++);
        require(gain.shape == vector && shift.shape == vector,
                "gain and shift of a norm must have " + std::to_string(vector[0]) + " numbers");
        step.data = gain.reals(), step.shift = shift.reals(), step.value = eps_;
      } else if (host::operands_of(kind) == 1) {
        set(step, context.real(next++), shape, whole);
      }
      steps.push_back(step);
    }
    return steps;
  }

 private:
  // An operand is one number, one vector of channels, or where `whole` as large as the rows.
  static void set(bc_step& step, const Tensor& operand, const Shape& shape, bool whole) {
    const host::Operand kind = host::operand_kind(operand.shape, shape, whole);
    if (kind == host::Operand::one) {
      step.value = operand.reals()[0];
      return;
    }
    step.data = operand.reals(), step.column = 1;
    step.row = kind == host::Operand::whole ? shape.back() : 0;
  }

  Shape kinds_;
  size_t first_, operands_ = 0;
  float eps_;
};

struct Geometry {
  Shape weight, strides{1, 1}, pads{0, 0}, dilations{1, 1};
  int64_t groups = 1;
};

class Layer : public Kernel {
 public:
  Layer(const Info& info, Geometry geometry)
      : geometry_(std::move(geometry)),
        head_(info, "head", info.schema().port("operand0"), info.real("eps")),
        tail_(info, "tail", info.schema().port("operand0") + head_.operands(), info.real("eps")),
        layer_(nullptr, bc_layer_free) {
    const Shape& w = geometry_.weight;
    const int64_t channels = w[1] * geometry_.groups;
    require(product({channels}) <= kMost && product(w) <= kMost, "the weight " + text(w) + " is too large");
    bc_layer_spec spec{};
    spec.conv = {0, 0, 0, channels, w[0], w[2], w[3], geometry_.groups,
                 geometry_.strides[0], geometry_.strides[1], geometry_.pads[0], geometry_.pads[1],
                 geometry_.dilations[0], geometry_.dilations[1]};
    spec.x_bits = static_cast<int>(info.integer("input_bits", 1, 8));
    spec.w_bits = static_cast<int>(info.integer("weight_bits", 1, 8));
    const std::vector<uint8_t> codes = unpacked(info, spec.w_bits, w);
    spec.w = codes.data();
    const auto x_scale = info.parameter("input_scale", 1), x_offset = info.parameter("input_offset", 1);
    const auto scale = info.parameter("weight_scale");
    const auto offset = info.parameter("weight_offset", static_cast<int64_t>(scale.size()));
    const auto bias = info.optional_parameter("bias", w[0]);
    const auto stretch = info.optional_parameter("stretch", channels);
    const auto shift = info.optional_parameter("shift", channels);
    std::vector<float> cut_scale(x_scale), cut_offset(x_offset);
    require(stretch.has_value() || !shift.has_value(), "a shift needs a stretch");
    if (stretch.has_value()) {
      cut_scale.resize(stretch->size()), cut_offset.resize(stretch->size());
      check(bc_channel_grid(x_scale[0], x_offset[0], stretch->data(),
                            shift.has_value() ? shift->data() : nullptr, channels, cut_scale.data(),
                            cut_offset.data()),
            "stretch");
    }
    spec.cut_scale = cut_scale.data(), spec.cut_offset = cut_offset.data();
    spec.cut_groups = static_cast<int64_t>(cut_scale.size());
    spec.grids = {x_scale.data(), x_offset.data(), scale.data(), offset.data(),
                  static_cast<int64_t>(scale.size()), bias.has_value() ? bias->data() : nullptr};
    if (info.schema().codes) read_out_grid(info, w[0]);
    bc_layer* made = nullptr;
    check(bc_layer_new(&spec, &made), "the weights");
    layer_.reset(made);
  }

 protected:
  // By what the output is cut: one grid, or one for each channel.
  void read_out_grid(const Info& info, int64_t channels) {
    out_ = out_grid(info);
    const int64_t groups = static_cast<int64_t>(out_.scale.size());
    require(groups == 1 || groups == channels, "there are " + std::to_string(groups) + " grids for " +
                                                   std::to_string(channels) + " channels of y");
  }

  // The weight in bytes of codes [outputs][kernel height][kernel width][inputs / groups].
  static std::vector<uint8_t> unpacked(const Info& info, int bits, const Shape& w) {
    const Tensor weight = info.constant("weight");
    require(weight.type == kUint8, "the input weight must be uint8");
    const int64_t count = product(w), bytes = bc_packed_bytes(count, bits);
    require(product(weight.shape) == bytes, "the weight has " + std::to_string(product(weight.shape)) +
                                                " bytes, " + text(w) + " codes take " +
                                                std::to_string(bytes));
    std::vector<uint8_t> stored(static_cast<size_t>(count)), codes(stored.size());
    check(bc_unpack(static_cast<const uint8_t*>(weight.data), bytes, bits, count, stored.data(), 1),
          "the weight");
    const int64_t taps = w[2] * w[3], inner = w[1];
    for (int64_t o = 0; o < w[0]; ++o) {
      for (int64_t c = 0; c < inner; ++c) {
        for (int64_t t = 0; t < taps; ++t) {
          codes[(o * taps + t) * inner + c] = stored[(o * inner + c) * taps + t];
        }
      }
    }
    return codes;
  }

  // Whether x was cut already; then no step may stand before the cut.
  int codes_of(const Tensor& x) const {
    if (x.type != kUint8) return 0;
    require(head_.empty(), "x is codes, and there are steps before the cut");
    return 1;
  }

  int64_t channels() const { return geometry_.weight[1] * geometry_.groups; }

  void go(const Context& context, bc_run run, const Shape& in_rows, const Shape& out_rows) const {
    const bool whole = run.out_order == BC_CHANNELS_LAST;
    const std::vector<bc_step> head = head_.bound(context, in_rows, true);
    const std::vector<bc_step> tail = tail_.bound(context, out_rows, whole);
    run.head = head.data(), run.head_count = static_cast<int64_t>(head.size());
    run.tail = tail.data(), run.tail_count = static_cast<int64_t>(tail.size());
    if (!out_.scale.empty()) {
      run.sink.scale = out_.scale.data(), run.sink.offset = out_.offset.data(), run.sink.top = out_.top.data();
      run.sink.groups = static_cast<int64_t>(out_.scale.size());
    }
    context.with_threads([&] { check(bc_layer_run(layer_.get(), &run, Context::threads()), "the run"); });
  }

  Geometry geometry_;
  Steps head_, tail_;
  OutGrid out_;
  std::unique_ptr<bc_layer, void (*)(bc_layer*)> layer_;
};

class Linear final : public Layer {
 public:
  using Layer::Layer;

  void compute(const Context& context) const override {
    const Tensor x = context.number(0);
    require(!x.shape.empty() && x.axis(1) == channels(),
            "x is " + text(x.shape) + ", the weight takes " + std::to_string(channels()) + " inputs");
    Shape made = x.shape;
    made.back() = geometry_.weight[0];
    void* out = context.output(made);
    bc_run run{};
    run.images = 1, run.height = 1, run.width = product(x.shape) / std::max<int64_t>(channels(), 1);
    if (run.width == 0) return;
    run.x = x.data, run.pitch = channels(), run.x_codes = codes_of(x);
    run.sink.out = out, run.sink.pitch = made.back();
    go(context, run, x.shape, made);
  }
};

class Conv2d final : public Layer {
 public:
  Conv2d(const Info& info, Geometry geometry)
      : Layer(info, std::move(geometry)),
        x_last_(info.integer("x_last", 0, 1) != 0),
        y_last_(info.integer("y_last", 0, 1) != 0) {
    require(x_last_ || head_.empty(), "steps before a convolution need x_last");
    require(y_last_ || out_.scale.empty(), "codes of pictures need y_last");
  }

  void compute(const Context& context) const override {
    const Tensor x = context.number(0);
    const size_t channel = x_last_ ? 3 : 1;
    require(x.shape.size() == 4 && x.shape[channel] == channels(),
            "x is " + text(x.shape) + ", the convolution takes " + std::to_string(channels()) +
                " channels in axis " + std::to_string(channel) + " of 4");
    bc_run run{};
    run.images = x.shape[0], run.height = x.shape[x_last_ ? 1 : 2], run.width = x.shape[x_last_ ? 2 : 3];
    int64_t h = 0, w = 0;
    check(bc_layer_size(layer_.get(), run.height, run.width, &h, &w), "the size of x");
    const Shape rows{run.images, h, w, geometry_.weight[0]};
    const Shape made = y_last_ ? rows : Shape{run.images, geometry_.weight[0], h, w};
    void* out = context.output(made);
    if (product(made) == 0 || product(x.shape) == 0) return;
    run.x_codes = codes_of(x);
    require(run.x_codes == 0 || x_last_, "codes of pictures need x_last");
    run.x = x.data, run.x_order = x_last_ ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST;
    run.out_order = y_last_ ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST;
    run.pitch = x_last_ ? channels() : 0;
    run.sink.out = out, run.sink.pitch = y_last_ ? geometry_.weight[0] : 0;
    go(context, run, x.shape, rows);
  }

 private:
  bool x_last_, y_last_;
};

}  // namespace

std::unique_ptr<Kernel> make_conv2d(const Info& info) {
  constexpr int64_t most = 1 << 20;
  Geometry g;
  g.weight = info.integers("weight_shape", 4, 1, kMost);
  g.strides = info.integers("strides", 2, 1, most, 1);
  g.pads = info.integers("pads", 2, 0, most, 0);
  g.dilations = info.integers("dilations", 2, 1, most, 1);
  g.groups = info.integer("group", 1, kMost);
  return std::make_unique<Conv2d>(info, std::move(g));
}

std::unique_ptr<Kernel> make_linear(const Info& info) {
  Geometry g;
  const Shape shape = info.integers("weight_shape");
  require(shape.size() == 2 && shape[0] >= 1 && shape[1] >= 1,
          "the attribute weight_shape is " + text(shape) + ", not (outputs, inputs)");
  g.weight = {shape[0], shape[1], 1, 1};
  return std::make_unique<Linear>(info, std::move(g));
}

}  // namespace ort
