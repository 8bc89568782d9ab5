// Bytes of a fuzzer read as sizes, numbers and memory.
//
// Sizes are small but for an input that says it is wild: then any of them may be negative or huge.
// Memory is allocated to the element, so that the address sanitizer notices the first one behind it.
// Where a call would need more than kMost elements it gets null instead: nothing may be read then.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "bitcompress/bits.h"

namespace fuzz {

constexpr int64_t kMost = 1 << 15;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) { wild_ = byte() % 4 == 3; }

  // 0 behind the end.
  uint8_t byte() {
    if (left_ == 0) return 0;
    --left_;
    state_ = (state_ ^ *data_) * 0x9e3779b97f4a7c15ull + 1;
    return *data_++;
  }

  int64_t from(int64_t low, int64_t high) { return low + byte() % (high - low + 1); }
  bool once_in(int n) { return byte() % n == n - 1; }
  bool wild() const { return wild_; }

  // A size of the call: within [low, high], or anything at all.
  int64_t size(int64_t low, int64_t high) {
    if (!wild_ || !once_in(6)) return from(low, high);
    constexpr int64_t kOdd[] = {-1, 0, 255, 33025, 33026, 1 << 20, int64_t{1} << 30,
                                (int64_t{1} << 30) + 1, int64_t{1} << 31, int64_t{1} << 32,
                                int64_t{1} << 61, INT64_MAX, INT64_MIN, -257};
    return kOdd[byte() % (sizeof kOdd / sizeof *kOdd)];
  }

  int small(int low, int high) { return static_cast<int>(wild_ && once_in(6) ? byte() - 100 : from(low, high)); }

  uint64_t random() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }

 private:
  const uint8_t* data_;
  size_t left_;
  bool wild_ = false;
  uint64_t state_ = 88172645463325252ull;
};

// A distance from row to row of n elements: n, more, or rarely any.
inline int64_t pitch_of(Input& in, int64_t n) {
  if (in.once_in(12)) return in.size(0, 120);
  return n < 0 || n > kMost ? n : n + (in.once_in(2) ? 0 : in.from(1, 20));
}

// Elements of a tensor: -1 where a size is negative or they are more than kMost.
inline int64_t elements(std::initializer_list<int64_t> sizes) {
  __int128 all = 1;
  for (const int64_t size : sizes) {
    if (size == 0) return 0;
    if (size < 0) return -1;
    all = all > kMost ? all : all * size;
  }
  return all > kMost ? -1 : static_cast<int64_t>(all);
}

// Memory for exactly so many elements; null where they are -1, and now and then in a wild input.
template <class T>
class Memory {
 public:
  Memory(Input& in, int64_t elements) : size_(elements < 0 ? 0 : elements) {
    if (elements < 0 || (in.wild() && in.once_in(24))) return;
    data_.reset(static_cast<T*>(std::malloc(bytes() == 0 ? 1 : bytes())));
    clear();
  }

  void clear() const {
    if (data_ != nullptr && bytes() > 0) std::memset(data_.get(), 0xA5, bytes());
  }

  T* get() const { return data_.get(); }
  int64_t size() const { return data_ == nullptr ? 0 : size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }
  T* begin() const { return get(); }
  T* end() const { return get() + size(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  int64_t size_;
  std::unique_ptr<T, Free> data_;
};

inline Memory<uint8_t> codes(Input& in, int64_t elements, int bits) {
  Memory<uint8_t> all(in, elements);
  const int mask = bits < 1 || bits > 8 ? 255 : (1 << bits) - 1;
  for (uint8_t& code : all) code = static_cast<uint8_t>(in.random() & static_cast<unsigned>(mask));
  return all;
}

// Reals within [low, high]; in a wild input any bits.
inline Memory<float> reals(Input& in, int64_t elements, float low, float high) {
  Memory<float> all(in, elements);
  const bool any = in.wild() && in.once_in(4);
  for (float& real : all) {
    const uint32_t word = static_cast<uint32_t>(in.random() >> 32);
    real = low + (high - low) * static_cast<float>(word >> 8) * (1.0f / (1 << 24));
    if (any && word % 4 == 0) std::memcpy(&real, &word, sizeof real);
  }
  return all;
}

inline const char* g_call = "";  // of the input that runs

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "%s: %s (level %s)\n", g_call, what, bc_isa());
  std::abort();
}

inline bool same(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b);
}
inline bool same(double a, double b) { return a == b || (a != a && b != b); }
template <class T>
bool same(T a, T b) {
  return a == b;
}

inline void check_status(bc_status status) {
  if (status < BC_OK || status > BC_EMPTY) fail("a status that is none");
  if (bc_status_text(status) == nullptr) fail("a status without a text");
}

// Calls f at the plainest level and at another: the same status, the same bits in `out` but where they
// have `no_meaning`.
template <class T, class F>
bc_status at_two_levels(Input& in, const Memory<T>& out, F&& f, bool no_meaning = false) {
  constexpr const char* kLevels[] = {"avx2", "avx512vnni", "avx512vbmi", "amx", "neon", "scalar"};
  const char* other = kLevels[in.byte() % 6];
  bc_set_isa("scalar");
  out.clear();
  const bc_status status = f();
  check_status(status);
  if (bc_isa_available(other) == 0) return status;
  const size_t bytes = out.get() == nullptr ? 0 : out.bytes();
  std::unique_ptr<T[]> kept(new T[bytes / sizeof(T) + 1]);
  if (bytes > 0) std::memcpy(kept.get(), out.get(), bytes), out.clear();
  bc_set_isa(other);
  if (f() != status) fail("another status at another level");
  if (status != BC_OK || no_meaning) return status;
  for (int64_t i = 0; i < out.size(); ++i) {
    if (!same(kept[static_cast<size_t>(i)], out.get()[i])) fail("other numbers at another level");
  }
  return status;
}

}  // namespace fuzz
