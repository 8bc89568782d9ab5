// Memory for the runs of a plugin: of the CPU where the library is the twin, else of a device where there
// is one.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

struct Device {
  int (*allocate)(void**, size_t) = nullptr;
  int (*copy)(void*, const void*, size_t, int) = nullptr;
  bool here = false, twin = false;
};

inline Device& device() {
  static Device found;
  return found;
}

// `runtime` is the path of libcudart; null where there is none.
inline void device_open(void* library, const char* runtime) {
  const auto on_device = reinterpret_cast<int (*)()>(dlsym(library, "bc_cuda_on_device"));
  Device& found = device();
  found.twin = found.here = on_device != nullptr && on_device() == 0;
  void* cuda = runtime == nullptr || found.twin ? nullptr : dlopen(runtime, RTLD_NOW | RTLD_LOCAL);
  if (cuda == nullptr) return;
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(cuda, "cudaGetDeviceCount"));
  found.allocate = reinterpret_cast<int (*)(void**, size_t)>(dlsym(cuda, "cudaMalloc"));
  found.copy = reinterpret_cast<int (*)(void*, const void*, size_t, int)>(dlsym(cuda, "cudaMemcpy"));
  int devices = 0;
  found.here = count != nullptr && found.allocate != nullptr && found.copy != nullptr && count(&devices) == 0 &&
               devices > 0;
}

inline bool device_here() { return device().here; }
inline const char* device_told() {
  return device().twin ? "on the CPU, by the twin" : device().here ? "on a device" : "skipped: no CUDA device";
}

// A copy in the memory of the device, or as many bytes; they live until the process ends.
inline void* device_copy(const void* from, size_t bytes) {
  void* made = nullptr;
  if (device().twin || !device().here) {
    made = std::calloc(bytes + 1, 1);
    if (from != nullptr) std::memcpy(made, from, bytes);
  } else if (device().allocate(&made, bytes + 1) == 0 && from != nullptr) {
    device().copy(made, from, bytes, 4);
  }
  return made;
}

inline void device_read(void* to, const void* from, size_t bytes) {
  if (device().twin) {
    std::memcpy(to, from, bytes);
  } else {
    device().copy(to, from, bytes, 4);
  }
}
