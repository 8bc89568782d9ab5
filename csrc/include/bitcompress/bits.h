/* The C interface of bitcompress: codes of 1 to 8 bits, how they are stored, and exact integer sums
 * of them.
 *
 * Rules that hold for every function here:
 *   - The caller owns all memory; tensors are dense, row-major, the last axis contiguous.
 *   - Nothing is thrown; every function returns a bc_status and leaves the outputs unspecified when
 * it is not BC_OK.
 *   - `threads` is the largest number of threads the call may use; 1 stays on the caller. Small
 * work stays there anyway.
 *   - Results are the same bits for every number of threads and, where a comment says "exact", for
 * every instruction set.
 *   - Sums of codes are exact: a reduction so long that int32 could overflow is refused with
 * BC_OVERFLOW.
 *   - A function may hold scratch memory for the length of one call; it is listed where it is more
 * than a few KB.
 */
#ifndef BITCOMPRESS_BITS_H
#define BITCOMPRESS_BITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bc_status {
  BC_OK = 0,
  BC_BAD_ARGUMENT = 1, /* a null pointer, bits outside 1..8, threads below 1 */
  BC_BAD_SHAPE = 2,    /* a size is negative, or sizes do not fit each other */
  BC_BAD_CODE = 3,     /* a code does not fit into its bits */
  BC_BAD_BOUNDS = 4,   /* lo < hi does not hold */
  BC_OVERFLOW = 5,     /* an exact sum could leave int32 */
  BC_NO_MEMORY = 6,    /* scratch memory could not be had */
  BC_UNAVAILABLE = 7,  /* this CPU lacks the instruction set asked for */
  BC_EMPTY = 8         /* a reduction over no element */
} bc_status;

/* One English sentence on a status; never null. */
const char* bc_status_text(bc_status status);

/* Longest exact reduction where nothing is known of the codes: 255 * 255 * BC_MAX_REDUCTION fits into
 * int32. Functions that are told the widths take sums as long as those allow. */
#define BC_MAX_REDUCTION 33025

/* ---- Instruction sets ------------------------------------------------------------------------ */

/* Name of the level in use: "scalar", "avx2", "avx512vnni", "avx512vbmi", "amx" or "neon". The
 * environment variable BITCOMPRESS_ISA names the level to start with; a level this CPU lacks, or an
 * unknown name, is passed over for the best there is. */
const char* bc_isa(void);
/* Whether this CPU and this build have the level. */
int bc_isa_available(const char* name);
/* Uses the level from now on, in every thread. */
bc_status bc_set_isa(const char* name);

/* ---- Stored form ----------------------------------------------------------------------------- */

/* Bytes of n codes of b bits. 1, 2, 4, 8 bits: dense, code i at bits b*(i % (8/b)) of byte i /
 * (8/b). 3, 5, 6, 7 bits: b planes of ceil(n/8) bytes one after the other, bit i%8 of byte i/8 of
 * plane j being bit j of code i. Spare bits of the last byte are 0 when written and ignored when
 * read. -1 for impossible arguments. */
int64_t bc_packed_bytes(int64_t n, int bits);
bc_status bc_pack(const uint8_t* codes, int64_t n, int bits, uint8_t* out, int64_t out_bytes,
                  int threads);
bc_status bc_unpack(const uint8_t* packed, int64_t packed_bytes, int bits, int64_t n, uint8_t* out,
                    int threads);

/* ---- Real numbers and codes ------------------------------------------------------------------ */

/* A tensor of outer * groups * inner elements in that order; every group has its own scale, offset
 * or bounds. */
typedef struct bc_view {
  int64_t outer, groups, inner;
} bc_view;

/* code = clamp(rint((x - offset) / scale), 0, 2^bits - 1): float32, one rounding an operation,
 * halves to even, true division. Where scale is 0 the grid is a step: code = x >= offset ? 1 : 0, so
 * that an offset of 0 gives 1 for 0 and for -0. NaN gives code 0. Exact. So do all functions here cut
 * that take grids: layers, sinks, attention and products. */
bc_status bc_encode(const float* x, bc_view view, const float* scale, const float* offset, int bits,
                    uint8_t* out, int threads);

