// Products of narrow codes for AVX2: avx2_lookups.cc and avx2_narrow.cc.
#pragma once

#include "../kernels.h"

namespace bc {

extern const Form kAvx2Bits;   // codes of one bit, four a unit
extern const Form kAvx2Pairs;  // codes of up to two bits, two a unit
extern const Form kAvx2FourBits;  // codes of up to four bits
extern const Form kAvx2SixBits;   // codes of up to six bits

}  // namespace bc
