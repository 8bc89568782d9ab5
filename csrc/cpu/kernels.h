// The table of inner loops that one instruction set fills; drivers are written once against it.
//
// A file in isa/ defines one const Kernels and ends. Everything else about an operator (blocks,
// borders, threads, checks) is in the drivers beside this file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attend.h"
#include "learn.h"

namespace bc {

// Rows of left codes times a panel of right codes. A row is the chain of `segments` runs of
// `length` codes each; run s of row r starts at segments[s] + r * row_bytes. Rows may overlap,
// which is how a convolution is a product without a copy. A run is read in whole steps of its form:
// what lies there, up to 64 bytes, is multiplied by 0 but must be readable.
struct Product {
  const uint8_t* const* runs;  // start of each run of row 0
  int64_t segments, length;    // length: pixels * channels
  int64_t row_bytes, rows;
  const void* panel;  // from pack_panel with the same segments, length and columns
  int64_t columns;
  bool shifted;  // the panel holds codes - 128: 128 * (sum of the row) is added
  int32_t* out;
  int64_t out_stride;  // elements from one row of out to the next
  int64_t pixels = 1;  // of a run; each begins a unit of its form
  // Column c stands at place_of(c) of out, whose rows have room for whole groups of 64 columns; only
  // for forms that spread.
  bool spread = false;
  // What the codes of each row add up to, where it is known already; else a shifted product adds them up.
  const int32_t* code_sums = nullptr;
  int64_t code_sums_stride = 1;
};

// Every fourth column together, 0, 2, 1, 3 first: where a vector of bytes that are added in words has
// them.
inline int64_t place_of(int64_t column) {
  return column / 64 * 64 + (column % 2 * 2 + column / 2 % 2) * 16 + column % 64 / 4;
}

// What a product sums over, and for how many columns.
struct Extent {
  int64_t pixels, channels, columns;
  int64_t length() const { return pixels * channels; }
};

// How left codes lie in memory for a product, and the product on them. What comes out is always the
// exact sum of products of codes.
struct Form {
  const char* name;
  int64_t unit_bytes;
  int64_t (*units)(int64_t channels);  // of a pixel with so many channels
  // Codes [pixels][channels] to dense pixels of units(channels) units, and not a byte behind them.
  // Null where this is a copy: the codes are the form.
  void (*load)(const uint8_t* codes, int64_t pixels, int64_t channels, uint8_t* out);
  int64_t (*panel_bytes)(int64_t columns, int64_t segments, int64_t pixels, int64_t channels);
  // right [columns][segments][pixels][channels] -> panel, 64-byte aligned
  void (*pack_panel)(const uint8_t* right, int64_t columns, int64_t segments, int64_t pixels,
                     int64_t channels, bool shifted, void* panel);
  void (*product)(const Product& product);
  int64_t step;  // units; a run is read to the next multiple of them
  bool shifts;   // a panel with codes above 127 holds codes - 128
  bool spreads = false;  // the product can leave its columns spread, which is cheaper

