// Products of activations and attention.
#include <algorithm>
#include <list>
#include <vector>

#include "calls.h"

namespace fuzz {
namespace {

// A batch of matrices somewhere in a tensor that ends with their last element.
struct Matrices {
  bc_matrices record;
  Memory<int64_t> starts;
  Memory<float> data;

  static bc_matrices steps(Input& in, int64_t columns) {
    switch (in.byte() % 4) {
      case 0:
        return {nullptr, nullptr, 1, in.from(1, 40)};
      case 1:
        return {nullptr, nullptr, in.from(0, 40), in.from(0, 3)};
      default:
        return {nullptr, nullptr, columns > 0 && columns < kMost ? columns : 1, 1};
    }
  }

  Matrices(Input& in, int64_t batch, int64_t rows, int64_t columns, bc_matrices at)
      : record(at),
        starts(in, elements({batch})),
        data(reals(in, extent(in, batch, rows, columns), -2, 2)) {
    record.data = data.get();
    record.starts = starts.get();
  }
  Matrices(Input& in, int64_t batch, int64_t rows, int64_t columns)
      : Matrices(in, batch, rows, columns, steps(in, columns)) {}

 private:
  int64_t extent(Input& in, int64_t batch, int64_t rows, int64_t columns) {
    if (elements({batch, rows, columns}) <= 0) return elements({batch, rows, columns});
    const int64_t one = (rows - 1) * record.row + (columns - 1) * record.column + 1;
    int64_t end = one;
    for (int64_t& start : starts) {
      start = static_cast<int64_t>(in.random() % 300);
      end = std::max(end, start + one);
    }
    return elements({end});
  }
};

struct OperandGrid {
  Memory<float> scale, offset;
  bc_operand_grid record;

  OperandGrid(Input& in, int64_t batch, int bits)
      : scale(reals(in, elements({batch}), 0.01f, 1)),  // 0: a step
        offset(reals(in, elements({batch}), -2, 1)),
        record{scale.get(), offset.get(), bits} {
    if (in.once_in(6)) std::fill(scale.begin(), scale.end(), 0.0f);
  }
};

}  // namespace

void multiplications(Input& in) {
  const int64_t batch = in.size(0, 4), m = in.size(0, 40), n = in.size(0, 50), k = in.size(0, 70);
  const int threads = in.small(1, 3);
  const Matrices a(in, batch, m, k), b(in, batch, n, k);
  const OperandGrid a_grid(in, batch, in.small(1, 8)), b_grid(in, batch, in.small(1, 8));
  bc_product product{batch,         m, n, k, a.record, b.record, a_grid.record, b_grid.record,
                     in.byte() % 2, nullptr, 0, 0};
  const Memory<int64_t> starts(in, elements({batch}));
  const bool lies = in.byte() % 2 != 0 && elements({batch, m}) > 0;
  if (lies && starts.get() != nullptr) {  // columns that lie dense, side by side
    for (int64_t i = 0; i < batch; ++i) starts.get()[i] = i * m;
    product.out_starts = starts.get(), product.out_row = 1, product.out_column = batch * m;
  }
  const Memory<float> out(in, elements({batch, m, n}));
  at_two_levels(in, out, [&] { return bc_multiply(&product, out.get(), threads); });
}

namespace {

// Where the rows of an operand or of the result lie: by steps or by a table.
struct Places {
  Memory<int64_t> starts;
  Memory<int32_t> table;
  int64_t row, column;

  Places(Input& in, int64_t batch, int64_t heads, int64_t rows, int64_t columns, bool apart)
      : starts(in, elements({batch})),
        table(in, in.once_in(2) && heads > 0 ? elements({batch / heads, rows}) : -1),
        row(in.size(0, 60)),
        column(apart || in.once_in(2) ? 1 : in.size(0, 3)) {
    if (in.once_in(3) && !apart) row = columns;
    // Odd sizes are refused for themselves: here they only must not overflow.
    const auto bounded = [](int64_t n) { return std::min<int64_t>(std::max<int64_t>(n, 0), 1000); };
    heads = bounded(heads), rows = bounded(rows), columns = bounded(columns);
    if (apart) row = columns + in.from(0, 9);
    const bool far = in.wild() && in.once_in(8);
    for (int64_t b = 0; b < starts.size(); ++b) {
      int64_t& start = starts.get()[b];
      start = apart ? b * columns : static_cast<int64_t>(in.random() % 300);
      if (apart && table.get() == nullptr) start = b * rows * bounded(row);
      if (far) start = static_cast<int64_t>(in.random());
    }
    for (int64_t i = 0; i < table.size(); ++i) {
      int32_t& place = table.get()[i];
      const int64_t each = heads * columns;
      place = static_cast<int32_t>(apart ? (table.size() - 1 - i) * each : in.random() % 300);
      if (far) place = static_cast<int32_t>(in.random());
    }
    // Heads lie side by side within the rows of a table.
    for (int64_t b = 0; apart && table.get() != nullptr && b < starts.size(); ++b)
      starts.get()[b] = b % heads * columns;
  }
};

// Memory that ends where the places do.
struct Operand {
  Places at;
  Memory<float> real;
  Memory<uint8_t> code;
  bc_operand record;

