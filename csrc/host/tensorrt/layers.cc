// BitConv2d and BitLinear. The weight is made ready in scratch memory at the start of each run: it is an
// input like others, and a plugin may not keep device memory of its own between runs.
#include <cstring>

#include "operator.h"

namespace trt {
namespace {

constexpr int64_t kMost = int64_t{1} << 30;

// Steps whose operands are found among the inputs of each run.
class Steps {
 public:
  Steps(const Fields& fields, const char* name, int first_operand)
      : kinds_(fields.wholes(name)), first_(first_operand), eps_(fields.real("eps")) {
    require(kinds_.size() <= BC_CUDA_MOST_STEPS, std::string("the attribute ") + name + " holds too many steps");
    operands_ = host::require_steps(name, kinds_);
    require(first_ + operands_ <= fields.schema().port_count, "there are more operands of steps than inputs");
  }

  int operands() const { return operands_; }
  bool empty() const { return kinds_.empty(); }

  // For rows of channels; `shape` is that of the rows, channels last.
  // whole: rows lie channels last, so that an operand may be as large as they are.
  std::vector<bc_cuda_step> bound(const Inputs& inputs, const Shape& shape, bool whole) const {
    std::vector<bc_cuda_step> steps;
    int next = first_;
    for (const int64_t kind : kinds_) {
      bc_cuda_step step{};
      step.kind = static_cast<int32_t>(kind);
      if (kind == BC_NORM) {
        step.data = vector(inputs[next++], shape.back()), step.shift = vector(inputs[next++], shape.back());
        step.value = eps_;
      } else if (host::operands_of(kind) == 1) {
        set(step, inputs[next++], shape, whole);
      }
      steps.push_back(step);
    }
    return steps;
  }

 private:
  static bc_cuda_numbers vector(const Tensor& tensor, int64_t channels) {
    require(tensor.there && tensor.shape == Shape{channels},
            "gain and shift of a norm must have " + std::to_string(channels) + " numbers");
    return tensor.numbers();
  }
  // One number, one vector of channels, or as large as the rows.
  static void set(bc_cuda_step& step, const Tensor& operand, const Shape& shape, bool whole) {
    require(operand.there, "an operand of a step is not connected");
    step.data = operand.numbers();
    const host::Operand kind = host::operand_kind(operand.shape, shape, whole);
    if (kind == host::Operand::one) return;
    step.row = kind == host::Operand::whole ? shape.back() : 0, step.column = 1;
  }

  Shape kinds_;
  int first_, operands_ = 0;
  float eps_;
};

class Layer final : public Operator {
 public:
  explicit Layer(const Fields& fields)
      : is_conv_(std::strcmp(fields.schema().name, "BitConv2d") == 0),
        head_(fields, "head", fields.schema().port("operand0")),
        tail_(fields, "tail", fields.schema().port("operand0") + head_.operands()) {
    const Shape w = fields.wholes("weight_shape", is_conv_ ? 4 : 2, 1, kMost);
    conv_.filters = w[0], conv_.channels = w[1], conv_.groups = 1;
    conv_.kernel_h = is_conv_ ? w[2] : 1, conv_.kernel_w = is_conv_ ? w[3] : 1;
    Shape strides{1, 1}, pads{0, 0}, dilations{1, 1};
    if (is_conv_) {
      strides = fields.wholes("strides", 2, 1, kMost), pads = fields.wholes("pads", 2, 0, kMost);
      dilations = fields.wholes("dilations", 2, 1, kMost);
      conv_.groups = fields.whole("group", 1, kMost);
      conv_.channels = product({conv_.channels, conv_.groups});
      x_last_ = fields.whole("x_last", 0, 1) != 0, y_last_ = fields.whole("y_last", 0, 1) != 0;
      require(x_last_ || head_.empty(), "steps before a convolution need x_last");
    }
    conv_.stride_h = strides[0], conv_.stride_w = strides[1];
    conv_.pad_h = pads[0], conv_.pad_w = pads[1];
    conv_.dilation_h = dilations[0], conv_.dilation_w = dilations[1];
    w_bits_ = static_cast<int32_t>(fields.whole("weight_bits", 1, 8));
    x_bits_ = static_cast<int32_t>(fields.whole("input_bits", 1, 8));
    bc_cuda_layer layer{};
    layer.conv = conv_, layer.x_bits = x_bits_, layer.w_bits = w_bits_;
    ready_ = bc_cuda_ready_bytes(&layer);
    require(ready_ >= 0, "the weight " + text(w) + " of " + std::to_string(w_bits_) +
                             " bits is impossible, or its sums could leave int32");
  }

  std::vector<Axis> axes(const std::vector<int>& ranks) const override {
    if (!is_conv_) {
      require(ranks[0] >= 1, "x has no axis");
      std::vector<Axis> axes = axes_like_first(ranks);
      axes.back() = {Axis::constant, 0, 0, conv_.filters, 1};
      return axes;
    }
    require(ranks[0] == 4, "x has " + std::to_string(ranks[0]) + " axes, a convolution takes 4");
    const int64_t span_h = conv_.dilation_h * (conv_.kernel_h - 1) + 1;
    const int64_t span_w = conv_.dilation_w * (conv_.kernel_w - 1) + 1;
    const int row = x_last_ ? 1 : 2;
    const Axis images{Axis::input, 0, 0, 0, 1}, filters{Axis::constant, 0, 0, conv_.filters, 1};
    const Axis h{Axis::steps, 0, row, 2 * conv_.pad_h - span_h, conv_.stride_h};
    const Axis w{Axis::steps, 0, row + 1, 2 * conv_.pad_w - span_w, conv_.stride_w};
    if (y_last_) return {images, h, w, filters};
    return {images, filters, h, w};
  }

