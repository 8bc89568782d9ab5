// Memory for the length of one call, kept by the calling thread for the next one.
//
// A call asks once, for all its threads together; the memory is 64-byte aligned and not cleared.
// Calls may nest: each depth has memory of its own.
#pragma once

#include <cstdint>
#include <new>

namespace bc {

class Scratch {
 public:
  explicit Scratch(int64_t bytes);  // throws std::bad_alloc
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The next part, for `count` elements; parts of all calls together must fit into what was asked.
  template <class T>
  T* part(int64_t count) {
    T* at = reinterpret_cast<T*>(next_);
    next_ += bytes<T>(count);
    return at;
  }

  // Bytes that a part takes.
  template <class T>
  static int64_t bytes(int64_t count) {
    return (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  uint8_t* next_;
};

// A piece of memory in parts: handed out from `start`, or only counted where it is null.
class Parts {
 public:
  explicit Parts(uint8_t* start) : start_(start) {}

  template <class T>
  T* part(int64_t count) {
    uint8_t* at = start_ == nullptr ? nullptr : start_ + bytes_;
    bytes_ += Scratch::bytes<T>(count);
    return reinterpret_cast<T*>(at);
  }
  int64_t bytes() const { return bytes_; }

 private:
  uint8_t* start_;
  int64_t bytes_ = 0;
};

}  // namespace bc
