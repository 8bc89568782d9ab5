// What a kernel is, and the machine that runs it: a CUDA device, or for tests the CPU.
//
// Kernels are plain structs whose functions say what one thread does. nvcc wraps them into
// __global__ functions. Any other compiler runs the same functions in loops over blocks and threads:
// the twin. It is slow and it is exact, and what it tests is all but the device itself: every index,
// every border, every sum, the parts of tensor-core fragments that each lane holds.
//
// A struct with operator()(i) is run once for each i (`each`). A struct with phases is run by blocks of
// kThreads threads that share memory (`blocks`): begin; then for every step load, a barrier,
// multiply, a barrier; then keep, a barrier, end. `Mine` is what a thread keeps from phase to phase. `multiply` is
// called with the `Mine` of all lanes of a warp on the CPU and with its own on a device, so that a warp
// can act as one (see `lanes` in tiles.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "bitcompress/cuda.h"

#if defined(__CUDACC__)
#include <cuda_runtime_api.h>
#define BC_HD __host__ __device__ inline
#define BC_UNROLL _Pragma("unroll")
#define BC_ONE_BY_ONE _Pragma("unroll 1")
#else
#include <vector>
#define BC_HD inline
#define BC_UNROLL
#define BC_ONE_BY_ONE
#endif

namespace bc_cuda {

constexpr int kWarp = 32;

struct Grid {
  int64_t x, y, z;
};

struct Block {
  int64_t x, y, z;
};

// The lanes whose `Mine` a thread holds: all of a warp on the CPU, one on a device.
#if defined(__CUDA_ARCH__)
constexpr int kLanesHeld = 1;
BC_HD int lane_of(int) { return static_cast<int>(threadIdx.x % kWarp); }
#else
constexpr int kLanesHeld = kWarp;
BC_HD int lane_of(int i) { return i; }
#endif

#if defined(__CUDACC__)

template <class K>
__global__ void each_kernel(const K kernel, const int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    kernel(i);
}

template <class K>
__global__ void __launch_bounds__(K::kThreads) blocks_kernel(const K kernel) {
  __shared__ typename K::Shared shared;
  typename K::Mine mine;
  const Block block{blockIdx.x, blockIdx.y, blockIdx.z};
  const int thread = static_cast<int>(threadIdx.x);
  kernel.begin(mine, block, thread);
  const int64_t steps = kernel.steps();
  for (int64_t step = 0; step < steps; ++step) {
    kernel.load(shared, mine, thread, step);
    __syncthreads();
    kernel.multiply(shared, &mine, thread / kWarp, step);
    __syncthreads();
  }
  kernel.keep(shared, mine, thread);
  __syncthreads();
  kernel.end(shared, mine, thread);
}

constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1, kMostSide = 65535;

inline bc_status launched() { return cudaGetLastError() == cudaSuccess ? BC_OK : BC_UNAVAILABLE; }

template <class K>
bc_status each(const K& kernel, int64_t count, void* stream) {
  if (count == 0) return BC_OK;
  constexpr int64_t threads = 256;
  const int64_t wanted = (count + threads - 1) / threads;
  const unsigned grid = static_cast<unsigned>(wanted < (1 << 20) ? wanted : 1 << 20);
  each_kernel<<<grid, threads, 0, static_cast<cudaStream_t>(stream)>>>(kernel, count);
  return launched();
}

template <class K>
bc_status blocks(const K& kernel, Grid grid, void* stream) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return BC_OK;
  if (grid.x > kMostBlocks || grid.y > kMostSide || grid.z > kMostSide) return BC_BAD_SHAPE;
  const dim3 size(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  blocks_kernel<<<size, K::kThreads, 0, static_cast<cudaStream_t>(stream)>>>(kernel);
  return launched();
}

#else

template <class K>
bc_status each(const K& kernel, int64_t count, void*) {
  for (int64_t i = 0; i < count; ++i) kernel(i);
  return BC_OK;
}

template <class K>
bc_status blocks(const K& kernel, Grid grid, void*) {
  std::vector<typename K::Mine> all(K::kThreads);
  for (int64_t z = 0; z < grid.z; ++z) {
    for (int64_t y = 0; y < grid.y; ++y) {
      for (int64_t x = 0; x < grid.x; ++x) {
        typename K::Shared shared;
        std::memset(static_cast<void*>(&shared), 0xa5, sizeof shared);  // nothing may rely on what was there
        for (int t = 0; t < K::kThreads; ++t) kernel.begin(all[t], {x, y, z}, t);
        const int64_t steps = kernel.steps();
        for (int64_t step = 0; step < steps; ++step) {
          for (int t = 0; t < K::kThreads; ++t) kernel.load(shared, all[t], t, step);
          for (int w = 0; w < K::kThreads / kWarp; ++w) kernel.multiply(shared, &all[w * kWarp], w, step);
        }
        for (int t = 0; t < K::kThreads; ++t) kernel.keep(shared, all[t], t);
        for (int t = 0; t < K::kThreads; ++t) kernel.end(shared, all[t], t);
      }
    }
  }
  return BC_OK;
}

#endif

}  // namespace bc_cuda
