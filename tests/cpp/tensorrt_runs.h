// What the tests of the plugins share: a plugin of a node, its inputs in memory, and a run of it.
#pragma once

#include <cstring>

#include "check.h"
#include "device_memory.h"
#include "tensorrt_host.h"

namespace host {

using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);

inline std::vector<IPluginCreatorV3One*>& creators_of_library() {
  static std::vector<IPluginCreatorV3One*> all;
  return all;
}

inline IPluginCreatorV3One* creator(const std::string& name, const std::string& space = "bitcompress",
                                    const std::string& version = "1") {
  for (IPluginCreatorV3One* made : creators_of_library()) {
    if (made->getPluginName() == name && made->getPluginNamespace() == space && made->getPluginVersion() == version)
      return made;
  }
  return nullptr;
}

inline Sides plugin(const std::string& name, Node& node, TensorRTPhase phase = TensorRTPhase::kBUILD) {
  return Sides(creator(name)->createPlugin("a node", node.collection(), phase));
}

struct Bound {
  std::vector<PluginTensorDesc> in;
  std::vector<const void*> data;
  std::vector<int32_t> wide;  // the weight as the parser gives it: a number for each byte
};

inline std::vector<float> run(const Sides& sides, const Bound& b, const std::vector<int64_t>& shape) {
  const std::vector<PluginTensorDesc> out{described(shape)};
  const auto in = dynamic(b.in), made = dynamic(out);
  const int32_t count = static_cast<int32_t>(b.in.size());
  int64_t size = 1;
  for (const int64_t axis : shape) size *= axis;
  std::vector<float> result(static_cast<size_t>(size), 7.0f);
  expect(sides.build->configurePlugin(in.data(), count, made.data(), 1) == 0, "configure");
  expect(sides.run->onShapeChange(b.in.data(), count, out.data(), 1) == 0, "shapes are told");
  const size_t bytes = sides.build->getWorkspaceSize(in.data(), count, made.data(), 1);
  void* workspace = device_copy(nullptr, bytes);
  void* to = device_copy(nullptr, result.size() * sizeof(float));
  void* outputs[] = {to};
  expect(sides.run->enqueue(b.in.data(), out.data(), b.data.data(), outputs, workspace, nullptr) == 0, "enqueue");
  device_read(result.data(), to, result.size() * sizeof(float));
  return result;
}

inline bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// In test_tensorrt_pictures.cc: means over pixels and group norm.
void test_pictures();

}  // namespace host
