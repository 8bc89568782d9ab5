// Products of activations from reals to reals: both operands are cut, packed and multiplied in one
// call, each of the batch by itself.
#include <algorithm>

#include "bitcompress/bits.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
#include "operand.h"
#include "panel.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

class Multiply {
 public:
  Multiply(const Kernels& kernels, const bc_product& p, float* out)
      : k_(kernels),
        p_(p),
        a_(p.a, p.m, p.k, p.a_grid),
        b_(p.b, p.n, p.k, p.b_grid),
        out_(out),
        stride_(rounded(p.k, k_.step) * k_.code_bytes),
        block_(std::clamp<int64_t>((int64_t{1} << 14) / p.n / 24 * 24, 24, 240)),
        turned_(turns(p)),
        by_column_(p.out_starts != nullptr && p.out_column != 1 && p.n > 1) {}

  int64_t scratch_bytes() const {
    const int64_t codes = Scratch::bytes<uint8_t>(p_.m * p_.k), n = p_.n;
    return codes + Scratch::bytes<uint8_t>(p_.m * stride_ + kPad) +
           2 * Scratch::bytes<uint8_t>(n * p_.k + kPad) + panel_bytes() +
           Scratch::bytes<int32_t>(std::min(block_, p_.m) * n) + Scratch::bytes<int32_t>(p_.m) +
           Scratch::bytes<int32_t>(n) + Scratch::bytes<float>(reals()) +
           Scratch::bytes<float>(landed()) + 4 * Scratch::bytes<double>(n) + 2 * Scratch::bytes<float>(p_.m);
  }

  struct Slot {
    uint8_t *a, *a_rows, *b, *b_turned, *panel;
    int32_t *sums, *row_sums, *column_sums;
    float *reals, *landed, *gains, *totals;
    double *product, *row, *constant, *bias;
  };

  Slot slot(Scratch& s) const {
    const int64_t n = p_.n;
    Slot t{};
    t.a = s.part<uint8_t>(p_.m * p_.k);
    t.a_rows = s.part<uint8_t>(p_.m * stride_ + kPad);
    t.b = s.part<uint8_t>(n * p_.k + kPad);
    t.b_turned = s.part<uint8_t>(n * p_.k + kPad);
    t.panel = s.part<uint8_t>(panel_bytes());
    t.sums = s.part<int32_t>(std::min(block_, p_.m) * n);
    t.row_sums = s.part<int32_t>(p_.m);
    t.column_sums = s.part<int32_t>(n);
    t.reals = s.part<float>(reals());
    t.landed = s.part<float>(landed());
    t.gains = s.part<float>(p_.m);
    t.totals = s.part<float>(p_.m);
    for (double** part : {&t.product, &t.row, &t.constant, &t.bias}) *part = s.part<double>(n);
    std::fill_n(t.bias, n, 0.0);
    return t;
  }

  void run(int64_t batch, const Slot& t) const {
    if (p_.per_row != 0) {
      a_.cut_rows(k_, batch, t.reals, t.a, t.gains, t.totals);
    } else {
      a_.cut(k_, batch, t.reals, t.a);
    }
    k_.load_rows(t.a, p_.m, p_.k, stride_, t.a_rows);
    k_.sum_rows(t.a, p_.m, p_.k, t.row_sums);
    const bool shifted = right(batch, t);
    for (int64_t first = 0; first < p_.m; first += block_) {
      const int64_t count = std::min(block_, p_.m - first);
      const uint8_t* run = t.a_rows + first * stride_;
      k_.product({&run, 1, p_.k, stride_, count, t.panel, p_.n, shifted, t.sums, p_.n});
      const int64_t pitch = p_.out_starts == nullptr || by_column_ ? p_.n : p_.out_row;
      float* out = by_column_ ? t.landed : place(batch, first);
      read(batch, first, count, t, out, pitch);
      if (by_column_) k_.turn(out, count, p_.n, pitch, place(batch, first), p_.out_column);
    }
  }

 private:
  float* place(int64_t batch, int64_t row) const {
    if (p_.out_starts == nullptr) return out_ + (batch * p_.m + row) * p_.n;
    return out_ + p_.out_starts[batch] + row * p_.out_row;
  }

