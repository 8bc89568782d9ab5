// Attention on codes: logits, softmax and values of a few queries at a time, never all of them.
//
// One task is one of the batch (a window and a head): its rows are gathered and cut, then the kernel
// goes through its queries. What it writes goes straight to its place.
#include <algorithm>
#include <cstdlib>

#include "bitcompress/bits.h"
#include "gathered.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
#include "operand.h"
#include "scratch.h"
#include "threads.h"

namespace bc {
namespace {

class Attention {
 public:
  Attention(const Kernels& kernels, const bc_attention& a)
      : k_(kernels),
        a_(a),
        q_(a.q, a.heads, a.queries, a.depth, a.q_grid, a.q_factor),
        keys_(a.k, a.heads, a.keys, a.depth, a.k_grid, 1.0f),
        v_(a.v, a.heads, a.keys, a.values, a.v_grid, 1.0f),
        q_rows_(rounded(a.queries, 16)),
        k_rows_(rounded(a.keys, 16)),
        depth_pitch_(rounded(a.depth, 16)),
        value_pitch_(rounded(a.values, 16)) {}

  int64_t scratch_bytes() const {
    return Scratch::bytes<uint8_t>(q_rows_ * depth_pitch_) +
           Scratch::bytes<uint8_t>(k_rows_ * depth_pitch_) +
           Scratch::bytes<uint8_t>(a_.keys * value_pitch_) +
           Scratch::bytes<float>(dense()) + Scratch::bytes<AttendTerm>(a_.term_count) +
           2 * Scratch::bytes<float>(a_.values) + Scratch::bytes<uint8_t>(work_bytes());
  }

  struct Slot {
    uint8_t *q, *k, *v;
    float* dense;
    AttendTerm* terms;
    float *out_scale, *out_offset;
    uint8_t* work;
  };

  Slot slot(Scratch& s) const {
    Slot t{};
    t.q = s.part<uint8_t>(q_rows_ * depth_pitch_);
    t.k = s.part<uint8_t>(k_rows_ * depth_pitch_);
    t.v = s.part<uint8_t>(a_.keys * value_pitch_);
    t.dense = s.part<float>(dense());
    t.terms = s.part<AttendTerm>(a_.term_count);
    t.out_scale = s.part<float>(a_.values);
    t.out_offset = s.part<float>(a_.values);
    t.work = s.part<uint8_t>(work_bytes());
    std::fill_n(t.q, q_rows_ * depth_pitch_, uint8_t{0});
    std::fill_n(t.k, k_rows_ * depth_pitch_, uint8_t{0});
    std::fill_n(t.v, a_.keys * value_pitch_, uint8_t{0});
    return t;
  }

  // `ahead`: how far away the matrix is that this thread comes to in a while.
  void run(int64_t b, int64_t ahead, const Slot& t) const {
    if (b + ahead < a_.batch) {
      q_.prefetch(b + ahead);
      keys_.prefetch(b + ahead);
      v_.prefetch(b + ahead);
    }
    q_.cut(k_, b, t.dense, t.q, depth_pitch_);
    keys_.cut(k_, b, t.dense, t.k, depth_pitch_);
    v_.cut(k_, b, t.dense, t.v, value_pitch_);
    Attend a = shape();
    a.q = t.q, a.k = t.k, a.v = t.v;
    const Grid q = q_.grid(b), k = keys_.grid(b), v = v_.grid(b);
    a.q_scale = q.scale, a.q_offset = q.offset, a.k_scale = k.scale, a.k_offset = k.offset;
    a.v_scale = v.scale, a.v_offset = v.offset;
    a.p_scale = a_.p_grid.scale[b], a.p_offset = a_.p_grid.offset[b];
    a.terms = t.terms, a.term_count = terms(b, t.terms);
    place_output(b, t, a);
    k_.attending->run(a, t.work);
  }

 private:
  void place_output(int64_t b, const Slot& t, Attend& a) const {
    const bc_result& out = a_.out;
    const int64_t start = out.starts[b];
    const int32_t* table = out.rows != nullptr ? out.rows + b / a_.heads * a_.queries : nullptr;
    a.out = out.data, a.places = {start, table, out.row};
    if (out.scale == nullptr) return;
    const int64_t channel = start % out.groups;
    a.out_scale = out.scale + channel, a.out_offset = out.offset + channel;
    a.out_top = top_code(out.bits);
    if (channel + a_.values <= out.groups) return;
    for (int64_t c = 0; c < a_.values; ++c) {
      t.out_scale[c] = out.scale[(channel + c) % out.groups];
      t.out_offset[c] = out.offset[(channel + c) % out.groups];
    }
    a.out_scale = t.out_scale, a.out_offset = t.out_offset;
  }

  Attend shape() const {
    Attend a{};
    a.queries = a_.queries, a.keys = a_.keys, a.depth = a_.depth, a.values = a_.values;
    a.depth_pitch = depth_pitch_, a.value_pitch = value_pitch_;
    a.k_shifted = a_.k_grid.bits == 8, a.v_shifted = a_.v_grid.bits == 8;
    a.p_bits = a_.p_grid.bits, a.per_row = a_.per_row != 0;
    a.term_count = a_.term_count;
    return a;
  }
  int64_t work_bytes() const { return k_.attending->bytes(shape()); }
  int64_t dense() const { return std::max({q_.dense(), keys_.dense(), v_.dense()}); }

  // The terms of matrix b that are not left out.
  int64_t terms(int64_t b, AttendTerm* out) const {
    int64_t count = 0;
    for (int64_t t = 0; t < a_.term_count; ++t) {
      const bc_term& term = a_.terms[t];
      if (term.skip != nullptr && term.skip[b] != 0) continue;
      const bc_matrices& m = term.matrices;
      out[count++] = {m.data + m.starts[b], m.row, m.column, term.multiply != 0};
    }
    return count;
  }

  const Kernels& k_;
  const bc_attention& a_;
  Gathered q_, keys_, v_;
  int64_t q_rows_, k_rows_, depth_pitch_, value_pitch_;
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
  // Rows over each other would depend on which is written last.
  if (out.rows == nullptr && a->queries > 1 && out.row < a->values && out.row > -a->values)
    return BC_BAD_SHAPE;
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
    const bc::Attention work(bc::kernels(), a);
    const int use = bc::worthwhile(
        threads, 0.6 * static_cast<double>(a.batch) * static_cast<double>(a.queries * a.keys));
    bc::Scratch scratch(work.scratch_bytes() * use + bc::Scratch::bytes<bc::Attention::Slot>(use));
    auto* slots = scratch.part<bc::Attention::Slot>(use);
    for (int i = 0; i < use; ++i) slots[i] = work.slot(scratch);
    bc::parallel_for(a.batch, use, [&](int64_t b, int slot) {
      work.run(b, a.heads * use, slots[slot]);
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
