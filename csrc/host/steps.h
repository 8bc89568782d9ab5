// What runs of layers and of rows take from Python: chains of steps, pixels in memory, grids of the
// output. Arrays are resolved once and held.
#pragma once

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "arrays.h"

namespace host {

// kind, value, operand, shift, where BC_STORE writes, rows that share an operand. Operands are [rows /
// each or 1][channels or 1].
using StepParts =
    std::tuple<int, float, std::optional<In>, std::optional<In>, std::optional<Out>, int64_t>;

class Chain {
 public:
  explicit Chain(std::vector<StepParts> parts);

  // Refuses rows and channels that an array of the chain does not have.
  void check_rows(int64_t rows, int64_t channels) const;
  const bc_step* data() const { return steps_.data(); }
  int64_t size() const { return static_cast<int64_t>(steps_.size()); }

 private:
  struct Extent {
    int64_t rows, channels;
    bool exact;  // else 1 stands for any number
    int64_t each = 1;
  };

  void operand(bc_step& step, const In& array);
  std::vector<StepParts> held_;
  std::vector<bc_step> steps_;
  std::vector<Extent> extents_;
};

// Rows of channels that lie one distance apart: [rows][C] or [N][H][W][C], a slice of wider rows at
// most, of float32 or of codes.
struct Rows {
  const void* data;
  bool codes;
  int64_t pitch;
};
template <class Array>
Rows rows_in(const Array& array, const char* name, const std::vector<int64_t>& shape);

using Grid = std::optional<std::tuple<In, In, In>>;  // scale, offset, top: [1] or [channels]
void set_grid(bc_sink& sink, const Grid& grid, int64_t channels);

}  // namespace host