  int64_t scratch(const Inputs& inputs, const Target& to) const override {
    Bound bound;
    bind(inputs, to, &bound);
    const int64_t bytes = bc_cuda_scratch_bytes(&bound.layer, &bound.run);
    require(bytes >= 0, "x is " + text(inputs[0].shape) + ", into which the kernel does not fit");
    return ready_ + bytes;
  }

  void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const override {
    Bound bound;
    bind(inputs, to, &bound);
    check(bc_cuda_make_ready(&bound.layer, scratch, stream), "the weight");
    check(bc_cuda_layer_run(&bound.layer, scratch, &bound.run, static_cast<char*>(scratch) + ready_, stream),
          "the run");
  }

 private:
  struct Bound {
    bc_cuda_layer layer{};
    bc_cuda_run run{};
    std::vector<bc_cuda_step> head, tail;
  };

  void bind(const Inputs& inputs, const Target& to, Bound* bound) const {
    const Tensor& x = inputs[0];
    bc_cuda_layer& layer = bound->layer;
    layer.conv = conv_, layer.x_bits = x_bits_, layer.w_bits = w_bits_;
    layer.weight = inputs.numbers("weight");
    layer.w_scale = inputs.numbers("weight_scale"), layer.w_offset = inputs.numbers("weight_offset");
    layer.x_scale = inputs.numbers("input_scale"), layer.x_offset = inputs.numbers("input_offset");
    layer.stretch = inputs.numbers("stretch"), layer.shift = inputs.numbers("shift");
    layer.bias = inputs.numbers("bias");
    check_sizes(layer, inputs);
    bc_cuda_run& run = bound->run;
    run.x = x.numbers(), run.out = to.out, run.out_type = to.type;
    Shape rows_in, rows_out;
    if (is_conv_) {
      const size_t channel = x_last_ ? 3 : 1, row = x_last_ ? 1 : 2;
      require(x.shape.size() == 4 && x.shape[channel] == conv_.channels,
              "x is " + text(x.shape) + ", the convolution takes " + std::to_string(conv_.channels) +
                  " channels in axis " + std::to_string(channel) + " of 4");
      run.images = x.shape[0], run.height = x.shape[row], run.width = x.shape[row + 1];
      run.x_order = x_last_ ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST;
      run.out_order = y_last_ ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST;
      const std::vector<Axis> sizes = axes({4});
      const size_t first = y_last_ ? 1 : 2;
      rows_in = x.shape;
      rows_out = {x.shape[0], steps(sizes[first], run.height), steps(sizes[first + 1], run.width), conv_.filters};
    } else {
      require(!x.shape.empty() && x.shape.back() == conv_.channels,
              "x is " + text(x.shape) + ", the weight takes " + std::to_string(conv_.channels) + " inputs");
      run.images = product(x.shape) / conv_.channels, run.height = 1, run.width = 1;
      run.x_order = run.out_order = BC_CHANNELS_LAST;
      rows_in = rows_out = x.shape;
      rows_out.back() = conv_.filters;
    }
    bound->head = head_.bound(inputs, rows_in, true);
    bound->tail = tail_.bound(inputs, rows_out, run.out_order == BC_CHANNELS_LAST);
    run.head = bound->head.data(), run.head_count = static_cast<int64_t>(bound->head.size());
    run.tail = bound->tail.data(), run.tail_count = static_cast<int64_t>(bound->tail.size());
  }

  int64_t steps(const Axis& axis, int64_t size) const {
    require(size + axis.value >= 0, "a kernel of " + std::to_string(conv_.kernel_h) + "x" +
                                        std::to_string(conv_.kernel_w) + " does not fit into " +
                                        std::to_string(size) + " pixels");
    return (size + axis.value) / axis.divide + 1;
  }

  void check_sizes(const bc_cuda_layer& layer, const Inputs& inputs) const {
    const int64_t codes = conv_.filters * (conv_.channels / conv_.groups) * conv_.kernel_h * conv_.kernel_w;
    const int64_t bytes = w_bits_ == 3 || w_bits_ > 4 ? (w_bits_ == 8 ? codes : (codes + 7) / 8 * w_bits_)
                                                      : (codes * w_bits_ + 7) / 8;
    require(layer.weight.count == bytes, "the weight has " + std::to_string(layer.weight.count) + " bytes, " +
                                             std::to_string(codes) + " codes take " + std::to_string(bytes));
    const auto sized = [&](const char* port, int64_t count, bool or_one) {
      const Tensor& tensor = inputs[port];
      if (!tensor.there) return;
      const int64_t size = product(tensor.shape);
      require(size == count || (or_one && size == 1),
              std::string(port) + " has " + std::to_string(size) + " numbers, not " + std::to_string(count));
    };
    sized("weight_scale", conv_.filters, true), sized("weight_offset", conv_.filters, true);
    sized("input_scale", 1, false), sized("input_offset", 1, false), sized("bias", conv_.filters, false);
    sized("stretch", conv_.channels, false), sized("shift", conv_.channels, false);
    require(inputs["stretch"].there || !inputs["shift"].there, "a shift needs a stretch");
  }

  bool is_conv_, x_last_ = false, y_last_ = false;
  Steps head_, tail_;
  bc_conv2d conv_{};
  int32_t x_bits_ = 0, w_bits_ = 0;
  int64_t ready_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_layer(const Fields& fields) { return std::make_unique<Layer>(fields); }

}  // namespace trt
