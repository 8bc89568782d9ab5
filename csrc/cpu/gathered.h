// Operands of attention: matrices that a table finds in a larger tensor, cut into codes unless they
// are codes already.
#pragma once

#include <cstdint>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "reading.h"

namespace bc {

class Gathered {
 public:
  Gathered(const bc_operand& o, int64_t heads, int64_t rows, int64_t columns,
           const bc_operand_grid& grid, float factor)
      : o_(o), heads_(heads), rows_(rows), columns_(columns), grid_(grid), factor_(factor) {}

  Grid grid(int64_t b) const { return {grid_.scale[b], grid_.offset[b]}; }

  // Reals that `cut` wants as scratch: none where the columns of a row lie side by side.
  int64_t dense() const { return o_.column == 1 ? 0 : rows_ * columns_; }

  // Codes in rows of `pitch` bytes. `places` has room for all rows.
  void cut(const Kernels& k, int64_t b, int64_t* places, float* dense, uint8_t* out,
           int64_t pitch) const {
    const int64_t start = o_.starts[b];
    const int32_t* table = o_.rows != nullptr ? o_.rows + b / heads_ * rows_ : nullptr;
    for (int64_t r = 0; r < rows_; ++r)
      places[r] = start + (table != nullptr ? table[r] : r * o_.row);
    AttendRows rows{o_.data, o_.codes != 0, places, rows_, columns_, factor_,
                    grid_.scale[b], grid_.offset[b], top_code(grid_.bits), out, pitch};
    if (o_.column != 1) {
      if (o_.codes != 0) return copy_codes(rows);
      lay_side_by_side(k, places, dense);
      for (int64_t r = 0; r < rows_; ++r) places[r] = r * columns_;
      rows.data = dense;
    }
    k.attending->cut(rows);
  }

 private:
  void copy_codes(const AttendRows& r) const {
    const uint8_t* from = static_cast<const uint8_t*>(o_.data);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t c = 0; c < columns_; ++c)
        r.out[i * r.pitch + c] = from[r.places[i] + c * o_.column];
    }
  }

  void lay_side_by_side(const Kernels& k, const int64_t* places, float* dense) const {
    const float* from = static_cast<const float*>(o_.data);
    if (o_.rows == nullptr && o_.row == 1)
      return k.turn(from + places[0], columns_, rows_, o_.column, dense, columns_);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t c = 0; c < columns_; ++c) dense[i * columns_ + c] = from[places[i] + c * o_.column];
    }
  }

  bc_operand o_;
  int64_t heads_, rows_, columns_;
  bc_operand_grid grid_;
  float factor_;
};

}  // namespace bc
