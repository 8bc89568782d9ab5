// What belongs to whole pictures: means over pixels and group norm.
#include "operator.h"

namespace trt {
namespace {

bc_cuda_pixels pixels_of(const Tensor& x, bool last) {
  const host::Pictures of = host::pictures_of(x.shape, last);
  return {x.numbers(), of.images, of.pixels, of.channels, last ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST};
}

int64_t scratch_of(const Tensor& x, const bc_cuda_pixels& pixels) {
  const int64_t bytes = bc_cuda_pixels_scratch_bytes(&pixels);
  require(bytes >= 0, "x is " + text(x.shape) + ", whose sums have no room");
  return bytes;
}

class PixelMean final : public Operator {
 public:
  explicit PixelMean(const Fields& fields) : last_(fields.whole("x_last", 0, 1) != 0) {}

  std::vector<Axis> axes(const std::vector<int>& ranks) const override {
    require(ranks[0] >= 3, "x has " + std::to_string(ranks[0]) + " axes, pictures are (N, C, ...)");
    return {{Axis::input, 0, 0, 0, 1}, {Axis::input, 0, last_ ? ranks[0] - 1 : 1, 0, 1}};
  }
  int64_t scratch(const Inputs& inputs, const Target&) const override {
    check_centre(inputs);
    return scratch_of(inputs[0], pixels_of(inputs[0], last_));
  }
  void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const override {
    check_centre(inputs);
    const bc_cuda_pixels pixels = pixels_of(inputs[0], last_);
    check(bc_cuda_pixel_means(&pixels, inputs.numbers("centre"), to.out, to.type, scratch, stream), "means");
  }

 private:
  void check_centre(const Inputs& inputs) const {
    const Tensor& centre = inputs["centre"];
    if (centre.there) host::require_centre(centre.shape, host::pictures_of(inputs[0].shape, last_));
  }

  bool last_;
};

class GroupNorm final : public Operator {
 public:
  explicit GroupNorm(const Fields& fields)
      : groups_(fields.whole("groups", 1, int64_t{1} << 31)),
        eps_(host::written(fields.real("eps"))),
        last_(fields.whole("x_last", 0, 1) != 0) {}

  std::vector<Axis> axes(const std::vector<int>& ranks) const override { return axes_like_first(ranks); }
  int64_t scratch(const Inputs& inputs, const Target&) const override {
    const bc_cuda_pixels pixels = pixels_of(inputs[0], last_);
    host::require_groups(inputs[0].shape, pixels.channels, groups_);
    inputs.channels("gain", pixels.channels), inputs.channels("shift", pixels.channels);
    return scratch_of(inputs[0], pixels);
  }
  void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const override {
    const bc_cuda_pixels pixels = pixels_of(inputs[0], last_);
    check(bc_cuda_group_norm(&pixels, groups_, inputs.channels("gain", pixels.channels),
                             inputs.channels("shift", pixels.channels), eps_, to.out, to.type, scratch, stream),
          "group norm");
  }

 private:
  int64_t groups_;
  double eps_;
  bool last_;
};

}  // namespace

std::unique_ptr<Operator> make_pixel_mean(const Fields& fields) { return std::make_unique<PixelMean>(fields); }
std::unique_ptr<Operator> make_group_norm(const Fields& fields) { return std::make_unique<GroupNorm>(fields); }

}  // namespace trt
