#include "landing.h"

namespace bc {

Landing::Landing(const Kernels& k, const bc_run& run, int64_t out_h, int64_t out_w, int64_t filters)
    : k_(k),
      tail_{&k, run.tail, run.tail_count, filters},
      sink_(run.sink),
      turned_(run.out_order == BC_CHANNELS_FIRST),
      shuffle_(run.shuffle > 1 ? run.shuffle : 1),
      out_h_(out_h),
      out_w_(out_w),
      straight_(tail_.empty() && lies_as_rows()),
      codes_straight_(codes() && (tail_.empty() || only_floor() || only_step() != nullptr)) {}

// A floor of 0 is a floor of codes, the cut being monotone.
bool Landing::only_floor() const {
  return tail_.count == 1 && tail_.steps[0].kind == BC_RELU;
}

// A number for each column is folded into the grid, for all reals or for those below 0.
const bc_step* Landing::only_step() const {
  if (tail_.count != 1) return nullptr;
  const bc_step& s = tail_.steps[0];
  // Zeros of both signs have one code, so that both leaks are one.
  const bool known = s.kind == BC_MUL || s.kind == BC_LEAKY || s.kind == BC_PRELU;
  return known && (s.data == nullptr || s.row == 0) ? &s : nullptr;
}

void Landing::prepare(const Readout& readout, uint8_t* memory, bool spread) {
  if (!codes()) return;
  grid_.emplace(sink_, tail_.channels, codes_straight_ && only_floor(),
                codes_straight_ ? only_step() : nullptr, memory);
  codes_straight_ = codes_straight_ && grid_->cutter().tie >= 0.0f;
  if (codes_straight_) {
    grid_->set(readout, spread);
  } else {
    grid_.emplace(sink_, tail_.channels, false, nullptr, memory);
  }
}

Folded Landing::fold(const Readout& readout, const CodeGrid::Bounds& bounds,
                     uint8_t* memory) const {
  return codes_straight_ ? grid_->fold(readout, bounds, memory) : Folded{};
}

void Landing::read(const Readout& readout, const Folded& folded, const Sums& s,
                   float* scratch) const {
  if (!codes_straight_) {
    k_.read_rows(readout, s.count, s.filters, s.sums, s.stride, s.row_sums, s.row_stride,
                 place(s.first, scratch) + s.o, pitch());
    return;
  }
  uint8_t* out = bytes_of(s.first) + s.o;
  const CodeReadout codes = grid_->from(s.o, readout, folded);
  if (codes.tie >= 0.0f) {
    k_.read_codes(codes, s.count, s.filters, s.sums, s.stride, s.row_sums, s.row_stride, out,
                  sink_.pitch);
    return;
  }
  k_.read_rows(readout, s.count, s.filters, s.sums, s.stride, s.row_sums, s.row_stride,
               scratch + s.o, tail_.channels);
  if (codes.times != nullptr) {
    for (int64_t j = 0; j < s.count; ++j) {
      float* x = scratch + s.o + j * tail_.channels;
      for (int64_t i = 0; i < s.filters; ++i) {
        if (codes.leak == nullptr || x[i] < 0.0f) x[i] *= codes.times[i];
      }
    }
  }
  k_.cut_rows(codes.cutter, s.count, s.filters, scratch + s.o, tail_.channels, out, sink_.pitch);
}

void Landing::land(int64_t first, int64_t count, float* scratch) const {
  if (straight_ || codes_straight_) return;
  const int64_t filters = tail_.channels;
  if (lies_as_rows() || sink_.out == nullptr) {
    float* to = sink_.out == nullptr ? nullptr : reals() + first * sink_.pitch;
    tail_.run(first, count, scratch, filters, scratch, to, sink_.pitch);
    return;
  }
  if (codes()) {
    const Steps::Cut cut{grid_->cutter(), bytes_of(first), sink_.pitch};
    return tail_.run(first, count, scratch, filters, scratch, nullptr, 0, &cut);
  }
  tail_.run(first, count, scratch, filters, scratch, scratch, filters);
  if (turned_) {
    const int64_t plane = out_h_ * out_w_;
    k_.turn(scratch, count, filters, filters,
            reals() + first / plane * filters * plane + first % plane, plane);
  } else {
    shuffle(first, count, scratch);
  }
}

// A line of pixels becomes `shuffle_` lines.
void Landing::shuffle(int64_t first, int64_t count, const float* x) const {
  const int64_t r = shuffle_, wide = out_w_ * r, each = tail_.channels / (r * r);
  const int64_t line = first / out_w_, ox = first % out_w_;
  for (int64_t i = 0; i < r; ++i) {
    float* to = reals() + ((line * r + i) * wide + ox * r) * sink_.pitch;
    for (int64_t p = 0; p < count; ++p) {
      for (int64_t j = 0; j < r; ++j, to += sink_.pitch) {
        const float* from = x + p * tail_.channels + i * r + j;
        for (int64_t k = 0; k < each; ++k) to[k] = from[k * r * r];
      }
    }
  }
}

}  // namespace bc