/* out = code * scale + offset with two roundings; NaN stays NaN. out may be x. Exact. No scale is 0:
 * a step has no reals. */
bc_status bc_fake_quantize(const float* x, bc_view view, const float* scale, const float* offset,
                           int bits, float* out, int threads);

/* The straight-through gradients of fake_quantize with scale = (hi - lo) / (2^bits - 1) and offset
 * = lo. With u = (x - lo) / scale, r its code, d = (r - u) / (2^bits - 1) inside [lo, hi] and 0
 * elsewhere: grad_x = grad where lo <= x <= hi, else 0;  grad_lo = sum grad * ([x < lo] - d);
 * grad_hi = sum grad * ([x > hi] + d). Each term is float32, the sums are double. Scratch: at most
 * 16 bytes for every 64 elements, and 16 * 64 * groups bytes. */
bc_status bc_fake_quantize_backward(const float* x, const float* grad, bc_view view,
                                    const float* lo, const float* hi, int bits, float* grad_x,
                                    float* grad_lo, float* grad_hi, int threads);

/* Adds to counts[groups][bins] how often clamp(floor((x - lo) / (hi - lo) * bins), 0, bins - 1)
 * takes each value, in float32. An undefined position (x is NaN, or x = lo = hi) counts in bin 0,
 * so that the counts sum to the elements. Exact. Scratch: 8 * groups * bins bytes for each thread.
 */
bc_status bc_histogram(const float* x, bc_view view, const float* lo, const float* hi, int64_t bins,
                       int64_t* counts, int threads);

/* The smallest and the largest element of each group; both are NaN where the group holds a NaN. */
bc_status bc_minmax(const float* x, bc_view view, float* lo, float* hi, int threads);

/* ---- Exact sums of codes --------------------------------------------------------------------- */

/* out[b][m][n] = sum over k of a[b][m][k] * w[b][n][k]. Scratch: about 2 bytes for every code of w,
 * a few hundred KB a thread. */
bc_status bc_gemm_codes(const uint8_t* a, const uint8_t* w, int64_t batch, int64_t m, int64_t n,
                        int64_t k, int32_t* out, int threads);

/* Geometry of a convolution, channels last: x [images][height][width][channels], w
 * [filters][kernel_h][kernel_w] [channels / groups], out [images][out_h][out_w][filters] with
 * out_h, out_w as bc_conv2d_size gives them. */
typedef struct bc_conv2d {
  int64_t images, height, width, channels;
  int64_t filters, kernel_h, kernel_w, groups;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
} bc_conv2d;

/* Checks the geometry and gives the size of the output. */
bc_status bc_conv2d_size(const bc_conv2d* conv, int64_t* out_h, int64_t* out_w);

/* Sum of products over the taps inside the picture. */
bc_status bc_conv2d_codes(const bc_conv2d* conv, const uint8_t* x, const uint8_t* w, int32_t* out,
                          int threads);

/* out [images][out_h][out_w][groups]: sum of the codes of x over the taps inside the picture and
 * the channels of the group. filters is not looked at. */
bc_status bc_conv2d_code_sums(const bc_conv2d* conv, const uint8_t* x, int32_t* out, int threads);

/* ---- Products of reals that are held as codes ------------------------------------------------ */

/* The grids of a product, for codes a and w: real = scale * code + offset. w has one grid for each
 * batch (w_groups 1) or for each batch and column (w_groups n). */
typedef struct bc_grids {
  const float *a_scale, *a_offset; /* [batch] */
  const float *w_scale, *w_offset; /* [batch][w_groups] */
  int64_t w_groups;
  const float* bias; /* [n], or null */
} bc_grids;

/* out[b][m][n] = sum over k of the reals behind a[b][m][k] and w[b][n][k], plus bias: the exact
 * sums of codes S = sum a w, A = sum a, W = sum w read as float(S * (sa * sw) + A * (sa * lw) +
 * ((la * sw) * W + (la * lw) * k) + bias) in double from left to right. Exact in the sense of the
 * same bits at every level. Scratch: as bc_gemm_codes, and 4 bytes for each output of a block (128
 * KB) a thread. */
