// See host.h.
#include "host.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ort {
namespace {

// Throws what a status of ONNX Runtime says, and lets go of it.
void check(const Api& api, Status* status) {
  if (status == nullptr) return;
  const std::string said = api.at<const char*(const Status*)>(kGetErrorMessage)(status);
  api.at<void(Status*)>(kReleaseStatus)(status);
  throw Refused(said);
}

// Whether a question was answered; the status is let go of.
bool answered(const Api& api, Status* status) {
  if (status == nullptr) return true;
  api.at<void(Status*)>(kReleaseStatus)(status);
  return false;
}

Tensor tensor_of(const Api& api, const Value* value) {
  Tensor tensor;
  TypeInfo* info = nullptr;
  check(api, api.at<Status*(const Value*, TypeInfo**)>(kGetTensorTypeAndShape)(value, &info));
  const auto release = api.at<void(TypeInfo*)>(kReleaseTypeInfo);
  const std::unique_ptr<TypeInfo, void (*)(TypeInfo*)> held(info, release);
  check(api, api.at<Status*(const TypeInfo*, ElementType*)>(kGetTensorElementType)(info, &tensor.type));
  size_t axes = 0;
  check(api, api.at<Status*(const TypeInfo*, size_t*)>(kGetDimensionsCount)(info, &axes));
  tensor.shape.resize(axes);
  check(api, api.at<Status*(const TypeInfo*, int64_t*, size_t)>(kGetDimensions)(
                 info, tensor.shape.data(), axes));
  void* data = nullptr;
  check(api, api.at<Status*(const Value*, void**)>(kGetTensorMutableData)(value, &data));
  tensor.data = data;
  return tensor;
}

}  // namespace

void check(bc_status status, const char* what) {
  if (status == BC_NO_MEMORY) throw std::bad_alloc();
  if (status != BC_OK) throw Refused(std::string(what) + ": " + bc_status_text(status));
}

size_t Schema::port(const char* wanted) const {
  for (size_t i = 0; i < input_count; ++i) {
    if (std::strcmp(inputs[i].name, wanted) == 0) return i;
  }
  throw Refused(std::string("no input is called ") + wanted);
}

const Attribute& Schema::attribute(const char* wanted) const {
  for (size_t i = 0; i < attribute_count; ++i) {
    if (std::strcmp(attributes[i].name, wanted) == 0) return attributes[i];
  }
  throw Refused(std::string("no attribute is called ") + wanted);
}

void Info::refuse_unread(const Attribute& attribute) const {
  const char* const name = attribute.name;
  const auto holds = [&](auto value, Slot slot) {
    return answered(api_, api_.at<Status*(const KernelInfo*, const char*, decltype(value)*)>(slot)(info_, name, &value));
  };
  // A list is also said to be there, and empty, where something else stands.
  const auto many = [&](Slot slot) {
    size_t count = 0;
    const auto get = api_.at<Status*(const KernelInfo*, const char*, void*, size_t*)>(slot);
    return answered(api_, get(info_, name, nullptr, &count)) && count > 0;
  };
  const bool stands = holds(int64_t{0}, kInfoGetInt) || holds(0.0f, kInfoGetFloat) || many(kInfoGetInts) ||
                      many(kInfoGetFloats) || many(kInfoGetString);
  require(!stands, std::string("the attribute ") + name + " is of another type");
  require(!attribute.required, std::string("the attribute ") + name + " is missing");
}

int64_t Info::integer(const char* name, int64_t least, int64_t most) const {
  const Attribute& attribute = schema_.attribute(name);
  int64_t value = static_cast<int64_t>(attribute.fallback);
  const auto get = api_.at<Status*(const KernelInfo*, const char*, int64_t*)>(kInfoGetInt);
  if (!answered(api_, get(info_, name, &value))) {
    refuse_unread(attribute);
    value = static_cast<int64_t>(attribute.fallback);
  }
  host::require_whole(name, value, least, most);
  return value;
}

float Info::real(const char* name) const {
  const Attribute& attribute = schema_.attribute(name);
  float value = static_cast<float>(attribute.fallback);
  const auto get = api_.at<Status*(const KernelInfo*, const char*, float*)>(kInfoGetFloat);
  if (!answered(api_, get(info_, name, &value))) {
    refuse_unread(attribute);
    value = static_cast<float>(attribute.fallback);
  }
  require(std::isfinite(value), std::string("the attribute ") + name + " is no finite number");
  return value;
}

Shape Info::integers(const char* name) const {
  const Attribute& attribute = schema_.attribute(name);
  const auto get =
      api_.at<Status*(const KernelInfo*, const char*, int64_t*, size_t*)>(kInfoGetInts);
  size_t count = 0;
  if (!answered(api_, get(info_, name, nullptr, &count)) || count == 0) {
    refuse_unread(attribute);
    return {};
  }
  Shape values(count);
  check(api_, get(info_, name, values.data(), &count));
  return values;
}

