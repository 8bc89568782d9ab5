// Attention on codes: logits, softmax and values of a few queries at a time, never all of them.
//
// One task is one of the batch (a window and a head). Its keys and values are cut and packed once;
// then blocks of queries go through: integer logits, real logits with their terms, codes of the
// softmax, integer values, real values. A block of logits stays in L1 or L2.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "bitcompress/bits.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
#include "gathered.h"
#include "operand.h"
#include "panel.h"
#include "reading.h"
#include "threads.h"

namespace bc {
namespace {

constexpr int64_t kLanes = 16;  // rows of logits have room for whole groups of these

// What one thread needs; made once a call.
struct Slot {
  Panel keys, values;
  Reading reading;
  Centred centred;
  std::vector<double> constants;  // of the logits, for each key
  std::vector<uint8_t> q, q_rows, right, turned, p, p_rows;
  std::vector<int32_t> sums, row_sums, column_sums, value_sums;
  std::vector<float> logits, reals, gains;
};

class Attention {
 public:
  Attention(const Kernels& kernels, const bc_attention& a)
      : k_(kernels),
        a_(a),
        q_(a.q, a.heads, a.queries, a.depth, a.q_grid, a.q_factor),
        keys_(a.k, a.heads, a.keys, a.depth, a.k_grid),
        v_(a.v, a.heads, a.keys, a.values, a.v_grid),
        out_(a.out, a.heads, a.queries),
        block_(std::clamp<int64_t>((int64_t{1} << 12) / a.keys / 12 * 12, 12, 48)),
        q_stride_(rounded(a.depth, k_.step) * k_.code_bytes),
        p_stride_(rounded(a.keys, k_.step) * k_.code_bytes),
        logits_stride_(rounded(a.keys, kLanes)) {}

  Slot slot() const {
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    Slot s{Panel(k_, a_.keys, 1, a_.depth),
           Panel(k_, a_.values, 1, a_.keys),
           Reading(a_.values, nullptr),
           Centred(a_.values),
           std::vector<double>(size(a_.keys)),
           {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}};
    s.q.resize(size(a_.queries * a_.depth));
    s.q_rows.resize(size(a_.queries * q_stride_ + kPad));
    s.right.resize(size(a_.keys * std::max(a_.depth, a_.values)));
    s.turned.resize(size(a_.keys * a_.values));
    s.p.resize(size(block_ * a_.keys + kPad));
    s.p_rows.resize(size(block_ * p_stride_ + kPad));
    s.sums.resize(size(block_ * a_.keys));
    s.row_sums.resize(size(std::max(a_.queries, block_)));
    s.column_sums.resize(size(std::max(a_.keys, a_.values)));
    s.value_sums.resize(size(block_ * (a_.values + 1)));
    s.logits.resize(size(block_ * logits_stride_));
    s.gains.resize(size(block_));
    s.reals.resize(size(std::max({a_.depth, a_.values, a_.keys})));
    return s;
  }

  void run(int64_t b, Slot& s) const {
    prepare(b, s);
    for (int64_t first = 0; first < a_.queries; first += block_)
      block(b, first, std::min(block_, a_.queries - first), s);
  }

 private:
  void prepare(int64_t b, Slot& s) const {
    q_.cut(k_, b, s.reals.data(), s.q.data());
    k_.load_rows(s.q.data(), a_.queries, a_.depth, q_stride_, s.q_rows.data());
    k_.sum_rows(s.q.data(), a_.queries, a_.depth, s.row_sums.data());
    keys_.cut(k_, b, s.reals.data(), s.right.data());
    s.keys.pack(k_, s.right.data());
    k_.sum_rows(s.right.data(), a_.keys, a_.depth, s.column_sums.data());
    for (int64_t j = 0; j < a_.keys; ++j) {
      s.constants[static_cast<size_t>(j)] = Reading::constant_of(
          q_.grid(b), keys_.grid(b), s.column_sums[static_cast<size_t>(j)], a_.depth);
    }
    v_.cut(k_, b, s.reals.data(), s.right.data());
    for (int64_t r = 0; r < a_.keys; ++r) {
      for (int64_t c = 0; c < a_.values; ++c)
        s.turned[static_cast<size_t>(c * a_.keys + r)] =
            s.right[static_cast<size_t>(r * a_.values + c)];
    }
    s.values.pack(k_, s.turned.data());
    k_.sum_rows(s.turned.data(), a_.values, a_.keys, s.column_sums.data());
    if (a_.per_row != 0) {
      Centred::set(a_.values, v_.grid(b), s.column_sums.data(), a_.keys, s.centred.centre.data(),
                   s.centred.mean.data());
      return;
    }
    const Grid p{a_.p_grid.scale[b], a_.p_grid.offset[b]};
    for (int64_t c = 0; c < a_.values; ++c) {
      const size_t at = static_cast<size_t>(c);
      s.reading.set(at, p, v_.grid(b), s.column_sums[at], a_.keys);
    }
  }