bc_status bc_gemm_reals(const uint8_t* a, const uint8_t* w, int64_t batch, int64_t m, int64_t n,
                        int64_t k, const bc_grids* grids, float* out, int threads);

/* The same for a convolution: batch is 1, n the filters. A tap outside the picture is a true 0 and
 * in none of the sums. Scratch: the codes sums, 4 bytes for each output place and group. */
bc_status bc_conv2d_reals(const bc_conv2d* conv, const uint8_t* x, const uint8_t* w,
                          const bc_grids* grids, float* out, int threads);

/* ---- Layers: weights made ready once, run often ---------------------------------------------- */

/* The only thing here that owns memory: a linear or convolution with its weights in the order in
 * which the kernel reads them. It may run in several threads at once. */
typedef struct bc_layer bc_layer;

typedef struct bc_layer_spec {
  bc_conv2d conv;   /* images, height and width are not looked at; a linear is a 1 x 1 kernel */
  const uint8_t* w; /* codes [filters][kernel_h][kernel_w][channels / groups] */
  const float *cut_scale, *cut_offset; /* by which x is cut: [cut_groups], 1 or channels */
  int64_t cut_groups;
  int x_bits, w_bits; /* sums of so many bits must fit into int32 */
  bc_grids grids; /* by which codes are read as reals: batch 1, n the filters */
} bc_layer_spec;

/* Copies all that it needs. A layer belongs to the instruction set in use when it was made. */
bc_status bc_layer_new(const bc_layer_spec* spec, bc_layer** layer);
void bc_layer_free(bc_layer* layer);
/* Checks the size of a picture and gives that of the output. */
bc_status bc_layer_size(const bc_layer* layer, int64_t height, int64_t width, int64_t* out_h,
                        int64_t* out_w);

/* A picture in memory: dense, channels last [images][height][width][channels], or first. */
typedef enum bc_order { BC_CHANNELS_LAST = 0, BC_CHANNELS_FIRST = 1 } bc_order;

/* Steps on rows of channels, each float32 with one rounding an operation. t is the operand of row r
 * and channel c: data[r / each * row + c * column] (row 0: the same vector for all rows; column 0: one
 * number a row; each: so many rows, the pixels of a picture, share one; 0 is 1), or `value` where data
 * is null. Numbers are a part of the interface. */
typedef enum bc_step_kind {
  BC_ADD = 1,       /* x + t */
  BC_MUL = 2,       /* x * t */
  BC_SUB = 3,       /* x - t */
  BC_RELU = 4,      /* x < 0 ? 0 : x */
  BC_LEAKY = 5,     /* x < 0 ? x * t : x */
  BC_GELU = 6,      /* bc_gelu with tanh_form 0 */
  BC_SIGMOID = 7,   /* bc_sigmoid */
  BC_NORM = 8,      /* bc_layer_norm: data the gain [channels], shift likewise, each or null;
                       value is eps */
  BC_STORE = 9,     /* writes the rows as they are now to out; x stays */
  BC_GELU_TANH = 10, /* bc_gelu with tanh_form 1 */
  BC_SILU = 11,     /* bc_silu */
  BC_PRELU = 12,    /* x > 0 ? x : x * t: another zero than BC_LEAKY where t is negative */
  BC_MUL_ADD = 13   /* x + t * shift[c], two roundings; shift [channels] is not null */
} bc_step_kind;

typedef struct bc_step {
  int32_t kind;
  float value;
  const float *data, *shift;
  int64_t row, column; /* elements of data from row to row and from channel to channel, not negative */
  float* out;          /* of BC_STORE: row r begins at out + r * out_pitch */
  int64_t out_pitch;
  int64_t each; /* rows that share an operand; not of BC_NORM */
} bc_step;

/* Where rows end up: reals, or codes by the grids of whoever reads them. */
typedef struct bc_sink {
  void* out;     /* float32, or uint8 where scale is given; null: nothing but what steps store */
  int64_t pitch; /* elements from row to row */
  const float *scale, *offset, *top; /* null: reals; else [groups], each top 1 to 255 and whole */
  int64_t groups;                    /* 1 or channels */
} bc_sink;

