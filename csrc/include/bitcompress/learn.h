/* Training of binary blocks: what stands before and behind their products, forward and backward. The C
 * interface of bits.h goes on here: statuses, threads and null pointers are as there. */
#ifndef BITCOMPRESS_LEARN_H
#define BITCOMPRESS_LEARN_H

#include "bitcompress/bits.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of channels side by side, dense: [groups][pixels][channels]; a table has [groups][channels] of
 * each kind, so that a group is what shares its numbers: a picture, or everything. `halves`: signs,
 * products p and their gradients are bfloat16, else float32. All other numbers are float32; a sum over
 * the pixels of a group is of float32 over 65536 numbers and of double over those, in one order for any
 * threads and instruction set. Scratch: a few hundred KB a thread, and 8 bytes a sum, channel and 65536 numbers. */
typedef struct bc_learn {
  int64_t groups, pixels, channels;
  int halves;
} bc_learn;

/* out = 1 where x >= theta, else -1, NaN included. Exact. */
bc_status bc_learn_cut(const bc_learn* size, const float* x, const float* theta, void* out,
                       int threads);

/* The gradient of Sign(v), v = gain x + shift, with a surrogate d: 1 where |v| < 1 (window), else max(2
 * - 2 |v|, 0). tables: gain, shift. out = grad d gain; sums = those of grad d. */
bc_status bc_learn_cut_back(const bc_learn* size, const float* x, const void* grad,
                            const float* tables, int window, float* out, float* sums, int threads);

/* sums: of p and of p * p. */
bc_status bc_learn_moments(const bc_learn* size, const void* p, float* sums, int threads);

/* With v = p factor + shift (+ beside): out = (v < 0 ? v slope : v) + after. beside may be null; with
 * `behind` it is added last, not to v. tables: after, factor, shift, slope. */
bc_status bc_learn_tail(const bc_learn* size, const void* p, const float* tables,
                        const float* beside, int behind, float* out, int threads);

/* The gradients of that, to_v = grad (v < 0 ? slope : 1) and to_p = to_v back, each null where it is not
 * wanted, not both. tables: factor, shift, slope, back. sums: of grad, of grad v where v < 0, of to_v, of to_v p.
 * beside: null where it was added behind. */
bc_status bc_learn_tail_back(const bc_learn* size, const void* p, const float* tables,
                             const float* beside, const float* grad, float* to_v, void* to_p,
                             float* sums, int threads);

/* out = to_v a + p b + c: the gradient of a norm of its batch. tables: a, b, c. */
bc_status bc_learn_norm_back(const bc_learn* size, const float* to_v, const void* p,
                             const float* tables, void* out, int threads);

#ifdef __cplusplus
}
#endif

#endif
