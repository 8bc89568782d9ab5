// Kernels that add reals up along a row, in the order of bits.h: 16 partial sums, number i adding every
// 16th element from i on; then the upper half of them is added to the lower until one is left.
//
// Sixteen threads have a row. Their partial sums meet in shared memory, and each thread adds them up by
// itself, so that all have the same number.
#pragma once

#include "exact.h"

namespace bc_cuda {

constexpr int kLanes = 16, kRowsOfBlock = 8;

struct RowSums {
  float partial[kRowsOfBlock][kLanes];
};

BC_HD float folded(const float* partial) {
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = partial[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] = add(sums[i], sums[i + half]);
  }
  return sums[0];
}
BC_HD float largest(const float* partial) {
  float most = partial[0];
  for (int i = 1; i < kLanes; ++i) most = most > partial[i] || most != most ? most : partial[i];
  return most;
}

struct RowPlace {
  static constexpr int kThreads = kLanes * kRowsOfBlock;
  using Shared = RowSums;

  template <class Mine>
  BC_HD void keep(RowSums&, const Mine&, int) const {}
  BC_HD static int row_of(int thread) { return thread / kLanes; }
  BC_HD static int lane_in(int thread) { return thread % kLanes; }
};

// Layer norm.
struct Normalized : RowPlace {
  bc_cuda_numbers x, gain, shift;
  float eps;
  int64_t rows, n;
  void* out;
  int out_type;

  Normalized(bc_cuda_numbers x_, bc_cuda_numbers gain_, bc_cuda_numbers shift_, float eps_, int64_t rows_,
             int64_t n_, void* out_, int type)
      : x(x_), gain(gain_), shift(shift_), eps(eps_), rows(rows_), n(n_), out(out_), out_type(type) {}

  struct Mine {
    int64_t row;
    int thread;
    float mean, factor;
  };
  BC_HD int64_t steps() const { return 2; }
  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    mine.row = block.x * kRowsOfBlock + row_of(thread), mine.thread = thread, mine.mean = 0, mine.factor = 0;
  }
  BC_HD void load(RowSums& shared, const Mine& mine, int thread, int64_t step) const {
    float sum = 0;
    for (int64_t i = lane_in(thread); mine.row < rows && i < n; i += kLanes) {
      const float here = at(x, mine.row * n + i), apart = sub(here, mine.mean);
      sum = add(sum, step == 0 ? here : mul(apart, apart));
    }
    shared.partial[row_of(thread)][lane_in(thread)] = sum;
  }
  BC_HD void multiply(const RowSums& shared, Mine* lanes, int, int64_t step) const {
    for (int l = 0; l < kLanesHeld; ++l) {
      const float by_count = div(folded(shared.partial[row_of(lanes[l].thread)]), static_cast<float>(n));
      if (step == 0) {
        lanes[l].mean = by_count;
      } else {
        lanes[l].factor = div(1.0f, root(add(by_count, eps)));
      }
    }
  }
  BC_HD void end(const RowSums&, const Mine& mine, int thread) const {
    for (int64_t i = lane_in(thread); mine.row < rows && i < n; i += kLanes) {
      float y = mul(sub(at(x, mine.row * n + i), mine.mean), mine.factor);
      if (gain.data != nullptr) y = mul(y, at(gain, i));
      if (shift.data != nullptr) y = add(y, at(shift, i));
      put(out, out_type, mine.row * n + i, y);
    }
  }
};

// Lines [outer][n][inner] along n, divided by their length.
struct Divided : RowPlace {
  bc_cuda_numbers x;
  int64_t lines, n, inner;
  float least;
  void* out;
  int out_type;

  Divided(bc_cuda_numbers x_, int64_t lines_, int64_t n_, int64_t inner_, float least_, void* out_, int type)
      : x(x_), lines(lines_), n(n_), inner(inner_), least(least_), out(out_), out_type(type) {}

  struct Mine {
    int64_t line, start;
    int thread;
    float factor;
  };
  BC_HD int64_t steps() const { return 1; }
  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    mine.line = block.x * kRowsOfBlock + row_of(thread), mine.thread = thread, mine.factor = 0;
    mine.start = mine.line / inner * n * inner + mine.line % inner;
  }
  BC_HD void load(RowSums& shared, const Mine& mine, int thread, int64_t) const {
    float sum = 0;
    for (int64_t i = lane_in(thread); mine.line < lines && i < n; i += kLanes) {
      const float here = at(x, mine.start + i * inner);
      sum = add(sum, mul(here, here));
    }
    shared.partial[row_of(thread)][lane_in(thread)] = sum;
  }
  BC_HD void multiply(const RowSums& shared, Mine* lanes, int, int64_t) const {
    for (int l = 0; l < kLanesHeld; ++l) {
      const float length = root(folded(shared.partial[row_of(lanes[l].thread)]));
      lanes[l].factor = div(1.0f, least > length ? least : length);
    }
  }
  BC_HD void end(const RowSums&, const Mine& mine, int thread) const {
    for (int64_t i = lane_in(thread); mine.line < lines && i < n; i += kLanes) {
      const int64_t place = mine.start + i * inner;
      put(out, out_type, place, mul(at(x, place), mine.factor));
    }
  }
};

}  // namespace bc_cuda
