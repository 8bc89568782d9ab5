// Exact integer products of words: one kernel in three forms, all with the same operands and reading.
//
// Operands say what is multiplied: batches of rows times columns over a length of words. Reading takes
// (batch, row, column, sum) and does the rest. A tile is 64 rows by 64 columns; eight words of both
// sides lie in shared memory at a time, twelve apart, so that neither whole words of four rows nor
// fragments of a tensor core meet in a bank. The sums go through shared memory too, so that neighbouring
// threads write neighbouring numbers, and the reading is compiled once.
#pragma once

#include "words.h"

namespace bc_cuda {

constexpr int kTile = 64, kDepth = 8, kPitch = 12;

union TileShared {
  struct {
    alignas(16) uint32_t left[kTile * kPitch];
    alignas(16) uint32_t right[kTile * kPitch];
  };
  int sums[kTile * (kTile + 1)];
};

struct alignas(16) Four {
  uint32_t word[4];
};
BC_HD Four four_of(const uint32_t* words) { return *reinterpret_cast<const Four*>(words); }

// A thread for each output.
template <class W, class Operands, class Reading>
struct Direct {
  Operands operands;
  Reading reading;

  BC_HD void operator()(int64_t i) const {
    const int64_t column = i % operands.columns(), rest = i / operands.columns();
    const int64_t r = rest % operands.rows(), batch = rest / operands.rows();
    const auto row = operands.row(batch, r);
    int sum = 0;
    for (int64_t k = 0; k < operands.length(); ++k) {
      sum = W::multiply(operands.left(row, batch, k), operands.right(batch, column, k), sum);
    }
    reading(batch, r, column, sum);
  }
};

// What both tiled forms share: 128 threads, each of which loads four words a side and step. Thread t
// loads word t % 8 of rows t / 8 + 16 j.
template <class W, class Operands>
struct Tiled {
  static constexpr int kThreads = 128;
  using Shared = TileShared;
  Operands operands;

  struct Loading {
    typename Operands::Row rows[4];
    int64_t batch, first_row, first_column;
  };

  BC_HD int64_t steps() const { return (operands.length() + kDepth - 1) / kDepth; }

  BC_HD void begin_loading(Loading& mine, const Block& block, int thread) const {
    mine.batch = block.z, mine.first_row = block.x * kTile, mine.first_column = block.y * kTile;
    for (int j = 0; j < 4; ++j) {
      const int64_t row = mine.first_row + thread / kDepth + 16 * j;
      mine.rows[j] = operands.row(mine.batch, row < operands.rows() ? row : 0);
    }
  }
  BC_HD void load_step(Shared& shared, const Loading& mine, int thread, int64_t step) const {
    const int word = thread % kDepth;
    const int64_t k = step * kDepth + word;
    const bool inside = k < operands.length();
    for (int j = 0; j < 4; ++j) {
      const int line = thread / kDepth + 16 * j;
      const bool row = inside && mine.first_row + line < operands.rows();
      const bool column = inside && mine.first_column + line < operands.columns();
      shared.left[line * kPitch + word] = row ? operands.left(mine.rows[j], mine.batch, k) : 0;
      shared.right[line * kPitch + word] =
          column ? operands.right(mine.batch, mine.first_column + line, k) : 0;
    }
  }
  BC_HD static int& sum_at(TileShared& shared, int row, int column) {
    return shared.sums[row * (kTile + 1) + column];
  }
  template <class Reading>
  BC_HD void read_all(TileShared& shared, const Reading& reading, const Loading& mine, int thread) const {
    BC_ONE_BY_ONE
    for (int i = thread; i < kTile * kTile; i += kThreads) {
      const int row = reading.rows_first ? i % kTile : i / kTile, column = reading.rows_first ? i / kTile : i % kTile;
      const int64_t r = mine.first_row + row, c = mine.first_column + column;
      if (r < operands.rows() && c < operands.columns()) reading(mine.batch, r, c, sum_at(shared, row, column));
    }
  }
};

// Words multiplied by the plain units: a thread has rows t / 16 + 8 i and columns t % 16 + 16 j.
template <class W, class Operands, class Reading>
struct Dots : Tiled<W, Operands> {
  using Base = Tiled<W, Operands>;
  Reading reading;

