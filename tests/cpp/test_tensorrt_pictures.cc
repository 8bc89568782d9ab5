// The plugins of means over pixels and of group norm, as test_tensorrt.cc drives the others.
#include <limits>

#include "cuda_cases.h"
#include "tensorrt_runs.h"

namespace host {
namespace {

void add(Bound* bound, const std::vector<float>& all, const std::vector<int64_t>& shape) {
  bound->in.push_back(all.empty() ? unconnected() : described(shape));
  bound->data.push_back(all.empty() ? nullptr : device_copy(all.data(), all.size() * sizeof(float)));
}

// The plugin, one of its fields as they were serialised, and a clone must give the same bits.
void check_runs(const std::string& name, const Sides& sides, const Bound& bound, const std::vector<float>& wanted,
                const std::vector<int64_t>& shape) {
  expect(output_shape(sides, bound.in) == shape, "the shape of " + name);
  const Sides again(creator(name)->createPlugin("a node", sides.run->getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
  const Sides cloned(sides.plugin->clone());
  expect(again.plugin != nullptr && cloned.plugin != nullptr, "fields come back");
  if (!device_here()) return;
  for (const Sides* one : {&sides, &again, &cloned}) expect(same(run(*one, bound, shape), wanted), "a run of " + name);
}

void test_means(bool last, bool apart) {
  constexpr int64_t n = 2, c = 5, h = 19, w = 31;
  const std::vector<float> x = reals(n * c * h * w, -3, 5), centre = apart ? reals(n * c, 0, 1) : std::vector<float>();
  std::vector<float> wanted(n * c);
  const bc_pixels pixels{x.data(), n, h * w, c, last ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST, c};
  bc_pixel_sums(&pixels, apart ? centre.data() : nullptr, apart ? nullptr : wanted.data(),
                apart ? wanted.data() : nullptr, nullptr, 1);
  for (float& sum : wanted) sum *= static_cast<float>(1.0 / static_cast<double>(h * w));
  Node node;
  node.wholes("x_last", {last ? 1 : 0});
  Bound bound;
  add(&bound, x, last ? std::vector<int64_t>{n, h, w, c} : std::vector<int64_t>{n, c, h, w});
  add(&bound, centre, {n, c});
  check_runs("PixelMean", plugin("PixelMean", node), bound, wanted, {n, c});
}

Node norm_node(int32_t groups, float eps, bool last) {
  Node node;
  node.wholes("groups", {groups}).real("eps", eps).wholes("x_last", {last ? 1 : 0});
  return node;
}

void test_norm(bool last, bool affine) {
  constexpr int64_t n = 2, c = 12, h = 17, w = 23, groups = 4;
  const std::vector<float> x = reals(n * c * h * w, -3, 5), none;
  const std::vector<float> gain = affine ? reals(c, 0, 2) : none, shift = affine ? reals(c, -1, 1) : none;
  std::vector<float> scale(n * c), offset(n * c), wanted(x.size());
  const bc_pixels pixels{x.data(), n, h * w, c, last ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST, c};
  // 1e-6 in float32 is another number in double: the plugin must take that which was written.
  bc_group_scales(&pixels, groups, affine ? gain.data() : nullptr, affine ? shift.data() : nullptr, 1e-6,
                  scale.data(), offset.data(), 1);
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i), channel = last ? at % c : at / (h * w) % c;
    const size_t line = static_cast<size_t>(at / (h * w * c) * c + channel);
    const float scaled = x[i] * scale[line];
    wanted[i] = scaled + offset[line];
  }
  Node node = norm_node(groups, 1e-6f, last);
  const std::vector<int64_t> shape = last ? std::vector<int64_t>{n, h, w, c} : std::vector<int64_t>{n, c, h, w};
  Bound bound;
  add(&bound, x, shape), add(&bound, gain, {c}), add(&bound, shift, {c});
  check_runs("GroupNorm", plugin("GroupNorm", node), bound, wanted, shape);
}

void test_what_is_refused() {
  const auto none = [](const char* what, const std::string& name, Node node) {
    expect(plugin(name, node).plugin == nullptr, what);
  };
  none("an order that is none", "PixelMean", Node().wholes("x_last", {2}));
  none("no groups", "GroupNorm", Node().real("eps", 1e-5f));
  none("groups of 0", "GroupNorm", norm_node(0, 1e-5f, false));
  none("an eps that is no number", "GroupNorm", norm_node(2, std::numeric_limits<float>::quiet_NaN(), false));

  const auto fits = [](const Sides& sides, const std::vector<std::vector<int64_t>>& shapes,
                       const std::vector<int64_t>& made) {
    std::vector<PluginTensorDesc> in;
    for (const auto& shape : shapes) in.push_back(shape.empty() ? unconnected() : described(shape));
    const PluginTensorDesc out = described(made);
    return sides.run->onShapeChange(in.data(), static_cast<int32_t>(in.size()), &out, 1) == 0;
  };
  Node mean, norm = norm_node(2, 1e-5f, false);
  const Sides means = plugin("PixelMean", mean), norms = plugin("GroupNorm", norm);
  expect(fits(means, {{2, 3, 4, 4}, {2, 3}}, {2, 3}) && fits(means, {{2, 3, 4}}, {2, 3}), "means that fit");
  expect(!fits(means, {{2, 3}}, {2, 3}), "no picture");
  expect(!fits(means, {{2, 3, 0, 4}}, {2, 3}), "no pixel");
  expect(!fits(means, {{2, 3, 4, 4}, {2, 4}}, {2, 3}), "a centre of another size");
  expect(fits(norms, {{2, 4, 4, 4}, {4}, {4}}, {2, 4, 4, 4}) && fits(norms, {{2, 4, 4}}, {2, 4, 4}), "norms that fit");
  expect(!fits(norms, {{2, 3, 4, 4}}, {2, 3, 4, 4}), "channels that do not part into groups");
  expect(!fits(norms, {{2, 4, 4, 4}, {3}}, {2, 4, 4, 4}), "a gain of another number");
  expect(output_shape(means, {described({2, 3})}).empty(), "the shape of no picture");
}

}  // namespace

void test_pictures() {
  for (const bool last : {false, true}) {
    for (const bool other : {false, true}) test_means(last, other), test_norm(last, other);
  }
  test_what_is_refused();
}

}  // namespace host