/* Rows of channels through a chain of steps. x_pitch: elements from row to row of x. Codes are
 * exactly those of bc_encode. An operand may be the memory of an output where rows and pitch are the
 * same. Scratch: 64 KB a thread and a row. */
bc_status bc_rows(const bc_step* steps, int64_t count, int64_t rows, int64_t channels,
                  const float* x, int64_t x_pitch, const bc_sink* sink, int threads);

/* One run of a layer. The head stands before the cut, on the pixels of x; the tail on the reals that
 * come out, its rows being the pixels of the output. */
typedef struct bc_run {
  int64_t images, height, width;
  const void* x;
  int x_codes; /* 0: float32; 1: uint8 codes already cut by the layer's grid, channels last */
  int x_order; /* a bc_order */
  int64_t pitch; /* elements from pixel to pixel of x where channels are last, at least channels */
  const bc_step* head; /* on reals, channels last */
  int64_t head_count;
  const bc_step* tail;
  int64_t tail_count;
  int out_order; /* a bc_order */
  bc_sink sink; /* its pitch counts where channels are last; codes only so */
  int64_t shuffle; /* r above 1: channel k * r * r + i * r + j of pixel (y, x) goes to channel k of
                      pixel (y * r + i, x * r + j); reals, channels last. 0 and 1: none */
} bc_run;

/* x goes through the head and is cut into codes as bc_encode does; the reals of bc_conv2d_reals go
 * through the tail to the sink. A code that does not fit into the layer's x_bits gives numbers of no
 * meaning. BC_UNAVAILABLE if the instruction set is another than when the layer was made. Scratch: a few hundred KB a thread, kept by the calling thread. */
bc_status bc_layer_run(const bc_layer* layer, const bc_run* run, int threads);

/* ---- Attention on codes ---------------------------------------------------------------------- */

/* A batch of matrices in a larger tensor: element [b][r][c] lies at data[starts[b] + r * row + c *
 * column]. */
typedef struct bc_matrices {
  const float* data;
  const int64_t* starts; /* [batch] */
  int64_t row, column;
} bc_matrices;

/* What happens to the logits before the softmax: + term, or * term where multiply is not 0. A term
 * may repeat along any axis (a step of 0); it is read fastest where row is 1. */
typedef struct bc_term {
  bc_matrices matrices;
  int multiply;
  const uint8_t* skip; /* [batch]: whether the term is +0 for a matrix and left out; or null */
} bc_term;

/* The grids of an operand: real = scale * code + offset, one for each of the batch. */
typedef struct bc_operand_grid {
  const float *scale, *offset; /* [batch] */
  int bits;
} bc_operand_grid;

typedef struct bc_product {
  int64_t batch, m, n, k;
  bc_matrices a; /* [m][k] */
  bc_matrices b; /* [n][k] */
  bc_operand_grid a_grid, b_grid;
  int per_row; /* whether a holds attention weights that are cut relative to the largest of a row */
  /* Element [b][r][c] of out lies at out_starts[b] + r * out_row + c * out_column, rows or columns
   * dense and beside each other; null: all of it is dense. */
  const int64_t* out_starts;
  int64_t out_row, out_column;
} bc_product;

/* out[b][m][n]: a and b are cut into codes as bc_encode does, their product is that of
 * bc_gemm_reals.
 *
 * per_row: a is cut as r = a / gain, gain the largest of the row and at least the smallest normal
 * number; total is the sum of the row as bc_attend adds. With S, A and W as for bc_gemm_reals, the
 * mean code c = W / k and the mean value c * sb + lb, out = float((S - A * c) * (gain * (sa * sb)) +
 * total * (c * sb + lb)) in double. A NaN in a row makes the row NaN.
 *
 * Scratch: a few bytes for every code of one of the batch, kept by the calling
 * thread. */
bc_status bc_multiply(const bc_product* product, float* out, int threads);

/* An operand of attention: element [b][r][c] lies at data[starts[b] + r * row + c * column]; where
 * there is a table, at data[starts[b] + rows[(b / heads) * R + r] + c * column], R its rows. */