  struct Mine {
    typename Base::Loading loading;
    int sums[8][4];
    int thread;
  };

  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    this->begin_loading(mine.loading, block, thread);
    mine.thread = thread;
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 4; ++j) mine.sums[i][j] = 0;
    }
  }
  BC_HD void load(TileShared& shared, const Mine& mine, int thread, int64_t step) const {
    this->load_step(shared, mine.loading, thread, step);
  }
  BC_HD void multiply(const TileShared& shared, Mine* lanes, int, int64_t) const {
    for (int l = 0; l < kLanesHeld; ++l) {
      Mine& mine = lanes[l];
      const int row = mine.thread / 16, column = mine.thread % 16;
      BC_UNROLL
      for (int k = 0; k < kDepth; k += 4) {
        Four right[4];
        BC_UNROLL
        for (int j = 0; j < 4; ++j) right[j] = four_of(shared.right + (column + 16 * j) * kPitch + k);
        BC_UNROLL
        for (int i = 0; i < 8; ++i) {
          const Four left = four_of(shared.left + (row + 8 * i) * kPitch + k);
          BC_UNROLL
          for (int j = 0; j < 4; ++j) {
            BC_UNROLL
            for (int q = 0; q < 4; ++q)
              mine.sums[i][j] = W::multiply(left.word[q], right[j].word[q], mine.sums[i][j]);
          }
        }
      }
    }
  }
  BC_HD void keep(TileShared& shared, const Mine& mine, int thread) const {
    BC_UNROLL
    for (int i = 0; i < 8; ++i) {
      BC_UNROLL
      for (int j = 0; j < 4; ++j)
        Base::sum_at(shared, thread / 16 + 8 * i, thread % 16 + 16 * j) = mine.sums[i][j];
    }
  }
  BC_HD void end(TileShared& shared, const Mine& mine, int thread) const {
    this->read_all(shared, reading, mine.loading, thread);
  }
};

// Fragments of a tensor core, by the layout that PTX gives to mma.m16n8k32 of u8 and to mma.m16n8k256
// of b1 alike: with g = lane / 4 and t = lane % 4, left holds words t and t + 4 of rows g and g + 8,
// right words t and t + 4 of column g, sums columns 2 t and 2 t + 1 of rows g and g + 8.
template <class W>
struct Fragments {
  BC_HD static void load_left(uint32_t* to, const uint32_t* rows, int lane) {
    const uint32_t* from = rows + lane / 4 * kPitch + lane % 4;
    to[0] = from[0], to[1] = from[8 * kPitch], to[2] = from[4], to[3] = from[8 * kPitch + 4];
  }
  BC_HD static void load_right(uint32_t* to, const uint32_t* columns, int lane) {
    const uint32_t* from = columns + lane / 4 * kPitch + lane % 4;
    to[0] = from[0], to[1] = from[4];
  }
#if defined(__CUDA_ARCH__)
  BC_HD static void multiply(const uint32_t (*a)[4], const uint32_t (*b)[2], int (*sums)[4]) {
    const uint32_t *l = a[0], *r = b[0];
    int* d = sums[0];
    if (W::kBits == 1) {
      asm volatile(
          "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
          "{%0,%1,%2,%3};"
          : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
          : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[0]), "r"(r[1]));
    } else {
      asm volatile(
          "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
          "{%0,%1,%2,%3};"
          : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
          : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[0]), "r"(r[1]));
    }
  }
#else
  // The same, lane by lane: every lane finds its words among those that the others hold.
  BC_HD static void multiply(const uint32_t (*a)[4], const uint32_t (*b)[2], int (*sums)[4]) {
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int d = 0; d < 4; ++d) {
        const int row = lane / 4 + (d / 2) * 8, column = lane % 4 * 2 + d % 2;
        for (int k = 0; k < kDepth; ++k) {
          const uint32_t left = a[row % 8 * 4 + k % 4][(row >= 8 ? 1 : 0) + (k >= 4 ? 2 : 0)];
          const uint32_t right = b[column * 4 + k % 4][k >= 4 ? 1 : 0];
          sums[lane][d] = W::multiply(left, right, sums[lane][d]);
        }
      }
    }
  }
