// The table of peak loops that one instruction set fills; peak.cc joins the tables.
#pragma once

#include <cstdint>

namespace bc {

struct Peak {
  const char *primitive, *set;
  // Runs `rounds` rounds and gives the multiply-accumulates (bytes for `read`) of all of them.
  double (*run)(int64_t rounds, const uint8_t* buffer, int64_t bytes);
};

constexpr int kPeakSteps = 256;      // steps of a round
constexpr int64_t kPeakBlock = 512;  // bytes that `read` takes at a time

// The compiler may not know what a register holds, so it can neither hoist nor fold the loop.
#define BITCOMPRESS_OPAQUE(x) __asm__ volatile("" : "+v"(x))
#define BITCOMPRESS_OPAQUE_YMM(x) __asm__ volatile("" : "+x"(x))

// A list that ends with a null primitive.
extern const Peak kPeaksScalar[];
#if defined(BITCOMPRESS_X86)
extern const Peak kPeaksAvx2[], kPeaksAvx512vnni[], kPeaksAvx512vbmi[], kPeaksAmx[];
#endif

}  // namespace bc
