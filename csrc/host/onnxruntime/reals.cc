// What stands between layers on codes: layer norm, GELU, sigmoid, SiLU and normalize.
#include "host.h"

namespace ort {
namespace {

class LayerNorm final : public Kernel {
 public:
  explicit LayerNorm(const Info& info) : eps_(info.real("eps")) {
    gain_ = info.optional_parameter("gain", -1), shift_ = info.optional_parameter("shift", -1);
  }

  void compute(const Context& context) const override {
    const Tensor x = context.real(0);
    require(!x.shape.empty(), "x has no axis");
    const int64_t n = x.axis(1);
    for (const auto* part : {&gain_, &shift_}) {
      if (part->has_value()) host::require_channels(x.shape, static_cast<int64_t>((*part)->size()), n);
    }
    float* out = context.reals(x.shape);
    if (product(x.shape) == 0) return;
    context.with_threads([&] {
      check(bc_layer_norm(x.reals(), product(x.shape) / n, n, n, gain_ ? gain_->data() : nullptr,
                          shift_ ? shift_->data() : nullptr, eps_, out, n, Context::threads()),
            "layer norm");
    });
  }

 private:
  float eps_;
  std::optional<std::vector<float>> gain_, shift_;
};

// A function of each number by itself.
template <class F>
class ByNumber final : public Kernel {
 public:
  explicit ByNumber(F function) : function_(function) {}

  void compute(const Context& context) const override {
    const Tensor x = context.real(0);
    float* out = context.reals(x.shape);
    const int64_t n = product(x.shape);
    if (n == 0) return;
    context.with_threads([&] { check(function_(x.reals(), n, out, Context::threads()), "x"); });
  }

 private:
  F function_;
};

template <class F>
std::unique_ptr<Kernel> by_number(F function) {
  return std::make_unique<ByNumber<F>>(function);
}

class Unit final : public Kernel {
 public:
  explicit Unit(const Info& info) : axis_(info.integer("axis", -64, 63)), least_(info.real("least")) {}

  void compute(const Context& context) const override {
    const Tensor x = context.real(0);
    const int64_t axes = static_cast<int64_t>(x.shape.size());
    const int64_t axis = host::require_axis(x.shape, axis_);
    float* out = context.reals(x.shape);
    if (product(x.shape) == 0) return;
    int64_t outer = 1, inner = 1;
    for (int64_t i = 0; i < axis; ++i) outer *= x.shape[i];
    for (int64_t i = axis + 1; i < axes; ++i) inner *= x.shape[i];
    const int64_t n = x.shape[axis];
    const int by_column = inner > 1 ? 1 : 0;
    // The last axis: one matrix whose rows have the length 1; else a matrix for each outer place.
    const int64_t count = by_column != 0 ? outer : 1, rows = by_column != 0 ? n : outer;
    const int64_t columns = by_column != 0 ? inner : n;
    context.with_threads([&] {
      check(bc_unit(x.reals(), count, rows, columns, rows * columns, columns, by_column, least_, out,
                    rows * columns, columns, Context::threads()),
            "normalize");
    });
  }

 private:
  int64_t axis_;
  float least_;
};

}  // namespace

std::unique_ptr<Kernel> make_layer_norm(const Info& info) {
  return std::make_unique<LayerNorm>(info);
}

std::unique_ptr<Kernel> make_gelu(const Info& info) {
  const int tanh_form = static_cast<int>(info.integer("tanh", 0, 1));
  return by_number([tanh_form](const float* x, int64_t n, float* out, int threads) {
    return bc_gelu(x, n, tanh_form, out, threads);
  });
}

std::unique_ptr<Kernel> make_sigmoid(const Info&) { return by_number(bc_sigmoid); }
std::unique_ptr<Kernel> make_silu(const Info&) { return by_number(bc_silu); }
std::unique_ptr<Kernel> make_unit(const Info& info) { return std::make_unique<Unit>(info); }

}  // namespace ort
