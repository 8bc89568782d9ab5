// BitMatMul and BitAttention: products of activations that are cut into codes at run time.
#include <array>

#include "host.h"
#include "operands.h"

namespace ort {
namespace {

std::vector<int64_t> starts_of(int64_t batch, int64_t size) {
  std::vector<int64_t> starts(static_cast<size_t>(batch));
  for (int64_t b = 0; b < batch; ++b) starts[b] = b * size;
  return starts;
}

class MatMul final : public Kernel {
 public:
  explicit MatMul(const Info& info)
      : grids_(grids_of(info, {"a", "b"})),
        per_row_(info.integer("per_row", 0, 1) != 0),
        turned_(info.integer("turned", 0, 1) != 0) {}

  void compute(const Context& context) const override {
    const Tensor a = context.real(0), b = context.real(1);
    const host::Batch batch = host::batch_of(a.shape);
    const int64_t n = host::require_product(a.shape, b.shape, turned_);
    bc_product p{};
    p.batch = batch.count, p.m = a.axis(2), p.k = a.axis(1), p.n = n;
    Shape made = a.shape;
    made.back() = p.n;
    float* out = context.reals(made);
    if (product(made) == 0) return;
    require(p.k > 0, "a product over no element");
    const std::vector<int64_t> a_starts = starts_of(p.batch, p.m * p.k);
    const std::vector<int64_t> b_starts = starts_of(p.batch, p.n * p.k);
    const auto ag = grids_[0].spread(p.batch, batch.heads, p.k);
    const auto bg = grids_[1].spread(p.batch, batch.heads, p.k);
    p.a = {a.reals(), a_starts.data(), p.k, 1};
    p.b = turned_ ? bc_matrices{b.reals(), b_starts.data(), p.k, 1}
                  : bc_matrices{b.reals(), b_starts.data(), 1, p.n};
    p.a_grid = {ag.scale.data(), ag.offset.data(), grids_[0].bits};
    p.b_grid = {bg.scale.data(), bg.offset.data(), grids_[1].bits};
    p.per_row = per_row_ ? 1 : 0;
    context.with_threads([&] { check(bc_multiply(&p, out, Context::threads()), "the product"); });
  }

 private:
  std::vector<OperandGrid> grids_;
  bool per_row_, turned_;
};

class Attention final : public Kernel {
 public:
  explicit Attention(const Info& info)
      : grids_(grids_of(info, {"q", "k", "p", "v"})),
        per_row_(info.integer("per_row", 0, 1) != 0),
        turned_(info.integer("turned", 0, 1) != 0),
        factor_(info.real("factor")),
        terms_(info) {}

  void compute(const Context& context) const override {
    const Tensor q = context.real(0), k = context.real(1), v = context.real(2);
    const host::Batch batch = host::batch_of(q.shape);
    const int64_t keys = host::require_attention(q.shape, k.shape, v.shape, turned_);
    bc_attention a{};
    a.batch = batch.count, a.queries = q.axis(2), a.depth = q.axis(1);
    a.keys = keys, a.values = v.axis(1);
    Shape made = q.shape;
    made.back() = a.values;
    float* out = context.reals(made);
    if (product(made) == 0) return;
    require(a.depth > 0 && a.keys > 0, "attention over no element");
    const std::vector<int64_t> q_starts = starts_of(a.batch, a.queries * a.depth);
    const std::vector<int64_t> k_starts = starts_of(a.batch, a.keys * a.depth);
    const std::vector<int64_t> v_starts = starts_of(a.batch, a.keys * a.values);
    const std::vector<int64_t> out_starts = starts_of(a.batch, a.queries * a.values);
    a.q = {q.data, 0, q_starts.data(), a.depth, 1, nullptr};
    a.k = turned_ ? bc_operand{k.data, 0, k_starts.data(), a.depth, 1, nullptr}
                  : bc_operand{k.data, 0, k_starts.data(), 1, a.keys, nullptr};
    a.v = {v.data, 0, v_starts.data(), a.values, 1, nullptr};
    std::array<OperandGrid::Spread, 4> spread;
    std::array<bc_operand_grid, 4> grids;
    for (size_t i = 0; i < 4; ++i) {
      spread[i] = grids_[i].spread(a.batch, batch.heads, i < 2 ? a.depth : a.keys);
      grids[i] = {spread[i].scale.data(), spread[i].offset.data(), grids_[i].bits};
    }
    a.q_grid = grids[0], a.k_grid = grids[1], a.p_grid = grids[2], a.v_grid = grids[3];
    const Terms::Bound terms = terms_.bound(context, a);
    a.terms = terms.records.data(), a.term_count = static_cast<int64_t>(terms.records.size());
    a.heads = 1, a.q_factor = factor_, a.per_row = per_row_ ? 1 : 0;
    a.out.data = out, a.out.starts = out_starts.data(), a.out.row = a.values;
    context.with_threads([&] { check(bc_attend(&a, Context::threads()), "the attention"); });
  }

 private:
  std::vector<OperandGrid> grids_;
  bool per_row_, turned_;
  float factor_;
  Terms terms_;
};

}  // namespace

std::unique_ptr<Kernel> make_matmul(const Info& info) { return std::make_unique<MatMul>(info); }

std::unique_ptr<Kernel> make_attention(const Info& info) {
  return std::make_unique<Attention>(info);
}

}  // namespace ort