typedef struct bc_operand {
  const void* data;      /* float32 reals, or uint8 codes that its grid has cut already */
  int codes;             /* whether they are codes */
  const int64_t* starts; /* [batch] */
  int64_t row, column;
  const int32_t* rows; /* [batch / heads][R], or null */
} bc_operand;

/* Where attention writes: row r of matrix b begins at data[starts[b] + r * row], or with a table at
 * data[starts[b] + rows[(b / heads) * R + r]]; its columns lie side by side. Rows must not overlap.
 * Where scale is given, codes are written: bc_encode of the reals with the grid of their channel. One
 * grid serves all, or one for each of `groups` channels; then column c of matrix b is channel (starts[b] +
 * c) % groups. */
typedef struct bc_result {
  void* data;            /* float32, or uint8 where scale is given */
  const int64_t* starts; /* [batch] */
  int64_t row;           /* at least `values`: rows over each other are refused */
  const int32_t* rows; /* [batch / heads][queries], or null */
  const float *scale, *offset; /* [groups], or null for reals */
  int64_t groups;
  int bits;
} bc_result;

typedef struct bc_attention {
  int64_t batch, queries, keys, depth, values;
  int64_t heads; /* matrices that share a row of the tables, one after the other; at least 1 */
  bc_operand q;  /* [queries][depth] */
  bc_operand k;  /* [keys][depth] */
  bc_operand v;  /* [keys][values] */
  float q_factor; /* reals of q are multiplied by it before they are cut */
  bc_operand_grid q_grid, k_grid, p_grid, v_grid;
  const bc_term* terms;
  int64_t term_count;
  int per_row; /* whether p is cut relative to the largest of its row */
  bc_result out; /* [queries][values] */
} bc_attention;

/* out[b] = softmax(terms(q k^T)) v, both products on codes:
 *   - q * q_factor (float32) and k are cut into codes as bc_encode does; their product is that of
 *     bc_gemm_reals.
 *   - The terms are added or multiplied one after the other, in float32.
 *   - Softmax along the keys in float32, one rounding an operation: m the largest logit of the row;
 *     e = 2^t with t = (logit - m) * 1.4426950408889634f, t at least -126 (see bc_exp2); s the sum
 *     of e in 16 partial sums, number i adding every 16th e from number i on, then 8 + 8, 4 + 4,
 *     2 + 2, 1 + 1 of them (low half + high half); p = e / s.
 *   - p and v are cut into codes; their product is that of bc_gemm_reals.
 * With per_row e is cut, not p, and out is that of bc_multiply with per_row, gain 1 / s and
 * total 1. The same bits at every level. A NaN among the logits of a row makes
 * all codes of p in it 0, with per_row the row NaN. Nothing of size queries * keys is written to memory. Scratch: a few
 * hundred KB a thread. */
bc_status bc_attend(const bc_attention* attention, int threads);

/* How many elements of q, k, v and out the starts and tables reach, data not looked at: a tensor of
 * fewer is too small. BC_BAD_SHAPE where a place lies before the first element. */
bc_status bc_attention_reach(const bc_attention* attention, int64_t reach[4]);

/* out[i] = 2^x[i] for x up to 0, never below 2^-126: n = x rounded (halves to even), f = x - n, a
 * polynomial of degree 5 in f by Horner's rule (its numbers are in csrc/cpu/isa/softmax.h), times
 * 2^n. float32, one rounding an operation; NaN stays NaN. The relative error is below 2e-7. */
bc_status bc_exp2(const float* x, int64_t n, float* out);

/* The codes, as bc_encode cuts them, of the softmax of each row of x [rows][n] by the formula of
 * bc_attend. The same bits at every level; a row with a NaN has the codes 0. */
bc_status bc_softmax_codes(const float* x, int64_t rows, int64_t n, float scale, float offset,
                           int bits, uint8_t* out, int threads);

/* ---- Reals between layers -------------------------------------------------------------------- */

/* float32, one rounding an operation, the same bits at every level. NaN stays NaN (of what sign is
 * not said). out may be x. */

/* Layer norm of each row of n elements: mean = s(x) / n; d = x - mean; v = s(d * d) / n;
 * out = (d * (1 / sqrt(v + eps))) * gain + shift, where s adds up as bc_attend's s does. gain and
 * shift [n] may be null: not applied. Rows of x are `pitch` elements apart, rows of out
 * `out_pitch`, both at least n. */
