// The grids of whoever reads the output, made ready for rows of reals and for rows of sums.
//
// A code is rint(q), q = fl(fl(y - offset) / scale), y the float of a double sum. Let d = 2^-24, and
// U the same quotient without rounding. Where the code is not clamped anyway |U| <= top + 1, and q
// errs by at most d (|y| / scale + 2 |U|) <= d (3 |U| + |offset| / scale).
//
// Of reals, u = fl(fl(y - offset) * factor) errs by d |U| more than q at most: see isa/cut.h.
//
// Of sums, u = S' p' + (A' r' + c') in float32. S' = S - centre and A' = A - row_centre are whole
// numbers, p' = p / scale, r' = r / scale, and c' is all that does not depend on the sums, in steps of
// the grid; the centres are chosen so that A' and c' are small. Each of the five is rounded once. With
// a = |A' r'| the first product errs by 3 d |S' p'|, the second and its sum by 4 d a + 2 d |c'|, the
// last sum by d |u|; and |S' p'| <= |u| + a + |c'|. Together with q that is less than
//
//     d (7 (top + 2) + 7.25 a + 5.25 |c'| + 1.25 |offset| / scale)
//
// the quarters being room for squares of d and what doubles err. What depends on a is found row by
// row, so that sums of any length at 8 bits are found in float32 too.
//
// Where y is multiplied by a number of its column first, p, r and the constants are as well, and one
// more rounding errs by d (|U| + |offset| / scale). Where only y below 0 is, by a slope t in (0, 1],
// the code is the larger of u and u t + b, b = -offset / scale (1 - t): the lines cross where y is 0.
// That errs by d (3 |U| + 4 |offset| / scale) more, one rounding of z = y t and three of the line.
#pragma once

#include <cstdint>

#include "bitcompress/bits.h"
#include "kernels.h"

namespace bc {

// What of a CodeReadout belongs to one place of a convolution: constants of all columns.
struct Folded {
  const float* constant;
  const int32_t* centre;
  int32_t row_centre;
  float tie, slope;

  static int64_t bytes(int64_t columns);
};

// Numbers of columns in the order of place_of go on to whole groups of 64.
inline int64_t room_of(int64_t columns) { return (columns + 63) / 64 * 64; }

class CodeGrid {
 public:
  static int64_t bytes(int64_t columns);

  // Copies what it needs of a sink with grids to `memory`. floor: reals below 0 count as 0. step: a
  // BC_MUL, BC_LEAKY or BC_PRELU that comes first, with a number for each column or one for all, or null.
  CodeGrid(const bc_sink& sink, int64_t columns, bool floor, const bc_step* step, uint8_t* memory);

  const RowCutter& cutter() const { return cutter_; }

  // Makes product and row of a readout ready, for sums in the order of place_of where they are spread.
  void set(const Readout& readout, bool spread);

  // What sums can be: for each column the largest, and the largest sum of left codes.
  struct Bounds {
    const double* sums;
    double codes;
  };
  // Constants of all columns, for a set readout, folded into `memory`.
  Folded fold(const Readout& readout, const Bounds& bounds, uint8_t* memory) const;

  // For columns from o on; the pointers of `exact` are those of column o.
  CodeReadout from(int64_t o, const Readout& exact, const Folded& folded) const;

 private:
  size_t at(int64_t i) const { return static_cast<size_t>(spread_ ? place_of(i) : i); }

  int64_t columns_;
  bool spread_ = false;
  double times(int64_t i) const {
    return times_ == nullptr || leaks_ ? 1.0 : static_cast<double>(times_[i]);
  }

  bool leaks_ = false;
  float *scale_, *offset_, *factor_, *product_, *row_, *leak_, *leak_base_, *times_ = nullptr;
  uint8_t *least_, *top_;
  RowCutter cutter_;
  double most_row_ = 0, fixed_error_ = 0;  // of r'; of what is the same for all places, in d
};

}  // namespace bc
