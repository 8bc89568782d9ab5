// A program without Python that runs an exported model: a picture in, the enlarged picture out.
//
//   c++ -std=c++17 -O2 -I csrc/host/onnxruntime enlarge.cc -o enlarge -ldl
//   ./enlarge libonnxruntime.so libbitcompress_ort.so model.onnx photo.ppm big.ppm
//
// ONNX Runtime is opened by path, the library of the operators is registered with its session, and
// pictures are PPM (P6), which needs no other library. It needs no header of ONNX Runtime: the few
// functions that it calls are declared here by their place in the C interface, as csrc/host/onnxruntime/
// abi.h does. With ONNX Runtime's own headers the same calls have their usual names, given beside.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"

namespace {

using ort::Api;
using ort::ApiBase;
using ort::SessionOptions;
using ort::Status;
using ort::Value;
struct Env;
struct Session;
struct MemoryInfo;

// Places in OrtApi beside those of abi.h.
enum : size_t {
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSetIntraOpNumThreads = 24,
  kRegisterCustomOpsLibrary = 29,
  kCreateTensorWithData = 49,
  kCreateCpuMemoryInfo = 69,
  kReleaseEnv = 92,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseSessionOptions = 100,
};

struct Picture {
  int64_t width = 0, height = 0;
  std::vector<uint8_t> pixels;  // [height][width][3]
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t most = 0;
  Picture picture;
  file >> kind >> picture.width >> picture.height >> most;
  file.get();
  const bool fits = file && kind == "P6" && most == 255 && picture.width > 0 && picture.height > 0 &&
                    picture.width <= 1 << 15 && picture.height <= 1 << 15;
  if (!fits) throw std::runtime_error(path + " is no PPM picture of 8 bits (P6)");
  picture.pixels.resize(static_cast<size_t>(picture.width * picture.height * 3));
  file.read(reinterpret_cast<char*>(picture.pixels.data()),
            static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + " is cut off");
  return picture;
}

void write_ppm(const std::string& path, const Picture& picture) {
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(picture.pixels.data()),
             static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + " cannot be written");
}

class Runtime {
 public:
  explicit Runtime(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    const auto base = reinterpret_cast<const ApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
    api_ = base == nullptr ? nullptr : base()->get_api(ort::kApiVersion);
    if (api_ == nullptr) throw std::runtime_error(std::string(path) + " is no ONNX Runtime of 1.20 or later");
    call<Status*(int, const char*, Env**)>(kCreateEnv, 3, "enlarge", &env_);
  }
  ~Runtime() { release(kReleaseEnv, env_); }
  Runtime(const Runtime&) = delete;

  // Calls a function of the interface; throws what its status says.
  template <class F, class... A>
  void call(size_t place, A... arguments) const {
    Status* status = api_->at<F>(static_cast<ort::Slot>(place))(arguments...);
    if (status == nullptr) return;
    const std::string said = api_->at<const char*(const Status*)>(ort::kGetErrorMessage)(status);
    api_->at<void(Status*)>(ort::kReleaseStatus)(status);
    throw std::runtime_error(said);
  }
  template <class T>
  void release(size_t place, T* object) const {
    if (object != nullptr) api_->at<void(T*)>(static_cast<ort::Slot>(place))(object);
  }
  Env* env() const { return env_; }

 private:
  const Api* api_ = nullptr;
  Env* env_ = nullptr;
};

