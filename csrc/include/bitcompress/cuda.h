/* The C interface of the CUDA kernels: what bits.h means, on the memory of a device.
 *
 * Rules that hold for every function here:
 *   - Pointers to tensors are device memory, the caller's; structs are host memory and are copied.
 *   - Work is queued on the stream and nothing waits for it. `stream` is a cudaStream_t, null the
 *     default one. No memory is allocated: the caller gives scratch memory, as large as the function
 *     beside says, aligned to 256 bytes.
 *   - Sizes and pointers are checked and a bc_status returned; nothing is queued unless it is BC_OK.
 *     BC_UNAVAILABLE means that CUDA refused the launch.
 *   - Codes, sums and reals are the same bits as those of bits.h: integers are exact, reals are
 *     rounded operation by operation, in the order written there. float16 is widened exactly when
 *     it is read, and rounded to nearest even when it is written, as the last thing.
 *
 * csrc/cuda/machine.h says how the same source is compiled for a CPU, and what is tested so.
 */
#ifndef BITCOMPRESS_CUDA_H
#define BITCOMPRESS_CUDA_H

#include "bitcompress/bits.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of this interface; bitcompress/packed/cuda.py and the plugins ask for it. */
#define BC_CUDA_VERSION 1
int bc_cuda_version(void);
/* 1 where the library runs on a device, 0 where it is its twin on the CPU, made for tests. */
int bc_cuda_on_device(void);

typedef enum bc_cuda_type {
  BC_CUDA_FLOAT32 = 0,
  BC_CUDA_FLOAT16 = 1,
  BC_CUDA_UINT8 = 2, /* bytes of the stored form, one beside the other */
  BC_CUDA_INT32 = 3  /* the same, each byte in a number of its own, as TensorRT holds them */
} bc_cuda_type;

/* Numbers in device memory; `data` null where an optional one is missing. */
typedef struct bc_cuda_numbers {
  const void* data;
  int32_t type; /* a bc_cuda_type */
  int64_t count;
} bc_cuda_numbers;

/* A step on rows of channels, as bc_step: BC_STORE is not taken, BC_NORM in heads alone. Operand of
 * row r and channel c: data[r / each * row + c * column], or `value` where data is null. */
typedef struct bc_cuda_step {
  int32_t kind; /* a bc_step_kind */
  float value;
  bc_cuda_numbers data, shift;
  int64_t row, column, each;
} bc_cuda_step;

#define BC_CUDA_MOST_STEPS 8

/* How products are made. All give the same bits. */
typedef enum bc_cuda_form {
  BC_CUDA_AUTO = 0,
  BC_CUDA_DIRECT = 1, /* a thread for each output: depthwise and other narrow groups */
  BC_CUDA_DOTS = 2,   /* tiles in shared memory; dp4a, or and + popcount where both are of one bit */
  BC_CUDA_TENSOR = 3  /* tiles for tensor cores, u8 or b1 */
} bc_cuda_form;

/* ---- Codes ----------------------------------------------------------------------------------- */

/* bc_encode. scale and offset: one, or view.groups. */
bc_status bc_cuda_encode(bc_cuda_numbers x, bc_view view, bc_cuda_numbers scale, bc_cuda_numbers offset,
                         int bits, uint8_t* out, void* stream);

/* ---- Layers ---------------------------------------------------------------------------------- */

/* A convolution, or a linear as a 1 x 1 kernel. */
typedef struct bc_cuda_layer {
  bc_conv2d conv;         /* images, height and width are those of the run */
  int32_t x_bits, w_bits; /* sums of so many bits must fit into int32 */
  bc_cuda_numbers weight; /* stored form of codes [filters][channels / groups][kernel_h][kernel_w] */
  bc_cuda_numbers w_scale, w_offset; /* one or one a filter */
  bc_cuda_numbers x_scale, x_offset; /* one: how codes of x are read */
  bc_cuda_numbers stretch, shift;    /* null, or one a channel: see bc_channel_grid */
  bc_cuda_numbers bias;              /* null, or one a filter */
} bc_cuda_layer;

/* Bytes of a weight made ready; -1 for an impossible layer. */
int64_t bc_cuda_ready_bytes(const bc_cuda_layer* layer);
/* The weight in the order in which kernels read it; as often as the weight changes. */
bc_status bc_cuda_make_ready(const bc_cuda_layer* layer, void* ready, void* stream);

typedef struct bc_cuda_run {
  int64_t images, height, width;
  bc_cuda_numbers x; /* count is not looked at */
  int32_t x_order;   /* a bc_order */
  const bc_cuda_step* head; /* before the cut; where x lies channels last */
  int64_t head_count;
  const bc_cuda_step* tail;
  int64_t tail_count;
  void* out;
  int32_t out_type, out_order;
  int32_t form; /* a bc_cuda_form; one that does not serve the layer is passed over for BC_CUDA_DIRECT */
} bc_cuda_run;

