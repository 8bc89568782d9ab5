// What a fuzzer may call: one function for each family of the C interface. A new function of bits.h
// is a call in the file of its family, or a new file and a line in kCalls of fuzz_shapes.cc.
#pragma once

#include "input.h"

namespace fuzz {

using Call = void (*)(Input&);

void stored_form(Input& in);      // pack, unpack, words
void reals_and_codes(Input& in);  // encode, fake_quantize and its gradient
void statistics(Input& in);       // histogram, minmax, exp2
void learning(Input& in);         // learn_*
void between_layers(Input& in);   // layer_norm, unit, gelu, sigmoid, silu, softmax_codes
void products(Input& in);         // gemm_codes, gemm_reals
void convolutions(Input& in);     // conv2d_size, _codes, _code_sums, _reals, bit_conv2d
void layers(Input& in);           // layer_new, _size, _run
void chains(Input& in);           // rows
void multiplications(Input& in);  // multiply
void attentions(Input& in);       // attend

}  // namespace fuzz
