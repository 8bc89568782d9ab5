// Batches of matrices: what a product multiplies, and what its sums become.
#pragma once

#include "sums.h"
#include "words.h"

namespace bc_cuda {

// The grids of an operand, one a matrix, as its length has them: bc_length_grid.
struct Spread {
  bc_cuda_grid grid;
  float root, most;  // 1 / sqrt(length); shortest / length
  bool kept;
  float *scale, *offset;

  BC_HD void operator()(int64_t b) const {
    const int64_t g = b % grid.scale.count;
    const float s = at(grid.scale, g), o = at(grid.offset, g);
    if (kept) {
      scale[b] = s, offset[b] = o;
      return;
    }
    float factor = root;
    if (grid.per_length == 0) {
      const float top = add(o, mul(s, static_cast<float>((1 << grid.bits) - 1)));
      factor = div(1.0f, top < 1e-6f ? 1e-6f : top);
      factor = factor < 1.0f ? 1.0f : factor;
      factor = most < factor ? most : factor;
    }
    scale[b] = mul(s, factor), offset[b] = mul(o, factor);
  }
};

// Two passes over each row: its largest number, then the sum of what `Row` makes of each. A Row tells how
// many rows there are and how long they are, where they begin, and its numbers in either pass.
template <class Row>
struct MostAndSum : RowPlace {
  struct Mine {
    int64_t row, start;
    int thread;
    float most, sum;
  };
  BC_HD const Row& me() const { return static_cast<const Row&>(*this); }
  BC_HD int64_t steps() const { return 2; }
  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    mine.row = block.x * kRowsOfBlock + row_of(thread), mine.thread = thread, mine.most = 0, mine.sum = 0;
    mine.start = me().start(mine.row);
  }
  BC_HD void load(RowSums& shared, const Mine& mine, int thread, int64_t step) const {
    float value = step == 0 ? real_of(0xff800000) : 0.0f;  // the least of all reals
    for (int64_t i = lane_in(thread); mine.row < me().row_count() && i < me().n; i += kLanes) {
      if (step == 0) {
        const float here = me().number(mine, i);
        value = value > here || value != value ? value : here;
      } else {
        value = add(value, me().summand(mine, i));
      }
    }
    shared.partial[row_of(thread)][lane_in(thread)] = value;
  }
  BC_HD void multiply(const RowSums& shared, Mine* lanes, int, int64_t step) const {
    for (int l = 0; l < kLanesHeld; ++l) {
      const float* partial = shared.partial[row_of(lanes[l].thread)];
      if (step == 0) {
        lanes[l].most = largest(partial);
      } else {
        lanes[l].sum = folded(partial);
      }
    }
  }
};

// Rows of weights: what each is relative to, and its sum. See packed/rows.py.
struct RowShares : MostAndSum<RowShares> {
  bc_cuda_matrices from;
  int64_t batch, rows, n;
  float *gain, *total;

  RowShares(bc_cuda_matrices from_, int64_t batch_, int64_t rows_, int64_t n_, float* gain_, float* total_)
      : from(from_), batch(batch_), rows(rows_), n(n_), gain(gain_), total(total_) {}

  BC_HD int64_t row_count() const { return batch * rows; }
  BC_HD int64_t start(int64_t row) const { return row / rows * from.matrix + row % rows * from.row; }
  BC_HD float number(const Mine& mine, int64_t i) const { return at(from.numbers, mine.start + i * from.column); }
  BC_HD float summand(const Mine& mine, int64_t i) const { return number(mine, i); }
  BC_HD void end(const RowSums&, const Mine& mine, int thread) const {
    if (mine.row >= row_count() || lane_in(thread) != 0) return;
    constexpr float smallest = 1.1754943508222875e-38f;
    gain[mine.row] = smallest > mine.most ? smallest : mine.most;
    total[mine.row] = mine.sum;
  }
};