#endif
};

// Words multiplied by tensor cores: four warps, each with 32 rows and 32 columns.
template <class W, class Operands, class Reading>
struct Tensor : Tiled<W, Operands> {
  using Base = Tiled<W, Operands>;
  Reading reading;

  struct Mine {
    typename Base::Loading loading;
    int sums[2][4][4];
  };

  BC_HD void begin(Mine& mine, const Block& block, int thread) const {
    this->begin_loading(mine.loading, block, thread);
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) {
        for (int d = 0; d < 4; ++d) mine.sums[i][j][d] = 0;
      }
    }
  }
  BC_HD void load(TileShared& shared, const Mine& mine, int thread, int64_t step) const {
    this->load_step(shared, mine.loading, thread, step);
  }
  BC_HD void multiply(const TileShared& shared, Mine* lanes, int warp, int64_t) const {
    uint32_t left[2][kLanesHeld][4], right[4][kLanesHeld][2];
    const uint32_t* rows = shared.left + warp / 2 * 32 * kPitch;
    const uint32_t* columns = shared.right + warp % 2 * 32 * kPitch;
    BC_UNROLL
    for (int l = 0; l < kLanesHeld; ++l) {
      BC_UNROLL
      for (int i = 0; i < 2; ++i)
        Fragments<W>::load_left(left[i][l], rows + i * 16 * kPitch, lane_of(l));
      BC_UNROLL
      for (int j = 0; j < 4; ++j)
        Fragments<W>::load_right(right[j][l], columns + j * 8 * kPitch, lane_of(l));
    }
    BC_UNROLL
    for (int i = 0; i < 2; ++i) {
      BC_UNROLL
      for (int j = 0; j < 4; ++j) {
        int sums[kLanesHeld][4];
        BC_UNROLL
        for (int l = 0; l < kLanesHeld; ++l) {
          for (int d = 0; d < 4; ++d) sums[l][d] = lanes[l].sums[i][j][d];
        }
        Fragments<W>::multiply(left[i], right[j], sums);
        BC_UNROLL
        for (int l = 0; l < kLanesHeld; ++l) {
          for (int d = 0; d < 4; ++d) lanes[l].sums[i][j][d] = sums[l][d];
        }
      }
    }
  }
  BC_HD void keep(TileShared& shared, const Mine& mine, int thread) const {
    const int warp = thread / kWarp, lane = thread % kWarp;
    BC_UNROLL
    for (int i = 0; i < 2; ++i) {
      BC_UNROLL
      for (int j = 0; j < 4; ++j) {
        BC_UNROLL
        for (int d = 0; d < 4; ++d) {
          const int row = warp / 2 * 32 + i * 16 + lane / 4 + d / 2 * 8;
          const int column = warp % 2 * 32 + j * 8 + lane % 4 * 2 + d % 2;
          Base::sum_at(shared, row, column) = mine.sums[i][j][d];
        }
      }
    }
  }
  BC_HD void end(TileShared& shared, const Mine& mine, int thread) const {
    this->read_all(shared, reading, mine.loading, thread);
  }
};

// Few columns waste a tile.
constexpr int64_t kFewColumns = 8;

template <class W, class Operands, class Reading>
bc_status multiply(const Operands& operands, const Reading& reading, int64_t batches, int form, void* stream) {
  const int64_t rows = operands.rows(), columns = operands.columns();
  const Grid grid{(rows + kTile - 1) / kTile, (columns + kTile - 1) / kTile, batches};
  const bool tiled = grid.y <= 65535 && batches <= 65535;
  if (form == BC_CUDA_AUTO) form = columns < kFewColumns ? BC_CUDA_DIRECT : BC_CUDA_TENSOR;
  if (form == BC_CUDA_DIRECT || !tiled)
    return each(Direct<W, Operands, Reading>{operands, reading}, batches * rows * columns, stream);
  if (form == BC_CUDA_DOTS) return blocks(Dots<W, Operands, Reading>{{operands}, reading}, grid, stream);
  return blocks(Tensor<W, Operands, Reading>{{operands}, reading}, grid, stream);
}

}  // namespace bc_cuda
