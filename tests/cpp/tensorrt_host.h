// TensorRT's part in the test of the plugins: expressions of sizes, fields, descriptions of tensors.
#pragma once

#include <NvInfer.h>

#include <memory>
#include <string>
#include <vector>

namespace host {

using namespace nvinfer1;

// A size that is a number all along.
class Size final : public IDimensionExpr, public apiv::VDimensionExpr {
 public:
  explicit Size(int64_t value) : value_(value) { mImpl = this; }
  bool isConstant() const noexcept override { return true; }
  int64_t getConstantValue() const noexcept override { return value_; }
  bool isSizeTensor() const noexcept override { return false; }
  int64_t value() const { return value_; }

 private:
  int64_t value_;
};

class Builder final : public IExprBuilder, public apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  const IDimensionExpr* constant(int64_t value) noexcept override {
    made_.push_back(std::make_unique<Size>(value));
    return made_.back().get();
  }
  const IDimensionExpr* operation(DimensionOperation op, const IDimensionExpr& a,
                                  const IDimensionExpr& b) noexcept override {
    const int64_t x = static_cast<const Size&>(a).value(), y = static_cast<const Size&>(b).value();
    switch (op) {
      case DimensionOperation::kSUM: return constant(x + y);
      case DimensionOperation::kFLOOR_DIV: return constant(x / y);
      default: return nullptr;
    }
  }
  const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
    return nullptr;
  }

 private:
  std::vector<std::unique_ptr<Size>> made_;
};

// The fields of a node; their memory lives here.
class Node {
 public:
  Node& wholes(const std::string& name, std::vector<int32_t> values) {
    parts_.push_back(std::make_shared<Part>(Part{name, std::move(values), 0}));
    const Part& part = *parts_.back();
    fields_.emplace_back(part.name.c_str(), part.wholes.data(), PluginFieldType::kINT32,
                         static_cast<int32_t>(part.wholes.size()));
    return *this;
  }
  Node& real(const std::string& name, float value) {
    parts_.push_back(std::make_shared<Part>(Part{name, {}, value}));
    fields_.emplace_back(parts_.back()->name.c_str(), &parts_.back()->number, PluginFieldType::kFLOAT32, 1);
    return *this;
  }
  const PluginFieldCollection* collection() {
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &collection_;
  }

 private:
  struct Part {
    std::string name;
    std::vector<int32_t> wholes;
    float number;
  };
  std::vector<std::shared_ptr<Part>> parts_;
  std::vector<PluginField> fields_;
  PluginFieldCollection collection_{};
};

inline Dims dims(const std::vector<int64_t>& sizes) {
  Dims made{};
  made.nbDims = static_cast<int32_t>(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) made.d[i] = sizes[i];
  return made;
}

inline PluginTensorDesc described(const std::vector<int64_t>& sizes, DataType type = DataType::kFLOAT) {
  PluginTensorDesc desc{};
  desc.dims = dims(sizes), desc.type = type, desc.format = TensorFormat::kLINEAR, desc.scale = 1.0f;
  return desc;
}

// An optional input that is not connected.
inline PluginTensorDesc unconnected() {
  PluginTensorDesc desc{};
  desc.dims.nbDims = -1;
  return desc;
}

inline std::vector<DynamicPluginTensorDesc> dynamic(const std::vector<PluginTensorDesc>& all) {
  std::vector<DynamicPluginTensorDesc> made;
  for (const PluginTensorDesc& desc : all) made.push_back({desc, desc.dims, desc.dims, desc.dims});
  return made;
}

// A plugin with its three sides.
struct Sides {
  std::unique_ptr<IPluginV3> plugin;
  IPluginV3OneCore* core = nullptr;
  IPluginV3OneBuild* build = nullptr;
  IPluginV3OneRuntime* run = nullptr;

  explicit Sides(IPluginV3* made) : plugin(made) {
    if (made == nullptr) return;
    core = static_cast<IPluginV3OneCore*>(made->getCapabilityInterface(PluginCapabilityType::kCORE));
    build = static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
    run = static_cast<IPluginV3OneRuntime*>(made->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  }
};

inline std::vector<int64_t> output_shape(const Sides& sides, const std::vector<PluginTensorDesc>& in) {
  Builder builder;
  std::vector<DimsExprs> sizes(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    sizes[i].nbDims = in[i].dims.nbDims;
    for (int d = 0; d < in[i].dims.nbDims; ++d) sizes[i].d[d] = builder.constant(in[i].dims.d[d]);
  }
  DimsExprs out{};
  std::vector<int64_t> shape;
  if (sides.build->getOutputShapes(sizes.data(), static_cast<int32_t>(in.size()), nullptr, 0, &out, 1, builder) != 0)
    return shape;
  for (int d = 0; d < out.nbDims; ++d) shape.push_back(static_cast<const Size*>(out.d[d])->value());
  return shape;
}

}  // namespace host
