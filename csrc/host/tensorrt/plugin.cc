// The plugin: descriptions of TensorRT into inputs of an operator, and refusals into its error codes.
#include "plugin.h"

namespace trt {

using namespace nvinfer1;

namespace {

constexpr int32_t kGood = 0, kBad = -1;

// Runs what may refuse; says why and gives `bad` where it does.
template <class R, class F>
R guarded(const char* name, R bad, F&& call) noexcept {
  try {
    return call();
  } catch (const std::exception& refused) {
    report(std::string(name) + ": " + refused.what());
    return bad;
  } catch (...) {
    return bad;
  }
}

bool fits(Kind kind, DataType type, DataType first) {
  switch (kind) {
    case Kind::real:
      return type == first && (type == DataType::kFLOAT || type == DataType::kHALF);
    case Kind::parameter:
      return type == DataType::kFLOAT || type == DataType::kHALF;
    case Kind::bytes:  // the parser widens bytes to int32
      return type == DataType::kINT32 || type == DataType::kUINT8 || type == DataType::kINT8;
  }
  return false;
}

bc_cuda_type type_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return BC_CUDA_FLOAT32;
    case DataType::kHALF:
      return BC_CUDA_FLOAT16;
    case DataType::kINT32:
      return BC_CUDA_INT32;
    case DataType::kUINT8:
    case DataType::kINT8:
      return BC_CUDA_UINT8;
    default:
      throw Refused("an input has a type that no operator takes");
  }
}

// An optional input that is not connected has no dimensions.
bool is_there(const Dims& dims) { return dims.nbDims >= 0; }

// The largest that inputs may become.
std::vector<PluginTensorDesc> largest(const DynamicPluginTensorDesc* in, int32_t count) {
  std::vector<PluginTensorDesc> all;
  for (int32_t i = 0; i < count; ++i) {
    all.push_back(in[i].desc);
    if (is_there(in[i].desc.dims)) all.back().dims = in[i].max;
  }
  return all;
}

const IDimensionExpr* expression(const Operator::Axis& axis, const DimsExprs* in, IExprBuilder& build) {
  if (axis.kind == Operator::Axis::constant) return build.constant(axis.value);
  const IDimensionExpr* size = in[axis.port].d[axis.axis];
  if (axis.kind == Operator::Axis::input) return size;
  const IDimensionExpr* room = build.operation(DimensionOperation::kSUM, *size, *build.constant(axis.value));
  const IDimensionExpr* steps =
      build.operation(DimensionOperation::kFLOOR_DIV, *room, *build.constant(axis.divide));
  return build.operation(DimensionOperation::kSUM, *steps, *build.constant(1));
}

}  // namespace

Plugin::Plugin(Fields fields, const char* space)
    : fields_(std::move(fields)), space_(space), operator_(make(fields_)) {}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* Plugin::clone() noexcept {
  return guarded<IPluginV3*>(getPluginName(), nullptr, [&] {
    auto* made = new Plugin(fields_, space_);
    made->inputs_ = inputs_;
    return made;
  });
}

Inputs Plugin::inputs_of(const PluginTensorDesc* in, int32_t count, const void* const* data) const {
  const Schema& schema = fields_.schema();
  require(count >= 1 && count <= schema.port_count, "a node has " + std::to_string(count) + " inputs");
  std::vector<Tensor> tensors(static_cast<size_t>(schema.port_count));
  for (int32_t i = 0; i < schema.port_count; ++i) {
    const bool there = i < count && is_there(in[i].dims) && (data == nullptr || data[i] != nullptr);
    require(there || !schema.ports[i].required, std::string("the input ") + schema.ports[i].name + " is missing");
    if (!there) continue;
    Tensor& tensor = tensors[static_cast<size_t>(i)];
    tensor.there = true, tensor.data = data == nullptr ? nullptr : data[i], tensor.type = type_of(in[i].type);
    tensor.shape.assign(in[i].dims.d, in[i].dims.d + in[i].dims.nbDims);
  }
  return Inputs(schema, std::move(tensors));
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                int32_t outputs) noexcept {
  return guarded(getPluginName(), kBad, [&] {
    require(outputs == 1, "a node has one output");
    const auto most = largest(in, inputs);
    operator_->scratch(inputs_of(most.data(), inputs, nullptr), {nullptr, type_of(out[0].desc.type)});
    return kGood;
  });
}

int32_t Plugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType* in,
                                   int32_t inputs) const noexcept {
  if (outputs != 1 || inputs < 1) return kBad;
  types[0] = in[0];
  return kGood;
}

int32_t Plugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t, DimsExprs* out,
                                int32_t outputs, IExprBuilder& build) noexcept {
  return guarded(getPluginName(), kBad, [&] {
    require(outputs == 1 && inputs >= 1, "a node has inputs and one output");
    std::vector<int> ranks(static_cast<size_t>(fields_.schema().port_count), -1);
    for (int32_t i = 0; i < inputs && i < fields_.schema().port_count; ++i) ranks[static_cast<size_t>(i)] = in[i].nbDims;
    const auto axes = operator_->axes(ranks);
    require(axes.size() <= static_cast<size_t>(Dims::MAX_DIMS), "a tensor has too many axes");
    out[0].nbDims = static_cast<int32_t>(axes.size());
    for (size_t i = 0; i < axes.size(); ++i) out[0].d[i] = expression(axes[i], in, build);
    return kGood;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* all, int32_t inputs,
                                       int32_t outputs) noexcept {
  const Schema& schema = fields_.schema();
  if (outputs != 1 || position < 0 || position > inputs || inputs > schema.port_count) return false;
  const PluginTensorDesc& here = all[position].desc;
  if (position < inputs && !is_there(here.dims)) return !schema.ports[position].required;
  if (here.format != TensorFormat::kLINEAR) return false;
  const Kind kind = position == inputs ? Kind::real : schema.ports[position].kind;
  return fits(kind, here.type, all[0].desc.type);
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out,
                                int32_t) const noexcept {
  return guarded(getPluginName(), size_t{0}, [&] {
    const auto most = largest(in, inputs);
    return static_cast<size_t>(
        operator_->scratch(inputs_of(most.data(), inputs, nullptr), {nullptr, type_of(out[0].desc.type)}));
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                              int32_t outputs) noexcept {
  return guarded(getPluginName(), kBad, [&] {
    require(outputs == 1, "a node has one output");
    operator_->scratch(inputs_of(in, inputs, nullptr), {nullptr, type_of(out[0].type)});
    inputs_ = inputs;
    return kGood;
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                        void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  return guarded(getPluginName(), kBad, [&] {
    require(inputs_ > 0, "a run before the shapes of its inputs were told");
    operator_->run(inputs_of(in, inputs_, inputs), {outputs[0], type_of(out[0].type)}, workspace, stream);
    return kGood;
  });
}

const PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return guarded<const PluginFieldCollection*>(getPluginName(), nullptr, [&] {
    serialised_ = collected(fields_);
    collection_ = {static_cast<int32_t>(serialised_.size()), serialised_.data()};
    return &collection_;
  });
}

}  // namespace trt