bc_status bc_layer_norm(const float* x, int64_t rows, int64_t n, int64_t pitch, const float* gain,
                        const float* shift, float eps, float* out, int64_t out_pitch, int threads);

/* GELU: out = max(x, 0) - a * q with a = min(|x|, c), q = ((c - a) * S(a))^m by squaring, S a
 * polynomial of degree 7 by Horner's rule. tanh_form 0: x times the normal distribution function,
 * c = 5.6875, m = 4; else torch's approximation by tanh, c = 5.625, m = 8. The numbers of S are in
 * csrc/cpu/isa/reals.h; the absolute error is below 5e-7 of either. */
bc_status bc_gelu(const float* x, int64_t n, int tanh_form, float* out, int threads);

/* out = 1 / (2^t + 1) with t = x * -1.4426950408889634f, at most 126; 2^t as bc_exp2 has it. The
 * absolute error is below 2e-7. */
bc_status bc_sigmoid(const float* x, int64_t n, float* out, int threads);

/* out = max(x, -100) / (2^t + 1), t as above: SiLU, within 2e-7 of it and of its size. */
bc_status bc_silu(const float* x, int64_t n, float* out, int threads);

/* Each row of `count` matrices [rows][columns], or each column of them, times
 * 1 / max(sqrt(s(x * x)), least), where s adds up along the row or column as bc_attend's s does.
 * Matrices of x lie x_next elements apart, their rows `pitch`; those of out likewise. */
bc_status bc_unit(const float* x, int64_t count, int64_t rows, int64_t columns, int64_t x_next,
                  int64_t pitch, int by_column, float least, float* out, int64_t out_next,
                  int64_t out_pitch, int threads);

/* Pictures in memory: with channels last [images][pixels][channels], pixels `pitch` elements apart, at
 * least channels; with channels first [images][channels][pixels], dense. */
typedef struct bc_pixels {
  const float* x;
  int64_t images, pixels, channels;
  int order; /* a bc_order */
  int64_t pitch;
} bc_pixels;

/* Sums over the pixels of each channel of each picture, to sums, sizes and squares [images][channels],
 * each of which may be null: of d = x - from, of |d| and of d * d, with from [images][channels] or 0
 * where it is null. 256 pixels in a row add up as bc_attend's s does, pixel i into partial sum i % 16;
 * then 256 of these sums in a row, and so on until one is left. So it does not matter how a picture lies
 * in memory. Scratch: 12 bytes a channel for every 256 pixels. BC_EMPTY: no pixels. */
bc_status bc_pixel_sums(const bc_pixels* pixels, const float* from, float* sums, float* sizes,
                        float* squares, int threads);

/* Group norm of pictures is x * scale + offset, two roundings; scale and offset [images][channels] are
 * found here. Channel c of a group of n has S and Q, the sums and squares of bc_pixel_sums with its
 * first pixel a as `from`. In double, in this order and over channels one after the other: m = s(a + S /
 * pixels) / n; v = s(max(Q / pixels - (S / pixels)^2, 0) + (a + S / pixels - m)^2) / n; f = 1 / sqrt(v +
 * eps); scale = float(f * gain), offset = float(shift - m * (f * gain)). gain and shift [channels] may
 * be null: 1 and 0. */
bc_status bc_group_scales(const bc_pixels* pixels, int64_t groups, const float* gain,
                          const float* shift, double eps, float* scale, float* offset, int threads);

/* A convolution to few filters, channels last, all dense; w [filters][kernel_h][kernel_w][channels]; groups 1.
 * float32, a rounding an operation: of 16 partial sums from 0 on number i adds x * w of channels i, i + 16, ... of
 * each tap, in the order of memory; then the upper half is added to the lower until one is left; bias (or null) last. */
bc_status bc_conv2d_floats(const bc_conv2d* c, const float* x, const float* w, const float* bias,
                           float* out, int threads);

