// Operands of products of activations: matrices of any strides, cut into codes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "bitcompress/bits.h"
#include "guard.h"
#include "kernels.h"
#include "reading.h"

namespace bc {

inline int64_t rounded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

inline bool lacking(const bc_matrices& m) { return m.data == nullptr || m.starts == nullptr; }
inline bool lacking(const bc_operand_grid& g) {
  return g.scale == nullptr || g.offset == nullptr || !bits_ok(g.bits);
}

// A matrix of a batch, cut into codes.
class Codes {
 public:
  Codes(const bc_matrices& m, int64_t rows, int64_t columns, const bc_operand_grid& grid)
      : m_(m), rows_(rows), columns_(columns), grid_(grid) {}

  Grid grid(int64_t b) const { return {grid_.scale[b], grid_.offset[b]}; }
  float scale(int64_t b) const { return grid_.scale[b]; }
  float offset(int64_t b) const { return grid_.offset[b]; }

  // Reals of a call of cut.
  static int64_t room(int64_t rows, int64_t columns) {
    return std::max(columns, std::min(rows, kBlock) * kBlock);
  }

  // Dense codes [rows][columns]; `reals` has room() reals.
  void cut(const Kernels& k, int64_t b, float* reals, uint8_t* out) const {
    const float* from = m_.data + m_.starts[b];
    const float s = scale(b), o = offset(b), top = top_code(grid_.bits);
    if (m_.column == 1 && m_.row == columns_) {
      k.encode_row(from, rows_ * columns_, s, o, top, out);
      return;
    }
    if (m_.row == 1 && rows_ > 1 && m_.column >= rows_) return cut_columns(k, b, reals, out);
    for (int64_t r = 0; r < rows_; ++r, from += m_.row, out += columns_) {
      if (m_.column == 1) {
        k.encode_row(from, columns_, s, o, top, out);
        continue;
      }
      for (int64_t c = 0; c < columns_; ++c) reals[c] = from[c * m_.column];
      k.encode_row(reals, columns_, s, o, top, out);
    }
  }

  // Codes of rows of weights, each relative to its largest; gives that and the sum of each row.
  void cut_rows(const Kernels& k, int64_t b, float* reals, uint8_t* out, float* gains,
                float* totals) const {
    for (int64_t r = 0; r < rows_; ++r, out += columns_) {
      const float* from = m_.data + m_.starts[b] + r * m_.row;
      if (m_.column != 1) {
        for (int64_t c = 0; c < columns_; ++c) reals[c] = from[c * m_.column];
        from = reals;
      }
      WeightRow row{from, columns_, scale(b), offset(b), grid_.bits, out, 0.0f, 0.0f};
      k.attending->cut_weights(row);
      gains[r] = row.most, totals[r] = row.total;
    }
  }

 private:
  static constexpr int64_t kBlock = 64;

  // Columns lie dense in memory: blocks of them are turned and then cut.
  void cut_columns(const Kernels& k, int64_t b, float* reals, uint8_t* out) const {
    const float* from = m_.data + m_.starts[b];
    const float s = scale(b), o = offset(b), top = top_code(grid_.bits);
    for (int64_t row = 0; row < rows_; row += kBlock) {
      const int64_t rows = std::min(kBlock, rows_ - row);
      for (int64_t column = 0; column < columns_; column += kBlock) {
        const int64_t columns = std::min(kBlock, columns_ - column);
        k.turn(from + column * m_.column + row, columns, rows, m_.column, reals, columns);
        uint8_t* to = out + row * columns_ + column;
        for (int64_t r = 0; r < rows; ++r)
          k.encode_row(reals + r * columns, columns, s, o, top, to + r * columns_);
      }
    }
  }

  bc_matrices m_;
  int64_t rows_, columns_;
  bc_operand_grid grid_;
};

}  // namespace bc
