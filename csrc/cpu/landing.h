// Where the sums of a layer go: read as reals, through the tail of the run, to its sink; straight to
// the sink where nothing stands between.
#pragma once

#include <cstdint>
#include <optional>

#include "code_grid.h"
#include "steps.h"

namespace bc {

class Landing {
 public:
  Landing(const Kernels& k, const bc_run& run, int64_t out_h, int64_t out_w, int64_t filters);

  // Memory for all threads together, and what makes it ready.
  int64_t bytes() const { return sink_.scale == nullptr ? 0 : CodeGrid::bytes(tail_.channels); }
  void prepare(const Readout& readout, uint8_t* memory, bool spread = false);
  // Whether sums become codes with nothing between, so that they may come in the order of place_of.
  bool takes_spread() const { return codes_straight_; }

  // The constants of a readout of all filters in the sink's grid, in memory of its own for each place
  // and thread.
  int64_t folded_bytes() const { return bytes() == 0 ? 0 : Folded::bytes(tail_.channels); }
  Folded fold(const Readout& readout, const CodeGrid::Bounds& bounds, uint8_t* memory) const;

  // A block of sums: `count` pixels from `first` on, `filters` of them from `o` on.
  struct Sums {
    int64_t first, count, o, filters;
    const int32_t* sums;
    int64_t stride;
    const int32_t* row_sums;
    int64_t row_stride;
  };
  // Reads sums to the sink, or else to scratch [count][all filters]. Pointers of the readout are
  // those of filter o.
  void read(const Readout& readout, const Folded& folded, const Sums& sums, float* scratch) const;

  // Where the reals of pixel `first` and those behind it are wanted, `pitch()` apart.
  float* place(int64_t first, float* scratch) const {
    return straight_ ? reals() + first * sink_.pitch : scratch;
  }
  int64_t pitch() const { return straight_ ? sink_.pitch : tail_.channels; }

  // What scratch holds goes on. The pixels are of one line of the picture if order or shuffle is
  // another than that of rows.
  void land(int64_t first, int64_t count, float* scratch) const;

  // Asks memory for what the tail reads for these pixels, so that it comes while they are multiplied.
  void ask(int64_t first, int64_t count) const { tail_.ask(first, count); }

  bool codes() const { return sink_.scale != nullptr; }
  double cost() const { return tail_.cost(); }

 private:
  bool lies_as_rows() const {
    return sink_.out != nullptr && sink_.scale == nullptr && !turned_ && shuffle_ == 1;
  }
  bool only_floor() const;
  const bc_step* only_step() const;
  float* reals() const { return static_cast<float*>(sink_.out); }
  uint8_t* bytes_of(int64_t pixel) const {
    return static_cast<uint8_t*>(sink_.out) + pixel * sink_.pitch;
  }
  void shuffle(int64_t first, int64_t count, const float* x) const;

  const Kernels& k_;
  Steps tail_;
  bc_sink sink_;
  bool turned_;
  int64_t shuffle_, out_h_, out_w_;
  bool straight_, codes_straight_;  // reals, codes: no step between
  std::optional<CodeGrid> grid_;
};

}  // namespace bc