// Logits to what softmax divides, in place; divided too unless rows are cut relative to themselves.
struct Softmax : MostAndSum<Softmax> {
  float* x;
  int64_t rows, n;
  bool divide;
  float *gain, *total;

  Softmax(float* x_, int64_t rows_, int64_t n_, bool divide_, float* gain_, float* total_)
      : x(x_), rows(rows_), n(n_), divide(divide_), gain(gain_), total(total_) {}

  BC_HD int64_t row_count() const { return rows; }
  BC_HD int64_t start(int64_t row) const { return row * n; }
  BC_HD float number(const Mine& mine, int64_t i) const { return x[mine.start + i]; }
  BC_HD float summand(const Mine& mine, int64_t i) const {
    return power_of_two(mul(sub(number(mine, i), mine.most), kLog2E));
  }
  BC_HD void end(const RowSums&, const Mine& mine, int thread) const {
    for (int64_t i = lane_in(thread); mine.row < rows && i < n; i += kLanes) {
      const float e = summand(mine, i);
      x[mine.start + i] = divide ? div(e, mine.sum) : e;
    }
    if (gain == nullptr || mine.row >= rows || lane_in(thread) != 0) return;
    gain[mine.row] = div(1.0f, mine.sum);
    total[mine.row] = 1.0f;
  }
};

struct MatrixOperands {
  int64_t m, n, words;
  const uint32_t *a, *b;

  struct Row {
    const uint32_t* words;
  };
  BC_HD int64_t rows() const { return m; }
  BC_HD int64_t columns() const { return n; }
  BC_HD int64_t length() const { return words; }
  BC_HD Row row(int64_t batch, int64_t r) const { return {a + (batch * m + r) * words}; }
  BC_HD uint32_t left(const Row& row, int64_t, int64_t k) const { return row.words[k]; }
  BC_HD uint32_t right(int64_t batch, int64_t column, int64_t k) const {
    return b[(batch * n + column) * words + k];
  }
};

struct Terms {
  bc_cuda_term terms[BC_CUDA_MOST_TERMS];
  int count;

  BC_HD float operator()(float x, int64_t batch, int64_t row, int64_t column) const {
    for (int i = 0; i < count; ++i) {
      const bc_cuda_term& term = terms[i];
      const int64_t matrix = batch / term.repeat % term.matrices;
      const float t = at(term.numbers, matrix * term.matrix + row * term.row + column * term.column);
      x = term.multiply != 0 ? mul(x, t) : add(x, t);
    }
    return x;
  }
};

struct MatrixReading {
  static constexpr bool rows_first = false;
  int64_t m, n, k;
  const int32_t *a_sums, *b_sums;
  const float *a_scale, *a_offset, *b_scale, *b_offset;
  const float *gain, *total;  // of rows cut relative to themselves; else null
  Terms terms;
  void* out;
  int out_type;

  BC_HD double centred(int64_t batch, int64_t line, int64_t column, int32_t products) const {
    const double sb = b_scale[batch], lb = b_offset[batch];
    const double centre = div(static_cast<double>(b_sums[batch * n + column]), static_cast<double>(k));
    const double mean = add(mul(centre, sb), lb);
    const double by = mul(static_cast<double>(gain[line]), mul(static_cast<double>(a_scale[batch]), sb));
    const double apart = sub(static_cast<double>(products), mul(static_cast<double>(a_sums[line]), centre));
    return add(mul(apart, by), mul(static_cast<double>(total[line]), mean));
  }
  BC_HD void operator()(int64_t batch, int64_t row, int64_t column, int32_t products) const {
    const int64_t line = batch * m + row;
    double real;
    if (gain != nullptr) {
      real = centred(batch, line, column, products);
    } else {
      const Sums sums{products, a_sums[line], b_sums[batch * n + column], k};
      real = add(affine(sums, a_scale[batch], a_offset[batch], b_scale[batch], b_offset[batch]), 0.0);
    }
    put(out, out_type, line * n + column, terms(static_cast<float>(real), batch, row, column));
  }
};

}  // namespace bc_cuda
