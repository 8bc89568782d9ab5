// The part of ONNX Runtime's C interface that the operator library uses, declared by ourselves.
//
// That interface only grows: OrtApi is a table of functions, and what stands at a number keeps its
// meaning in every later version. So no header of ONNX Runtime is needed to build, and nothing is
// linked: the caller of RegisterCustomOps hands over where its functions are. Numbers are from
// onnxruntime_c_api.h of version 1.20 and before; the tests run against the wheel.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

// Version of OrtApi that is asked for: ONNX Runtime 1.20 and later have it.
constexpr uint32_t kApiVersion = 20;

struct Status;
struct Value;
struct TypeInfo;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct KernelContext;
struct ShapeContext;

enum ElementType : int32_t { kUndefined = 0, kFloat = 1, kUint8 = 2, kFloat16 = 10 };
enum Characteristic : int32_t { kRequired = 0, kOptional = 1 };
enum ErrorCode : int32_t { kFail = 1, kInvalidArgument = 2 };

// Where functions stand in OrtApi.
enum Slot : size_t {
  kCreateStatus = 0,
  kGetErrorMessage = 2,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kInfoGetFloat = 85,
  kInfoGetInt = 86,
  kInfoGetString = 87,
  kContextGetInputCount = 88,
  kContextGetInput = 90,
  kContextGetOutput = 91,
  kReleaseStatus = 93,
  kReleaseTypeInfo = 99,
  kInfoGetFloats = 162,
  kInfoGetInts = 163,
  kInfoGetConstantInput = 249,
  kContextParallelFor = 274,
};

struct Api {
  const void* functions[kContextParallelFor + 1];

  template <class F>
  F* at(Slot slot) const {
    return reinterpret_cast<F*>(const_cast<void*>(functions[slot]));
  }
  Status* status(ErrorCode code, const char* text) const {
    return at<Status*(ErrorCode, const char*)>(kCreateStatus)(code, text);
  }
};

struct ApiBase {
  const Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// OrtCustomOp as of version 18 of the interface; fields follow each other as versions added them.
struct CustomOp {
  uint32_t version;
  void* (*create_kernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*name)(const CustomOp*);
  const char* (*provider)(const CustomOp*);
  ElementType (*input_type)(const CustomOp*, size_t);
  size_t (*input_count)(const CustomOp*);
  ElementType (*output_type)(const CustomOp*, size_t);
  size_t (*output_count)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroy)(void*);
  Characteristic (*input_characteristic)(const CustomOp*, size_t);
  Characteristic (*output_characteristic)(const CustomOp*, size_t);
  int32_t (*input_memory)(const CustomOp*, size_t);
  int (*variadic_input_least)(const CustomOp*);
  int (*variadic_input_homogeneous)(const CustomOp*);
  int (*variadic_output_least)(const CustomOp*);
  int (*variadic_output_homogeneous)(const CustomOp*);
  Status* (*create_kernel_v2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*compute_v2)(void*, KernelContext*);
  Status* (*infer_shapes)(const CustomOp*, ShapeContext*);
  int (*first_version)(const CustomOp*);
  int (*last_version)(const CustomOp*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*alias_map)(int**, int**);
  void (*release_alias_map)(int*, int*);
};

static_assert(sizeof(void*) == 8, "the interface is declared for 64-bit systems");
static_assert(offsetof(CustomOp, create_kernel) == 8, "a pointer follows the version");
static_assert(offsetof(CustomOp, create_kernel_v2) == 17 * 8, "version 16 begins there");
static_assert(offsetof(CustomOp, first_version) == 20 * 8, "version 17 begins there");
static_assert(offsetof(CustomOp, may_inplace) == 22 * 8, "version 18 begins there");
static_assert(sizeof(CustomOp) == 26 * 8, "OrtCustomOp of version 18");
static_assert(sizeof(Api) == 275 * 8, "OrtApi is a table of functions");

}  // namespace ort
