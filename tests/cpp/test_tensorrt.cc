// Drives the plugin library as TensorRT does, without it: creator, plugin, shapes, formats, scratch memory,
// fields out and back, refusals, and a run that must give the bits of the CPU library.
//
//   test_tensorrt LIBRARY [LIBCUDART]
//
// A library of the twin runs on the CPU. One for devices runs where LIBCUDART finds a device; where it
// finds none the runs are skipped, and said to be.
#include <dlfcn.h>

#include "cuda_cases.h"
#include "tensorrt_runs.h"

namespace {

using namespace host;

Node conv_node(const LayerCase& c, bool last = false) {
  const bc_conv2d& v = c.conv;
  const auto i = [](int64_t value) { return static_cast<int32_t>(value); };
  Node node;
  node.wholes("weight_shape", {i(v.filters), i(v.channels / v.groups), i(v.kernel_h), i(v.kernel_w)})
      .wholes("weight_bits", {c.w_bits})
      .wholes("input_bits", {c.x_bits})
      .wholes("strides", {i(v.stride_h), i(v.stride_w)})
      .wholes("pads", {i(v.pad_h), i(v.pad_w)})
      .wholes("dilations", {i(v.dilation_h), i(v.dilation_w)})
      .wholes("group", {i(v.groups)})
      .wholes("head", {})
      .wholes("tail", {BC_PRELU, BC_RELU})
      .real("eps", 1e-5f)
      .wholes("x_last", {last ? 1 : 0})
      .wholes("y_last", {last ? 1 : 0});
  return node;
}

void bind(const LayerCase& c, const std::vector<float>& slopes, Bound* b, bool last = false) {
  const auto add = [&](const std::vector<float>& all, std::vector<int64_t> shape) {
    b->in.push_back(all.empty() ? unconnected() : described(shape));
    b->data.push_back(all.empty() ? nullptr : device_copy(all.data(), all.size() * sizeof(float)));
  };
  const auto vector = [&](const std::vector<float>& all) { add(all, {static_cast<int64_t>(all.size())}); };
  b->wide.assign(c.stored.begin(), c.stored.end());
  if (last) {
    add(c.x, {c.conv.images, c.conv.height, c.conv.width, c.conv.channels});
  } else {
    add(c.x, {c.conv.images, c.conv.channels, c.conv.height, c.conv.width});
  }
  b->in.push_back(described({static_cast<int64_t>(b->wide.size())}, DataType::kINT32));
  b->data.push_back(device_copy(b->wide.data(), b->wide.size() * sizeof(int32_t)));
  vector(c.w_scale), vector(c.w_offset), vector(c.x_scale), vector(c.x_offset), vector(c.bias);
  vector(c.stretch), vector(c.shift), vector(slopes);
}

void test_layer(const bc_conv2d& conv, int x_bits, int w_bits, bool step, bool last) {
  const LayerCase c = layer_case(conv, x_bits, w_bits, step);
  const std::vector<float> slopes = reals(conv.filters, -0.5f, 0.5f);
  Node node = conv_node(c, last);
  const Sides sides = plugin("BitConv2d", node);
  expect(sides.plugin != nullptr, "a plugin of a good node");
  if (sides.plugin == nullptr) return;
  std::vector<bc_step> tail(2);
  tail[0].kind = BC_PRELU, tail[0].data = slopes.data(), tail[0].column = 1;
  tail[1].kind = BC_RELU;
  int64_t h = 0, w = 0;
  const std::vector<float> wanted = by_cpu(c, last ? BC_CHANNELS_LAST : BC_CHANNELS_FIRST, tail, &h, &w);
  Bound bound;
  bind(c, slopes, &bound, last);
  const std::vector<int64_t> shape = output_shape(sides, bound.in);
  const std::vector<int64_t> first_shape{conv.images, conv.filters, h, w}, last_shape{conv.images, h, w, conv.filters};
  expect(shape == (last ? last_shape : first_shape), "the shape of a convolution");
  // What was serialised makes the same plugin, and so does a clone.
  const Sides again(creator("BitConv2d")->createPlugin("a node", sides.run->getFieldsToSerialize(),
                                                       TensorRTPhase::kRUNTIME));
  const Sides cloned(sides.plugin->clone());
  expect(again.plugin != nullptr && cloned.plugin != nullptr, "fields come back");
  if (!device_here()) return;
  for (const Sides* one : {&sides, &again, &cloned}) expect(same(run(*one, bound, shape), wanted), "a run");
}

void test_linear() {
  const LayerCase c = layer_case({5, 1, 1, 24, 10, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 4, 2, false);
  Node node;
  node.wholes("weight_shape", {10, 24}).wholes("weight_bits", {2}).wholes("input_bits", {4}).wholes("tail", {BC_GELU});
  const Sides sides = plugin("BitLinear", node);
  Bound bound;
  bind(c, {}, &bound);
  bound.in[0] = described({1, 5, 24});
  bound.in.resize(9), bound.data.resize(9);  // trailing inputs left out
  expect(output_shape(sides, bound.in) == std::vector<int64_t>{1, 5, 10}, "the shape of a linear");
  if (!device_here()) return;
  std::vector<bc_step> tail(1);
  tail[0].kind = BC_GELU;
  int64_t h = 0, w = 0;
  expect(same(run(sides, bound, {1, 5, 10}), by_cpu(c, BC_CHANNELS_LAST, tail, &h, &w)), "a run of a linear");
}

void test_products() {
  Node node;
  node.wholes("bits", {4, 4}).wholes("per_length", {0, 0}).wholes("shortest", {0, 0});
  const Sides sides = plugin("BitMatMul", node);
  const std::vector<PluginTensorDesc> in{described({2, 3, 5, 7}), described({2, 3, 7, 4}), described({3}),
                                         described({3}), described({1}), described({1})};
  expect(output_shape(sides, in) == std::vector<int64_t>{2, 3, 5, 4}, "the shape of a product");
  const std::vector<PluginTensorDesc> out{described({2, 3, 5, 4})};
  expect(sides.run->onShapeChange(in.data(), 6, out.data(), 1) == 0, "a product fits");
  auto wrong = in;
  wrong[1] = described({2, 3, 8, 4});
  expect(sides.run->onShapeChange(wrong.data(), 6, out.data(), 1) != 0, "a product that does not fit");
  wrong = in, wrong[2] = described({2}), wrong[3] = described({2});
  expect(sides.run->onShapeChange(wrong.data(), 6, out.data(), 1) != 0, "grids of another number of heads");
}

void test_attention() {
  Node node;
  node.wholes("bits", {4, 4, 4, 4}).wholes("per_length", {0, 0, 0, 0}).wholes("shortest", {0, 0, 0, 0})
      .wholes("multiplies", {0}).wholes("repeats", {1});
  const Sides sides = plugin("BitAttention", node);
  std::vector<PluginTensorDesc> in{described({2, 5, 8}), described({2, 8, 6}), described({2, 6, 3})};
  for (int i = 0; i < 8; ++i) in.push_back(described({1}));
  in.push_back(described({1, 5, 6}));
  expect(output_shape(sides, in) == std::vector<int64_t>{2, 5, 3}, "the shape of attention");
  const std::vector<PluginTensorDesc> out{described({2, 5, 3})};
  const int32_t count = static_cast<int32_t>(in.size());
  expect(sides.run->onShapeChange(in.data(), count, out.data(), 1) == 0, "attention fits");
  in.back() = described({1, 5, 7});
  expect(sides.run->onShapeChange(in.data(), count, out.data(), 1) != 0, "a term of another size");
}

void test_formats() {
  const LayerCase c = layer_case({1, 4, 4, 8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, 2, false);
  Node node = conv_node(c);
  const Sides sides = plugin("BitConv2d", node);
  Bound bound;
  bind(c, reals(8, 0, 1), &bound);
  std::vector<PluginTensorDesc> all = bound.in;
  all.push_back(described({1, 8, 4, 4}));
  const int32_t count = static_cast<int32_t>(bound.in.size());
  const auto supported = [&](int32_t position) {
    const auto given = dynamic(all);
    return sides.build->supportsFormatCombination(position, given.data(), count, 1);
  };
  for (int32_t i = 0; i <= count; ++i) expect(supported(i), "a good format at " + std::to_string(i));
  all[1].type = DataType::kFLOAT;
  expect(!supported(1), "a weight of reals");
  all[1].type = DataType::kINT8;
  expect(supported(1), "a weight of bytes");
  all[2].type = DataType::kHALF;
  expect(supported(2), "float16 scales");
  all[2].type = DataType::kINT32;
  expect(!supported(2), "scales of integers");
  all[0].format = TensorFormat::kCHW32;
  expect(!supported(0), "another format");
  all[0] = bound.in[0], all[0].type = DataType::kHALF;
  expect(!supported(count), "an output of another type than x");
  all.back().type = DataType::kHALF;
  expect(supported(0) && supported(count), "float16 in and out");
  expect(!supported(count + 1) && !supported(-1), "positions that are none");
  DataType out = DataType::kINT8;
  const DataType in = DataType::kHALF;
  expect(sides.build->getOutputDataTypes(&out, 1, &in, 1) == 0 && out == DataType::kHALF, "the type of the output");
}

void test_refusals() {
  const LayerCase c = layer_case({1, 4, 4, 8, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, 2, false);
  const auto refused = [&](const char* what, const std::string& name, Node node) {
    expect(plugin(name, node).plugin == nullptr, what);
  };
  refused("no fields", "BitConv2d", Node());
  refused("nine bits", "BitConv2d", conv_node(c).wholes("weight_bits", {9}));
  refused("bits as a list", "BitConv2d", conv_node(c).wholes("weight_bits", {2, 2}));
  refused("bits as a real", "BitConv2d", conv_node(c).real("weight_bits", 2.0f));
  refused("a stride of 0", "BitConv2d", conv_node(c).wholes("strides", {0, 1}));
  refused("a negative pad", "BitConv2d", conv_node(c).wholes("pads", {-1, 0}));
  refused("three pads", "BitConv2d", conv_node(c).wholes("pads", {1, 1, 1}));
  refused("an unknown step", "BitConv2d", conv_node(c).wholes("tail", {99}));
  refused("too many operands", "BitConv2d", conv_node(c).wholes("tail", std::vector<int32_t>(7, BC_ADD)));
  refused("groups that do not divide", "BitConv2d", conv_node(c).wholes("group", {3}));
  refused("a sum that leaves int32", "BitLinear", Node().wholes("weight_shape", {2, 40000}).wholes("weight_bits", {8}).wholes("input_bits", {8}));
  refused("a product of nine bits", "BitMatMul", Node().wholes("bits", {9, 4}).wholes("per_length", {0, 0}).wholes("shortest", {0, 0}));
  expect(creator("BitConv2d", "bitcompress", "2") == nullptr, "another version");
  expect(creator("BitConv2d", "other") == nullptr && creator("BitConv2d", "") != nullptr, "namespaces");

  Node node = conv_node(c);
  const Sides sides = plugin("BitConv2d", node);
  Bound bound;
  bind(c, reals(8, 0, 1), &bound);
  const std::vector<PluginTensorDesc> out{described({1, 8, 4, 4})};
  const int32_t count = static_cast<int32_t>(bound.in.size());
  const auto shapes = [&](size_t port, std::vector<int64_t> shape) {
    auto in = bound.in;
    in[port] = described(shape, in[port].type);
    return sides.run->onShapeChange(in.data(), count, out.data(), 1);
  };
  expect(shapes(0, {1, 8, 4, 4}) == 0, "good shapes");
  expect(shapes(0, {1, 7, 4, 4}) != 0, "another number of channels");
  expect(shapes(0, {8, 4, 4}) != 0, "three axes");
  expect(shapes(0, {1, 8, 0, 4}) != 0, "no rows");
  expect(shapes(1, {7}) != 0, "a weight of another size");
  expect(shapes(2, {5}) != 0 && shapes(2, {1}) == 0, "scales of another number");
  expect(shapes(6, {3}) != 0, "a bias of another number");
  expect(shapes(9, {3}) != 0, "an operand of another size");
  auto missing = bound.in;
  missing[2] = unconnected();
  expect(sides.run->onShapeChange(missing.data(), count, out.data(), 1) != 0, "no scales");
  const Sides fresh(sides.plugin->clone());
  Node other = conv_node(c);
  const Sides untold = plugin("BitConv2d", other);
  void* outputs[] = {nullptr};
  expect(untold.run->enqueue(bound.in.data(), out.data(), bound.data.data(), outputs, nullptr, nullptr) != 0,
         "a run before the shapes are told");
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return 2;
  void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  const auto get = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  if (get == nullptr || dlsym(library, "setLoggerFinder") == nullptr) return 2;
  int32_t creators = 0;
  IPluginCreatorInterface* const* all = get(creators);
  for (int32_t i = 0; i < creators; ++i) creators_of_library().push_back(static_cast<IPluginCreatorV3One*>(all[i]));
  device_open(library, count > 2 ? arguments[2] : nullptr);
  for (const bool last : {false, true}) {
    test_layer({1, 6, 7, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 2, 2, false, last);
    test_layer({2, 9, 8, 70, 66, 3, 3, 1, 1, 1, 1, 1, 1, 1}, 1, 1, true, last);
    test_layer({2, 11, 13, 12, 20, 5, 3, 4, 2, 3, 4, 1, 2, 3}, 8, 8, false, last);
  }
  test_linear();
  test_products();
  test_attention();
  test_pictures();
  test_formats();
  test_refusals();
  std::printf("plugins: %d checks, %d failed; runs %s\n", g_checks, g_failures, device_told());
  return g_failures == 0 ? 0 : 1;
}
