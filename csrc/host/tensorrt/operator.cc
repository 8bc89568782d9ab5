// Fields, shapes and the table of operators.
#include "operator.h"

#include <cmath>
#include <cstring>

namespace trt {

void check(bc_status status, const char* what) {
  static const char* const kTexts[] = {"", "an argument is impossible", "sizes do not fit each other",
                                       "a code does not fit into its bits", "bounds are impossible",
                                       "an exact sum could leave int32", "no memory", "CUDA refused the launch",
                                       "a sum over no element"};
  require(status == BC_OK, std::string(what) + ": " + kTexts[status]);
}

int Schema::port(const char* wanted) const {
  for (int i = 0; i < port_count; ++i) {
    if (std::strcmp(ports[i].name, wanted) == 0) return i;
  }
  throw Refused(std::string(name) + " has no input " + wanted);
}

const Field& Schema::field(const char* wanted) const {
  for (int i = 0; i < field_count; ++i) {
    if (std::strcmp(fields[i].name, wanted) == 0) return fields[i];
  }
  throw Refused(std::string(name) + " has no attribute " + wanted);
}

void Fields::check() const {
  for (int i = 0; i < schema_->field_count; ++i) {
    const Field& field = schema_->fields[i];
    const bool stands = !value(i).wholes.empty() || !value(i).reals.empty();
    require(stands || !field.required, std::string("the attribute ") + field.name + " is missing");
  }
}

const Value& Fields::named(const char* name) const {
  return value(static_cast<int>(&schema_->field(name) - schema_->fields));
}

int64_t Fields::whole(const char* name, int64_t least, int64_t most) const {
  return wholes(name, 1, least, most)[0];
}

float Fields::real(const char* name) const {
  const Value& found = named(name);
  const float value = found.reals.empty() ? static_cast<float>(schema_->field(name).fallback) : found.reals[0];
  require(std::isfinite(value), std::string("the attribute ") + name + " is no finite number");
  return value;
}

Shape Fields::wholes(const char* name) const {
  const Value& found = named(name);
  return Shape(found.wholes.begin(), found.wholes.end());
}

Shape Fields::wholes(const char* name, size_t count, int64_t least, int64_t most) const {
  Shape found = wholes(name);
  if (found.empty() && !schema_->field(name).required)
    found.assign(count, static_cast<int64_t>(schema_->field(name).fallback));
  host::require_wholes(name, found, count, least, most);
  return found;
}

bc_cuda_numbers Inputs::numbers(const char* port) const {
  const Tensor& tensor = (*this)[port];
  return tensor.there ? tensor.numbers() : bc_cuda_numbers{nullptr, BC_CUDA_FLOAT32, 0};
}

bc_cuda_numbers Inputs::channels(const char* port, int64_t count) const {
  const Tensor& tensor = (*this)[port];
  if (tensor.there) host::require_channels((*this)[0].shape, product(tensor.shape), count);
  return numbers(port);
}

std::vector<Operator::Axis> axes_like_first(const std::vector<int>& ranks) {
  std::vector<Operator::Axis> axes;
  for (int i = 0; i < ranks[0]; ++i) axes.push_back({Operator::Axis::input, 0, i, 0, 1});
  return axes;
}

std::unique_ptr<Operator> make(const Fields& fields) {
  struct Maker {
    const char* name;
    std::unique_ptr<Operator> (*make)(const Fields&);
  };
  static const Maker kMakers[] = {
      {"BitConv2d", make_layer},        {"BitLinear", make_layer},       {"BitMatMul", make_matmul},
      {"BitAttention", make_attention}, {"LayerNorm", make_rows},        {"BitGelu", make_rows},
      {"BitSigmoid", make_rows},        {"Silu", make_rows},             {"Unit", make_unit},
      {"PixelMean", make_pixel_mean},   {"GroupNorm", make_group_norm},
  };
  fields.check();
  for (const Maker& maker : kMakers) {
    if (std::strcmp(maker.name, fields.schema().name) == 0) return maker.make(fields);
  }
  throw Refused(std::string("there is no operator ") + fields.schema().name);
}

}  // namespace trt
