// BitMatMul and BitAttention.
#include <array>

#include "operator.h"

namespace trt {
namespace {

constexpr int64_t kLongest = int64_t{1} << 31;

// How operands are cut, without the numbers of the grids.
struct Rules {
  Shape bits, per_length, shortest;

  Rules(const Fields& fields, size_t count)
      : bits(fields.wholes("bits", count, 1, 8)),
        per_length(fields.wholes("per_length", count, 0, 1)),
        shortest(fields.wholes("shortest", count, 0, kLongest)) {}

  bc_cuda_grid grid(const Inputs& inputs, const std::string& of, size_t i, int64_t heads) const {
    bc_cuda_grid grid{};
    grid.scale = inputs.numbers((of + "_scale").c_str()), grid.offset = inputs.numbers((of + "_offset").c_str());
    grid.bits = static_cast<int32_t>(bits[i]), grid.per_length = static_cast<int32_t>(per_length[i]);
    grid.shortest = shortest[i];
    require(grid.scale.count == grid.offset.count && (grid.scale.count == 1 || grid.scale.count == heads),
            "there are " + std::to_string(grid.scale.count) + " scales and " + std::to_string(grid.offset.count) +
                " offsets of " + of + " for " + std::to_string(heads) + " matrices");
    return grid;
  }
};

using host::Batch;

// Rows beside each other, or columns where `across`.
bc_cuda_matrices matrices(const Tensor& tensor, bool across) {
  const int64_t rows = tensor.axis(2), columns = tensor.axis(1);
  return {tensor.numbers(), rows * columns, across ? 1 : columns, across ? columns : 1};
}

// The axes of a, but for the last: that of another input.
std::vector<Operator::Axis> axes_with(const std::vector<int>& ranks, int port, int from_last) {
  require(ranks[0] >= 2 && ranks[static_cast<size_t>(port)] == ranks[0], "operands must have equal axes, at least 2");
  std::vector<Operator::Axis> axes = axes_like_first(ranks);
  axes.back() = {Operator::Axis::input, port, ranks[static_cast<size_t>(port)] - from_last, 0, 1};
  return axes;
}

class MatMul final : public Operator {
 public:
  explicit MatMul(const Fields& fields)
      : rules_(fields, 2), per_row_(fields.whole("per_row", 0, 1) != 0), turned_(fields.whole("turned", 0, 1) != 0) {}

  std::vector<Axis> axes(const std::vector<int>& ranks) const override {
    return axes_with(ranks, 1, turned_ ? 2 : 1);
  }
  int64_t scratch(const Inputs& inputs, const Target& to) const override {
    const bc_cuda_product p = bound(inputs, to);
    const int64_t bytes = bc_cuda_product_scratch_bytes(&p);
    require(bytes >= 0, "the sums of a product over " + std::to_string(p.k) + " terms could leave int32");
    return bytes;
  }
  void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const override {
    const bc_cuda_product p = bound(inputs, to);
    check(bc_cuda_multiply(&p, scratch, stream), "the product");
  }

 private:
  bc_cuda_product bound(const Inputs& inputs, const Target& to) const {
    const Tensor &a = inputs[0], &b = inputs[1];
    const Batch batch = host::batch_of(a.shape);
    bc_cuda_product p{};
    p.batch = batch.count, p.m = a.axis(2), p.k = a.axis(1), p.n = host::require_product(a.shape, b.shape, turned_);
    require(p.k > 0, "a product over no element");
    p.a = matrices(a, false), p.b = matrices(b, !turned_);
    p.a_grid = rules_.grid(inputs, "a", 0, batch.heads), p.b_grid = rules_.grid(inputs, "b", 1, batch.heads);
    p.per_row = per_row_ ? 1 : 0, p.out = to.out, p.out_type = to.type;
    return p;
  }

  Rules rules_;
  bool per_row_, turned_;
};

class Attention final : public Operator {
 public:
  explicit Attention(const Fields& fields)
      : rules_(fields, 4),
        per_row_(fields.whole("per_row", 0, 1) != 0),
        turned_(fields.whole("turned", 0, 1) != 0),
        factor_(fields.real("factor")),
        multiplies_(fields.wholes("multiplies")),
        repeats_(fields.wholes("repeats")),
        first_term_(fields.schema().port("term0")) {
    host::require_terms(multiplies_, repeats_);
    require(repeats_.size() <= BC_CUDA_MOST_TERMS, "multiplies and repeats are too long");
  }

  std::vector<Axis> axes(const std::vector<int>& ranks) const override { return axes_with(ranks, 2, 1); }
  int64_t scratch(const Inputs& inputs, const Target& to) const override {
    std::array<bc_cuda_term, BC_CUDA_MOST_TERMS> terms;
    const bc_cuda_attention a = bound(inputs, to, terms.data());
    const int64_t bytes = bc_cuda_attention_scratch_bytes(&a);
    require(bytes >= 0, "the sums of this attention could leave int32");
    return bytes;
  }
  void run(const Inputs& inputs, const Target& to, void* scratch, void* stream) const override {
    std::array<bc_cuda_term, BC_CUDA_MOST_TERMS> terms;
    const bc_cuda_attention a = bound(inputs, to, terms.data());
    check(bc_cuda_attend(&a, scratch, stream), "the attention");
  }

 private:
  bc_cuda_attention bound(const Inputs& inputs, const Target& to, bc_cuda_term* terms) const {
    const Tensor &q = inputs[0], &k = inputs[1], &v = inputs[2];
    const Batch batch = host::batch_of(q.shape);
    bc_cuda_attention a{};
    a.batch = batch.count, a.queries = q.axis(2), a.depth = q.axis(1);
    a.keys = host::require_attention(q.shape, k.shape, v.shape, turned_), a.values = v.axis(1);
    require(a.depth > 0 && a.keys > 0, "attention over no element");
    a.q = matrices(q, false), a.k = matrices(k, !turned_), a.v = matrices(v, true);
    bc_cuda_grid* const grids[] = {&a.q_grid, &a.k_grid, &a.p_grid, &a.v_grid};
    const char* const names[] = {"q", "k", "p", "v"};
    for (size_t i = 0; i < 4; ++i) *grids[i] = rules_.grid(inputs, names[i], i, batch.heads);
    for (size_t t = 0; t < repeats_.size(); ++t) terms[t] = term(inputs, t, a);
    a.terms = terms, a.term_count = static_cast<int64_t>(repeats_.size());
    a.per_row = per_row_ ? 1 : 0, a.q_factor = factor_, a.out = to.out, a.out_type = to.type;
    return a;
  }

  bc_cuda_term term(const Inputs& inputs, size_t t, const bc_cuda_attention& a) const {
    const Tensor& tensor = inputs[first_term_ + static_cast<int>(t)];
    require(tensor.there, "a term of the logits is not connected");
    const Shape& s = tensor.shape;
    host::require_term(s, repeats_[t], {a.batch, a.queries, a.keys});
    return {tensor.numbers(), s[0], repeats_[t], s[1] * s[2], s[1] > 1 ? s[2] : 0, s[2] > 1 ? 1 : 0,
            multiplies_[t] != 0 ? 1 : 0};
  }

  Rules rules_;
  bool per_row_, turned_;
  float factor_;
  Shape multiplies_, repeats_;
  int first_term_;
};

}  // namespace

std::unique_ptr<Operator> make_matmul(const Fields& fields) { return std::make_unique<MatMul>(fields); }
std::unique_ptr<Operator> make_attention(const Fields& fields) { return std::make_unique<Attention>(fields); }

}  // namespace trt