Shape Info::integers(const char* name, size_t count, int64_t least, int64_t most,
                     std::optional<int64_t> fallback) const {
  Shape values = integers(name);
  if (values.empty() && fallback.has_value()) values.assign(count, *fallback);
  host::require_wholes(name, values, count, least, most);
  return values;
}

std::optional<Tensor> Info::optional_constant(const char* port) const {
  const Value* value = nullptr;
  int constant = 0;
  const auto get =
      api_.at<Status*(const KernelInfo*, size_t, int*, const Value**)>(kInfoGetConstantInput);
  const size_t at = schema_.port(port);
  const bool there = answered(api_, get(info_, at, &constant, &value));
  if (there && constant != 0 && value != nullptr) return tensor_of(api_, value);
  left_out_.push_back(at);
  return std::nullopt;
}

Tensor Info::constant(const char* port) const {
  std::optional<Tensor> found = optional_constant(port);
  require(found.has_value(), std::string("the input ") + port +
                                 " must be an initialiser: weights are made ready once");
  return std::move(*found);
}

std::vector<float> Info::numbers(const char* port, const Tensor& tensor, int64_t count) const {
  require(tensor.type == kFloat || tensor.type == kFloat16,
          std::string("the input ") + port + " must be float32 or float16");
  const int64_t size = product(tensor.shape);
  require(count < 0 || size == count, std::string("the input ") + port + " has " +
                                          std::to_string(size) + " numbers, not " +
                                          std::to_string(count));
  std::vector<float> out(static_cast<size_t>(size));
  if (size == 0) return out;
  if (tensor.type == kFloat) {
    std::memcpy(out.data(), tensor.data, out.size() * sizeof(float));
  } else {
    check(bc_widen(static_cast<const uint16_t*>(tensor.data), size, out.data()), port);
  }
  return out;
}

std::vector<float> Info::parameter(const char* port, int64_t count) const {
  return numbers(port, constant(port), count);
}

std::optional<std::vector<float>> Info::optional_parameter(const char* port, int64_t count) const {
  const std::optional<Tensor> found = optional_constant(port);
  if (!found.has_value()) return std::nullopt;
  return numbers(port, *found, count);
}

size_t Context::inputs() const {
  size_t count = 0;
  check(api_, api_.at<Status*(const KernelContext*, size_t*)>(kContextGetInputCount)(context_, &count));
  return count;
}

Tensor Context::input(size_t i) const {
  const Value* value = nullptr;
  require(i < schema_.input_count, "the operator has no input number " + std::to_string(i));
  const std::string name = schema_.inputs[i].name;
  if (i < inputs()) {
    check(api_, api_.at<Status*(const KernelContext*, size_t, const Value**)>(kContextGetInput)(
                    context_, i, &value));
  }
  require(value != nullptr, "the input " + name + " is missing");
  return tensor_of(api_, value);
}

Tensor Context::real(size_t i) const {
  Tensor tensor = input(i);
  require(tensor.type == kFloat, std::string("the input ") + schema_.inputs[i].name + " must be float32");
  return tensor;
}

Tensor Context::number(size_t i) const {
  Tensor tensor = input(i);
  require(tensor.type == kFloat || tensor.type == kUint8,
          std::string("the input ") + schema_.inputs[i].name + " must be float32, or uint8 codes");
  return tensor;
}

bool Context::has(size_t i) const {
  const Value* value = nullptr;
  if (i < inputs()) {
    check(api_, api_.at<Status*(const KernelContext*, size_t, const Value**)>(kContextGetInput)(
                    context_, i, &value));
  }
  return value != nullptr;
}

void* Context::output(const Shape& shape) const {
  Value* value = nullptr;
  check(api_, api_.at<Status*(KernelContext*, size_t, const int64_t*, size_t, Value**)>(
                  kContextGetOutput)(context_, 0, shape.data(), shape.size(), &value));
  void* data = nullptr;
  check(api_, api_.at<Status*(Value*, void**)>(kGetTensorMutableData)(value, &data));
  return data;
}

int Context::threads() {
  static const int count = [] {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
    return static_cast<int>(std::thread::hardware_concurrency());
  }();
  return count > 1 ? count : 1;
}

void Context::run(void* self, bc_task task, void* context, int64_t count) {
  struct Shared {
    bc_task task;
    void* context;
  } shared{task, context};
  const Context& me = *static_cast<const Context*>(self);
  const auto body = [](void* data, size_t i) {
    const Shared& job = *static_cast<Shared*>(data);
    job.task(job.context, static_cast<int64_t>(i));
  };
  using Body = void (*)(void*, size_t);
  using ParallelFor = Status*(const KernelContext*, Body, size_t, size_t, void*);
  Status* status = me.api_.at<ParallelFor>(kContextParallelFor)(
      me.context_, body, static_cast<size_t>(count), static_cast<size_t>(count), &shared);
  // Whoever claims tasks does all that are left, so the caller alone is enough.
  if (!answered(me.api_, status)) task(context, 0);
}

}  // namespace ort