  int64_t pixel_bytes(int64_t channels) const { return units(channels) * unit_bytes; }
};

// How a tensor whose parameters repeat every `period` elements is cut into codes. period is a
// multiple of 16; factor is 1 / scale, or null where that would not be a normal number.
struct Cutter {
  const float *scale, *offset, *factor;
  int64_t period;
  float top;
};

// How rows of reals are cut into codes, parameters one a column. A code is found with factor (1 /
// scale) and decided exactly where it lies more than `tie` from a whole number; a tie below 0 means
// always. Then it is raised to `least` and lowered to `top`. compares: every scale is 0 and every
// code x >= offset, with neither least nor top.
struct RowCutter {
  const float *scale, *offset, *factor;
  const uint8_t *least, *top;
  float tie;
  bool compares = false;
};

// How sums become reals, one number a column; see reading.h. Where a flag is false the bits are the
// same without that term. each: row_sums[r * stride + c] belongs to column c alone. unit: where it is not
// null the same bits are unit * (sum + row_sum * share + base) in float32 (see WholeReading).
struct Readout {
  const double *product, *row, *constant, *bias;
  bool has_row = true, has_bias = true, each = false;
  const float *unit = nullptr, *base = nullptr;
  float share = 0.0f;
};

// How sums become codes, in steps of the output's grid: (sum - centre) * product + (row_sum -
// row_centre) * row + constant. Codes are decided exactly beyond tie - slope * |row_sum -
// row_centre|, where each is set beyond tie. ../code_grid.h has why.
struct CodeReadout {
  Readout exact;
  RowCutter cutter;
  const float *product, *row, *constant;
  const int32_t* centre;
  int32_t row_centre;
  float tie, slope;
  bool spread = false;  // sums, product, row, constant and centre are in the order of place_of
  // By what the reals are multiplied before they are cut, if at all: all of them, or those below 0.
  // For the latter leak and leak_base are the other line of a code: max(u, u * leak + leak_base).
  const float *times = nullptr, *leak = nullptr, *leak_base = nullptr;
};

// A row of a depthwise convolution from interleaved pixels: tap t of place p at x + offsets[t] + p *
// step; w [taps][channels][4] holds codes, or codes - 128 where shifted. channels is a multiple of 16,
// and the pitch of sums and code_sums [places][channels], 64-byte aligned; code_sums may be null.
struct DepthwiseRow {
  const uint8_t* x;
  const int64_t* offsets;
  int64_t taps, step;
  const int8_t* w;
  bool shifted;
  int64_t places, channels;
  int32_t *sums, *code_sums;
};

// One step of a chain (bits.h) on rows of n channels; row 0 has its operand at data. Only steps with
// an operand and BC_RELU. out may be x or data where rows lie alike.
struct StepRows {
  int32_t kind;
  float value;
  const float* data;
  int64_t row, column;
  const float* x;
  int64_t x_pitch, rows, n;
  float* out;
  int64_t out_pitch;
  const float* gain = nullptr;  // of BC_MUL_ADD, [n]
};

// One step of a chain that goes through registers: what a StepRows has but for its rows. Only steps with
// an operand that is one number or lies side by side (column 0 or 1), BC_RELU and BC_STORE.
struct ChainStep {
  int32_t kind;
  float value;
  const float* data;
  int64_t row, column;
  const float* gain;
  float* out;  // of BC_STORE
  int64_t out_pitch;
};

// A chain on rows of n reals, n a multiple of 16: to out, to codes (x >= offset, column by column), to
// both or, null, to neither. x, out and operands may be the same memory where rows lie alike.
struct ChainRows {
  const ChainStep* steps;
  int64_t count;
  const float* x;
  int64_t x_pitch, rows, n;
  float* out;
  int64_t out_pitch;
  const float* offset;
  uint8_t* codes;
  int64_t codes_pitch;
};

// Up to 256 pixels of a picture. Sums of d = x - from (from null: of x), of |d| and of d d go to each
// that is not null.
struct PixelTile {
  const float* x;
  int64_t pixels, channels, pitch;  // pitch: elements from pixel to pixel where channels are last
  const float* from;
  float *sums, *sizes, *squares;
};

// Places of one row of a convolution of reals: for each of `segments` a run of `length` reals, that of the
// next place `stride` further, length a multiple of 16. panel [filters][segments * length].
struct FloatTile {
  const float* const* runs;
  int64_t segments, length, stride, places;
  const float* panel;
  int64_t filters;
  const float* bias;
  float* out;
  int64_t out_stride;
};

struct Kernels {
  const char* name;

