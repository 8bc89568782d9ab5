// Products of codes of one bit in plain C++: scalar_bits.cc.
#pragma once

#include "../kernels.h"

namespace bc {

extern const Form kScalarBits;

}  // namespace bc