  // Queries [first, first + count).
  void block(int64_t b, int64_t first, int64_t count, Slot& s) const {
    const uint8_t* run = s.q_rows.data() + first * q_stride_;
    k_.product({&run, 1, a_.depth, q_stride_, count, s.keys.data(), a_.keys, s.keys.shifted(),
                s.sums.data(), a_.keys});
    for (int64_t r = 0; r < count; ++r) read_logits(b, first + r, r, s);
    weights(b, count, s);
    const uint8_t* p = s.p.data();
    if (k_.code_bytes != 1 || a_.keys % k_.step != 0) {
      k_.load_rows(p, count, a_.keys, p_stride_, s.p_rows.data());
      p = s.p_rows.data();
    }
    int32_t* sums = s.value_sums.data() + count;
    k_.product({&p, 1, a_.keys, p_stride_, count, s.values.data(), a_.values, s.values.shifted(),
                sums, a_.values});
    k_.sum_rows(s.p.data(), count, a_.keys, s.value_sums.data());
    const Grid p_grid{a_.p_grid.scale[b], a_.p_grid.offset[b]};
    float* out = s.reals.data();
    for (int64_t r = 0; r < count; ++r) {
      const size_t at = static_cast<size_t>(r);
      if (a_.per_row != 0) {
        k_.read_centred(sums + r * a_.values, a_.values, s.value_sums[at],
                        Centred::gain(s.gains[at], p_grid, v_.grid(b)), 1.0,
                        s.centred.centre.data(), s.centred.mean.data(), out);
      } else {
        k_.read_row(sums + r * a_.values, a_.values, s.value_sums[at], s.reading.product.data(),
                    s.reading.row.data(), s.reading.constant.data(), s.reading.bias.data(), out);
      }
      out_.write(k_, b, first + r, out, a_.values);
    }
  }

  // The logits of `count` rows become codes of their softmax.
  void weights(int64_t b, int64_t count, Slot& s) const {
    const float scale = a_.p_grid.scale[b], offset = a_.p_grid.offset[b];
    const float top = top_code(a_.p_grid.bits);
    if (a_.per_row != 0) {
      k_.row_codes(s.logits.data(), count, a_.keys, logits_stride_, scale, offset, top, s.p.data(),
                   s.gains.data());
    } else {
      k_.softmax_codes(s.logits.data(), count, a_.keys, logits_stride_, scale, offset, top,
                       s.p.data());
    }
  }

  // The logits of one query with their terms, to row r.
  void read_logits(int64_t b, int64_t query, int64_t r, Slot& s) const {
    const Grid q = q_.grid(b), k = keys_.grid(b);
    float* logits = s.logits.data() + r * logits_stride_;
    k_.logits_row(s.sums.data() + r * a_.keys, a_.keys, q.scale * k.scale,
                  s.row_sums[static_cast<size_t>(query)] * (q.scale * k.offset),
                  s.constants.data(), logits);
    for (int64_t t = 0; t < a_.term_count; ++t) {
      if (a_.terms[t].skip != nullptr && a_.terms[t].skip[b] != 0) continue;
      const bc_matrices& m = a_.terms[t].matrices;
      const float* term = m.data + m.starts[b] + query * m.row;
      if (m.column == 0) {
        k_.apply_row(logits, a_.keys, *term, a_.terms[t].multiply != 0);
      } else {
        k_.apply_each(logits, a_.keys, term, a_.terms[t].multiply != 0);
      }
    }
  }

