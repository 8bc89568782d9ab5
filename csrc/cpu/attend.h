// What the driver of attention hands to the kernel: one matrix of the batch, its codes gathered.
#pragma once

#include <cstdint>

namespace bc {

// What is done to the logits: element (query i, key j) lies at data[i * row + j * column].
struct AttendTerm {
  const float* data;
  int64_t row, column;
  bool multiply;
};

// Where rows begin in a larger tensor: by a table, or at one distance from each other.
struct AttendPlaces {
  int64_t start;
  const int32_t* table;  // or null
  int64_t step;
  int64_t operator[](int64_t row) const {
    return start + (table != nullptr ? table[row] : row * step);
  }
};

// Rows in a larger tensor, to be cut into codes. Codes of row r go to out + r * pitch, whose end is
// already 0.
struct AttendRows {
  const void* data;
  bool codes;  // whether they are codes already, and are copied
  AttendPlaces places;
  int64_t rows, columns;
  float factor, scale, offset, top;
  uint8_t* out;
  int64_t pitch;
};

struct Attend {
  int64_t queries, keys, depth, values;
  // Codes in rows of so many bytes, multiples of 16, whose ends are 0. q and k have rows up to a
  // multiple of 16, the others 0.
  const uint8_t *q, *k, *v;
  int64_t depth_pitch, value_pitch;
  bool k_shifted, v_shifted;  // whether codes above 127 occur: 8 bits
  int p_bits;
  double q_scale, q_offset, k_scale, k_offset, v_scale, v_offset;
  float p_scale, p_offset;
  const AttendTerm* terms;
  int64_t term_count;
  bool per_row;
  // Query i goes to element places[i] of out: reals, or codes where scale is given (for each value).
  void* out;
  AttendPlaces places;
  const float *out_scale, *out_offset;
  float out_top;
};

// A row of weights, cut relative to its largest; bits.h has the formula (bc_multiply, per_row).
struct WeightRow {
  const float* x;
  int64_t n;
  float scale, offset;
  int bits;
  uint8_t* out;
  float most, total;  // what comes out: the largest, and the sum
};

// Filled by each instruction set; isa/attend.h.
struct Attending {
  int64_t (*bytes)(const Attend& a);  // of scratch, which is 64-byte aligned
  void (*run)(const Attend& a, void* scratch);
  void (*cut)(const AttendRows& rows);
  void (*cut_weights)(WeightRow& row);
};

extern const Attending kAttendScalar;
#if defined(BITCOMPRESS_X86)
extern const Attending kAttendAvx2, kAttendAvx512;
#endif

}  // namespace bc