  // Sums of a block of rows to reals, rows `pitch` apart.
  void read(int64_t batch, int64_t first, int64_t count, const Slot& t, float* out,
            int64_t pitch) const {
    if (p_.per_row == 0) {
      const Readout readout{t.product, t.row, t.constant, t.bias};
      k_.read_rows(readout, count, p_.n, t.sums, p_.n, t.row_sums + first, 1, out, pitch);
      return;
    }
    const Grid left = a_.grid(batch), right = b_.grid(batch);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t row = first + r;
      k_.read_centred(t.sums + r * p_.n, p_.n, t.row_sums[row],
                      Centred::gain(t.gains[row], left, right), t.totals[row], t.row, t.constant,
                      out + r * pitch);
    }
  }

  // Whether the right operand is cut as [k][n]: where its rows lie so, or are short and many.
  static bool turns(const bc_product& p) {
    if (p.n == 1) return false;
    return p.b.row == 1 && p.b.column != 1 ? p.n >= 32 || p.k < 32 : p.k < 32 && p.n >= 64;
  }
  int64_t reals() const {
    const int64_t right = turned_ ? Codes::room(p_.k, p_.n) : Codes::room(p_.n, p_.k);
    return std::max(Codes::room(p_.m, p_.k), right);
  }
  // With room for what `interleave` writes beyond the last columns: up to 64 words for 16.
  // Reals of a block on their way to columns.
  int64_t landed() const { return by_column_ ? std::min(block_, p_.m) * p_.n : 0; }
  int64_t panel_bytes() const { return rounded(k_.panel_bytes(p_.n, 1, p_.k), 64) + 256; }

  // Rows of k by columns to a panel of bytes, four rows to a word: blocks of 64 columns.
  void pack_turned(const Slot& t, bool shifted) const {
    uint8_t* out = t.panel;
    for (int64_t first = 0; first < p_.n; first += 64) {
      const int64_t columns = std::min<int64_t>(64, p_.n - first);
      for (int64_t i = 0; i < p_.k; i += 4, out += rounded(columns, 16) * 4) {
        const uint8_t* rows[4];
        for (int64_t j = 0; j < 4; ++j)
          rows[j] = i + j < p_.k ? t.b_turned + (i + j) * p_.n + first : nullptr;
        k_.interleave(rows, columns, out);
        if (!shifted) continue;  // what is beyond the last row meets codes 0
        for (int64_t byte = 0; byte < rounded(columns, 16) * 4; ++byte) out[byte] ^= 0x80;
      }
    }
  }

  // Cuts and packs the right operand, and makes its reading; gives whether its codes are shifted.
  bool right(int64_t batch, const Slot& t) const {
    const int64_t n = p_.n;
    const bool shifted = k_.code_bytes == 1 && p_.b_grid.bits == 8;
    if (turned_) {
      const bc_matrices m{p_.b.data, p_.b.starts, p_.b.column, p_.b.row};
      Codes(m, p_.k, n, p_.b_grid).cut(k_, batch, t.reals, t.b_turned);
      if (k_.interleave != nullptr && k_.codes->step == 4) {
        pack_turned(t, shifted);
      } else {
        for (int64_t c = 0; c < n; ++c) {
          for (int64_t i = 0; i < p_.k; ++i) t.b[c * p_.k + i] = t.b_turned[i * n + c];
        }
        k_.pack_panel(t.b, n, 1, p_.k, shifted, t.panel);
      }
      std::fill_n(t.column_sums, n, 0);
      for (int64_t i = 0; i < p_.k; ++i) {
        for (int64_t c = 0; c < n; ++c) t.column_sums[c] += t.b_turned[i * n + c];
      }
    } else {
      b_.cut(k_, batch, t.reals, t.b);
      k_.pack_panel(t.b, n, 1, p_.k, shifted, t.panel);
      k_.sum_rows(t.b, n, p_.k, t.column_sums);
    }
    const Grid left = a_.grid(batch), grid = b_.grid(batch);
    if (p_.per_row != 0) {
      Centred::set(n, grid, t.column_sums, p_.k, t.row, t.constant);
      return shifted;
    }
    for (int64_t c = 0; c < n; ++c) {
      t.product[c] = left.scale * grid.scale;
      t.row[c] = left.scale * grid.offset;
      t.constant[c] = Reading::constant_of(left, grid, t.column_sums[c], p_.k);
    }
    return shifted;
  }

  const Kernels& k_;
  bc_product p_;
  Codes a_, b_;
  float* out_;
  int64_t stride_, block_;
  bool turned_, by_column_;
};

// Rows or columns of out that lie over each other would depend on which is written last.
bool overlaps(const bc_product& p) {
  if (p.out_starts == nullptr) return false;
  const bool rows = (p.n == 1 || p.out_column == 1) && (p.m == 1 || p.out_row >= p.n);
  return !rows && !((p.m == 1 || p.out_row == 1) && p.out_column >= p.m);
}

bc_status check(const bc_product* p, const float* out, int threads) {
  if (p == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  const int64_t left = volume({p->batch, p->m, p->k, 8}), right = volume({p->batch, p->n, p->k, 8});
  const int64_t size = volume({p->batch, p->m, p->n, 8});
  if (left < 0 || right < 0 || size < 0) return BC_BAD_SHAPE;
  if (size == 0) return BC_OK;
  if (p->k == 0) return BC_EMPTY;
  if (overlaps(*p)) return BC_BAD_SHAPE;
  const bool lacks = out == nullptr || lacking(p->a) || lacking(p->b) || lacking(p->a_grid) ||
                     lacking(p->b_grid);
  if (lacks) return BC_BAD_ARGUMENT;
  return fits_int32(p->a_grid.bits, p->b_grid.bits, p->k) ? BC_OK : BC_OVERFLOW;
}

}  // namespace
}  // namespace bc

extern "C" bc_status bc_multiply(const bc_product* product, float* out, int threads) {
  const bc_status status = bc::check(product, out, threads);
  if (status != BC_OK || product->batch * product->m * product->n == 0) return status;
  return bc::guarded([&] {
    const bc_product& p = *product;
    const bc::Multiply work(bc::kernels_for(p.k), p, out);
    const double size = static_cast<double>(p.batch * p.m * p.n);
    const int use = static_cast<int>(std::min<int64_t>(
        p.batch, bc::worthwhile(threads, size * (0.5 + static_cast<double>(p.k) / 150))));
    bc::Scratch scratch(work.scratch_bytes() * use + bc::Scratch::bytes<bc::Multiply::Slot>(use));
    auto* slots = scratch.part<bc::Multiply::Slot>(use);
    for (int i = 0; i < use; ++i) slots[i] = work.slot(scratch);
    bc::parallel_for(p.batch, use, [&](int64_t batch, int slot) {
      work.run(batch, slots[slot]);
    });
    return BC_OK;
  });
}
