// ONNX files with anything in them: each is opened by ONNX Runtime with the operator library, and run where it
// opens. What comes back must be a status with a sentence, or an output.
//
// A target of libFuzzer, whose mutator keeps the lengths inside of a file right; driver.cc has the loop elsewhere.
// BITCOMPRESS_ORT_RUNTIME names libonnxruntime, BITCOMPRESS_ORT_LIBRARY the operator library. Free sizes of the files
// of onnx_corpus are called by the size that fits, as "d33".
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "../../csrc/host/onnxruntime/abi.h"
#include "change_onnx.h"

namespace {

using ort::Status;
using ort::TypeInfo;
using ort::Value;
struct Env;
struct Session;
struct Options;
struct Memory;
struct Allocator;

// Places in OrtApi beside those of abi.h, and what their functions are.
enum : size_t {
  kCreateEnv = 3,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kDisableMemPattern = 17,
  kDisableCpuMemArena = 19,
  kSetIntraOpNumThreads = 24,
  kSessionGetInputCount = 30,
  kSessionGetInputTypeInfo = 33,
  kSessionGetInputName = 36,
  kSessionGetOutputName = 37,
  kCreateTensorWithData = 49,
  kCastToTensorInfo = 55,
  kGetSymbolicDimensions = 63,
  kCreateCpuMemoryInfo = 69,
  kAllocatorFree = 76,
  kGetAllocator = 78,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseOuterTypeInfo = 98,
};

[[noreturn]] void end(const char* why) {
  std::fprintf(stderr, "%s\n", why);
  std::abort();
}

class Runtime {
 public:
  Runtime() {
    const char* const names[] = {std::getenv("BITCOMPRESS_ORT_RUNTIME"), std::getenv("BITCOMPRESS_ORT_LIBRARY")};
    if (names[0] == nullptr || names[1] == nullptr) end("BITCOMPRESS_ORT_RUNTIME and _LIBRARY name no files");
    const auto base = found<const ort::ApiBase*()>(names[0], "OrtGetApiBase")();
    api_ = base->get_api(ort::kApiVersion);
    if (api_ == nullptr) end("ONNX Runtime is older than 1.20");
    // Only fatal messages: refusals are what is wanted here.
    must(call<int, const char*, Env**>(kCreateEnv, 4, "fuzz", &env_));
    must(call<Options**>(kCreateSessionOptions, &options_));
    must(call<Options*>(kDisableMemPattern, options_));
    must(call<Options*>(kDisableCpuMemArena, options_));  // so that each buffer has guarded ends
    must(call<Options*, int>(kSetIntraOpNumThreads, options_, 1));
    must(call<int, int, Memory**>(kCreateCpuMemoryInfo, 0, 0, &memory_));
    must(call<Allocator**>(kGetAllocator, &allocator_));
    must(found<Status*(Options*, const ort::ApiBase*)>(names[1], "RegisterCustomOps")(options_, base));
  }

  template <class... A>
  Status* call(size_t place, A... arguments) const {
    return api_->at<Status*(A...)>(static_cast<ort::Slot>(place))(arguments...);
  }
  template <class T>
  void release(size_t place, T* object) const {
    if (object != nullptr) api_->at<void(T*)>(static_cast<ort::Slot>(place))(object);
  }
  // Whether it was done; a refusal must say why, ours in one line.
  bool done(Status* status) const {
    if (status == nullptr) return true;
    const std::string said = api_->at<const char*(const Status*)>(ort::kGetErrorMessage)(status);
    release(ort::kReleaseStatus, status);
    if (said.empty()) end("a refusal says nothing");
    if (const size_t at = said.find("bitcompress::"); at != std::string::npos) {
      if (said.find('\n', at) != std::string::npos || said.size() - at > 600) end("a refusal is no sentence");
      if (std::getenv("BITCOMPRESS_FUZZ_SAYS") != nullptr) std::printf("%s\n", said.substr(at).c_str());
    }
    return false;
  }
  void must(Status* status) const {
    if (!done(status)) end("ONNX Runtime refuses what it is asked for first");
  }
  std::string owned(char* text) const {
    const std::string copy = text;
    must(call<Allocator*, void*>(kAllocatorFree, allocator_, text));
    return copy;
  }

  Env* env_ = nullptr;
  Options* options_ = nullptr;
  Memory* memory_ = nullptr;
  Allocator* allocator_ = nullptr;

 private:
  template <class F>
  static F* found(const char* path, const char* name) {
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) end(dlerror());
    return reinterpret_cast<F*>(dlsym(library, name));
  }
  const ort::Api* api_ = nullptr;
};

const Runtime& runtime() {
  static const Runtime* const made = new Runtime();
  return *made;
}

struct Counts {
  uint64_t opened = 0, ran = 0, refused = 0;
  ~Counts() {
    std::printf("%llu files refused, %llu opened, of which %llu gave an output\n",
                static_cast<unsigned long long>(refused), static_cast<unsigned long long>(opened),
                static_cast<unsigned long long>(ran));
  }
} g_counts;

// Bytes of a number of each type of ONNX; 0 for those that are not fed.
size_t width(int32_t type) {
  static constexpr std::array<size_t, 17> kWidths{0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 0, 0, 2};
  return type >= 0 && static_cast<size_t>(type) < kWidths.size() ? kWidths[static_cast<size_t>(type)] : 0;
}