class Model {
 public:
  Model(const Runtime& runtime, const char* operators, const char* path) : runtime_(runtime) {
    runtime.call<Status*(SessionOptions**)>(kCreateSessionOptions, &options_);
    runtime.call<Status*(SessionOptions*, int)>(kSetIntraOpNumThreads, options_, 0);
    void* library = nullptr;  // stays open: the session calls into it
    runtime.call<Status*(SessionOptions*, const char*, void**)>(kRegisterCustomOpsLibrary, options_,
                                                                operators, &library);
    runtime.call<Status*(const Env*, const char*, const SessionOptions*, Session**)>(
        kCreateSession, runtime.env(), path, options_, &session_);
    // Memory of the CPU: OrtArenaAllocator is 1, OrtMemTypeDefault 0.
    runtime.call<Status*(int, int, MemoryInfo**)>(kCreateCpuMemoryInfo, 1, 0, &memory_);
  }
  ~Model() {
    runtime_.release(kReleaseMemoryInfo, memory_);
    runtime_.release(kReleaseSession, session_);
    runtime_.release(kReleaseSessionOptions, options_);
  }
  Model(const Model&) = delete;

  // Pixels go in and come out in [0, range].
  Picture enlarge(const Picture& picture, float range) const {
    const int64_t h = picture.height, w = picture.width;
    std::vector<float> x(static_cast<size_t>(3 * h * w));
    for (int64_t i = 0; i < h * w; ++i) {
      for (int64_t c = 0; c < 3; ++c) x[c * h * w + i] = picture.pixels[i * 3 + c] / 255.0f * range;
    }
    const int64_t shape[] = {1, 3, h, w};
    Value *input = nullptr, *output = nullptr;
    runtime_.call<Status*(const MemoryInfo*, void*, size_t, const int64_t*, size_t, int, Value**)>(
        kCreateTensorWithData, memory_, static_cast<void*>(x.data()), x.size() * sizeof(float), shape,
        size_t{4}, 1, &input);
    const char* in[] = {"input"};
    const char* out[] = {"output"};
    const Value* inputs[] = {input};
    runtime_.call<Status*(Session*, const void*, const char* const*, const Value* const*, size_t,
                          const char* const*, size_t, Value**)>(
        kRun, session_, nullptr, in, inputs, size_t{1}, out, size_t{1}, &output);
    Picture made = picture_of(output, range);
    runtime_.release(kReleaseValue, output);
    runtime_.release(kReleaseValue, input);
    return made;
  }

 private:
  Picture picture_of(Value* value, float range) const {
    ort::TypeInfo* info = nullptr;
    int64_t shape[4] = {};
    void* data = nullptr;
    runtime_.call<Status*(const Value*, ort::TypeInfo**)>(ort::kGetTensorTypeAndShape, value, &info);
    runtime_.call<Status*(const ort::TypeInfo*, int64_t*, size_t)>(ort::kGetDimensions, info, shape, 4);
    runtime_.release(ort::kReleaseTypeInfo, info);
    runtime_.call<Status*(Value*, void**)>(ort::kGetTensorMutableData, value, &data);
    const float* y = static_cast<const float*>(data);
    Picture made;
    made.height = shape[2], made.width = shape[3];
    const int64_t count = made.height * made.width;
    made.pixels.resize(static_cast<size_t>(3 * count));
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t c = 0; c < 3; ++c) {
        const float real = std::fmin(std::fmax(y[c * count + i] / range, 0.0f), 1.0f);
        made.pixels[i * 3 + c] = static_cast<uint8_t>(std::nearbyint(real * 255.0f));
      }
    }
    return made;
  }

  const Runtime& runtime_;
  SessionOptions* options_ = nullptr;
  Session* session_ = nullptr;
  MemoryInfo* memory_ = nullptr;
};

}  // namespace

int main(int count, char** words) {
  if (count < 6) {
    std::cerr << "usage: enlarge libonnxruntime.so libbitcompress_ort.so model.onnx photo.ppm big.ppm [range]\n";
    return 2;
  }
  try {
    const Runtime runtime(words[1]);
    const Model model(runtime, words[2], words[3]);
    const float range = count > 6 ? std::strtof(words[6], nullptr) : 1.0f;
    const Picture made = model.enlarge(read_ppm(words[4]), range);
    write_ppm(words[5], made);
    std::cout << words[5] << ": " << made.width << "x" << made.height << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}
