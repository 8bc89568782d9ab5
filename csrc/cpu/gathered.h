// Operands of attention: matrices that a table finds in a larger tensor, cut into codes unless they
// are codes already; and where its output goes.
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
           const bc_operand_grid& grid, float factor = 1.0f)
      : o_(o), heads_(heads), rows_(rows), columns_(columns), grid_(grid), factor_(factor) {}

  Grid grid(int64_t b) const { return {grid_.scale[b], grid_.offset[b]}; }
  int bits() const { return grid_.bits; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // Element at which row r of matrix b begins.
  int64_t place(int64_t b, int64_t r) const {
    return o_.starts[b] + (o_.rows != nullptr ? o_.rows[b / heads_ * rows_ + r] : r * o_.row);
  }

  // Dense codes [rows][columns]; `reals` has room for a row.
  void cut(const Kernels& k, int64_t b, float* reals, uint8_t* out) const {
    const float scale = grid_.scale[b], offset = grid_.offset[b], top = top_code(grid_.bits);
    for (int64_t r = 0; r < rows_; ++r, out += columns_) {
      const int64_t at = place(b, r);
      if (o_.codes != 0) {
        const uint8_t* from = static_cast<const uint8_t*>(o_.data) + at;
        for (int64_t c = 0; c < columns_; ++c) out[c] = from[c * o_.column];
        continue;
      }
      const float* from = static_cast<const float*>(o_.data) + at;
      if (o_.column != 1 || factor_ != 1.0f) {
        for (int64_t c = 0; c < columns_; ++c) reals[c] = from[c * o_.column] * factor_;
        from = reals;
      }
      k.encode_row(from, columns_, scale, offset, top, out);
    }
  }

 private:
  bc_operand o_;
  int64_t heads_, rows_, columns_;
  bc_operand_grid grid_;
  float factor_;
};

// Where rows of the output begin.
class Scattered {
 public:
  Scattered(const bc_result& o, int64_t heads, int64_t rows) : o_(o), heads_(heads), rows_(rows) {}

  int64_t place(int64_t b, int64_t r) const {
    return o_.starts[b] + (o_.rows != nullptr ? o_.rows[b / heads_ * rows_ + r] : r * o_.row);
  }

  // Writes a row of reals, or their codes.
  void write(const Kernels& k, int64_t b, int64_t r, const float* reals, int64_t n) const {
    const int64_t at = place(b, r);
    if (o_.scale == nullptr) {
      float* to = static_cast<float*>(o_.data) + at;
      for (int64_t c = 0; c < n; ++c) to[c] = reals[c];
      return;
    }
    uint8_t* to = static_cast<uint8_t*>(o_.data) + at;
    const float top = top_code(o_.bits);
    if (o_.groups == 1) return k.encode_row(reals, n, o_.scale[0], o_.offset[0], top, to);
    int64_t channel = at % o_.groups;
    for (int64_t c = 0; c < n;) {
      const int64_t count = n - c < o_.groups - channel ? n - c : o_.groups - channel;
      k.encode_each(reals + c, count, o_.scale + channel, o_.offset + channel, top, to + c);
      c += count, channel = 0;
    }
  }

 private:
  bc_result o_;
  int64_t heads_, rows_;
};

}  // namespace bc