  // One scale and offset for the whole row (_row), or one for every element (_each). top = 2^bits
  // - 1.
  void (*encode_row)(const float* x, int64_t n, float scale, float offset, float top, uint8_t* out);
  void (*encode_each)(const float* x, int64_t n, const float* scale, const float* offset, float top,
                      uint8_t* out);
  void (*fake_row)(const float* x, int64_t n, float scale, float offset, float top, float* out);
  void (*fake_each)(const float* x, int64_t n, const float* scale, const float* offset, float top,
                    float* out);
  // Writes grad_x and adds to the sums of the gradients of lo and hi.
  void (*backward_row)(const float* x, const float* grad, int64_t n, float lo, float hi, float top,
                       float* grad_x, double* sum_lo, double* sum_hi);
  void (*backward_each)(const float* x, const float* grad, int64_t n, const float* lo,
                        const float* hi, float top, float* grad_x, double* sum_lo, double* sum_hi);
  // Folds the row into lo and hi; a NaN makes both NaN for good.
  void (*minmax_row)(const float* x, int64_t n, float* lo, float* hi);
  void (*minmax_each)(const float* x, int64_t n, float* lo, float* hi);
  // The bin of every element.
  void (*bins_row)(const float* x, int64_t n, float lo, float hi, int64_t bins, int32_t* bin);
  void (*bins_each)(const float* x, int64_t n, const float* lo, const float* hi, int64_t bins,
                    int32_t* bin);

  // Integer products. Left codes are read as `code_bytes` wide numbers (1: as stored; 2: widened),
  // in steps of `step` codes. A shifted panel holds codes - 128 as signed bytes; only code_bytes 1
  // knows it.
  int64_t code_bytes;
  int64_t step;
  // Copies rows of n codes as product reads them; the rest of the last step is 0. stride: bytes
  // from one row of out to the next.
  void (*load_rows)(const uint8_t* codes, int64_t rows, int64_t n, int64_t stride, uint8_t* out);
  int64_t (*panel_bytes)(int64_t columns, int64_t segments, int64_t length);
  // right [columns][segments * length] -> panel
  void (*pack_panel)(const uint8_t* right, int64_t columns, int64_t segments, int64_t length,
                     bool shifted, void* panel);
  void (*product)(const Product& product);
  // out[c] = sum over t of x[t][c] * w[t][c]: one place of a depthwise convolution. w holds codes.
  void (*depthwise)(const uint8_t* const* x, const int32_t* const* w, int64_t taps,
                    int64_t channels, int32_t* out);
  // out[r] = sum of row r of n codes.
  void (*sum_rows)(const uint8_t* codes, int64_t rows, int64_t n, int32_t* out);
  // out[i] = float(sums[i] * product[i] + row_sum * row[i] + constant[i] + bias[i]) in double, from
  // left to right; see reading.h. row_sum is one number (_row) or one for each element (_each).
  void (*read_row)(const int32_t* sums, int64_t n, int32_t row_sum, const double* product,
                   const double* row, const double* constant, const double* bias, float* out);
  void (*read_each)(const int32_t* sums, int64_t n, const int32_t* row_sums, const double* product,
                    const double* row, const double* constant, const double* bias, float* out);

  const Attending* attending;  // attention on codes; attend.h
  // out[i] = float((sums[i] - row_sum * centre[i]) * gain + total * mean[i]) in double.
  void (*read_centred)(const int32_t* sums, int64_t n, int32_t row_sum, double gain, double total,
                       const double* centre, const double* mean, float* out);
  void (*exp2_row)(const float* x, int64_t n, float* out);
  // The codes [rows][n] of the softmax of each row; isa/softmax.h. x is overwritten; its rows are
  // `stride` apart and have room for n rounded up to 16.
  void (*softmax_codes)(float* x, int64_t rows, int64_t n, int64_t stride, float scale,
                        float offset, float top, uint8_t* out);