  Operand(Input& in, int64_t batch, int64_t heads, int64_t rows, int64_t columns)
      : at(in, batch, heads, rows, columns, false),
        real(in, -1),
        code(in, -1),
        record{nullptr, in.once_in(3), at.starts.get(), at.row, at.column, at.table.get()} {}

  void fill(Input& in, int64_t reach, int bits) {
    if (record.codes != 0) {
      code = codes(in, elements({reach}), bits);
      record.data = code.get();
    } else {
      real = reals(in, elements({reach}), -2, 2);
      record.data = real.get();
    }
  }
};

struct Term {
  Matrices at;
  Memory<uint8_t> skip;

  Term(Input& in, int64_t batch, int64_t rows, int64_t columns, bc_matrices step)
      : at(in, batch, rows, columns, step), skip(codes(in, in.once_in(2) ? elements({batch}) : -1, 1)) {}
};

class Terms {
 public:
  Terms(Input& in, int64_t batch, int64_t queries, int64_t keys) {
    for (int64_t i = in.from(0, 2); i > 0; --i) {
      const bc_matrices step{nullptr, nullptr, in.from(0, 60), in.from(0, 3)};
      kept_.emplace_back(in, batch, queries, keys, step);
      const Term& term = kept_.back();
      records_.push_back({term.at.record, in.byte() % 2, term.skip.get()});
    }
    null_ = in.wild() && in.once_in(16);
  }
  const bc_term* get() const { return null_ ? nullptr : records_.data(); }
  int64_t count() const { return static_cast<int64_t>(records_.size()); }

 private:
  std::list<Term> kept_;
  std::vector<bc_term> records_;
  bool null_;
};

}  // namespace

void attentions(Input& in) {
  const int64_t heads = in.size(1, 3), groups = in.size(0, 3);
  const int64_t batch = in.wild() ? in.size(0, 9) : heads * groups;
  const int64_t queries = in.size(0, 30), keys = in.size(0, 40), depth = in.size(0, 30),
                values = in.size(0, 30);
  Operand q(in, batch, heads, queries, depth), k(in, batch, heads, keys, depth),
      v(in, batch, heads, keys, values);
  const Places to(in, batch, heads, queries, values, true);
  const int bits = in.small(1, 8);
  const OperandGrid q_grid(in, batch, bits), k_grid(in, batch, bits),
      p_grid(in, batch, in.small(1, 8)), v_grid(in, batch, in.small(1, 8));
  const Terms terms(in, batch, queries, keys);
  bc_attention a{};
  a.batch = batch, a.queries = queries, a.keys = keys, a.depth = depth, a.values = values;
  a.heads = heads, a.q = q.record, a.k = k.record, a.v = v.record;
  a.q_factor = in.once_in(2) ? 1.0f : 0.3f;
  a.q_grid = q_grid.record, a.k_grid = k_grid.record;
  a.p_grid = p_grid.record, a.v_grid = v_grid.record;
  a.terms = terms.get(), a.term_count = terms.count(), a.per_row = in.byte() % 2;
  a.out.starts = to.starts.get(), a.out.row = to.row, a.out.rows = to.table.get();
  int64_t reach[4] = {};
  const bc_status reached = bc_attention_reach(&a, reach);
  check_status(reached);
  if (reached != BC_OK) reach[0] = reach[1] = reach[2] = reach[3] = -1;
  const bool wide = in.once_in(8);  // codes may have more bits than their grid
  q.fill(in, reach[0], wide ? 8 : q_grid.record.bits);
  k.fill(in, reach[1], wide ? 8 : k_grid.record.bits);
  v.fill(in, reach[2], wide ? 8 : v_grid.record.bits);
  a.q.data = q.record.data, a.k.data = k.record.data, a.v.data = v.record.data;
  const int threads = in.wild() ? 1 : in.small(1, 3);  // wild rows may overlap
  if (in.once_in(2)) {
    const Memory<float> out(in, elements({reach[3]}));
    a.out.data = out.get();
    at_two_levels(in, out, [&] { return bc_attend(&a, threads); }, wide);
    return;
  }
  a.out.groups = in.once_in(2) ? 1 : in.size(1, 40), a.out.bits = in.small(1, 8);
  const Memory<float> scale = reals(in, elements({a.out.groups}), 0.01f, 1),
                      offset = reals(in, elements({a.out.groups}), -2, 1);
  const Memory<uint8_t> out(in, scale.get() == nullptr ? -1 : elements({reach[3]}));
  a.out.scale = scale.get(), a.out.offset = offset.get(), a.out.data = out.get();
  at_two_levels(in, out, [&] { return bc_attend(&a, threads); }, wide);
}

}  // namespace fuzz
