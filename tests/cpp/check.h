// What the test programs count and draw: checks that hold or not, the same numbers on every machine.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "bitcompress/bits.h"

inline int g_checks = 0, g_failures = 0;

inline void expect(bool holds, const std::string& what) {
  ++g_checks;
  if (holds) return;
  ++g_failures;
  std::fprintf(stderr, "FAILED [%s]: %s\n", bc_isa(), what.c_str());
}

struct Random {
  uint64_t state = 88172645463325252ull;
  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(next() % static_cast<uint64_t>(n)); }
  int64_t from(int64_t low, int64_t high) { return low + below(high - low + 1); }
  float real(float low, float high) {
    return low + (high - low) * static_cast<float>(next() >> 40) * (1.0f / (1 << 24));
  }
};
