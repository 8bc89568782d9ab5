// The operator library of ONNX Runtime: RegisterCustomOps, and what stands between its C interface
// and the kernels of operators. No exception leaves this file.
#include <array>
#include <cstring>
#include <mutex>
#include <new>

#include "host.h"

namespace ort {
namespace {

struct Named {
  const char* name;
  Maker make;
};

constexpr Named kMakers[] = {
    {"BitConv2d", make_conv2d}, {"BitLinear", make_linear}, {"BitMatMul", make_matmul},
    {"BitAttention", make_attention}, {"BitConv2dCodes", make_conv2d},
    {"BitLinearCodes", make_linear}, {"BitWindows", make_windows},
    {"BitWindowsCodes", make_windows}, {"LayerNorm", make_layer_norm}, {"BitGelu", make_gelu},
    {"BitSigmoid", make_sigmoid},    {"Silu", make_silu},        {"Unit", make_unit},
    {"PixelMean", make_pixel_mean},  {"GroupNorm", make_group_norm},
};
constexpr size_t kCount = sizeof(kOperators) / sizeof(kOperators[0]);
static_assert(kCount == sizeof(kMakers) / sizeof(kMakers[0]), "an operator has no kernel");

// An operator as ONNX Runtime sees it; the fields that it reads come first.
struct Operator {
  CustomOp op;
  const Schema* schema;
  Maker make;
};
static_assert(offsetof(Operator, op) == 0, "ONNX Runtime hands back a pointer to the first field");

const Operator& of(const CustomOp* op) { return *reinterpret_cast<const Operator*>(op); }

// A kernel and what it was made from.
struct Made {
  const Api* api;
  const Schema* schema;
  std::unique_ptr<Kernel> kernel;
  std::vector<size_t> left_out;
};

// What `call` throws as a status that names the operator.
template <class F>
Status* guarded(const Api& api, const Schema& schema, F&& call) {
  try {
    call();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.status(kFail, "bitcompress: there is not enough memory for an operator");
  } catch (const std::exception& error) {
    try {
      const std::string said = std::string(kDomain) + "::" + schema.name + ": " + error.what();
      return api.status(kInvalidArgument, said.c_str());
    } catch (...) {
      return api.status(kFail, "bitcompress: an operator refused its inputs");
    }
  } catch (...) {
    return api.status(kFail, "bitcompress: an operator failed");
  }
}

Status* create(const CustomOp* op, const Api* api, const KernelInfo* info, void** kernel) {
  const Operator& from = of(op);
  return guarded(*api, *from.schema, [&] {
    auto made = std::make_unique<Made>();
    made->api = api, made->schema = from.schema;
    const Info node(*api, info, *from.schema);
    made->kernel = from.make(node);
    made->left_out = node.left_out();
    *kernel = made.release();
  });
}

Status* compute(void* kernel, KernelContext* context) {
  const Made& made = *static_cast<const Made*>(kernel);
  return guarded(*made.api, *made.schema, [&] {
    const Context run(*made.api, context, *made.schema);
    for (const size_t i : made.left_out) {
      require(!run.has(i), std::string("the input ") + made.schema->inputs[i].name + " must be an initialiser");
    }
    made.kernel->compute(run);
  });
}

ElementType input_type(const CustomOp* op, size_t i) {
  const Schema& schema = *of(op).schema;
  switch (i < schema.input_count ? schema.inputs[i].kind : Kind::real) {
    case Kind::real:
      return kFloat;
    case Kind::bytes:
      return kUint8;
    case Kind::number:
    case Kind::parameter:
      return kUndefined;  // of any type: float32, or uint8 or float16, which the kernel checks
  }
  return kFloat;
}

Characteristic characteristic(const CustomOp* op, size_t i) {
  const Schema& schema = *of(op).schema;
  const bool needed = i < schema.input_count && schema.inputs[i].count == Count::one;
  return needed ? kRequired : kOptional;
}

constexpr CustomOp functions() {
  CustomOp op{};
  op.version = kApiVersion;
  op.name = [](const CustomOp* self) { return of(self).schema->name; };
  op.provider = [](const CustomOp*) -> const char* { return nullptr; };  // the CPU
  op.input_type = input_type;
  op.input_count = [](const CustomOp* self) { return of(self).schema->input_count; };
  op.output_type = [](const CustomOp* self, size_t) { return of(self).schema->codes ? kUint8 : kFloat; };
  op.output_count = [](const CustomOp*) -> size_t { return 1; };
  op.destroy = [](void* kernel) { delete static_cast<Made*>(kernel); };
  op.input_characteristic = characteristic;
  op.output_characteristic = [](const CustomOp*, size_t) { return kRequired; };
  op.input_memory = [](const CustomOp*, size_t) -> int32_t { return 0; };
  op.variadic_input_least = [](const CustomOp*) { return 1; };
  op.variadic_input_homogeneous = [](const CustomOp*) { return 1; };
  op.variadic_output_least = [](const CustomOp*) { return 1; };
  op.variadic_output_homogeneous = [](const CustomOp*) { return 1; };
  op.create_kernel_v2 = create;
  op.compute_v2 = compute;
  op.first_version = [](const CustomOp*) { return kVersion; };
  op.last_version = [](const CustomOp*) { return kVersion; };
  return op;
}

struct Operators {
  std::array<Operator, kCount> all{};

  Operators() {
    for (size_t i = 0; i < kCount; ++i) {
      all[i] = {functions(), &kOperators[i], nullptr};
      for (const Named& named : kMakers) {
        if (std::strcmp(named.name, kOperators[i].name) == 0) all[i].make = named.make;
      }
    }
  }
};

const Operators& operators() {
  static const Operators made;
  return made;
}

// One domain serves all sessions and lives as long as the process: ONNX Runtime may read it until
// the last session is gone.
Status* add(const Api& api, SessionOptions* options) {
  static std::mutex mutex;
  static Domain* domain = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (domain == nullptr) {
    Domain* made = nullptr;
    if (Status* s = api.at<Status*(const char*, Domain**)>(kCreateCustomOpDomain)(kDomain, &made))
      return s;
    for (const Operator& one : operators().all) {
      if (one.make == nullptr) return api.status(kFail, "bitcompress: an operator has no kernel");
      if (Status* s = api.at<Status*(Domain*, const CustomOp*)>(kCustomOpDomainAdd)(made, &one.op))
        return s;
    }
    domain = made;
  }
  return api.at<Status*(SessionOptions*, Domain*)>(kAddCustomOpDomain)(options, domain);
}

}  // namespace
}  // namespace ort

#if defined(_WIN32)
#define EXPORTED extern "C" __declspec(dllexport)
#else
#define EXPORTED extern "C" __attribute__((visibility("default")))
#endif

// What ONNX Runtime calls when the library is registered.
EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api* api = base->get_api(ort::kApiVersion);
  if (api != nullptr) return ort::add(*api, options);
  // Creating a status stands first in every version.
  const ort::Api* oldest = base->get_api(1);
  return oldest == nullptr ? nullptr
                           : oldest->status(ort::kFail, "bitcompress needs ONNX Runtime 1.20 or later");
}

// The version of the operators, which must be that of the file.
EXPORTED int bitcompress_operator_version() { return ort::kVersion; }
