/* How fast this CPU can go at all: loops of one primitive each, for benchmarks to divide by.
 *
 * A primitive does multiply-accumulates out of registers and the first cache alone:
 *   fma       float32
 *   int8      codes of up to 8 bits, exact sums (vpdpbusd, tdpbusd, vpmaddwd, or what there is)
 *   int8fast  the same with sums in 16 bits, for small codes (vpmaddubsw)
 *   popcount  codes of 1 bit: and (or xor), count, add
 *   lookup    codes of 2 bits: several products by one byte shuffle out of a table
 *   lookup1   the same for codes of 1 bit
 *   read      no product: bytes read from a buffer of the caller
 * A set is the part of the instruction set that the loop keeps to: scalar, avx2, avx512vnni,
 * avx512vbmi (with VPOPCNTDQ), amx. */
#ifndef BITCOMPRESS_PEAK_H
#define BITCOMPRESS_PEAK_H

#include <stdint.h>

#include "bitcompress/bits.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Names of number `index` of the loops that this CPU can run; BC_BAD_ARGUMENT past the last. */
bc_status bc_peak_name(int index, const char** primitive, const char** set);

/* Runs a loop for so many rounds of a few thousand instructions on the calling thread; `work` is how many
 * multiply-accumulates, or bytes for `read`, it did. `read` goes through the buffer once a round, by
 * whole blocks of 512 bytes; the others do not look at it. BC_UNAVAILABLE where this CPU lacks it. */
bc_status bc_peak_run(const char* primitive, const char* set, int64_t rounds,
                      const uint8_t* buffer, int64_t bytes, double* work);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* BITCOMPRESS_PEAK_H */