/* `count` matrices turned: out[b][c][r] = x[b][r][c]. Matrices of x [rows][columns] lie x_next
 * elements apart, their rows x_pitch, at least `columns`; those of out [columns][rows] likewise.
 * x and out do not overlap. */
bc_status bc_turn(const float* x, int64_t count, int64_t rows, int64_t columns, int64_t x_next,
                  int64_t x_pitch, float* out, int64_t out_next, int64_t out_pitch, int threads);

/* ---- Files and hosts ------------------------------------------------------------------------- */

/* float16 (IEEE) to float32, exactly. */
bc_status bc_widen(const uint16_t* x, int64_t n, float* out);

/* The grid by which a layer cuts its input: cut_scale = stretch * scale, cut_offset = stretch * offset
 * + shift, float32 with one rounding an operation. stretch and shift [channels]; a null stretch is
 * refused, a null shift is not added. */
bc_status bc_channel_grid(float scale, float offset, const float* stretch, const float* shift,
                          int64_t channels, float* cut_scale, float* cut_offset);

/* Scale and offset of an operand of a product for sums of `length` terms, [groups] each, in place:
 * times 1 / sqrt(length) where per_length; else where length < shortest times 1 / top, at least 1
 * and at most shortest / length, top the real of the largest code, at least 1e-6. float32. */
bc_status bc_length_grid(int64_t length, int bits, int per_length, int64_t shortest, int64_t groups,
                         float* scale, float* offset);

/* Threads of a host. `run` calls task(context, i) for every i in [0, count), on any threads, at any
 * time, and returns when all have returned; a task that comes late finds nothing to do. */
typedef void (*bc_task)(void* context, int64_t i);
typedef struct bc_pool {
  void (*run)(void* self, bc_task task, void* context, int64_t count);
  void* self;
} bc_pool;

/* Calls of this thread use the threads of `pool` until it is taken back by null, and start none of
 * their own. It must live as long. */
void bc_lend_pool(const bc_pool* pool);

/* ---- Bit planes: the definition -------------------------------------------------------------- */

/* Words of one plane: channels in 32-bit words, padded to an even number of words. */
int64_t bc_plane_words(int64_t channels);

/* codes [rows][channels] -> words [bits][rows][bc_plane_words(channels)]: bit i of word k of plane
 * j is bit j of the code of channel 32k + i. Spare bits are 0. */
bc_status bc_pack_words(const uint8_t* codes, int64_t rows, int64_t channels, int bits,
                        uint32_t* out, int threads);

/* bc_conv2d_codes on bit planes: sum over planes i of x, j of w of 2^(i+j) * popcount(x_i AND w_j).
 * x_words [x_bits][images] [height][width][words of channels], w_words
 * [w_bits][filters][kernel_h][kernel_w][words of channels / groups]. This is the portable
 * definition that the fast forms are compared with. */
bc_status bc_bit_conv2d(const bc_conv2d* conv, const uint32_t* x_words, int x_bits,
                        const uint32_t* w_words, int w_bits, int32_t* out, int threads);

#ifdef __cplusplus
} /* extern "C" */

static_assert(sizeof(bc_view) == 24, "bc_view crosses the C interface");
static_assert(sizeof(bc_grids) == 48, "bc_grids crosses the C interface");
static_assert(sizeof(bc_conv2d) == 112, "bc_conv2d crosses the C interface");
static_assert(sizeof(bc_matrices) == 32 && sizeof(bc_term) == 48, "they cross the C interface");
static_assert(sizeof(bc_layer_spec) == 200, "bc_layer_spec crosses the C interface");
static_assert(sizeof(bc_step) == 64, "bc_step crosses the C interface");
static_assert(sizeof(bc_pixels) == 48, "bc_pixels crosses the C interface");
static_assert(sizeof(bc_sink) == 48, "bc_sink crosses the C interface");
static_assert(sizeof(bc_run) == 144, "bc_run crosses the C interface");
static_assert(sizeof(bc_product) == 176, "bc_product crosses the C interface");
static_assert(sizeof(bc_pool) == 16, "bc_pool crosses the C interface");
static_assert(sizeof(bc_attention) == 384, "bc_attention crosses the C interface");
#endif

#endif /* BITCOMPRESS_BITS_H */
