// Products of two operands that are cut into codes at run time, and attention made of them.
#include <cmath>

#include "checks.h"
#include "matrices.h"
#include "tiles.h"

namespace bc_cuda {
namespace {

// An operand on its grids: spread, cut, its words and the sums of its rows.
struct Side {
  bc_cuda_matrices from;
  bc_cuda_grid grid;
  int64_t rows;
  float *scale, *offset;
  uint32_t* words;
  int32_t* sums;
};

struct Size {
  int64_t batch, k, words;
};

Side side_of(const bc_cuda_matrices& from, const bc_cuda_grid& grid, int64_t rows, const Size& size,
             Scratch* scratch) {
  Side side{from, grid, rows, nullptr, nullptr, nullptr, nullptr};
  side.scale = scratch->take<float>(size.batch), side.offset = scratch->take<float>(size.batch);
  side.words = scratch->take<uint32_t>(size.batch * rows * size.words);
  side.sums = scratch->take<int32_t>(size.batch * rows);
  return side;
}

template <class W>
bc_status cut(const Side& side, const Size& size, const float* divide, float factor, void* stream) {
  const bool kept = side.grid.per_length == 0 && size.k >= side.grid.shortest;
  const double length = static_cast<double>(size.k);
  const Spread spread{side.grid, static_cast<float>(std::pow(length, -0.5)),
                      static_cast<float>(static_cast<double>(side.grid.shortest) / length), kept, side.scale,
                      side.offset};
  const bc_status status = each(spread, size.batch, stream);
  if (status != BC_OK) return status;
  const Cut by{{side.scale, BC_CUDA_FLOAT32, size.batch}, {side.offset, BC_CUDA_FLOAT32, size.batch},
               {nullptr, 0, 0}, {nullptr, 0, 0}, static_cast<float>((1 << side.grid.bits) - 1)};
  const CutRows<W> rows{side.from, by, divide, factor, side.rows, size.k, size.words, side.words, side.sums};
  return each(rows, size.batch * side.rows, stream);
}

// Rows cut relative to themselves: by what, and what comes back; all null else.
struct Shares {
  const float *divide, *gain, *total;
  float factor;  // of the left operand
};

struct Target {
  void* out;
  int type, form;
};

template <class W>
bc_status product_of(const Side& a, const Side& b, const Size& size, const Shares& shares, const Terms& terms,
                     const Target& to, void* stream) {
  bc_status status = cut<W>(a, size, shares.divide, shares.factor, stream);
  if (status == BC_OK) status = cut<W>(b, size, nullptr, 1.0f, stream);
  if (status != BC_OK) return status;
  const MatrixOperands operands{a.rows, b.rows, size.words, a.words, b.words};
  const MatrixReading reading{a.rows,   b.rows,   size.k,   a.sums,      b.sums,       a.scale, a.offset,
                              b.scale,  b.offset, shares.gain, shares.total, terms,     to.out,  to.type};
  return multiply<W>(operands, reading, size.batch, to.form, stream);
}

bc_status product(const Side& a, const Side& b, const Size& size, const Shares& shares, const Terms& terms,
                  const Target& to, void* stream) {
  return with_words(a.grid.bits, b.grid.bits, [&](auto form) {
    return product_of<decltype(form)>(a, b, size, shares, terms, to, stream);
  });
}

Grid blocks_for(int64_t rows) { return {(rows + kRowsOfBlock - 1) / kRowsOfBlock, 1, 1}; }

Size size_for(int64_t batch, int64_t k, const bc_cuda_grid& a, const bc_cuda_grid& b) {
  return {batch, k, words_for(k, codes_in_word(a.bits, b.bits))};
}

bool grid_ok(const bc_cuda_grid& grid) {
  return bits_ok(grid.bits) && grid.shortest >= 0 && grid.scale.count >= 1 &&
         given(grid.scale, grid.scale.count) && given(grid.offset, grid.scale.count);
}

bool matrices_ok(const bc_cuda_matrices& m) {
  return is_real(m.numbers) && m.matrix >= 0 && m.row >= 0 && m.column >= 0;
}

bc_status check(const bc_cuda_product& p) {
  if (!bits_ok(p.a_grid.bits) || !bits_ok(p.b_grid.bits)) return BC_BAD_ARGUMENT;
  const bool fits = volume({p.batch, p.m, p.k, 4}) >= 0 && volume({p.batch, p.n, p.k, 4}) >= 0 &&
                    volume({p.batch, p.m, p.n, 4}) >= 0;
  if (!fits) return BC_BAD_SHAPE;
  return fits_int32(p.a_grid.bits, p.b_grid.bits, p.k) ? BC_OK : BC_OVERFLOW;
}

struct ProductParts {
  Size size;
  Side a, b;
  float *gain, *total;
  int64_t bytes;
};

ProductParts parts_of(const bc_cuda_product& p, void* base) {
  Scratch scratch(base);
  ProductParts parts{};
  parts.size = size_for(p.batch, p.k, p.a_grid, p.b_grid);
  parts.a = side_of(p.a, p.a_grid, p.m, parts.size, &scratch);
  parts.b = side_of(p.b, p.b_grid, p.n, parts.size, &scratch);
  if (p.per_row != 0) parts.gain = scratch.take<float>(p.batch * p.m), parts.total = scratch.take<float>(p.batch * p.m);
  parts.bytes = scratch.used();
  return parts;
}

bc_status check(const bc_cuda_attention& a) {
  for (const bc_cuda_grid* grid : {&a.q_grid, &a.k_grid, &a.p_grid, &a.v_grid}) {
    if (!bits_ok(grid->bits)) return BC_BAD_ARGUMENT;
  }
  if (a.term_count < 0 || a.term_count > BC_CUDA_MOST_TERMS) return BC_BAD_ARGUMENT;
  const bool fits = volume({a.batch, a.queries, a.depth, 4}) >= 0 && volume({a.batch, a.keys, a.depth, 4}) >= 0 &&
                    volume({a.batch, a.values, a.keys, 4}) >= 0 && volume({a.batch, a.queries, a.values, 4}) >= 0 &&
                    volume({a.batch, a.queries, a.keys, 4}) >= 0;
  if (!fits) return BC_BAD_SHAPE;
  const bool sums = fits_int32(a.q_grid.bits, a.k_grid.bits, a.depth) &&
                    fits_int32(a.p_grid.bits, a.v_grid.bits, a.keys);
  return sums ? BC_OK : BC_OVERFLOW;
}

bool terms_of(const bc_cuda_attention& a, Terms* terms) {
  if (a.term_count > 0 && a.terms == nullptr) return false;
  terms->count = static_cast<int>(a.term_count);
  for (int i = 0; i < terms->count; ++i) {
    const bc_cuda_term& t = a.terms[i];
    const bool good = t.numbers.data != nullptr && is_real(t.numbers) && t.matrices >= 1 && t.repeat >= 1 &&
                      t.matrix >= 0 && t.row >= 0 && t.column >= 0;
    if (!good) return false;
    terms->terms[i] = t;
  }
  return true;
}

struct AttentionParts {
  Size logits_size, values_size;
  Side q, k, p, v;
  float *logits, *gain, *total;
  int64_t bytes;
};

AttentionParts parts_of(const bc_cuda_attention& a, void* base) {
  Scratch scratch(base);
  AttentionParts parts{};
  parts.logits = scratch.take<float>(a.batch * a.queries * a.keys);
  parts.gain = scratch.take<float>(a.batch * a.queries), parts.total = scratch.take<float>(a.batch * a.queries);
  const bc_cuda_matrices weights{{parts.logits, BC_CUDA_FLOAT32, 0}, a.queries * a.keys, a.keys, 1};
  parts.logits_size = size_for(a.batch, a.depth, a.q_grid, a.k_grid);
  parts.values_size = size_for(a.batch, a.keys, a.p_grid, a.v_grid);
  parts.q = side_of(a.q, a.q_grid, a.queries, parts.logits_size, &scratch);
  parts.k = side_of(a.k, a.k_grid, a.keys, parts.logits_size, &scratch);
  parts.p = side_of(weights, a.p_grid, a.queries, parts.values_size, &scratch);
  parts.v = side_of(a.v, a.v_grid, a.values, parts.values_size, &scratch);
  parts.bytes = scratch.used();
  return parts;
}

}  // namespace
}  // namespace bc_cuda

