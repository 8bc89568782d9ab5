// What the level avx512vbmi has of its own: products of codes of one and two bits. All else is
// avx512vnni; dispatch.cc puts the table together.
#pragma once

#include "../kernels.h"

namespace bc {

// Codes of one bit, 32 channels a word: vbmi_bits.cc.
extern const Form kVbmiBits;
// Codes of up to two bits, three a unit, by a table of their partial sums: vbmi_triples.cc.
extern const Form kVbmiTriples;

// By what was measured; the codes of any other width take `bytes`.
const Form& vbmi_form_for(int x_bits, int w_bits, const Extent& extent, const Form& bytes);

}  // namespace bc