  // Reals to reals; isa/reals.h. What each gives is in bits.h. out may be x.
  // Layer norm of rows of n elements, `pitch` apart; gain and shift [n] may be null.
  void (*layer_norm_rows)(const float* x, int64_t rows, int64_t n, int64_t pitch, const float* gain,
                          const float* shift, float eps, float* out, int64_t out_pitch);
  void (*layer_norm_row)(const float* x, int64_t n, const float* gain, const float* shift,
                         float eps, float* out);
  void (*gelu_row)(const float* x, int64_t n, float* out);
  void (*gelu_tanh_row)(const float* x, int64_t n, float* out);
  void (*sigmoid_row)(const float* x, int64_t n, float* out);
  void (*silu_row)(const float* x, int64_t n, float* out);
  // Rows [rows][n], or columns [rows][columns], divided by their length, at least `least`;
  // isa/lengths.h.
  void (*unit_rows)(const float* x, int64_t rows, int64_t n, int64_t pitch, float least, float* out,
                    int64_t out_pitch);
  void (*unit_columns)(const float* x, int64_t rows, int64_t columns, int64_t pitch, float least,
                       float* out, int64_t out_pitch);

  // Whole layers; isa/cut.h. Element i is cut with parameter i % period.
  void (*cut)(const float* x, int64_t n, const Cutter& cutter, uint8_t* out);
  // out[c][r] = x[r][c]; out and x do not overlap
  void (*turn)(const float* x, int64_t rows, int64_t columns, int64_t x_stride, float* out,
               int64_t out_stride);
  // read_row for several rows; row r has the sum row_sums[r * row_sums_stride].
  void (*read_rows)(const Readout& readout, int64_t rows, int64_t n, const int32_t* sums,
                    int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                    float* out, int64_t out_stride);
  // The codes of what read_rows gives.
  void (*read_codes)(const CodeReadout& readout, int64_t rows, int64_t n, const int32_t* sums,
                     int64_t sums_stride, const int32_t* row_sums, int64_t row_sums_stride,
                     uint8_t* out, int64_t out_stride);
  // Rows of n reals to codes, column i by parameter i.
  void (*cut_rows)(const RowCutter& cutter, int64_t rows, int64_t n, const float* x,
                   int64_t x_stride, uint8_t* out, int64_t out_stride);
  // Depthwise convolution by four taps of a column at a time; null where `depthwise` serves.
  // out[4 i + j] = rows[j][i], 0 where the row is null. Goes on to the next multiple of 64, what is
  // read and written there being of no meaning; out is 64-byte aligned.
  void (*interleave)(const uint8_t* const rows[4], int64_t n, uint8_t* out);
  void (*depthwise_row)(const DepthwiseRow& row);

  // The form that code_bytes, step, panel_bytes, pack_panel and product are: for codes of any width.
  const Form* codes;
  // The fastest form for left codes of x_bits and right codes of w_bits.
  const Form& (*form_for)(int x_bits, int w_bits, const Extent& extent);
  // Steps on rows; isa/steps.h.
  void (*step_rows)(const StepRows& step);
  // Several of them in one pass; isa/chain.h.
  void (*chain_rows)(const ChainRows& chain);
  // Sums over pixels; isa/pixels.h. Of each channel, channels side by side; of one channel, its pixels
  // side by side.
  void (*sum_columns)(const PixelTile& tile);
  void (*sum_line)(const PixelTile& tile);
  // Reals by reals; isa/floats.h.
  void (*floats_few)(const FloatTile& tile);
  const Learning* learning;  // the training of binary blocks; learn.h

  // The level that is faster where sums are short; null where this one is.
  const Kernels* for_short_sums = nullptr;
};

const Kernels& kernels();  // the level in use

constexpr int64_t kShortSum = 128;

// The level for sums of so many codes.
inline const Kernels& kernels_for(int64_t length) {
  const Kernels& k = kernels();
  return k.for_short_sums != nullptr && length < kShortSum ? *k.for_short_sums : k;
}

extern const Kernels kScalar;
#if defined(BITCOMPRESS_X86)
extern const Kernels kAvx2, kAvx512vnni;
#endif

}  // namespace bc
