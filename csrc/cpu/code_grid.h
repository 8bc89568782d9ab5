// The grids of whoever reads the output, made ready for rows of reals and for rows of sums.
//
// A code is rint(q), q = fl(fl(y - offset) / scale), y the float of a double sum. Let d = 2^-24, and
// U the same quotient without rounding. Where the code is not clamped anyway |U| <= top + 1, and q
// errs by at most d (|y| / scale + 2 |U|) <= d (3 |U| + |offset| / scale).
//
// Of reals, u = fl(fl(y - offset) * factor) errs by d |U| more than q at most: see isa/cut.h.
//
// Of sums, u = S p' + (A r' + c') in float32 with p' = p / scale, r' = r / scale and c' = (c + bias -
// offset) / scale, each rounded once. S and A are below 2^24, so exact. The first product errs by 2 d
// |S p'|, the second and its sum by 3 d |A r'| + 2 d |c'|, the last sum by d |u|. Together with q that
// is less than d (2.25 |S p'| + 3.25 |A r'| + 2.25 |c'| + 4 (top + 2) + 1.25 |offset| / scale), the
// quarters being room for squares of d and what doubles err. S and A are bounded by the weights.
#pragma once

#include <cstdint>

#include "bitcompress/bits.h"
#include "kernels.h"

namespace bc {

class CodeGrid {
 public:
  // What sums can be: for each column the largest, and the largest sum of left codes.
  struct Bounds {
    const double* sums;
    double codes;
  };

  static int64_t bytes(int64_t columns);

  // Copies what it needs of a sink with grids to `memory`. floor: reals below 0 count as 0.
  CodeGrid(const bc_sink& sink, int64_t columns, bool floor, uint8_t* memory);

  const RowCutter& cutter() const { return cutter_; }

  // Makes product and row of a readout ready.
  void set(const Readout& readout, const Bounds& bounds);
  // Constant and bias of all columns to `out`; gives the tie of CodeReadout.
  float fold(const double* constant, const double* bias, float* out) const;

  // For columns from o on.
  CodeReadout from(int64_t o, const Readout& exact, const float* folded, float tie) const;

 private:
  int64_t columns_;
  float *scale_, *offset_, *factor_, *product_, *row_;
  double* error_;  // of a column, in d, without what comes from its constant
  uint8_t *least_, *top_;
  RowCutter cutter_;
};


}  // namespace bc