  const Kernels& k_;
  bc_attention a_;
  Gathered q_, keys_, v_;
  Scattered out_;
  int64_t block_, q_stride_, p_stride_, logits_stride_;
};

bool tabled(const bc_attention& a) {
  return a.q.rows != nullptr || a.k.rows != nullptr || a.v.rows != nullptr || a.out.rows != nullptr;
}

bc_status check(const bc_attention* a, int threads) {
  if (a == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  const int64_t most = std::max({a->depth, a->values, a->keys, a->queries});
  for (const int64_t size : {a->batch, a->queries, a->keys, a->depth, a->values, a->term_count}) {
    if (size < 0) return BC_BAD_SHAPE;
  }
  if (volume({a->batch, a->queries, a->values, 8}) < 0 || volume({most, most, 64}) < 0)
    return BC_BAD_SHAPE;
  if (a->heads < 1 || (tabled(*a) && a->batch % a->heads != 0)) return BC_BAD_SHAPE;
  if (a->batch * a->queries * a->values == 0) return BC_OK;
  if (a->keys == 0 || a->depth == 0) return BC_EMPTY;
  const bc_result& out = a->out;
  if (out.data == nullptr || out.starts == nullptr) return BC_BAD_ARGUMENT;
  if (out.scale != nullptr) {
    if (out.offset == nullptr || !bits_ok(out.bits)) return BC_BAD_ARGUMENT;
    if (out.groups < 1) return BC_BAD_SHAPE;
  }
  for (const bc_operand* o : {&a->q, &a->k, &a->v}) {
    if (o->data == nullptr || o->starts == nullptr) return BC_BAD_ARGUMENT;
  }
  for (const bc_operand_grid* grid : {&a->q_grid, &a->k_grid, &a->p_grid, &a->v_grid}) {
    if (lacking(*grid)) return BC_BAD_ARGUMENT;
  }
  if (!fits_int32(a->q_grid.bits, a->k_grid.bits, a->depth) ||
      !fits_int32(a->p_grid.bits, a->v_grid.bits, a->keys))
    return BC_OVERFLOW;
  if (a->term_count > 0 && a->terms == nullptr) return BC_BAD_ARGUMENT;
  for (int64_t t = 0; t < a->term_count; ++t) {
    const bc_matrices& m = a->terms[t].matrices;
    if (lacking(m)) return BC_BAD_ARGUMENT;
    if (m.column != 0 && m.column != 1) return BC_BAD_SHAPE;
  }
  return BC_OK;
}

// The element behind the last one of matrices of so many rows and columns; 0 for none at all, -1
// where one lies before the first element or beyond all counting.
int64_t reach_of(const bc_attention& a, const int64_t* starts, int64_t row, const int32_t* table,
                 int64_t rows, int64_t columns, int64_t column) {
  constexpr int64_t kFar = int64_t{1} << 40;
  const int64_t size = volume({a.batch, rows, columns});
  if (size <= 0) return size;
  if (row < -kFar || row > kFar || column < -kFar || column > kFar) return -1;
  if (rows > kFar / (std::abs(row) + 1) || columns > kFar / (std::abs(column) + 1)) return -1;
  const int64_t low = std::min<int64_t>(0, (columns - 1) * column);
  const int64_t high = std::max<int64_t>(0, (columns - 1) * column);
  int64_t most = 0;
  for (int64_t b = 0; b < a.batch; ++b) {
    int64_t least = std::min<int64_t>(0, (rows - 1) * row);
    int64_t last = std::max<int64_t>(0, (rows - 1) * row);
    if (table != nullptr) {
      const int32_t* here = table + b / a.heads * rows;
      least = *std::min_element(here, here + rows), last = *std::max_element(here, here + rows);
    }
    if (starts[b] < -kFar || starts[b] > kFar || starts[b] + least + low < 0) return -1;
    most = std::max(most, starts[b] + last + high + 1);
  }
  return most;
}

bc_status find_reach(const bc_attention& a, int64_t reach[4]) {
  for (const int64_t size : {a.batch, a.queries, a.keys, a.depth, a.values}) {
    if (size < 0) return BC_BAD_SHAPE;
  }
  if (volume({a.batch, a.queries, a.values, 8}) < 0 || volume({a.batch, a.keys, 8}) < 0 ||
      a.heads < 1 || (tabled(a) && a.batch % a.heads != 0))
    return BC_BAD_SHAPE;
  for (const int64_t* starts : {a.q.starts, a.k.starts, a.v.starts, a.out.starts}) {
    if (starts == nullptr) return BC_BAD_ARGUMENT;
  }
  const auto of = [&](const bc_operand& o, int64_t rows, int64_t columns) {
    return reach_of(a, o.starts, o.row, o.rows, rows, columns, o.column);
  };
  reach[0] = of(a.q, a.queries, a.depth);
  reach[1] = of(a.k, a.keys, a.depth);
  reach[2] = of(a.v, a.keys, a.values);
  reach[3] = reach_of(a, a.out.starts, a.out.row, a.out.rows, a.queries, a.values, 1);
  return std::min({reach[0], reach[1], reach[2], reach[3]}) < 0 ? BC_BAD_SHAPE : BC_OK;
}

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_attend(const bc_attention* attention, int threads) {
  const bc_status status = bc::check(attention, threads);
  if (status != BC_OK) return status;
  const bc_attention& a = *attention;
  if (a.batch * a.queries * a.values == 0) return BC_OK;
  return bc::guarded([&] {
    const bc::Attention work(bc::kernels_for(a.depth), a);
    const int use = bc::worthwhile(
        threads, 0.6 * static_cast<double>(a.batch) * static_cast<double>(a.queries * a.keys));
    std::vector<bc::Slot> slots;
    for (int i = 0; i < use; ++i) slots.push_back(work.slot());
    bc::parallel_for(a.batch, use, [&](int64_t b, int slot) {
      work.run(b, slots[static_cast<size_t>(slot)]);
    });
    return BC_OK;
  });
}

bc_status bc_attention_reach(const bc_attention* attention, int64_t reach[4]) {
  if (attention == nullptr || reach == nullptr) return BC_BAD_ARGUMENT;
  return bc::find_reach(*attention, reach);
}

bc_status bc_exp2(const float* x, int64_t n, float* out) {
  if (n < 0) return BC_BAD_SHAPE;
  if (bc::missing(n, {x, out})) return BC_BAD_ARGUMENT;
  bc::kernels().exp2_row(x, n, out);
  return BC_OK;
}

}  // extern "C"