using namespace bc_cuda;

extern "C" int64_t bc_cuda_product_scratch_bytes(const bc_cuda_product* p) {
  if (p == nullptr || check(*p) != BC_OK) return -1;
  return parts_of(*p, nullptr).bytes;
}

extern "C" bc_status bc_cuda_multiply(const bc_cuda_product* p, void* scratch, void* stream) {
  if (p == nullptr) return BC_BAD_ARGUMENT;
  const bc_status status = check(*p);
  if (status != BC_OK) return status;
  if (p->batch * p->m * p->n == 0) return BC_OK;
  if (p->k == 0) return BC_EMPTY;
  const bool good = grid_ok(p->a_grid) && grid_ok(p->b_grid) && matrices_ok(p->a) && matrices_ok(p->b) &&
                    p->a.numbers.data != nullptr && p->b.numbers.data != nullptr && p->out != nullptr &&
                    is_real(p->out_type) && scratch != nullptr;
  if (!good) return BC_BAD_ARGUMENT;
  const ProductParts parts = parts_of(*p, scratch);
  Shares shares{nullptr, nullptr, nullptr, 1.0f};
  if (p->per_row != 0) {
    const bc_status shared = blocks(RowShares(p->a, p->batch, p->m, p->k, parts.gain, parts.total),
                                    blocks_for(p->batch * p->m), stream);
    if (shared != BC_OK) return shared;
    shares = {parts.gain, parts.gain, parts.total, 1.0f};
  }
  Terms none;
  none.count = 0;
  return product(parts.a, parts.b, parts.size, shares, none, {p->out, p->out_type, p->form}, stream);
}

