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

  // Asks for the rows of matrix b, which a later task reads: they lie too far apart for the hardware to
  // foresee.
  void prefetch(int64_t b) const {
    if (o_.column != 1) return;
    const int64_t size = o_.codes != 0 ? 1 : static_cast<int64_t>(sizeof(float));
    const uint8_t* data = static_cast<const uint8_t*>(o_.data);
    const AttendPlaces places = places_of(b);
    const int64_t last = columns_ * size - 1;
    for (int64_t r = 0; r < rows_; ++r) {
      const uint8_t* row = data + places[r] * size;
      for (int64_t at = 0; at < last; at += 64) __builtin_prefetch(row + at, 0, 2);
      __builtin_prefetch(row + last, 0, 2);
    }
  }

  // Codes in rows of `pitch` bytes.
  void cut(const Kernels& k, int64_t b, float* dense, uint8_t* out, int64_t pitch) const {
    const AttendPlaces places = places_of(b);
    AttendRows rows{o_.data, o_.codes != 0, places, rows_, columns_, factor_,
                    grid_.scale[b], grid_.offset[b], top_code(grid_.bits), out, pitch};
    if (o_.column != 1) {
      if (o_.codes != 0) return copy_codes(rows);
      lay_side_by_side(k, places, dense);
      rows.data = dense, rows.places = {0, nullptr, columns_};
    }
    k.attending->cut(rows);
  }

 private:
  AttendPlaces places_of(int64_t b) const {
    return {o_.starts[b], o_.rows != nullptr ? o_.rows + b / heads_ * rows_ : nullptr, o_.row};
  }

  void copy_codes(const AttendRows& r) const {
    const uint8_t* from = static_cast<const uint8_t*>(o_.data);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t c = 0; c < columns_; ++c)
        r.out[i * r.pitch + c] = from[r.places[i] + c * o_.column];
    }
  }

  void lay_side_by_side(const Kernels& k, const AttendPlaces& places, float* dense) const {
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