// An input that the file says to take, of sizes that mostly fit, with any numbers in it.
class Input {
 public:
  Input(const Runtime& ort, Session* session, size_t i, fuzz::Chance* chance) : ort_(ort) {
    char* name = nullptr;
    ort.must(ort.call<const Session*, size_t, Allocator*, char**>(kSessionGetInputName, session, i, ort.allocator_, &name));
    name_ = ort.owned(name);
    int32_t type = 0;
    const std::vector<int64_t> shape = shape_of(session, i, &type, chance);
    size_t size = width(type);
    for (const int64_t n : shape) {
      if (n < 0 || n > 4096) return;
      size *= static_cast<size_t>(n);
      if (size > 1 << 20) return;
    }
    if (width(type) == 0) return;
    bytes_.resize(size);
    const bool any = chance->below(4) == 0;
    for (size_t k = 0; k < size; ++k) bytes_[k] = any ? static_cast<uint8_t>(chance->next() >> 32) : 0x3d;
    ort.done(ort.call<const Memory*, void*, size_t, const int64_t*, size_t, int32_t, Value**>(
        kCreateTensorWithData, ort.memory_, bytes_.data(), size, shape.data(), shape.size(), type, &value_));
  }
  ~Input() { ort_.release(kReleaseValue, value_); }
  Input(const Input&) = delete;

  const char* name() const { return name_.c_str(); }
  const Value* value() const { return value_; }

 private:
  std::vector<int64_t> shape_of(Session* session, size_t i, int32_t* type, fuzz::Chance* chance) {
    TypeInfo* outer = nullptr;
    const TypeInfo* info = nullptr;
    size_t axes = 0;
    ort_.must(ort_.call<const Session*, size_t, TypeInfo**>(kSessionGetInputTypeInfo, session, i, &outer));
    ort_.must(ort_.call<const TypeInfo*, const TypeInfo**>(kCastToTensorInfo, outer, &info));
    std::vector<int64_t> shape;
    if (info != nullptr) {
      ort_.must(ort_.call<const TypeInfo*, int32_t*>(ort::kGetTensorElementType, info, type));
      ort_.must(ort_.call<const TypeInfo*, size_t*>(ort::kGetDimensionsCount, info, &axes));
      shape.resize(axes);
      std::vector<const char*> names(axes);
      ort_.must(ort_.call<const TypeInfo*, int64_t*, size_t>(ort::kGetDimensions, info, shape.data(), axes));
      ort_.must(ort_.call<const TypeInfo*, const char**, size_t>(kGetSymbolicDimensions, info, names.data(), axes));
      for (size_t k = 0; k < axes; ++k) {
        if (shape[k] < 0) shape[k] = names[k][0] == 'd' ? std::atoi(names[k] + 1) : static_cast<int64_t>(chance->below(9));
      }
    }
    ort_.release(kReleaseOuterTypeInfo, outer);
    const size_t choice = chance->below(12);
    if (choice == 0 && !shape.empty()) shape[chance->below(shape.size())] = static_cast<int64_t>(chance->below(40));
    if (choice == 1) shape.push_back(static_cast<int64_t>(chance->below(3)));
    if (choice == 2 && !shape.empty()) shape.pop_back();
    return shape;
  }

  const Runtime& ort_;
  std::string name_;
  std::vector<uint8_t> bytes_;
  Value* value_ = nullptr;
};

void run(const Runtime& ort, Session* session, fuzz::Chance* chance) {
  size_t count = 0;
  ort.must(ort.call<const Session*, size_t*>(kSessionGetInputCount, session, &count));
  if (count > 16) return;
  std::vector<std::unique_ptr<Input>> inputs;
  std::vector<const char*> names;
  std::vector<const Value*> values;
  for (size_t i = 0; i < count; ++i) {
    inputs.push_back(std::make_unique<Input>(ort, session, i, chance));
    if (inputs.back()->value() == nullptr) return;
    names.push_back(inputs.back()->name()), values.push_back(inputs.back()->value());
  }
  char* text = nullptr;
  if (!ort.done(ort.call<const Session*, size_t, Allocator*, char**>(kSessionGetOutputName, session, 0, ort.allocator_, &text)))
    return;
  const std::string name = ort.owned(text);
  const char* const wanted[] = {name.c_str()};
  Value* output = nullptr;
  const bool ran = ort.done(ort.call<Session*, const void*, const char* const*, const Value* const*, size_t,
                                     const char* const*, size_t, Value**>(
      kRun, session, nullptr, names.data(), values.data(), count, wanted, 1, &output));
  g_counts.ran += ran ? 1 : 0;
  ort.release(kReleaseValue, output);
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  const std::string made = fuzz::changed(std::string(reinterpret_cast<const char*>(data), size), seed);
  const size_t kept = std::min(made.size(), most);
  std::memcpy(data, made.data(), kept);
  return kept;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Runtime& ort = runtime();
  Session* session = nullptr;
  const bool opened = ort.done(ort.call<const Env*, const void*, size_t, const Options*, Session**>(
      kCreateSessionFromArray, ort.env_, data, size, ort.options_, &session));
  if (opened) {
    ++g_counts.opened;
    fuzz::Chance chance(size);
    for (int i = 0; i < 3; ++i) run(ort, session, &chance);
  } else {
    ++g_counts.refused;
  }
  ort.release(kReleaseSession, session);
  return 0;
}
