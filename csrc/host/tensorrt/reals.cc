// What stands between layers on codes: layer norm, GELU, sigmoid, SiLU and normalize.
#include <cstring>

#include "operator.h"

namespace trt {
namespace {

// One step on rows.
class Rows final : public Operator {
 public:
  explicit Rows(const Fields& fields) {
    const std::string name = fields.schema().name;
    if (name == "LayerNorm") {
      step_.kind = BC_NORM, step_.value = fields.real("eps");
    } else if (name == "BitGelu") {
      step_.kind = fields.whole("tanh", 0, 1) != 0 ? BC_GELU_TANH : BC_GELU;
    } else {
      step_.kind = name == "Silu" ? BC_SILU : BC_SIGMOID;
    }
  }

  std::vector<Axis> axes(const std::vector<int>& ranks) const override { return axes_like_first(ranks); }
  int64_t scratch(const Inputs& inputs, const Target&) const override {
    bound(inputs);
    return 0;
  }
  void run(const Inputs& inputs, const Target& to, void*, void* stream) const override {
    const bc_cuda_step step = bound(inputs);
    const Tensor& x = inputs[0];
    const int64_t size = product(x.shape), channels = step.kind == BC_NORM ? x.shape.back() : 1;
    if (size == 0) return;
    check(bc_cuda_rows(&step, 1, size / channels, channels, x.numbers(), to.out, to.type, stream), "x");
  }

 private:
  bc_cuda_step bound(const Inputs& inputs) const {
    bc_cuda_step step = step_;
    if (step.kind != BC_NORM) return step;
    const Tensor& x = inputs[0];
    require(!x.shape.empty(), "x has no axis");
    step.data = inputs.channels("gain", x.shape.back()), step.shift = inputs.channels("shift", x.shape.back());
    return step;
  }

  bc_cuda_step step_{};
};

class Unit final : public Operator {
 public:
  explicit Unit(const Fields& fields) : axis_(fields.whole("axis", -64, 63)), least_(fields.real("least")) {}

  std::vector<Axis> axes(const std::vector<int>& ranks) const override { return axes_like_first(ranks); }
  int64_t scratch(const Inputs& inputs, const Target&) const override {
    host::require_axis(inputs[0].shape, axis_);
    return 0;
  }
  void run(const Inputs& inputs, const Target& to, void*, void* stream) const override {
    const Shape& shape = inputs[0].shape;
    const auto axis = shape.begin() + host::require_axis(shape, axis_);
    check(bc_cuda_unit(inputs[0].numbers(), product(Shape(shape.begin(), axis)), *axis,
                       product(Shape(axis + 1, shape.end())), least_, to.out, to.type, stream),
          "normalize");
  }

 private:
  int64_t axis_;
  float least_;
};

}  // namespace

std::unique_ptr<Operator> make_rows(const Fields& fields) { return std::make_unique<Rows>(fields); }
std::unique_ptr<Operator> make_unit(const Fields& fields) { return std::make_unique<Unit>(fields); }

}  // namespace trt
