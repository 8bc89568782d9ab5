// The parts of the level neon; dispatch.cc puts the table together for the CPU at hand.
#pragma once

#include "../kernels.h"

namespace bc {

Kernels neon_kernels();  // any 64-bit ARM: neon.cc
// Codes of one bit, 32 channels a word: neon_bits.cc.
extern const Form kNeonBits;
// Codes of up to two bits, two a unit, by a table of their partial sums: neon_pairs.cc.
extern const Form kNeonPairs;

// Codes of any width with the dot product instructions (ARMv8.2): neon_dot.cc.
extern const Form kNeonDot;
void neon_dot_load_rows(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride,
                        uint8_t* out);
int64_t neon_dot_panel_bytes(int64_t columns, int64_t segments, int64_t length);
void neon_dot_pack_panel(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                         bool shifted, void* panel);
void neon_dot_product(const Product& product);

// By instructions counted, not by time measured; see csrc/cpu/README.md.
const Form& neon_form_for(int x_bits, int w_bits, const Extent& extent, bool dot);

}  // namespace bc