/* Scratch of a run, from the sizes alone; -1 for an impossible one. */
int64_t bc_cuda_scratch_bytes(const bc_cuda_layer* layer, const bc_cuda_run* run);
bc_status bc_cuda_layer_run(const bc_cuda_layer* layer, const void* ready, const bc_cuda_run* run,
                            void* scratch, void* stream);

/* ---- Products -------------------------------------------------------------------------------- */

/* Element [b][r][c] of an operand lies at data[b * matrix + r * row + c * column]. */
typedef struct bc_cuda_matrices {
  bc_cuda_numbers numbers;
  int64_t matrix, row, column;
} bc_cuda_matrices;

/* Grid number b mod count of a matrix b; what becomes of it for a length, as bc_length_grid. */
typedef struct bc_cuda_grid {
  bc_cuda_numbers scale, offset;
  int32_t bits, per_length;
  int64_t shortest;
} bc_cuda_grid;

/* a [m][k] times b [n][k], as bc_multiply: cut, multiplied, read. per_row as there. */
typedef struct bc_cuda_product {
  int64_t batch, m, n, k;
  bc_cuda_matrices a, b;
  bc_cuda_grid a_grid, b_grid;
  int32_t per_row;
  void* out; /* dense */
  int32_t out_type, form;
} bc_cuda_product;

int64_t bc_cuda_product_scratch_bytes(const bc_cuda_product* product);
bc_status bc_cuda_multiply(const bc_cuda_product* product, void* scratch, void* stream);

/* ---- Attention ------------------------------------------------------------------------------- */

/* Done to the logits: + or *. Of matrix b, row r, column c: data[(b / repeat % matrices) * matrix +
 * r * row + c * column]. */
typedef struct bc_cuda_term {
  bc_cuda_numbers numbers;
  int64_t matrices, repeat, matrix, row, column;
  int32_t multiply;
} bc_cuda_term;

#define BC_CUDA_MOST_TERMS 4

/* softmax(terms(q k)) v, as bc_attend without heads; q times q_factor is what is cut. Logits go through scratch memory. */
typedef struct bc_cuda_attention {
  int64_t batch, queries, keys, depth, values;
  bc_cuda_matrices q, k, v; /* [queries][depth], [keys][depth], [values][keys] */
  bc_cuda_grid q_grid, k_grid, p_grid, v_grid;
  const bc_cuda_term* terms;
  int64_t term_count;
  int32_t per_row;
  float q_factor;
  void* out; /* dense [batch][queries][values] */
  int32_t out_type, form;
} bc_cuda_attention;

int64_t bc_cuda_attention_scratch_bytes(const bc_cuda_attention* attention);
bc_status bc_cuda_attend(const bc_cuda_attention* attention, void* scratch, void* stream);

/* ---- Reals between layers -------------------------------------------------------------------- */

/* Rows of channels, dense, through steps; out may be x where the types are the same. */
bc_status bc_cuda_rows(const bc_cuda_step* steps, int64_t count, int64_t rows, int64_t channels,
                       bc_cuda_numbers x, void* out, int out_type, void* stream);

/* bc_unit along the middle axis of x [outer][n][inner]. */
bc_status bc_cuda_unit(bc_cuda_numbers x, int64_t outer, int64_t n, int64_t inner, float least, void* out,
                       int out_type, void* stream);

/* ---- Pictures -------------------------------------------------------------------------------- */

/* Dense, [images][channels][pixels] or with channels last [images][pixels][channels]. */
typedef struct bc_cuda_pixels {
  bc_cuda_numbers x; /* count is not looked at */
  int64_t images, pixels, channels;
  int32_t order; /* a bc_order */
} bc_cuda_pixels;

/* Scratch of both functions below, from the sizes alone; -1 for impossible ones, no pixel among them. */
int64_t bc_cuda_pixels_scratch_bytes(const bc_cuda_pixels* pixels);

/* Sums of bc_pixel_sums times float(1 / pixels), to out [images][channels]: of x, or of |x - from| where from
 * [images][channels] is there. */
bc_status bc_cuda_pixel_means(const bc_cuda_pixels* pixels, bc_cuda_numbers from, void* out, int out_type,
                              void* scratch, void* stream);

/* Group norm by bc_group_scales, in the order of x; gain and shift [channels] may be missing. */
bc_status bc_cuda_group_norm(const bc_cuda_pixels* pixels, int64_t groups, bc_cuda_numbers gain,
                             bc_cuda_numbers shift, double eps, void* out, int out_type, void* scratch,
                             void* stream);

#ifdef __cplusplus
}
#endif

#endif
