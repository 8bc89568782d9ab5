// What belongs to whole pictures: means over pixels and group norm.
#include "host.h"

namespace ort {
namespace {

bc_pixels pixels_of(const Tensor& x, bool last) {
  const host::Pictures of = host::pictures_of(x.shape, last);
  return {x.reals(), of.images, of.pixels, of.channels, last ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST, of.channels};
}

class PixelMean final : public Kernel {
 public:
  explicit PixelMean(const Info& info) : last_(info.integer("x_last", 0, 1) != 0) {}

  void compute(const Context& context) const override {
    const Tensor x = context.real(0);
    const bc_pixels pixels = pixels_of(x, last_);
    const Shape shape{pixels.images, pixels.channels};
    const float* centre = nullptr;
    if (context.has(1)) {
      const Tensor given = context.real(1);
      host::require_centre(given.shape, {pixels.images, pixels.pixels, pixels.channels});
      centre = given.reals();
    }
    float* out = context.reals(shape);
    const int64_t count = product(shape);
    if (count == 0) return;
    const auto share = static_cast<float>(1.0 / static_cast<double>(pixels.pixels));
    const bc_step times{BC_MUL, share, nullptr, nullptr, 0, 0, nullptr, 0, 0};
    const bc_sink sink{out, count, nullptr, nullptr, nullptr, 1};
    context.with_threads([&] {
      check(bc_pixel_sums(&pixels, centre, centre == nullptr ? out : nullptr,
                          centre == nullptr ? nullptr : out, nullptr, Context::threads()),
            "sums over pixels");
      check(bc_rows(&times, 1, 1, count, out, count, &sink, Context::threads()), "means");
    });
  }

 private:
  bool last_;
};

class GroupNorm final : public Kernel {
 public:
  explicit GroupNorm(const Info& info)
      : groups_(info.integer("groups", 1, int64_t{1} << 31)),
        eps_(host::written(info.real("eps"))),
        last_(info.integer("x_last", 0, 1) != 0) {
    gain_ = info.optional_parameter("gain", -1), shift_ = info.optional_parameter("shift", -1);
  }

  void compute(const Context& context) const override {
    const Tensor x = context.real(0);
    const int64_t size = product(x.shape);
    const bc_pixels p = pixels_of(x, last_);
    host::require_groups(x.shape, p.channels, groups_);
    for (const auto* part : {&gain_, &shift_}) {
      if (part->has_value()) host::require_channels(x.shape, static_cast<int64_t>((*part)->size()), p.channels);
    }
    float* out = context.reals(x.shape);
    if (size == 0) return;
    const int64_t count = p.images * p.channels;
    std::vector<float> scale(static_cast<size_t>(count)), offset(static_cast<size_t>(count));
    // Channels last: rows are pixels, and those of a picture share an operand; else a row is a channel.
    const int64_t rows = last_ ? p.images * p.pixels : count, columns = last_ ? p.channels : p.pixels;
    const int64_t row = last_ ? p.channels : 1, column = last_ ? 1 : 0, each = last_ ? p.pixels : 1;
    const bc_step steps[] = {{BC_MUL, 0, scale.data(), nullptr, row, column, nullptr, 0, each},
                             {BC_ADD, 0, offset.data(), nullptr, row, column, nullptr, 0, each}};
    const bc_sink sink{out, columns, nullptr, nullptr, nullptr, 1};
    context.with_threads([&] {
      check(bc_group_scales(&p, groups_, gain_ ? gain_->data() : nullptr,
                            shift_ ? shift_->data() : nullptr, eps_, scale.data(), offset.data(),
                            Context::threads()),
            "group norm");
      check(bc_rows(steps, 2, rows, columns, x.reals(), columns, &sink, Context::threads()),
            "group norm");
    });
  }

 private:
  int64_t groups_;
  double eps_;
  bool last_;
  std::optional<std::vector<float>> gain_, shift_;
};

}  // namespace

std::unique_ptr<Kernel> make_pixel_mean(const Info& info) { return std::make_unique<PixelMean>(info); }
std::unique_ptr<Kernel> make_group_norm(const Info& info) { return std::make_unique<GroupNorm>(info); }

}  // namespace ort