extern "C" int64_t bc_cuda_attention_scratch_bytes(const bc_cuda_attention* a) {
  if (a == nullptr || check(*a) != BC_OK) return -1;
  return parts_of(*a, nullptr).bytes;
}

extern "C" bc_status bc_cuda_attend(const bc_cuda_attention* a, void* scratch, void* stream) {
  if (a == nullptr) return BC_BAD_ARGUMENT;
  bc_status status = check(*a);
  if (status != BC_OK) return status;
  if (a->batch * a->queries * a->values == 0) return BC_OK;
  if (a->depth == 0 || a->keys == 0) return BC_EMPTY;
  bool good = a->out != nullptr && is_real(a->out_type) && scratch != nullptr;
  for (const bc_cuda_grid* grid : {&a->q_grid, &a->k_grid, &a->p_grid, &a->v_grid}) good = good && grid_ok(*grid);
  for (const bc_cuda_matrices* m : {&a->q, &a->k, &a->v}) good = good && matrices_ok(*m) && m->numbers.data != nullptr;
  Terms terms, none;
  none.count = 0;
  if (!good || !terms_of(*a, &terms)) return BC_BAD_ARGUMENT;
  const AttentionParts parts = parts_of(*a, scratch);
  const Shares plain{nullptr, nullptr, nullptr, 1.0f}, multiplied{nullptr, nullptr, nullptr, a->q_factor};
  status = product(parts.q, parts.k, parts.logits_size, multiplied, terms, {parts.logits, BC_CUDA_FLOAT32, a->form},
                   stream);
  if (status != BC_OK) return status;
  const bool per_row = a->per_row != 0;
  const int64_t rows = a->batch * a->queries;
  status = blocks(Softmax(parts.logits, rows, a->keys, !per_row, parts.gain, parts.total), blocks_for(rows), stream);
  if (status != BC_OK) return status;
  const Shares shares = per_row ? Shares{nullptr, parts.gain, parts.total, 1.0f} : plain;
  return product(parts.p, parts.v, parts.values_size, shares, none, {a->out, a->out_type, a->form}, stream);
}

extern "C" bc_status bc_cuda_encode(bc_cuda_numbers x, bc_view view, bc_cuda_numbers scale, bc_cuda_numbers offset,
                                    int bits, uint8_t* out, void* stream) {
  const int64_t size = volume({view.outer, view.groups, view.inner});
  if (size < 0) return BC_BAD_SHAPE;
  if (!bits_ok(bits) || !is_real(x)) return BC_BAD_ARGUMENT;
  if (size == 0) return BC_OK;
  const bool grids = one_or(scale, view.groups) && one_or(offset, view.groups);
  if (!grids || x.data == nullptr || out == nullptr) return BC_BAD_ARGUMENT;
  return each(CodesOf{x, scale, offset, view.groups, view.inner, static_cast<float>((1 << bits) - 1), out}, size,
              stream);
}
