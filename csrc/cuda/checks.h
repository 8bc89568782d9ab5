// What is refused before anything is queued.
#pragma once

#include <initializer_list>

#include "machine.h"

namespace bc_cuda {

constexpr int64_t kMostBytes = int64_t{1} << 46;

inline bool bits_ok(int bits) { return bits >= 1 && bits <= 8; }
inline bool is_real(const bc_cuda_numbers& n) { return n.type == BC_CUDA_FLOAT32 || n.type == BC_CUDA_FLOAT16; }
inline bool is_real(int type) { return type == BC_CUDA_FLOAT32 || type == BC_CUDA_FLOAT16; }
inline bool is_bytes(const bc_cuda_numbers& n) { return n.type == BC_CUDA_UINT8 || n.type == BC_CUDA_INT32; }

// The product of sizes, or -1 where one is negative or it is too large.
inline int64_t volume(std::initializer_list<int64_t> sizes) {
  int64_t all = 1;
  for (const int64_t size : sizes) {
    if (size < 0) return -1;
    if (size != 0 && all > kMostBytes / size) return -1;
    all *= size;
  }
  return all;
}

// Parameters: so many reals, there.
inline bool given(const bc_cuda_numbers& n, int64_t count) { return n.data != nullptr && is_real(n) && n.count == count; }
inline bool one_or(const bc_cuda_numbers& n, int64_t count) { return given(n, 1) || given(n, count); }
inline bool absent_or(const bc_cuda_numbers& n, int64_t count) { return n.data == nullptr || given(n, count); }

inline bool fits_int32(int a_bits, int b_bits, int64_t terms) {
  const int64_t most = ((int64_t{1} << a_bits) - 1) * ((int64_t{1} << b_bits) - 1);
  return terms <= ((int64_t{1} << 31) - 1) / most;
}

// bc_packed_bytes, for arguments that are possible.
inline int64_t stored_bytes(int64_t n, int bits) {
  if (bits == 1 || bits == 2 || bits == 4 || bits == 8) return (n * bits + 7) / 8;
  return (n + 7) / 8 * bits;
}

inline int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// Parts of scratch memory, one after the other.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += aligned(count * static_cast<int64_t>(sizeof(T)));
    return part;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

bool is_elementwise(int kind);
// A chain of steps that a kernel does by itself; false where one is unknown, has no operand, or is a norm.
struct Chain;
bool chain_of(const bc_cuda_step* steps, int64_t count, Chain* chain);

}  // namespace bc_cuda
