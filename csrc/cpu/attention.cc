// Attention on codes: logits, softmax and values of a few queries at a time, never all of them.
//
// One task is one of the batch (a window and a head). Its keys and values are cut and packed once;
// then blocks of queries go through: integer logits, real logits with their terms, codes of the
// softmax, integer values, real values. A block of logits stays in L1 or L2.
#include <algorithm>
#include <vector>

#include "bitcompress/bits.h"
#include "geometry.h"
#include "guard.h"
#include "kernels.h"
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
  Attention(const Kernels& kernels, const bc_attention& a, float* out)
      : k_(kernels),
        a_(a),
        q_(a.q, a.queries, a.depth, a.q_grid),
        keys_(a.k, a.keys, a.depth, a.k_grid),
        v_(a.v, a.keys, a.values, a.v_grid),
        out_(out),
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
    v_.cut_turned(k_, b, s.reals.data(), s.right.data(), s.turned.data());
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
    float* out = out_ + (b * a_.queries + first) * a_.values;
    const Grid p_grid{a_.p_grid.scale[b], a_.p_grid.offset[b]};
    for (int64_t r = 0; r < count; ++r) {
      const size_t at = static_cast<size_t>(r);
      if (a_.per_row != 0) {
        k_.read_centred(sums + r * a_.values, a_.values, s.value_sums[at],
                        Centred::gain(s.gains[at], p_grid, v_.grid(b)), 1.0,
                        s.centred.centre.data(), s.centred.mean.data(), out + r * a_.values);
        continue;
      }
      k_.read_row(sums + r * a_.values, a_.values, s.value_sums[at], s.reading.product.data(),
                  s.reading.row.data(), s.reading.constant.data(), s.reading.bias.data(),
                  out + r * a_.values);
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
  Codes q_, keys_, v_;
  float* out_;
  int64_t block_, q_stride_, p_stride_, logits_stride_;
};

bc_status check(const bc_attention* a, const float* out, int threads) {
  if (a == nullptr || threads < 1) return BC_BAD_ARGUMENT;
  const int64_t most = std::max({a->depth, a->values, a->keys, a->queries});
  for (const int64_t size : {a->batch, a->queries, a->keys, a->depth, a->values, a->term_count}) {
    if (size < 0) return BC_BAD_SHAPE;
  }
  if (volume({a->batch, a->queries, a->values, 8}) < 0 || volume({most, most, 64}) < 0)
    return BC_BAD_SHAPE;
  if (a->batch * a->queries * a->values == 0) return BC_OK;
  if (a->keys == 0 || a->depth == 0) return BC_EMPTY;
  if (out == nullptr || lacking(a->q) || lacking(a->k) || lacking(a->v)) return BC_BAD_ARGUMENT;
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

}  // namespace
}  // namespace bc

extern "C" {

bc_status bc_attend(const bc_attention* attention, float* out, int threads) {
  const bc_status status = bc::check(attention, out, threads);
  if (status != BC_OK) return status;
  const bc_attention& a = *attention;
  if (a.batch * a.queries * a.values == 0) return BC_OK;
  return bc::guarded([&] {
    const bc::Attention work(bc::kernels_for(a.depth), a, out);
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

bc_status bc_exp2(const float* x, int64_t n, float* out) {
  if (n < 0) return BC_BAD_SHAPE;
  if (bc::missing(n, {x, out})) return BC_BAD_ARGUMENT;
  bc::kernels().exp2_row(x, n, out);
  return BC_OK;
}

}  // extern "C"
