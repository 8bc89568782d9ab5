// Where the reals of a layer go: through the tail of the run to its sink.
#pragma once

#include <cstdint>

#include "steps.h"

namespace bc {

class Landing {
 public:
  Landing(const Kernels& k, const bc_run& run, int64_t out_h, int64_t out_w, int64_t filters)
      : k_(k),
        tail_{&k, run.tail, run.tail_count, filters},
        sink_(run.sink),
        turned_(run.out_order == BC_CHANNELS_FIRST),
        shuffle_(run.shuffle > 1 ? run.shuffle : 1),
        out_h_(out_h),
        out_w_(out_w) {}

  // Where the reals of pixel `first` and those behind it are wanted, `pitch()` apart: their place in
  // the output where nothing is left to do with them, else `scratch`.
  float* place(int64_t first, float* scratch) const {
    return straight() ? reals() + first * sink_.pitch : scratch;
  }
  int64_t pitch() const { return straight() ? sink_.pitch : tail_.channels; }

  // What `place` gave has been written. The pixels are of one line of the picture if order or
  // shuffle is another than that of rows.
  void land(int64_t first, int64_t count, float* scratch) const;

  double cost() const { return tail_.cost(); }

 private:
  bool straight() const { return tail_.empty() && lies_as_rows(); }
  bool lies_as_rows() const {
    return sink_.out != nullptr && sink_.scale == nullptr && !turned_ && shuffle_ == 1;
  }
  float* reals() const { return static_cast<float*>(sink_.out); }
  void shuffle(int64_t first, int64_t count, const float* x) const;

  const Kernels& k_;
  Steps tail_;
  bc_sink sink_;
  bool turned_;
  int64_t shuffle_, out_h_, out_w_;
};

}  // namespace bc
