// What operators share that cut activations at run time: grids of operands, grids of outputs, and the terms that
// are done to logits.
#pragma once

#include "host.h"

namespace ort {

constexpr int64_t kLongest = int64_t{1} << 31;

// The grid of an operand: its numbers, and what becomes of them for a length.
struct OperandGrid {
  std::vector<float> scale, offset;
  int bits = 8, per_length = 0;
  int64_t shortest = 0;

  // One for each matrix of a batch; grid number b mod the number of grids.
  struct Spread {
    std::vector<float> scale, offset;
  };
  Spread spread(int64_t batch, int64_t heads, int64_t length) const;
};

std::vector<OperandGrid> grids_of(const Info& info, const std::vector<const char*>& names);

// The grids of whoever reads an output, one or one for each channel, and their largest codes.
struct OutGrid {
  std::vector<float> scale, offset, top;
  int bits = 0;  // where they all have as many
};

OutGrid out_grid(const Info& info);

// What happens to the logits of an attention before the softmax.
class Terms {
 public:
  explicit Terms(const Info& info);

  // The terms of one run. The kernel reads them key by key, so matrices are turned; those that add zeros alone,
  // as most windows of a shifted picture have, are left out.
  struct Bound {
    std::vector<bc_term> records;
    std::vector<std::vector<int64_t>> starts;
    std::vector<std::vector<uint8_t>> skips;
    std::vector<std::vector<float>> turned;
  };
  Bound bound(const Context& context, const bc_attention& a) const;

 private:
  Tensor term(const Context& context, size_t t, const bc_attention& a) const;
  void bind(const Tensor& term, size_t t, const bc_attention& a, Bound& bound) const;

  Shape multiplies_, repeats_;
  size_t first_term_;
};

}  // namespace ort
